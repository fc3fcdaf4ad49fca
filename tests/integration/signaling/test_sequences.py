"""Sharing a database, and its invalidations, with an Odoo server of any version."""

from __future__ import annotations

import psycopg2
import pytest

import procman
from procman import signaling
from procman.core.spec import DatabaseSpec, SignalStore
from procman.errors import DatabaseSetupError

CACHES_17 = ["default", "assets", "templates", "routing", "groups"]
CACHES_19 = ["default", "assets", "stable", "templates", "routing", "groups"]


def _sequence(name):
    return f"CREATE SEQUENCE {name}; SELECT nextval('{name}')"


# As the first registry load of an Odoo of that version leaves a database.
SETUP = {
    16: ";".join(_sequence(name) for name in ["base_registry_signaling", "base_cache_signaling"]),
    17: ";".join(
        _sequence(name) for name in ["base_registry_signaling", *(f"base_cache_signaling_{n}" for n in CACHES_17)]
    ),
    19: ";".join(
        f"CREATE TABLE orm_signaling_{name} (id SERIAL PRIMARY KEY, date TIMESTAMP DEFAULT now());"
        f"INSERT INTO orm_signaling_{name} DEFAULT VALUES"
        for name in ["registry", *CACHES_19]
    ),
}


class Odoo:
    """An Odoo server, as far as signals go."""

    def __init__(self, url, version):
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True
        self._version = version
        self.sql(SETUP[version])
        self.known = self.look()

    def sql(self, statement):
        with self._connection.cursor() as cr:
            cr.execute(statement)
            return cr.fetchall() if cr.description else None

    def relations(self):
        if self._version == 16:
            return {"registry": "base_registry_signaling", "default": "base_cache_signaling"}
        if self._version == 17:
            return {"registry": "base_registry_signaling", **{n: f"base_cache_signaling_{n}" for n in CACHES_17}}
        return {name: f"orm_signaling_{name}" for name in ["registry", *CACHES_19]}

    def look(self):
        column = "max(id)" if self._version == 19 else "last_value"
        return {n: self.sql(f"SELECT {column} FROM {r}")[0][0] for n, r in self.relations().items()}

    def changed(self):
        """What has been signalled since the last look, as its check_signaling finds it: by inequality."""
        before, self.known = self.known, self.look()
        return {name for name, number in self.known.items() if number != before[name]}

    def signal(self, name):
        relation = self.relations()[name]
        self.sql(f"INSERT INTO {relation} DEFAULT VALUES" if self._version == 19 else f"SELECT nextval('{relation}')")

    def close(self):
        self._connection.close()


@pytest.fixture(params=[16, 17, 19])
def version(request):
    return request.param


@pytest.fixture
def odoo(prices_url, version):
    server = Odoo(prices_url, version)
    signaling.configure(DatabaseSpec(url=prices_url, signaling=SignalStore.SEQUENCES))
    yield server
    if (unit := signaling.current()) is not None:
        unit.rollback()
    signaling.configure(None)
    server.close()


def counter(group):
    """A cached function that tells how often it was computed."""
    calls = []

    @procman.cached(group)
    def count():
        calls.append(1)
        return len(calls)

    return count


def test_what_odoo_signals_is_noticed(odoo):
    prices, templates = counter("prices"), counter("templates")
    assert [prices(), prices(), templates(), templates()] == [1, 1, 1, 1]
    odoo.signal("default")
    assert (prices(), prices()) == (2, 2)
    odoo.signal("registry")
    assert (prices(), prices()) == (3, 3)
    odoo.signal("default")
    assert prices() == 4


def test_a_group_named_like_one_of_odoos_caches_is_that_cache(odoo, version):
    templates, prices = counter("templates"), counter("prices")
    assert (templates(), prices()) == (1, 1)
    odoo.signal("templates" if version > 16 else "default")
    assert templates() == 2
    assert prices() == (1 if version > 16 else 2)
    if version > 16:
        odoo.signal("groups")
        assert (templates(), prices()) == (3, 1)
    if version == 19:
        odoo.signal("stable")
        assert (templates(), prices()) == (3, 2)


def test_odoo_notices_what_we_signal(odoo, version):
    with procman.cursor() as cr:
        cr.execute("UPDATE item SET price = 5")
        procman.invalidate("prices")
    assert odoo.changed() == {"default"}
    procman.invalidate("templates")
    assert odoo.changed() == ({"templates"} if version > 16 else {"default"})
    procman.reload_registry()
    assert odoo.changed() == {"registry"}
    with procman.cursor():
        pass
    assert odoo.changed() == set()


def test_nothing_is_signalled_by_what_is_rolled_back(odoo):
    unit = signaling.begin()
    procman.invalidate("prices", "templates")
    unit.cursor().execute("UPDATE item SET price = 5")
    unit.rollback()
    assert odoo.changed() == set()


def test_a_unit_sees_its_own_changes_and_others_see_them_afterwards(odoo):
    @procman.cached("prices")
    def price():
        with procman.cursor() as cr:
            cr.execute("SELECT price FROM item WHERE id = 1")
            return cr.fetchone()[0]

    assert price() == 0
    with procman.cursor() as cr:
        cr.execute("UPDATE item SET price = 5 WHERE id = 1")
        procman.invalidate("prices")
        assert price() == 5
    assert price() == 5


def test_a_signal_between_the_check_and_the_snapshot_is_not_swallowed(odoo, prices_url, monkeypatch):
    """Race (g) of reading a number that is newer than the data: our numbers are read before the snapshot."""

    @procman.cached("prices")
    def price():
        with procman.cursor() as cr:
            cr.execute("SELECT price FROM item WHERE id = 1")
            return cr.fetchone()[0]

    with signaling.unit() as unit:
        unit.connection()
        odoo.sql("UPDATE item SET price = 7 WHERE id = 1")
        odoo.signal("default")
        assert price() == 0
    assert price() == 7


def test_through_a_cursor_of_another_program(odoo, prices_url):
    connection = psycopg2.connect(prices_url)
    with connection, connection.cursor() as cr:
        procman.invalidate("prices", using=cr)
    connection.close()
    assert odoo.changed() == {"default"}


def test_an_upgrade_of_odoo_is_noticed(prices_url):
    before = Odoo(prices_url, 16)
    signaling.configure(DatabaseSpec(url=prices_url, signaling=SignalStore.SEQUENCES))
    count = counter("prices")
    assert (count(), count()) == (1, 1)
    before.sql("DROP SEQUENCE base_registry_signaling, base_cache_signaling")
    after = Odoo(prices_url, 19)
    assert (count(), count()) == (2, 2)
    after.signal("default")
    assert count() == 3
    signaling.configure(None)
    before.close()
    after.close()


def test_a_database_without_an_odoo(prices_url):
    signaling.configure(DatabaseSpec(url=prices_url, signaling=SignalStore.SEQUENCES))
    with pytest.raises(DatabaseSetupError, match="has none of Odoo's signals"), procman.cursor():
        pass
    signaling.configure(None)
