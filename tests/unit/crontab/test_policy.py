"""What follows from what became of a run."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procman.crontab import policy
from procman.crontab.policy import Cause, Course, Misfire, Terms
from procman.crontab.schedule import Never, every, expression

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
NONE = timedelta(0)
HOURLY = Terms(every("1h"))
DAILY = Terms(expression("30 2 * * *", "Europe/Brussels"))


def minutes(number):
    return timedelta(minutes=number)


def due(course):
    return (course.due - NOON) / minutes(1)


# -- after a success -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("misfire", "late", "planned", "next_due"),
    [
        (Misfire.ONCE, 0, 60, 60),
        (Misfire.ONCE, 59, 60, 60),
        (Misfire.ONCE, 150, 180, 180),  # one run for three calls
        (Misfire.SKIP, 150, 180, 180),
        (Misfire.ALL, 59, 60, 60),
        (Misfire.ALL, 150, 60, 150),  # the next missed one, behind those who are due by now
    ],
)
def test_what_was_missed(misfire, late, planned, next_due):
    now = NOON + minutes(late)
    course = policy.done(Terms(every("1h"), misfire), NONE, Course(NOON, NOON), now, now)
    assert ((course.planned - NOON) / minutes(1), due(course)) == (planned, next_due)


def test_a_run_that_takes_longer_than_the_time_between_two_calls():
    """The calls that come meanwhile are not made good, unless each of them counts."""
    ended = NOON + minutes(130)
    assert due(policy.done(HOURLY, NONE, Course(NOON, NOON), NOON, ended)) == 180
    assert due(policy.done(Terms(every("1h"), Misfire.ALL), NONE, Course(NOON, NOON), NOON, ended)) == 130


def test_a_trigger_between_two_calls_does_not_move_the_schedule():
    course = Course(NOON, NOON + minutes(20), Cause.TRIGGER)
    after = policy.done(HOURLY, NONE, course, NOON, NOON + minutes(1))
    assert (due(after), after.cause) == (20, Cause.SCHEDULE)


def test_a_trigger_when_the_planned_time_has_come_serves_both():
    course = Course(NOON - minutes(5), NOON - minutes(1), Cause.TRIGGER)
    assert due(policy.done(HOURLY, NONE, course, NOON, NOON)) == 59


def test_what_has_no_schedule_is_not_due_again():
    course = policy.begin(Terms(Never()), NONE, NOON)
    assert (course.due, course.planned) == (None, None)
    triggered = replace(course, due=NOON, cause=Cause.TRIGGER)
    assert policy.done(Terms(Never()), NONE, triggered, NOON, NOON) == Course(None, None)


def test_a_row_of_before_that_tells_no_planned_time_gets_one():
    after = policy.done(HOURLY, NONE, Course(NOON, None), NOON, NOON + minutes(1))
    assert (due(after), after.planned) == (61, after.due)


def test_what_has_left_something_to_do_is_due_at_once_behind_all_others():
    ended = NOON + minutes(3)
    after = policy.done(HOURLY, NONE, Course(NOON, NOON), NOON, ended, remaining=True)
    assert (after.due, after.cause, after.planned) == (ended, Cause.PORTION, NOON + minutes(60))


def test_a_success_forgets_failures():
    course = Course(NOON, NOON, failures=4, first_failure=NOON - minutes(9), kills=2)
    after = policy.done(HOURLY, NONE, course, NOON, NOON)
    assert (after.failures, after.first_failure, after.kills) == (0, None, 0)


# -- jitter ----------------------------------------------------------------------------------------------------


def test_the_shift_is_of_the_entry_and_the_database():
    shifts = {policy.offset(60.0, name, database) for name in "abcdefgh" for database in ("one", "two")}
    assert len(shifts) == 16
    assert all(NONE <= shift < minutes(1) for shift in shifts)
    assert policy.offset(60.0, "a", "one") == policy.offset(60.0, "a", "one")
    assert policy.offset(0.0, "a", "one") == NONE
    assert max(shifts) - min(shifts) > timedelta(seconds=30)  # they do spread


def test_shifted_runs_keep_their_distance_and_leave_none_out():
    terms, shift = Terms(expression("*/10 * * * *"), jitter=600.0), minutes(9.5)
    course, seen = policy.begin(terms, shift, NOON), []
    for _ in range(5):
        seen.append((due(course), (course.planned - NOON) / minutes(1)))
        course = policy.done(terms, shift, course, course.due, course.due + timedelta(seconds=50))
    assert seen == [(19.5, 10), (29.5, 20), (39.5, 30), (49.5, 40), (59.5, 50)]


# -- what comes too late ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("misfire", "late", "runs_for"),
    [
        (Misfire.SKIP, 0.0, 0),
        (Misfire.SKIP, 1.0, 0),
        (Misfire.SKIP, 1.1, None),
        (Misfire.SKIP, 59.9, None),
        (Misfire.SKIP, 60.5, 60),  # the first one was missed, the second is in time
        (Misfire.SKIP, 62.0, None),
        (Misfire.ONCE, 59.9, 0),
        (Misfire.ALL, 500.0, 0),
    ],
)
def test_what_begins_too_late_is_skipped_where_that_is_wanted(misfire, late, runs_for):
    now = NOON + minutes(late)
    course = policy.opened(Terms(every("1h"), misfire), NONE, Course(NOON, NOON), now)
    assert (course.due <= now) == (runs_for is not None)
    if runs_for is not None:
        assert course.planned == NOON + minutes(runs_for)
    else:
        assert now < course.due <= now + minutes(60)


def test_a_trigger_is_never_skipped():
    course = Course(NOON, NOON - minutes(300), Cause.TRIGGER)
    assert policy.opened(Terms(every("1h"), Misfire.SKIP), NONE, course, NOON + minutes(500)) == course


# -- failures --------------------------------------------------------------------------------------------------


def test_the_call_of_a_schedule_is_over_when_it_has_failed():
    after = policy.failed(DAILY, NONE, Course(NOON, NOON), NOON, NOON + minutes(1))
    assert after.due == datetime(2026, 6, 2, 0, 30, tzinfo=UTC)
    assert (after.failures, after.first_failure) == (1, NOON + minutes(1))


def test_who_fails_again_and_again_is_tried_ever_more_rarely():
    terms, course, waits = Terms(every("1s")), Course(NOON, NOON), []
    for _ in range(16):
        now = course.due
        course = policy.failed(terms, NONE, course, now, now)
        waits.append(int((course.due - now).total_seconds()))
    assert waits[:6] == [2, 3, 5, 9, 17, 33]  # after 1, 2, 4, … seconds, at the next second of the schedule
    assert waits[-1] == 3601
    assert waits == sorted(waits)


@pytest.mark.parametrize("cause", [Cause.TRIGGER, Cause.PORTION])
def test_what_was_asked_for_besides_the_schedule_is_tried_again(cause):
    after = policy.failed(DAILY, NONE, Course(NOON, NOON + minutes(700), cause), NOON, NOON)
    assert (after.due, after.cause) == (NOON + policy.FIRST_PAUSE, cause)
    assert after.planned == NOON + minutes(700)


def test_it_is_given_up_when_it_has_failed_five_times_and_for_a_week():
    course, now = Course(NOON, NOON), NOON
    for _ in range(10):
        course = policy.failed(HOURLY, NONE, course, now, now)
        assert not course.given_up
        now += timedelta(hours=1)
    now = NOON + timedelta(days=7)
    assert policy.failed(HOURLY, NONE, course, now, now).given_up
    seldom = Course(NOON, NOON, failures=3, first_failure=NOON - timedelta(days=30))
    assert not policy.failed(HOURLY, NONE, seldom, NOON, NOON).given_up


# -- runs that end with their workers --------------------------------------------------------------------------


def test_a_killed_run_is_run_again_at_once_and_then_after_growing_pauses_until_the_call_is_over():
    course, now = Course(NOON, NOON), NOON
    assert policy.killed(DAILY, NONE, course, 1, now) is course
    waits = []
    course = policy.killed(DAILY, NONE, course, 2, now)
    while course.planned == NOON:
        waits.append((course.due - now).total_seconds())
        now = course.due
        course = policy.killed(DAILY, NONE, course, 1, now)
    assert waits == [2.0, 4.0, 8.0]
    assert (course.failures, course.kills, course.due) == (5, 0, datetime(2026, 6, 2, 0, 30, tzinfo=UTC))


def test_killed_runs_count_for_giving_up():
    course = Course(NOON, NOON, failures=4, first_failure=NOON - timedelta(days=8))
    assert policy.killed(DAILY, NONE, course, 1, NOON).given_up


def test_a_trigger_whose_runs_are_killed_is_never_lost():
    course, now = Course(NOON, None, Cause.TRIGGER), NOON
    for _ in range(20):
        course = policy.killed(Terms(Never()), NONE, course, 2, now)
        assert course.due is not None
        assert course.due > now
        now = course.due


# -- enabled again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("away", "following"), [(30, 60), (60, 120), (500, 540)])
def test_what_was_disabled_goes_on_at_its_next_time(away, following):
    course = Course(NOON, NOON + minutes(60), failures=7, first_failure=NOON)
    after = policy.resumed(HOURLY, NONE, course, NOON + minutes(away))
    assert (due(after), after.failures, after.first_failure) == (following, 0, None)


# -- all of it -------------------------------------------------------------------------------------------------


@given(
    misfire=st.sampled_from(list(Misfire)),
    plan=st.sampled_from(
        [every("10s"), every("1h"), expression("*/7 * * * *"), expression("0 3 * * *", "America/Havana")]
    ),
    jitter=st.floats(0, 10),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["done", "failed", "killed", "partial", "trigger"]),
            st.floats(0, 100_000),
            st.floats(0, 10_000),
        ),
        max_size=30,
    ),
)
def test_whatever_happens_it_goes_on(misfire, plan, jitter, steps):
    """It is always due some time; never before its planned time unless it was asked for; and the phase is kept."""
    terms = Terms(plan, misfire, jitter)
    shift = policy.offset(jitter, "entry", "database")
    course = policy.begin(terms, shift, NOON)
    now, grid = NOON, course.planned
    for what, late, takes in steps:
        if what == "trigger":
            course = replace(course, due=min(course.due, now), cause=Cause.TRIGGER)
        began = max(now, course.due) + timedelta(seconds=late)
        before = course
        course = policy.opened(terms, shift, course, began)
        now = began + timedelta(seconds=takes)
        if course.due <= began:
            if what == "killed":
                now = began
                course = policy.killed(terms, shift, course, 1, now)
            elif what == "failed":
                course = policy.failed(terms, shift, course, began, now)
                assert course.due >= now
            else:
                course = policy.done(terms, shift, course, began, now, remaining=what == "partial")
                # A planned time that came during a run for something else is still to be served.
                assert course.due >= now or began < course.planned + shift <= now
        assert course.due is not None
        assert course.planned >= before.planned
        if course.cause is Cause.SCHEDULE and misfire is not Misfire.ALL and not course.kills:
            assert course.due >= course.planned + shift
        if plan in (every("10s"), every("1h")):
            assert (course.planned - grid) % plan.interval == timedelta(0)
        now = max(now, began)
