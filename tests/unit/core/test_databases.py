"""Which databases are meant by names and patterns."""

from __future__ import annotations

import pytest

from procman.core.databases import Existing, discovers, select

EXISTING = [
    Existing("archive", owned=True),
    Existing("shop_a", owned=True),
    Existing("shop_b", owned=False),
    Existing("shop_test", owned=True),
]


@pytest.mark.parametrize(
    ("entries", "meant"),
    [
        (("archive", "elsewhere"), ["archive", "elsewhere"]),
        (("auto",), ["archive", "shop_a", "shop_test"]),
        (("shop_*",), ["shop_a", "shop_b", "shop_test"]),
        (("shop_?",), ["shop_a", "shop_b"]),
        (("shop_[b-z]",), ["shop_b"]),
        (("*", "!shop_test", "!arch*"), ["shop_a", "shop_b"]),
        (("!shop_test",), ["archive", "shop_a"]),  # of all that it owns
        (("shop_test", "auto", "!shop_*"), ["shop_test", "archive"]),  # what is named is meant
        (("shop_a", "shop_*"), ["shop_a", "shop_b", "shop_test"]),
        (("Shop_*",), []),
    ],
)
def test_what_is_meant(entries, meant):
    assert select(entries, EXISTING) == meant


def test_only_for_patterns_the_server_is_asked():
    assert not discovers(())
    assert not discovers(("a", "b-c", "ä.b"))
    for entry in ("auto", "*", "a?", "[a]", "!a"):
        assert discovers(("a", entry))
