"""One pool, several databases: each request in the one it is for."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import psycopg2
import pytest

from tests.integration.http.harness import service
from tests.support.pricer import with_schema

APPLICATIONS = Path(__file__).parents[1] / "rpc"


@pytest.fixture
def databases(database_url, postgres_server):
    """The main one, and one more on the same server."""
    main = psycopg2.extensions.parse_dsn(database_url)["dbname"]
    other = f"{main}_b"
    postgres_server.execute(f'CREATE DATABASE "{other}"')
    for name in (main, other):
        with_schema(postgres_server.url(name))
    yield main, other
    postgres_server.execute(f'DROP DATABASE "{other}" WITH (FORCE)')


@pytest.fixture
def web(short_path, database_url, databases):
    policy = {"working_dir": str(APPLICATIONS), "database_from": "host:^%d$"}
    with service(short_path, "exposing:application", **policy) as made:
        made.start(database=database_url, databases=databases[1:])
        yield made


def ask(web, method, path, host, body=None, **headers):
    """Status and text of an answer."""
    connection = http.client.HTTPConnection(*web.address, timeout=30)
    try:
        connection.request(method, path, body, {"Host": host, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def name(web, host, **headers):
    return ask(web, "GET", "/database", host, **headers)


def call(web, host, method, *params):
    body = json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": 1})
    _, text = ask(web, "POST", "/jsonrpc", host, body, **{"Content-Type": "application/json"})
    return json.loads(text)["result"]


def test_each_request_in_its_own(web, databases):
    for database in databases:
        assert name(web, f"{database}.example.org") == (200, f"{database} {database}")


def test_a_host_of_no_database(web):
    assert name(web, "elsewhere.example.org")[0] == 404


def test_calls_too(web, databases, postgres_server):
    for number, database in enumerate(databases):
        connection = psycopg2.connect(postgres_server.url(database))
        with connection, connection.cursor() as cr:
            cr.execute("UPDATE item SET price = %s", [number + 5])
        connection.close()
    for number, database in enumerate(databases):
        assert [call(web, f"{database}.org", "cached", 1) for _ in range(2)] == [number + 5] * 2


def test_by_header(short_path, database_url, databases):
    policy = {"working_dir": str(APPLICATIONS), "database_from": "header:X-Database"}
    with service(short_path, "exposing:application", **policy) as made:
        made.start(database=database_url, databases=databases[1:])
        assert name(made, "h", **{"X-Database": databases[1]}) == (200, f"{databases[1]} {databases[1]}")
        assert name(made, "h") == (200, f"None {databases[0]}")
        assert name(made, "h", **{"X-Database": "unknown"})[0] == 404
