-- The queue of jobs.
--
-- A job runs when its row says so, never because of a message alone. states: wait_dependencies -> pending ->
-- enqueued (offered to a worker) -> started -> done | failed; back to pending for another try; cancelled.
-- retry counts the tries that were begun. worker, worker_pid and date_started belong to the last of them.
CREATE TABLE procman.job (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uuid uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    state text NOT NULL DEFAULT 'pending' CHECK (state IN (
        'wait_dependencies', 'pending', 'enqueued', 'started', 'done', 'failed', 'cancelled')),
    channel text NOT NULL DEFAULT 'root',
    priority integer NOT NULL DEFAULT 10,
    function text NOT NULL,
    args jsonb NOT NULL DEFAULT '[]',
    kwargs jsonb NOT NULL DEFAULT '{}',
    eta timestamptz CHECK (isfinite(eta)),
    retry integer NOT NULL DEFAULT 0,
    max_retries integer NOT NULL DEFAULT 5,
    retry_pattern jsonb,
    identity_key text,
    date_created timestamptz NOT NULL DEFAULT clock_timestamp(),
    date_enqueued timestamptz,
    date_started timestamptz,
    date_done timestamptz,
    exec_time double precision,
    worker text,
    worker_pid integer,
    result jsonb,
    exc_name text,
    exc_message text,
    exc_info text
);

-- What the runner reads when it starts and when it makes sure; done jobs cost it nothing.
CREATE INDEX job_live ON procman.job (id) WHERE state IN ('pending', 'enqueued', 'started');
CREATE INDEX job_failed ON procman.job (channel) WHERE state = 'failed';

-- At most one job of a key waits. One that has started may have read what was true before the next one was asked
-- for, so it does not stand in for it.
CREATE UNIQUE INDEX job_identity ON procman.job (identity_key)
    WHERE identity_key IS NOT NULL AND state IN ('wait_dependencies', 'pending', 'enqueued');

-- Notices for the runner, "first last": look at the rows with these ids. By triggers, so that a row made or changed
-- by hand is seen as well. Few of them, because a transaction that notifies takes an instance-wide lock for its
-- commit (PreCommit_Notify in PostgreSQL's async.c): one per INSERT statement, none for enqueued, started, done
-- and failed, of which the runner learns by the worker's answer.
CREATE FUNCTION procman.job_notify_insert() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    notice text := (SELECT min(id) || ' ' || max(id) FROM inserted WHERE state = 'pending');
BEGIN
    IF notice IS NOT NULL THEN
        PERFORM pg_notify('procman_job', notice);
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION procman.job_notify_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('procman_job', OLD.id || ' ' || OLD.id);
    RETURN NULL;
END
$$;

CREATE TRIGGER job_notify_insert AFTER INSERT ON procman.job REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION procman.job_notify_insert();

-- To pending, from whatever; and from what only a person or a program beside the runner leaves.
CREATE TRIGGER job_notify_update AFTER UPDATE ON procman.job FOR EACH ROW
    WHEN (NEW.state = 'pending' OR (OLD.state IN ('pending', 'failed') AND NEW.state NOT IN ('enqueued', OLD.state)))
    EXECUTE FUNCTION procman.job_notify_row();

CREATE TRIGGER job_notify_delete AFTER DELETE ON procman.job FOR EACH ROW
    WHEN (OLD.state IN ('pending', 'enqueued', 'started', 'failed'))
    EXECUTE FUNCTION procman.job_notify_row();
