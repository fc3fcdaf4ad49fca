"""`procman.registry` in one process."""

from __future__ import annotations

import logging

import pytest

import procman
from procman import signaling
from procman.errors import ApplicationError
from procman.signaling import loading


@pytest.fixture
def loads(configured, monkeypatch):
    """A loader that sums the prices; the list gets an item for each load."""
    monkeypatch.setattr(loading, "_loaders", [])
    loads = []

    @procman.registry_loader
    def load(cr):
        cr.execute("SELECT sum(price)::int FROM item")
        loads.append(cr.fetchone()[0])
        return loads[-1]

    return loads


def set_prices(value):
    with procman.cursor() as cr:
        cr.execute("UPDATE item SET price = %s", (value,))


def test_loaded_once_until_somebody_says(loads):
    assert [procman.registry(), procman.registry()] == [0, 0]
    set_prices(1)
    assert procman.registry() == 0
    procman.reload_registry()
    assert [procman.registry(), procman.registry()] == [5, 5]
    assert loads == [0, 5]


def test_the_unit_that_changed_it_has_its_own(loads):
    assert procman.registry() == 0
    with signaling.unit() as unit:
        assert procman.registry() == 0
        set_prices(1)
        procman.reload_registry()
        assert [procman.registry(), procman.registry()] == [5, 5]
        unit.rollback()
    assert procman.registry() == 0
    assert loads == [0, 5]


def test_what_was_loaded_from_uncommitted_changes_is_not_shared(loads):
    with signaling.unit() as unit:
        set_prices(1)
        assert procman.registry() == 5
        unit.rollback()
    assert procman.registry() == 0


def test_a_loader_that_fails_keeps_the_old_one_and_the_unit(loads, caplog, truth):
    assert procman.registry() == 0

    @procman.registry_loader
    def broken(cr):
        loads.append("broken")
        cr.execute("SELECT * FROM no_such_table")

    procman.reload_registry()
    with caplog.at_level(logging.ERROR), signaling.unit():
        assert procman.registry() == 0
        set_prices(3)
    assert truth() == 3
    assert "can't be loaded; the old one stays" in caplog.text
    assert procman.registry() == 0
    assert loads == [0, "broken"]  # not tried again at once

    @procman.registry_loader
    def mended(cr):
        return "mended"

    procman.reload_registry()
    assert procman.registry() == "mended"


def test_a_first_loader_that_fails_raises(configured, monkeypatch):
    monkeypatch.setattr(loading, "_loaders", [])

    @procman.registry_loader
    def broken(cr):
        raise LookupError("nothing there")

    with pytest.raises(LookupError):
        procman.registry()
    assert signaling.current() is None


def test_without_a_loader(configured, monkeypatch):
    monkeypatch.setattr(loading, "_loaders", [])
    with pytest.raises(ApplicationError, match="registry_loader"):
        procman.registry()
