"""What can be exposed, and under which name."""

from __future__ import annotations

import pytest

import procman
from procman.rpc import exposure
from procman.rpc.faults import InvalidParams, MethodNotFound


@pytest.fixture(autouse=True)
def nothing_exposed(monkeypatch):
    monkeypatch.setattr(exposure, "_exposed", {})


def test_by_its_own_name():
    @procman.expose
    def price():
        return 1

    assert price() == 1
    assert exposure.exposed("price").function is price
    assert not exposure.exposed("price").public


def test_by_another_name():
    @procman.expose("product.price", public=True)
    def price():
        pass

    assert exposure.names() == ["product.price"]
    assert exposure.exposed("product.price").public


@pytest.mark.parametrize("name", ["", "a.", ".a", "a b", "_a", "a._b", "rpc.x", "system.listMethods", "1", "prêt"])
def test_names_that_can_not_be(name):
    with pytest.raises(ValueError, match="can't be the name"):
        exposure._add(lambda: None, name, public=False)


def test_a_name_is_taken_once():
    procman.expose("x")(print)
    procman.expose("x")(print)  # the same module imported again
    with pytest.raises(ValueError, match=r"exposed twice: by builtins.print and builtins.len"):
        procman.expose("x")(len)


def test_what_is_no_plain_function():
    async def later():
        pass

    for wrong in (later, dict):
        with pytest.raises(TypeError, match="not a plain function"):
            procman.expose("x")(wrong)


def test_what_is_not_there():
    with pytest.raises(MethodNotFound, match="'x'"):
        exposure.exposed("x")


def test_arguments_are_checked_before_the_call():
    @procman.expose
    def add(a, b=1):
        pass

    function = exposure.exposed("add")
    function.check([1], {"b": 2})
    for args, kwargs in (([], {}), ([1, 2, 3], {}), ([1], {"c": 1}), ([1], {"a": 1})):
        with pytest.raises(InvalidParams, match=r"add\(a, b=1\): "):
            function.check(args, kwargs)


def test_generators_stream():
    @procman.expose
    def pages():
        yield 1

    assert exposure.exposed("pages").streams
