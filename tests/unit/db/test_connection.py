from __future__ import annotations

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from procman.db.connection import ServerAway, connect, database_name, url_for
from procman.errors import DatabaseUnavailable


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://user@host/shop", "shop"),
        ("postgresql:///shop?host=/run/postgresql", "shop"),
        ("postgresql://procman@/procman?host=%2Fvar%2Fpm%2Fs", "procman"),
        ("host=/run user=me dbname='my shop'", "my shop"),
        ("postgresql://user@host", "user"),
        ("user=me", "me"),
    ],
)
def test_database_name(url, name, monkeypatch):
    monkeypatch.delenv("PGDATABASE", raising=False)
    assert database_name(url) == name


def test_database_name_from_the_environment(monkeypatch):
    monkeypatch.setenv("PGDATABASE", "shop")
    assert database_name("postgresql://user@host") == "shop"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:se%20cret@host1:5433,host2:5434/shop?sslmode=require",
        "host=host1,host2 port=5433,5434 user=user password='se cret' dbname=shop sslmode=require",
    ],
)
def test_url_for_changes_the_database_and_nothing_else(url):
    other = url_for(url, "it's another")
    assert database_name(other) == "it's another"
    expected = {**parse_dsn(url), "dbname": "it's another"}
    assert parse_dsn(other) == expected


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(DatabaseUnavailable, match="PostgreSQL can't be reached") as caught:
        connect(f"postgresql:///x?host={tmp_path}")
    assert isinstance(caught.value, psycopg2.OperationalError)
    assert isinstance(caught.value, ServerAway)
