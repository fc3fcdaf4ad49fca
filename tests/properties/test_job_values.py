"""What is given to a job arrives as it was given."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procman.jobs import values

texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
zones = st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30)), ZoneInfo("Europe/Brussels"), ZoneInfo("UTC")])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.binary(max_size=40)
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.dates()
    | st.times()
    | st.times(timezones=st.just(UTC))
    | st.timedeltas()
    | st.datetimes()
    # In an hour that summer time leaves out there is no such moment in that zone.
    | st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1), timezones=zones, allow_imaginary=False)
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | st.just("_type"), inner, max_size=4),
    max_leaves=12,
)


def through_jsonb(text):
    """What PostgreSQL does to it: numbers are numerics (8.14), which have neither exponents nor negative zero."""

    def number(text):
        return format(Decimal(text), "f")

    def plain(value):
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(name)}: {plain(each)}" for name, each in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(plain, value)) + "]"
        return value if isinstance(value, Number) else json.dumps(value)

    class Number(str):
        pass

    return json.loads(plain(json.loads(text, parse_float=lambda it: Number(number(it)), parse_int=Number)))


def same(one, other):
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, datetime) and one.tzinfo is not None:
        return one == other and one.utcoffset() == other.utcoffset() and str(one.tzinfo) == str(other.tzinfo)
    if isinstance(one, float):
        return repr(one) == repr(other)
    return one == other


@given(anything)
def test_it_comes_back_as_it_was(value):
    assert same(value, values.decode(through_jsonb(values.encode(value, "value"))))


@given(st.recursive(st.integers(), lambda inner: st.tuples(inner, inner), max_leaves=5))
def test_tuples_come_back_as_lists(value):
    def lists(value):
        return [lists(each) for each in value] if isinstance(value, tuple) else value

    assert values.decode(json.loads(values.encode(value, "value"))) == lists(value)


def test_what_it_looks_like():
    """Others read it too: `procmanctl jobs show`, and whoever looks into the table."""
    value = {"when": datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "day": date(2026, 1, 2), "price": Decimal("1.50")}
    assert json.loads(values.encode(value, "value")) == {
        "when": {"_type": "datetime_isoformat", "value": "2026-01-02T03:04:00+00:00"},
        "day": {"_type": "date_isoformat", "value": "2026-01-02"},
        "price": {"_type": "decimal", "value": "1.50"},
    }
    assert values.decode({"_type": "uuid", "value": "9f2c5f6e-6a5f-4f0e-9d5e-0c3f3a1b2c3d"}) == UUID(
        "9f2c5f6e-6a5f-4f0e-9d5e-0c3f3a1b2c3d"
    )
    assert values.decode({"_type": "time_isoformat", "value": "01:02:03"}) == time(1, 2, 3)


def test_what_nobody_can_read_is_an_error():
    with pytest.raises(LookupError, match="a value is of _type 'odoo_recordset', which can't be read here"):
        values.decode([{"_type": "odoo_recordset", "model": "res.partner", "ids": [1]}])


def test_what_contains_itself_is_refused():
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="f\\(\\): contains itself, or is nested too deeply"):
        values.encode(circle, "f()")
