-- Jobs in full: graphs, history, progress, and rows that change without touching any index.

ALTER TABLE procman.job
    ADD COLUMN description text,
    ADD COLUMN timeout double precision CHECK (timeout > 0 AND timeout < 'infinity'), -- seconds for one try
    ADD COLUMN batch integer CHECK (batch > 0), -- with how many of its kind it may share a commit
    ADD COLUMN graph uuid, -- of jobs that were enqueued together and depend on each other
    ADD COLUMN worker_host text,
    -- Tries that were begun since the job was made, also those that `retry` does not count.
    ADD COLUMN attempt integer NOT NULL DEFAULT 0,
    -- An update leaves the indexes alone (HOT) when no column that an index mentions, in its predicate too, has another
    -- value (src/backend/access/heap/README.HOT). So none mentions `state`, which changes four times in a
    -- job's life, but these, which do not while the job is offered and begun.
    ADD COLUMN phase text NOT NULL GENERATED ALWAYS AS (CASE
        WHEN state IN ('pending', 'enqueued', 'started') THEN 'live'
        WHEN state = 'wait_dependencies' THEN 'waiting'
        WHEN state = 'failed' THEN 'failed'
        ELSE 'over' END) STORED,
    ADD COLUMN waiting_key text GENERATED ALWAYS AS (CASE
        WHEN state IN ('wait_dependencies', 'pending', 'enqueued') THEN identity_key END) STORED;

-- Room in each page for the three versions that a row has until it is done, and no waiting until a fifth of all the
-- jobs there ever were are dead rows.
ALTER TABLE procman.job SET (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 2000
);

DROP INDEX procman.job_live, procman.job_failed, procman.job_identity;

-- What the runner reads when it starts and when it makes sure; jobs that are over cost it nothing.
CREATE INDEX job_live ON procman.job (id) WHERE phase = 'live';
CREATE INDEX job_waiting ON procman.job (id) WHERE phase = 'waiting';
CREATE INDEX job_failed ON procman.job (channel) WHERE phase = 'failed';
-- What is old enough to be forgotten.
CREATE INDEX job_over ON procman.job (channel, coalesce(date_done, date_created)) WHERE phase = 'over';
CREATE INDEX job_graph ON procman.job (graph) WHERE graph IS NOT NULL;

-- At most one job of a key waits. One that has started may have read what was true before the next one was asked
-- for, so it does not stand in for it.
CREATE UNIQUE INDEX job_identity ON procman.job (waiting_key) WHERE waiting_key IS NOT NULL;

-- A child waits until all of its parents are done. A parent whose child still waits can't be deleted: what it was
-- waited for would never have happened. Looked at when all is said: both may go together.
CREATE TABLE procman.job_dependency (
    parent bigint NOT NULL REFERENCES procman.job DEFERRABLE INITIALLY DEFERRED,
    child bigint NOT NULL REFERENCES procman.job ON DELETE CASCADE,
    PRIMARY KEY (child, parent),
    CHECK (parent <> child)
);
CREATE INDEX job_dependency_parent ON procman.job_dependency (parent, child);

-- The tries that are over and did not end in the job's row as it is now: what succeeds at once costs nothing here.
CREATE TABLE procman.job_attempt (
    job_id bigint NOT NULL REFERENCES procman.job ON DELETE CASCADE,
    number integer NOT NULL, -- job.attempt
    worker text,
    worker_host text,
    worker_pid integer,
    date_started timestamptz,
    date_ended timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- retry: to be tried again, as it asked; dead: its worker died, or lost its transaction.
    outcome text NOT NULL CHECK (outcome IN ('done', 'failed', 'retry', 'dead', 'cancelled')),
    reason text, -- why it was ended from outside, in the words of the arbiter
    exc_name text,
    exc_message text,
    exc_info text,
    PRIMARY KEY (job_id, number)
);

-- All tries, with the one that is on its way, and the one that succeeded.
CREATE VIEW procman.job_history AS
    SELECT job_id, number, worker, worker_host, worker_pid, date_started, date_ended,
           extract(epoch FROM date_ended - date_started)::double precision AS seconds,
           outcome, reason, exc_name, exc_message, exc_info
    FROM procman.job_attempt
    UNION ALL
    SELECT id, attempt, worker, worker_host, worker_pid, date_started, date_done, exec_time,
           CASE state WHEN 'done' THEN 'done' END, NULL, NULL, NULL, NULL
    FROM procman.job WHERE state IN ('started', 'done') AND attempt > 0 AND date_started IS NOT NULL;

-- How far a job has come: written beside its transaction, which holds its row. Belongs to the try of this number.
CREATE TABLE procman.job_progress (
    job_id bigint PRIMARY KEY REFERENCES procman.job ON DELETE CASCADE,
    number integer NOT NULL,
    done double precision NOT NULL,
    total double precision,
    note text NOT NULL DEFAULT '',
    at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- And when somebody cancels what is on its way.
DROP TRIGGER job_notify_update ON procman.job;
CREATE TRIGGER job_notify_update AFTER UPDATE ON procman.job FOR EACH ROW
    WHEN (NEW.state = 'pending'
          OR (OLD.state IN ('pending', 'failed') AND NEW.state NOT IN ('enqueued', OLD.state))
          OR (OLD.state IN ('enqueued', 'started') AND NEW.state = 'cancelled'))
    EXECUTE FUNCTION procman.job_notify_row();

DROP TRIGGER job_notify_delete ON procman.job;
CREATE TRIGGER job_notify_delete AFTER DELETE ON procman.job FOR EACH ROW
    WHEN (OLD.phase IN ('live', 'failed'))
    EXECUTE FUNCTION procman.job_notify_row();
