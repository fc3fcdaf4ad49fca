-- The schedule: one row for each function that is run at its times, with what became of its last run.
--
-- The row lock is the claim: who runs an entry holds it, in the transaction in which the function works and
-- next_call moves on. So a claim ends with its process, and there is no state in which an entry can be stuck.
CREATE TABLE procman.cron (
    name text PRIMARY KEY,
    schedule text NOT NULL,
    next_call timestamptz NOT NULL,
    last_call timestamptz,
    last_seconds double precision,
    last_worker text,
    last_status text CHECK (last_status IN ('done', 'failed')),
    last_error text,
    failure_count integer NOT NULL DEFAULT 0
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE INDEX cron_next_call ON procman.cron (next_call);

-- Workers sleep until the next call they know of. They have to be told when one comes before that, whoever has
-- changed it; a run moves its next call to later and wakes nobody.
CREATE FUNCTION procman.cron_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY procman_cron;
    RETURN NULL;
END
$$;

CREATE TRIGGER cron_notify_insert AFTER INSERT ON procman.cron
    FOR EACH ROW EXECUTE FUNCTION procman.cron_notify();

CREATE TRIGGER cron_notify_update AFTER UPDATE ON procman.cron
    FOR EACH ROW WHEN (new.next_call < old.next_call) EXECUTE FUNCTION procman.cron_notify();
