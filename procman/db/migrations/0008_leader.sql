-- Who starts this database's jobs: one row, taken and renewed on this server's clock, and free again when its time is
-- over. token names the process and no other; worker, host and process are for people and for runners on the same host.
CREATE TABLE procman.job_leader (
    id boolean PRIMARY KEY DEFAULT true CHECK (id),
    token text NOT NULL,
    worker text NOT NULL,
    host text NOT NULL,
    process text NOT NULL,
    since timestamptz NOT NULL,
    until timestamptz NOT NULL
) WITH (fillfactor = 10);

-- What was said of channels while everything runs; it outlives restarts and counts on every host.
CREATE TABLE procman.job_channel (
    name text PRIMARY KEY,
    paused boolean NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    by text NOT NULL DEFAULT current_user
);

CREATE FUNCTION procman.job_channel_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('procman_job', 'channels');
    RETURN NULL;
END
$$;

CREATE TRIGGER job_channel_notify AFTER INSERT OR UPDATE OR DELETE ON procman.job_channel
    FOR EACH STATEMENT EXECUTE FUNCTION procman.job_channel_notify();

-- A job that comes alone and may run at once, as most do, is told whole, so that nobody has to read it first:
-- "id id priority created channel".
CREATE OR REPLACE FUNCTION procman.job_notify_insert() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    notice text := (
        SELECT min(id) || ' ' || max(id) || CASE
            WHEN count(*) = 1 AND min(eta) IS NULL AND min(batch) IS NULL AND length(min(channel)) < 500
            THEN ' ' || min(priority) || ' ' || extract(epoch FROM min(date_created)) || ' ' || min(channel)
            ELSE '' END
        FROM inserted WHERE state = 'pending');
BEGIN
    IF notice IS NOT NULL THEN
        PERFORM pg_notify('procman_job', notice);
    END IF;
    RETURN NULL;
END
$$;
