"""What of Python's values JSON and XML-RPC are told."""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procman.rpc.values import for_json, for_xml


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


@dataclass
class Line:
    name: str
    price: Decimal


Point = namedtuple("Point", "x y")
AN_ID = UUID("12345678-1234-5678-1234-567812345678")
BRUSSELS = timezone(timedelta(hours=2))

SAME = [None, True, 1, 1.5, "text", [1, [2]], {"a": {"b": 1}}]


@pytest.mark.parametrize("value", SAME, ids=repr)
@pytest.mark.parametrize("make", [for_json, for_xml])
def test_what_is_plain_stays(make, value):
    assert make(value) == value


BOTH = [
    (Decimal("0.10"), "0.10"),
    (AN_ID, str(AN_ID)),
    (Colour.RED, "red"),
    (Size.LARGE, 3),
    (date(2026, 3, 1), "2026-03-01"),
    (time(8, 30), "08:30:00"),
    ((1, 2), [1, 2]),
    (frozenset([7]), [7]),
    (Point(1, 2), [1, 2]),
    (Line("tea", Decimal("2.5")), {"name": "tea", "price": "2.5"}),
    (OrderedDict(a=1), {"a": 1}),
    ({1: "a", AN_ID: "b"}, {"1": "a", str(AN_ID): "b"}),
]


@pytest.mark.parametrize(("value", "plain"), BOTH, ids=repr)
@pytest.mark.parametrize("make", [for_json, for_xml])
def test_what_becomes_something_plainer(make, value, plain):
    made = make(value)
    assert made == plain
    assert type(made) is type(plain)


def test_json_has_no_dates_and_no_bytes():
    assert for_json(datetime(2026, 3, 1, 8, tzinfo=UTC)) == "2026-03-01T08:00:00+00:00"
    assert for_json(b"\xff\x00") == "/wA="
    assert for_json(memoryview(b"ab")) == "YWI="


def test_xml_has_both_but_its_dates_are_utc():
    assert for_xml(datetime(2026, 3, 1, 8, tzinfo=BRUSSELS)) == datetime(2026, 3, 1, 6)
    assert for_xml(datetime(2026, 3, 1, 8)) == datetime(2026, 3, 1, 8)
    assert for_xml(bytearray(b"ab")) == b"ab"


def test_xml_has_no_control_characters():
    assert (
        for_xml("a\0b\x1b\n\ud800") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}\n\N{REPLACEMENT CHARACTER}"
    )


UNSENDABLE = [object(), {1.5: 1}, {None: 1}, {True: 1}, float("nan"), float("inf"), 1j, [object()], timedelta(1), Line]


@pytest.mark.parametrize("value", UNSENDABLE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("make", [for_json, for_xml])
def test_what_can_not_be_sent(make, value):
    with pytest.raises((TypeError, ValueError)):
        make(value)


def test_integers_end_somewhere_in_xml():
    assert for_json(2**70) == 2**70
    with pytest.raises(ValueError, match="more than 64 bits"):
        for_xml(2**63)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(TREES)
def test_json_values_survive(value):
    assert json.loads(json.dumps(for_json(value))) == value
