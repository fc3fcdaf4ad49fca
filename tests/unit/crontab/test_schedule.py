"""When entries are due: phase, missed calls, and the two Sundays of the year."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procman.crontab.schedule import Every, every, expression, read

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
BRUSSELS = "Europe/Brussels"


def seconds(number):
    return timedelta(seconds=number)


# -- every -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("late", "after"),
    [(0, 10), (3, 10), (9.999, 10), (10, 20), (10.001, 20), (25, 30), (86400 * 400, 86400 * 400 + 10), (-5, 10)],
)
def test_the_phase_is_kept_and_missed_calls_are_skipped(late, after):
    assert every("10s").after(NOON, NOON + seconds(late)) == NOON + seconds(after)


def test_a_new_entry_is_due_at_once():
    assert every(60).first(NOON) == NOON


@pytest.mark.parametrize(("ago", "due"), [(20, 40), (60, 0), (3600, 0)])
def test_a_changed_interval_counts_from_the_last_call(ago, due):
    assert every("1m").first(NOON, NOON - seconds(ago)) == NOON + seconds(due)


@given(
    interval=st.timedeltas(timedelta(milliseconds=10), timedelta(days=400)),
    late=st.timedeltas(timedelta(0), timedelta(days=4000)),
)
def test_the_next_call_is_the_first_of_the_phase_that_lies_ahead(interval, late):
    planned, now = NOON, NOON + late
    following = Every(interval).after(planned, now)
    assert (following - planned) % interval == timedelta(0)
    assert now < following <= now + interval


@pytest.mark.parametrize("bad", ["10 secs", "10", "", 0, "0s", -1, True, None, float("nan"), "1ms", 0.001, [1], 1e300])
def test_no_interval(bad):
    with pytest.raises(ValueError, match=r"^every: "):
        every(bad)


def test_the_message_says_what_was_meant():
    with pytest.raises(
        ValueError, match=r'^every: expected a duration such as "30s", got "10 secs"; did you mean "10s"'
    ):
        every("10 secs")


# -- cron expressions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "now", "due"),
    [
        ("*/5 * * * *", "2026-06-01T12:00:00", "2026-06-01T12:05:00"),
        ("*/5 * * * *", "2026-06-01T12:04:59.999999", "2026-06-01T12:05:00"),
        ("0 0 * * *", "2026-12-31T23:59:59", "2027-01-01T00:00:00"),
        ("*/5 8-18 * * mon-fri", "2026-06-05T18:55:00", "2026-06-08T08:00:00"),
        ("0 0 29 2 *", "2026-06-01T12:00:00", "2028-02-29T00:00:00"),
        ("30 6 1,15 * fri", "2026-06-01T12:00:00", "2026-06-05T06:30:00"),
        ("0 0 L * *", "2026-06-01T12:00:00", "2026-06-30T00:00:00"),
        ("0 9 * * mon#1", "2026-06-01T12:00:00", "2026-07-06T09:00:00"),
        ("*/20 * * * * *", "2026-06-01T12:00:01", "2026-06-01T12:00:20"),
    ],
)
def test_expressions(fields, now, due):
    now = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert expression(fields).first(now) == datetime.fromisoformat(due).replace(tzinfo=UTC)


def test_a_clock_that_was_set_back_brings_no_call_twice():
    assert expression("0 * * * *").after(NOON, NOON - seconds(10)) == NOON + seconds(3600)
    assert every("10s").after(NOON, NOON - seconds(3)) == NOON + seconds(10)


def ticks(fields, start, number, zone=BRUSSELS):
    """Each computed from the one before, as the worker does."""
    plan = expression(fields, zone)
    moment = datetime.fromisoformat(start).astimezone(UTC)
    found = []
    for _ in range(number):
        moment = plan.after(moment, moment)
        found.append(moment.astimezone(ZoneInfo(zone)).isoformat())
    return found


def test_spring_an_hour_is_missing():
    """29 March 2026: after 01:59 +01:00 comes 03:00 +02:00."""
    assert ticks("30 2 * * *", "2026-03-28T00:00+01:00", 3) == [
        "2026-03-28T02:30:00+01:00",
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]
    assert ticks("0 2,3 * * *", "2026-03-29T00:00+01:00", 2) == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:00:00+02:00",
    ]
    assert ticks("*/30 * * * *", "2026-03-29T01:00+01:00", 3) == [
        "2026-03-29T01:30:00+01:00",
        "2026-03-29T03:00:00+02:00",
        "2026-03-29T03:30:00+02:00",
    ]
    assert ticks("0 * * * *", "2026-03-29T00:30+01:00", 3) == [
        "2026-03-29T01:00:00+01:00",
        "2026-03-29T03:00:00+02:00",
        "2026-03-29T04:00:00+02:00",
    ]


def test_autumn_an_hour_comes_twice():
    """25 October 2026: after 02:59 +02:00 comes 02:00 +01:00."""
    assert ticks("30 2 * * *", "2026-10-24T00:00+02:00", 3) == [
        "2026-10-24T02:30:00+02:00",
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]
    assert ticks("*/30 * * * *", "2026-10-25T01:45+02:00", 5) == [
        "2026-10-25T02:00:00+02:00",
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:00:00+01:00",
        "2026-10-25T02:30:00+01:00",
        "2026-10-25T03:00:00+01:00",
    ]
    assert ticks("0 * * * *", "2026-10-25T01:30+02:00", 3) == [
        "2026-10-25T02:00:00+02:00",
        "2026-10-25T02:00:00+01:00",
        "2026-10-25T03:00:00+01:00",
    ]


NEW_YORK, LORD_HOWE = "America/New_York", "Australia/Lord_Howe"


@pytest.mark.parametrize(
    ("zone", "fields", "start", "expected"),
    [
        # New York, 8 March 2026: after 01:59 -05:00 comes 03:00 -04:00; 1 November: after 01:59 -04:00 01:00 -05:00.
        (NEW_YORK, "* * * * *", "2026-03-08T01:58-05:00", ["01:59-05:00", "03:00-04:00", "03:01-04:00"]),
        (NEW_YORK, "0 * * * *", "2026-03-08T00:30-05:00", ["01:00-05:00", "03:00-04:00", "04:00-04:00"]),
        (NEW_YORK, "30 2 * * *", "2026-03-07T12:00-05:00", ["03:00-04:00", "02:30-04:00"]),
        (NEW_YORK, "* * * * *", "2026-11-01T01:58-04:00", ["01:59-04:00", "01:00-05:00", "01:01-05:00"]),
        (NEW_YORK, "0 * * * *", "2026-11-01T00:30-04:00", ["01:00-04:00", "01:00-05:00", "02:00-05:00"]),
        (NEW_YORK, "30 2 * * *", "2026-10-31T12:00-04:00", ["02:30-05:00", "02:30-05:00"]),
        (NEW_YORK, "30 1 * * *", "2026-10-31T12:00-04:00", ["01:30-04:00", "01:30-05:00"]),
        # Brussels, the same entries as above, every minute.
        (BRUSSELS, "* * * * *", "2026-03-29T01:58+01:00", ["01:59+01:00", "03:00+02:00", "03:01+02:00"]),
        (BRUSSELS, "* * * * *", "2026-10-25T02:58+02:00", ["02:59+02:00", "02:00+01:00", "02:01+01:00"]),
        # Lord Howe moves by half an hour. 4 October 2026: after 01:59 +10:30 comes 02:30 +11:00; 5 April: after 01:59
        # +11:00 comes 01:30 +10:30.
        (LORD_HOWE, "* * * * *", "2026-10-04T01:58+10:30", ["01:59+10:30", "02:30+11:00", "02:31+11:00"]),
        (LORD_HOWE, "0 * * * *", "2026-10-04T00:30+10:30", ["01:00+10:30", "03:00+11:00", "04:00+11:00"]),
        (LORD_HOWE, "30 2 * * *", "2026-10-03T12:00+10:30", ["02:30+11:00", "02:30+11:00"]),
        (LORD_HOWE, "15 2 * * *", "2026-10-03T12:00+10:30", ["02:30+11:00", "02:15+11:00"]),
        (LORD_HOWE, "* * * * *", "2026-04-05T01:58+11:00", ["01:59+11:00", "01:30+10:30", "01:31+10:30"]),
        (LORD_HOWE, "0 * * * *", "2026-04-05T00:30+11:00", ["01:00+11:00", "02:00+10:30", "03:00+10:30"]),
        (LORD_HOWE, "45 1 * * *", "2026-04-04T12:00+11:00", ["01:45+11:00", "01:45+10:30"]),
        (LORD_HOWE, "30 2 * * *", "2026-04-04T12:00+11:00", ["02:30+10:30", "02:30+10:30"]),
    ],
)
def test_the_sundays_elsewhere(zone, fields, start, expected):
    assert [tick[11:16] + tick[19:] for tick in ticks(fields, start, len(expected), zone)] == expected


def test_asked_within_the_second_coming_of_the_hour():
    """Its first coming must not be named: that would be a call in the past, due at once, for an hour."""
    assert ticks("30 2 * * *", "2026-10-25T02:10+01:00", 1) == ["2026-10-26T02:30:00+01:00"]
    assert ticks("0,30 2 * * *", "2026-10-25T02:10+01:00", 1) == ["2026-10-26T02:00:00+01:00"]


ZONES = [BRUSSELS, "America/New_York", "America/Havana", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kolkata"]
FIELDS = ["*/7 * * * *", "0 * * * *", "15,45 * * * *", "*/10 0-3 * * *", "30 2 * * *", "5 0,1,2,3 * * *", "0 0 * * *"]


@given(
    fields=st.sampled_from(FIELDS),
    zone=st.sampled_from(ZONES),
    minute=st.integers(0, 366 * 24 * 60),
    switch=st.booleans(),
    data=st.data(),
)
def test_the_next_call_lies_ahead_and_none_is_left_out(fields, zone, minute, switch, data):
    start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    if switch:
        start = data.draw(st.sampled_from(switches(zone))) + timedelta(minutes=minute % 480 - 240)
    plan = expression(fields, zone)
    due = plan.after(start, start)
    assert due > start
    # Nothing between would have been found by asking from there: asked from any moment before it, it is the next.
    between = start + (due - start) * data.draw(st.integers(0, 999)) / 1000
    assert plan.after(start, between) == due
    local = due.astimezone(ZoneInfo(zone))
    after_gap = (due - timedelta(minutes=1)).astimezone(ZoneInfo(zone)).utcoffset() != local.utcoffset()
    assert after_gap or _matches(fields, local)


def switches(zone):
    """When the zone's offset changes in 2026, or the middle of the year where it never does."""
    hours = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(366 * 24)]
    offsets = [hour.astimezone(ZoneInfo(zone)).utcoffset() for hour in hours]
    found = [hour for hour, one, two in zip(hours[1:], offsets, offsets[1:], strict=False) if one != two]
    return found or [NOON]


def _matches(fields, local):
    minutes, hours = fields.split()[:2]
    return _in(local.minute, minutes) and _in(local.hour, hours) and local.second == 0


def _in(value, field):
    if field.startswith("*/"):
        return value % int(field[2:]) == 0
    if "-" in field:
        low, high = field.split("-")
        return int(low) <= value <= int(high)
    return field == "*" or str(value) in field.split(",")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("* * * *", r"cron expression '\* \* \* \*': Wrong number of fields; expected five fields: minute, hour, "),
        ("60 * * * *", r"cron expression '60 \* \* \* \*': Bad minute"),
        ("0 0 30 2 *", r"cron expression '0 0 30 2 \*': Bad day-of-month"),
        ("@daily", "cron expression '@daily': Wrong number of fields"),
        ("", "cron expression '': Wrong number of fields"),
        ("0 0 * * caturday", r"cron expression .*: Bad day-of-week"),
    ],
)
def test_no_expression(fields, message):
    with pytest.raises(ValueError, match=message):
        expression(fields)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "Europe", "europe brussels"])
def test_no_zone(zone):
    with pytest.raises(ValueError, match="there is no time zone"):
        expression("* * * * *", zone)


def test_what_is_never_due_has_no_times():
    plan = read("@never")
    assert plan.text == "@never"
    assert (plan.first(NOON), plan.first(NOON, NOON), plan.after(NOON, NOON)) == (None, None, None)


# -- texts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (every(10), "@every 10s"),
        (every("250ms"), "@every 0.25s"),
        (every("2h"), "@every 7200s"),
        (expression(" */5  * * * * "), "CRON_TZ=UTC */5 * * * *"),
        (expression("0 6 * * mon", BRUSSELS), "CRON_TZ=Europe/Brussels 0 6 * * mon"),
    ],
)
def test_texts(plan, text):
    assert plan.text == text
    assert read(text) == plan


@given(st.timedeltas(timedelta(milliseconds=10), timedelta(days=3650)))
def test_the_text_of_an_interval_is_exact(interval):
    assert read(Every(interval).text) == Every(interval)


@pytest.mark.parametrize("text", ["", "daily", "@every", "@every x", "* * * * *", "CRON_TZ=UTC", "CRON_TZ=X * * * * *"])
def test_no_text_of_a_schedule(text):
    with pytest.raises(ValueError, match=r"."):
        read(text)
