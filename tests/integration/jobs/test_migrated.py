"""Jobs of a release that knew less of them go on in this one."""

from __future__ import annotations

import psycopg2
import pytest

from procman import signaling
from procman.core.spec import DatabaseSpec
from procman.db import migrate as module
from procman.db.connection import connect, database_name
from procman.jobs import execute, states, steering
from tests.support import jobs as functions

# As a worker of that release has left them.
ROWS = """
INSERT INTO procman.job (state, function, args, identity_key, date_enqueued, date_started, retry, worker, worker_pid)
SELECT state, 'tests.support.jobs:note', jsonb_build_array(state), state,
    CASE WHEN state IN ('enqueued', 'started', 'done', 'failed') THEN now() END,
    CASE WHEN state IN ('started', 'done', 'failed') THEN now() END,
    CASE WHEN state IN ('started', 'done', 'failed') THEN 1 ELSE 0 END, 'http.1', 12345
FROM unnest(ARRAY['wait_dependencies', 'pending', 'enqueued', 'started', 'done', 'failed', 'cancelled']) AS state
"""


@pytest.fixture
def database(database_url, monkeypatch):
    before = {name: text for name, text in module._migrations().items() if name < "0007"}
    connection = connect(database_url)
    with monkeypatch.context() as earlier:
        earlier.setattr(module, "_migrations", lambda: before)
        module.migrate(connection)
    with connection.cursor() as cr:
        cr.execute(functions.SCHEMA + ROWS)
    connection.close()
    signaling.configure(DatabaseSpec(url=database_url))
    yield database_name(database_url)
    signaling.configure(None)


@pytest.fixture
def cr(database):
    with signaling.lend(database) as connection, connection.cursor() as cr:
        yield cr


def uuid_of(cr, state):
    cr.execute("SELECT uuid::text, id, date_started FROM procman.job WHERE state = %s", (state,))
    return cr.fetchone()


def test_each_of_them_can_be_moved_on(cr, database):
    enqueued, *_ = uuid_of(cr, "enqueued")
    started, id, date_started = uuid_of(cr, "started")  # noqa: A001
    failed, *_ = uuid_of(cr, "failed")
    waiting, *_ = uuid_of(cr, "wait_dependencies")
    execute.run(database, enqueued)
    assert [job.state for job in states.rescue(cr, [(id, date_started)])] == ["pending"]
    assert [job.uuid for job in steering.requeue(cr, [failed])] == [failed]
    assert [job.uuid for job in steering.release_all(cr)] == [waiting]
    cr.execute("SELECT args->>0, state FROM procman.job ORDER BY id")
    assert dict(cr.fetchall()) == {
        **dict.fromkeys(("wait_dependencies", "pending", "started", "failed"), "pending"),
        "enqueued": "done",
        "done": "done",
        "cancelled": "cancelled",
    }
    cr.execute(
        "SELECT outcome, h.worker_pid FROM procman.job_history AS h JOIN procman.job ON id = job_id WHERE uuid = %s",
        (started,),
    )
    assert cr.fetchall() == [("dead", 12345)]


def test_equal_jobs_are_still_known(cr, database):
    assert functions.note.options(identity_key="pending").delay() == uuid_of(cr, "pending")[0]
    with pytest.raises(psycopg2.errors.UniqueViolation):
        cr.execute("UPDATE procman.job SET state = 'pending', identity_key = 'pending' WHERE state = 'done'")
