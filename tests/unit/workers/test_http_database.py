"""Which database a request is for."""

from __future__ import annotations

import pytest

from procman.errors import NoDatabase
from procman.workers.http_database import of_host, resolver

NAMES = ("main", "shop", "shop_test", "www", "a.example.org")


@pytest.mark.parametrize(
    ("pattern", "host", "database"),
    [
        ("^%d$", "shop.example.org", "shop"),
        ("^%d$", "www.shop.example.org:8069", "shop"),
        ("^%d$", "SHOP", "shop"),
        ("^%d_test$", "shop.example.org", "shop_test"),
        ("^%h$", "a.example.org:80", "a.example.org"),
        ("main", "[::1]:80", "main"),
        ("^main$", "", "main"),
    ],
)
def test_by_host(pattern, host, database):
    assert of_host(pattern, host, NAMES) == database


@pytest.mark.parametrize(
    ("pattern", "host"), [("^%d$", "other.org"), ("%d", "shop.org"), ("^%d$", ".*"), ("^%h$", "s")]
)
def test_a_host_of_no_one_database(pattern, host):
    with pytest.raises(NoDatabase, match="databases are for host"):
        of_host(pattern, host, NAMES)


def test_by_header():
    choose = resolver("header:X-Tenant-Db")
    assert choose({"HTTP_X_TENANT_DB": "shop"}) == "shop"
    assert choose({"HTTP_X_TENANT_DB": ""}) is None
    assert choose({}) is None


def test_by_nothing():
    assert resolver(None) is None


def test_by_a_function():
    assert resolver("os.path:basename")("/a/shop") == "shop"
