from __future__ import annotations

import subprocess
import threading

import psycopg2
import pytest

from procman.db import migrate as module
from procman.db.connection import connect, url_for
from procman.db.migrate import migrate, sql
from procman.errors import DatabaseSetupError
from tests.support.daemon import program


def names(connection):
    with connection.cursor() as cr:
        cr.execute("SELECT name FROM procman.migration ORDER BY name")
        return [name for (name,) in cr.fetchall()]


def test_installed_once_whoever_comes(database_url):
    errors = []

    def run():
        connection = connect(database_url)
        try:
            migrate(connection)
        except Exception as error:
            errors.append(error)
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    connection = connect(database_url)
    found = names(connection)
    assert found[0] == "0001_signaling"
    assert found == sorted(set(found))
    connection.close()


def test_what_is_missing_is_added(database_url, monkeypatch):
    connection = connect(database_url)
    migrate(connection)
    before = names(connection)
    migrations = {**module._migrations(), "0000_early": "CREATE TABLE procman.early ()"}
    monkeypatch.setattr(module, "_migrations", lambda: dict(sorted(migrations.items())))
    migrate(connection)
    assert names(connection) == ["0000_early", *before]
    connection.close()


def test_one_that_fails_leaves_nothing(database_url, monkeypatch):
    connection = connect(database_url)
    monkeypatch.setattr(module, "_migrations", lambda: {"0001": "CREATE TABLE procman.one ()", "0002": "SELECT 1/0"})
    with pytest.raises(psycopg2.errors.DivisionByZero):
        migrate(connection)
    with connection.cursor() as cr:
        cr.execute("SELECT to_regnamespace('procman')")
        assert cr.fetchone() == (None,)
    connection.close()


@pytest.fixture
def poor(postgres_server, database_url):
    """A role that may create nothing, and how it connects."""
    name = database_url.split("?")[0].rsplit("/", 1)[1]
    role = f"poor_{name}"
    postgres_server.execute(f'CREATE ROLE "{role}" LOGIN')
    yield role, url_for(database_url.replace("user=procman", f"user={role}"), name)
    connection = connect(database_url)
    with connection.cursor() as cr:
        cr.execute(f'DROP OWNED BY "{role}" CASCADE')
    connection.close()
    postgres_server.execute(f'DROP ROLE "{role}"')


def test_a_role_that_may_not_is_told_what_to_do(database_url, poor):
    role, url = poor
    connection = connect(url)
    with pytest.raises(DatabaseSetupError) as caught:
        migrate(connection)
    assert f"role {role} may not install procman's schema in database t_" in str(caught.value)
    assert f'CREATE SCHEMA procman AUTHORIZATION "{role}"' in str(caught.value)
    assert f"procmanctl db sql {role}" in str(caught.value)
    administrator = connect(database_url)
    with administrator.cursor() as cr:
        cr.execute(f'CREATE SCHEMA procman AUTHORIZATION "{role}"')
    administrator.close()
    migrate(connection)
    assert names(connection)[0] == "0001_signaling"
    connection.close()


def test_the_script_for_an_administrator_does_the_same(database_url, poor):
    role, url = poor
    command = [program("procmanctl"), "db", "sql", role]
    script = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert script == sql(role)
    administrator = connect(database_url)
    with administrator.cursor() as cr:
        cr.execute(script)
    administrator.close()
    connection = connect(url)
    migrate(connection)
    with connection.cursor() as cr:
        cr.execute("INSERT INTO procman.signal_delta VALUES ('a', 1)")
    connection.close()
