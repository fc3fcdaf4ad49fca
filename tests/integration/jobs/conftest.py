from __future__ import annotations

import psycopg2
import psycopg2.extras
import pytest

from procman import signaling
from procman.core.spec import DatabaseSpec
from procman.db.connection import database_name
from tests.support.jobs import SCHEMA


@pytest.fixture
def jobs_url(database_url):
    """A database with the tables that test jobs write to, in which procman's own are installed."""
    connection = psycopg2.connect(database_url)
    with connection, connection.cursor() as cr:
        cr.execute(SCHEMA)
    connection.close()
    signaling.configure(DatabaseSpec(url=database_url))
    signaling.connect(database_name(database_url)).close()
    yield database_url
    if signaling.current() is not None:
        signaling.current().rollback()
    signaling.configure(None)


@pytest.fixture
def database(jobs_url):
    """Its name; this process uses it."""
    return database_name(jobs_url)


class Truth:
    """What the database says, asked beside procman."""

    def __init__(self, url):
        self.connection = psycopg2.connect(url)
        self.connection.autocommit = True

    def __call__(self, statement, *parameters):
        """The rows, as dictionaries."""
        with self.connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cr:
            cr.execute(statement, parameters or None)
            return cr.fetchall() if cr.description else []

    def job(self, uuid):
        """The row of a job."""
        (row,) = self("SELECT * FROM procman.job WHERE uuid = %s", uuid)
        return row

    def states(self):
        return {row["state"]: row["n"] for row in self("SELECT state, count(*) AS n FROM procman.job GROUP BY state")}

    def effects(self):
        return [row["value"] for row in self("SELECT value FROM effect ORDER BY id")]


@pytest.fixture
def truth(jobs_url):
    truth = Truth(jobs_url)
    yield truth
    truth.connection.close()
