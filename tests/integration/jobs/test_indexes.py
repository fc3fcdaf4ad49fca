"""What jobs that are over cost those that are not: nothing."""

from __future__ import annotations

import pytest

from procman.jobs import enqueue, execute, feed, states, steering, tables
from procman.jobs.leadership import Lease
from tests.support import jobs as functions

OVER = """
INSERT INTO procman.job (state, channel, function, identity_key, date_done)
SELECT CASE n % 20 WHEN 0 THEN 'cancelled' ELSE 'done' END, 'root', 'a:b', CASE n % 2 WHEN 0 THEN 'k' || n END, now()
FROM generate_series(1, {}) AS n
"""

LEADER = """
INSERT INTO procman.job_leader (token, worker, host, process, since, until)
VALUES ('token', 'jobrunner.1', 'host', 'process', now(), now() + interval '1 hour')
"""


def statements(truth):
    """As the runner and the workers have them executed, with the index that each one should need."""
    pending = [row["id"] for row in truth("SELECT id FROM procman.job WHERE state = 'pending' ORDER BY id LIMIT 3")]
    (enqueued,) = truth("SELECT uuid::text FROM procman.job WHERE state = 'enqueued' ORDER BY id LIMIT 1")
    return {
        "what the runner reads in portions": (tables._LIVE, (0, 2**63 - 1, feed.BATCH), "job_live"),
        "what runs": (tables._RUNNING, (), "job_live"),
        "what has changed": (tables._BY_KEY, (pending,), "job_pkey"),
        "failed ones that hold up others": (tables._FAILED_CHANNELS, (), "job_failed"),
        "who waits for nothing any more": (steering._RELEASE_ALL, {"last": 0, "most": 1000}, "job_waiting"),
        "offering": (states._OFFER, (pending, "token"), "job_pkey"),
        "beginning": (states._START, ("http.1", "host", 1, [enqueued["uuid"]]), "job_uuid_key"),
        "an equal job": (enqueue._TWIN, ("k7",), "job_identity"),
    }


NOTHING = ("who waits for nothing any more", "an equal job")


class Plan:
    """What PostgreSQL did for a statement; which is undone."""

    def __init__(self, truth, statement, parameters):
        connection = truth.connection
        connection.autocommit = False
        with connection.cursor() as cr:
            cr.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters or None)
            ((((plan),),),) = (cr.fetchall(),)
        connection.rollback()
        connection.autocommit = True
        self._plan = plan[0]["Plan"]
        self.rows = self._plan["Actual Rows"]
        self.buffers = self._plan["Shared Hit Blocks"] + self._plan["Shared Read Blocks"]
        self.indexes = {node["Index Name"] for node in self._nodes(self._plan) if "Index Name" in node}
        self.scanned = {node["Relation Name"] for node in self._nodes(self._plan) if node["Node Type"] == "Seq Scan"}

    def _nodes(self, plan):
        yield plan
        for inner in plan.get("Plans", ()):
            yield from self._nodes(inner)


def buffers_of(truth):
    found = {}
    for name, (statement, parameters, index) in statements(truth).items():
        Plan(truth, statement, parameters)  # what the pages tell only once, such as that a row is dead
        plan = Plan(truth, statement, parameters)
        assert index in plan.indexes, name
        assert plan.scanned <= {"job_leader", "job_dependency"}, name  # which is one row, and none
        assert plan.rows or name in NOTHING, name
        found[name] = plan.buffers
    return found


@pytest.mark.timeout(300)
def test_jobs_that_are_over_cost_a_dispatch_nothing(truth):
    truth(LEADER)
    truth(OVER.format(2000))
    uuids = functions.note.delay_many([(str(number),) for number in range(200)])
    truth("UPDATE procman.job SET state = 'enqueued' WHERE uuid = ANY(%s::uuid[])", uuids[:20])
    truth("UPDATE procman.job SET state = 'failed' WHERE uuid = ANY(%s::uuid[])", uuids[20:30])
    truth("VACUUM ANALYZE procman.job")
    few = buffers_of(truth)
    truth(OVER.format(100_000))
    truth("VACUUM ANALYZE procman.job")
    many = buffers_of(truth)
    # What the trees of all jobs (by id and by uuid) grow in height, which they do with the logarithm.
    levels = 3 * 2
    assert {name: n for name, n in many.items() if n > few[name] + levels} == {}


def test_until_it_is_done_a_job_touches_no_index(database, truth):
    """Offered and begun without writing to any index (HOT)."""
    uuids = functions.note.delay_many([(str(number),) for number in range(300)])
    lease = Lease("jobrunner.1", lease=600)
    with truth.connection.cursor() as cr:
        assert lease.claim(cr, cr).until
    for uuid in uuids:
        (row,) = truth("SELECT id FROM procman.job WHERE uuid = %s", uuid)
        truth(states._OFFER, [row["id"]], lease.token)
        execute.run(database, uuid)
    truth("SELECT pg_stat_force_next_flush()" if truth.connection.server_version >= 150000 else "SELECT 1")
    query = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE schemaname = 'procman' AND relname = 'job'"
    (hot,) = truth(query)
    # Two of three: the last one takes the row out of the index of those that live.
    while hot["n_tup_upd"] < 900:
        truth("SELECT pg_sleep(0.05)")
        (hot,) = truth(query)
    assert hot["n_tup_hot_upd"] >= 550
