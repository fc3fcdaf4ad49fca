"""The SQL of queue_job's tables. Its times are UTC and have no time zone. A notice names a job by its uuid, all
else by its id.

Whether the worker of a started job is alive is seen in one of two ways, of which a layout has one:

* The worker holds a lock on the job's row in ``queue_job_lock`` until the end of its transaction. Probing for it by
  taking it would make a worker give up that is just about to take it, which it does not wait for. So it is looked at:
  ``xmax`` is the transaction that has locked the row last, and PostgreSQL says whether that is still in progress.
  Only who is about to be declared dead has the lock taken from it.
* Without that table: Odoo names its sessions ``odoo-<pid>``, as of 16 or 17. A worker that had a session in this
  database, and has none now, has no transaction any more in which its job could still be done.
"""

from __future__ import annotations

_NOW = "(clock_timestamp() AT TIME ZONE 'UTC')"

# Rows that were made by hand have been seen without priority, channel or dates, and with an eta of infinity.
COLUMNS = f"""
    job.id, job.id, job.state, coalesce(nullif(job.channel, ''), 'root'), coalesce(job.priority, 10),
    coalesce(extract(epoch FROM job.date_created), 0)::float8,
    CASE WHEN isfinite(job.eta) THEN extract(epoch FROM job.eta - {_NOW})::float8 WHEN job.eta > {_NOW} THEN 1e9 END,
    job.date_enqueued, job.date_started, NULL, job.worker_pid
"""
BY_UUID = f"SELECT {COLUMNS} FROM queue_job AS job WHERE uuid = ANY(%s)"
BY_ID = f"SELECT {COLUMNS} FROM queue_job AS job WHERE id = ANY(%s)"
LIVE = f"SELECT {COLUMNS} FROM queue_job AS job WHERE id = ANY(%s) AND state IN ('pending', 'enqueued', 'started')"
# Without an order: PostgreSQL would take it from the primary key, and read all that was ever done.
LIVE_IDS = "SELECT id FROM queue_job WHERE state IN ('pending', 'enqueued', 'started')"
RUNNING = f"SELECT {COLUMNS} FROM queue_job AS job WHERE state IN ('enqueued', 'started')"
FAILED_CHANNELS = "SELECT DISTINCT coalesce(nullif(channel, ''), 'root') FROM queue_job WHERE state = 'failed'"
FAILED = f"""
SELECT {COLUMNS} FROM queue_job AS job
WHERE state = 'failed' AND coalesce(nullif(channel, ''), 'root') = ANY(%s)
"""
PAUSED = "SELECT complete_name, true FROM queue_job_channel WHERE paused"

# A transaction of Odoo's that has changed a job, and goes on for long, must not hold up the others.
OFFER = f"""
UPDATE queue_job AS job SET state = 'enqueued', date_enqueued = {_NOW}
FROM (
    SELECT id FROM queue_job WHERE id = ANY(%s) AND state = 'pending' AND (eta IS NULL OR eta <= {_NOW})
    FOR NO KEY UPDATE SKIP LOCKED
) AS free
WHERE job.id = free.id
RETURNING job.id, job.uuid, job.date_enqueued
"""

TAKE_BACK = """
UPDATE queue_job AS job SET state = 'pending', date_enqueued = NULL
FROM unnest(%s::integer[], %s::timestamp[]) AS offer (id, at)
WHERE job.id = offer.id AND job.state = 'enqueued' AND job.date_enqueued IS NOT DISTINCT FROM offer.at
"""

# A job that is started says when; if not, its try has a name all the same.
_TRY = "coalesce(job.date_started, timestamp 'epoch')"

# xmax has 32 bits, and txid_status() wants 64: those nearest to the present.
_NEAR = "txid_snapshot_xmax(txid_current_snapshot()) + 2147483648"
_XMAX = "mine.xmax::text::bigint"
_LOCKED = f"""
EXISTS (
    SELECT FROM queue_job_lock AS mine WHERE mine.queue_job_id = job.id AND {_XMAX} <> 0
    AND txid_status({_NEAR} - ({_NEAR} - {_XMAX} + 4294967296) %% 4294967296) = 'in progress'
)
"""
_IN_SESSION = """
EXISTS (
    SELECT FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'odoo-' || job.worker_pid
)
"""

ABANDONED_BY_LOCK = f"""
SELECT id, {_TRY} FROM queue_job AS job
WHERE id = ANY(%(keys)s) AND state = 'started' AND NOT {_LOCKED}
"""
# Those of workers that are known to have died need no proof.
_WITHOUT_SESSION = f"(job.worker_pid = ANY(%(seen)s) OR job.worker_pid = ANY(%(dead)s)) AND NOT {_IN_SESSION}"
ABANDONED_BY_SESSION = f"""
SELECT id, {_TRY} FROM queue_job AS job
WHERE id = ANY(%(keys)s) AND state = 'started' AND {_WITHOUT_SESSION}
"""
SESSIONS = """
SELECT substr(application_name, 6)::integer FROM pg_stat_activity
WHERE datname = current_database() AND application_name ~ '^odoo-[0-9]{1,9}$'
"""

# "after too many": the tries so far, with this one.
_RESCUE = f"""
WITH given AS (
    SELECT * FROM unnest(%(keys)s::integer[], %(tries)s::timestamp[], %(reasons)s::text[], %(texts)s::text[])
    AS given (id, try_of, reason, info)
), LOCKS move AS (
    SELECT job.id, job.worker_pid, given.info,
        concat(' (worker ' || job.worker_pid || ')', ': ' || given.reason) AS who,
        CASE WHEN job.max_retries > 0 AND coalesce(job.retry, 0) + 1 > job.max_retries THEN 'failed' ELSE 'pending' END
            AS target
    FROM queue_job AS job JOIN given ON given.id = job.id
    WHERE job.state = 'started' AND {_TRY} = given.try_of AND (DEAD)
    FOR NO KEY UPDATE OF job SKIP LOCKED
)
UPDATE queue_job AS job SET state = target, retry = coalesce(job.retry, 0) + 1,
    date_enqueued = CASE target WHEN 'failed' THEN job.date_enqueued END,
    date_started = CASE target WHEN 'failed' THEN job.date_started END,
    worker_pid = CASE target WHEN 'failed' THEN job.worker_pid END,
    exc_name = 'JobFoundDead', exc_message = 'Job found dead' || TOO_MANY || who,
    exc_info = concat('Job found dead' || TOO_MANY || who, E'\\n' || nullif(info, ''))
FROM move WHERE job.id = move.id
RETURNING job.id, job.uuid, job.state, job.retry, NULL, move.worker_pid
""".replace("TOO_MANY", "CASE target WHEN 'failed' THEN ' after too many retries' ELSE '' END")

# Taken, so that a worker that is late does not get it while its job goes back to the queue.
_LOCKS = """
free AS MATERIALIZED (
    SELECT queue_job_id FROM queue_job_lock
    WHERE queue_job_id IN (SELECT id FROM given)
    FOR UPDATE SKIP LOCKED
),
"""
_FREE = """
job.id IN (SELECT queue_job_id FROM free)
OR NOT EXISTS (SELECT FROM queue_job_lock AS mine WHERE mine.queue_job_id = job.id)
"""
RESCUE_BY_LOCK = _RESCUE.replace("LOCKS", _LOCKS).replace("(DEAD)", f"({_FREE})")
RESCUE_BY_SESSION = _RESCUE.replace("LOCKS", "").replace("(DEAD)", f"({_WITHOUT_SESSION})")

# Its worker has had time enough to do this itself; a conflict with that would be a serialization failure of its own.
RELEASE = f"""
UPDATE queue_job AS job SET state = 'pending'
WHERE state = 'wait_dependencies' AND job.dependencies IS NOT NULL AND NOT EXISTS (
    SELECT FROM jsonb_array_elements_text(job.dependencies::jsonb -> 'depends_on') AS depends_on (uuid)
    LEFT JOIN queue_job AS parent ON parent.uuid = depends_on.uuid AND parent.state = 'done'
    WHERE parent.date_done < {_NOW} - interval '30 seconds' IS NOT TRUE
)
RETURNING id
"""
