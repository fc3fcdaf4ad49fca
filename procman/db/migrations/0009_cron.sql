-- Cron in full: when an entry is due is apart from when it is planned; triggers, attempts, history, a switch.

ALTER TABLE procman.cron
    ALTER COLUMN next_call DROP NOT NULL, -- what is only triggered, and is not now
    -- The terms, as the code declares them. The import that was latest wins: `declared_at` is when that was.
    ADD COLUMN application text NOT NULL DEFAULT '',
    ADD COLUMN declared_at timestamptz NOT NULL DEFAULT 'epoch',
    ADD COLUMN declared_by text NOT NULL DEFAULT '',
    ADD COLUMN misfire text NOT NULL DEFAULT 'once' CHECK (misfire IN ('skip', 'once', 'all')),
    ADD COLUMN jitter double precision NOT NULL DEFAULT 0 CHECK (jitter >= 0 AND jitter < 'infinity'), -- seconds
    ADD COLUMN priority integer NOT NULL DEFAULT 10 CHECK (priority BETWEEN 0 AND 1000),
    ADD COLUMN timeout double precision CHECK (timeout > 0 AND timeout < 'infinity'), -- seconds
    -- The course: the schedule goes on from `planned`; a worker may begin at `next_call`.
    ADD COLUMN planned timestamptz,
    ADD COLUMN cause text NOT NULL DEFAULT 'schedule' CHECK (cause IN ('schedule', 'trigger', 'portion')),
    ADD COLUMN first_failure timestamptz,
    ADD COLUMN kills integer NOT NULL DEFAULT 0,
    ADD COLUMN runs bigint NOT NULL DEFAULT 0,
    ADD COLUMN done double precision, -- what the last run has said of its progress
    ADD COLUMN remaining double precision,
    DROP CONSTRAINT cron_last_status_check,
    ADD CONSTRAINT cron_last_status_check CHECK (last_status IN ('done', 'partial', 'failed', 'killed'));

UPDATE procman.cron SET planned = next_call;

-- The queue. Who has waited for longest is first, and each step of priority is worth a second of waiting, so that
-- nobody waits for ever. (Of a timestamptz plus an interval no index can be made: it depends on the session's zone.)
CREATE INDEX cron_rank ON procman.cron ((next_call AT TIME ZONE 'UTC' + priority * interval '1 second'));

DROP TRIGGER cron_notify_update ON procman.cron;
CREATE TRIGGER cron_notify_update AFTER UPDATE ON procman.cron
    FOR EACH ROW WHEN (new.next_call < old.next_call OR (old.next_call IS NULL AND new.next_call IS NOT NULL))
    EXECUTE FUNCTION procman.cron_notify();

-- Wishes for a run, in the transaction of whoever has them. Not in the entry's row: that is locked for as long as the
-- entry is being run, and nobody shall wait for that. Workers move what is due into the rows that are free.
CREATE TABLE procman.cron_trigger (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE INDEX cron_trigger_at ON procman.cron_trigger (at, name);

CREATE TRIGGER cron_notify_trigger AFTER INSERT ON procman.cron_trigger
    FOR EACH STATEMENT EXECUTE FUNCTION procman.cron_notify();

-- Entries that are not run: a row of its own, again because that of the entry may be locked.
CREATE TABLE procman.cron_disabled (
    name text PRIMARY KEY,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason text NOT NULL
);

CREATE TRIGGER cron_notify_enabled AFTER DELETE ON procman.cron_disabled
    FOR EACH STATEMENT EXECUTE FUNCTION procman.cron_notify();

-- The last attempt of each entry, committed before its function is called. When nobody holds the entry's row, and it
-- has still had as many runs as then (`number`), the worker has ended in the middle of it.
CREATE TABLE procman.cron_attempt (
    name text PRIMARY KEY,
    number bigint, -- cron.runs at that time; NULL: given back
    dead integer NOT NULL DEFAULT 0, -- attempts at the same run before this one that ended with their workers
    began timestamptz NOT NULL,
    worker text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    reason text, -- as the arbiter tells it
    stacks text
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE procman.cron_run (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    number bigint NOT NULL, -- cron.runs with this one; runs that were killed have the number of the one that followed
    cause text NOT NULL,
    planned timestamptz,
    due timestamptz,
    began timestamptz NOT NULL,
    seconds double precision, -- NULL: not known
    outcome text NOT NULL CHECK (outcome IN ('done', 'partial', 'failed', 'killed', 'skipped')),
    reason text, -- why it was ended from outside, in the words of the arbiter
    worker text,
    host text,
    pid integer,
    done double precision,
    remaining double precision,
    error text,
    stacks text
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000);

CREATE INDEX cron_run_name ON procman.cron_run (name, number);
-- What is kept for a time, and not for a number of runs.
CREATE INDEX cron_run_trouble ON procman.cron_run (began) WHERE outcome NOT IN ('done', 'partial');
CREATE INDEX cron_run_killed ON procman.cron_run (pid) WHERE outcome = 'killed';
