"""The worker's automaton, as sentences: state, input, state."""

from __future__ import annotations

import pytest

from procman.core.reason import Reason
from procman.core.worker import INITIAL, TRANSITIONS, Input, State, Worker
from tests.support.simulation import Kind, pool


def worker(state=State.STARTING, kind=Kind.HTTP):
    made = Worker(id=1, spec=pool("w", kind), slot=1, generation=1, spawned_at=0.0)
    made.state = state
    return made


@pytest.mark.parametrize(("state", "what"), [(s, i) for s in State for i in Input])
def test_an_input_moves_by_the_table_or_changes_nothing(state, what):
    one = worker(state)
    moved = one.move(what, 5.0, reason=Reason.RELOAD, grace=3.0)
    assert moved == ((state, what) in TRANSITIONS)
    assert one.state is TRANSITIONS.get((state, what), state)


@pytest.mark.parametrize("state", [s for s in State if s is not State.GONE])
def test_every_state_but_the_last_ends_when_the_process_does(state):
    one = worker(state)
    assert one.move(Input.EXITED, 1.0)
    assert one.state is State.GONE
    assert not any(one.move(what, 2.0) for what in Input)


def test_every_state_is_reachable_and_only_gone_is_final():
    reached = set(INITIAL)
    while True:
        more = {after for (before, _), after in TRANSITIONS.items() if before in reached} - reached
        if not more:
            break
        reached |= more
    assert reached == set(State)
    assert {before for before, _ in TRANSITIONS} == set(State) - {State.GONE}


def test_the_first_reason_stands_unless_something_harder_comes():
    one = worker(State.READY)
    one.move(Input.RETIRE, 1.0, reason=Reason.MAX_REQUESTS)
    assert one.reason is Reason.MAX_REQUESTS
    one.move(Input.CONDEMN, 2.0, reason=Reason.REAL_TIME)
    assert one.final_reason(-9, oom=False) is Reason.REAL_TIME


def test_a_drain_that_takes_too_long_is_its_own_reason():
    one = worker(State.READY)
    one.move(Input.RETIRE, 1.0, reason=Reason.RELOAD, grace=30.0)
    assert one.deadline == 31.0
    one.move(Input.EXPIRE, 31.0)
    assert one.state is State.DUMPING
    assert one.reason is Reason.GRACE_EXPIRED


def test_a_drain_without_grace_is_bounded_by_nothing_here():
    one = worker(State.READY)
    one.move(Input.RETIRE, 1.0, reason=Reason.SHUTDOWN, grace=None)
    assert one.deadline is None


def test_a_command_has_no_stacks_to_dump():
    one = worker(State.READY, Kind.EXEC)
    one.move(Input.CONDEMN, 1.0, reason=Reason.KILLED_BY_USER)
    assert one.state is State.KILLING


@pytest.mark.parametrize(
    ("status", "ready_at", "oom", "reason"),
    [
        (0, None, False, Reason.BOOT_FAILED),
        (0, 1.0, False, Reason.FINISHED),
        (1, 1.0, False, Reason.CRASHED),
        (-11, 1.0, False, Reason.CRASHED),
        (-9, 1.0, False, Reason.KILLED_BY_USER),
        (-9, 1.0, True, Reason.OOM),
        (None, None, False, Reason.BOOT_FAILED),
    ],
)
def test_a_worker_that_nobody_asked_to_go_has_a_reason_too(status, ready_at, oom, reason):
    one = worker(State.READY if ready_at else State.STARTING)
    one.ready_at = ready_at
    one.move(Input.EXITED, 2.0)
    assert one.final_reason(status, oom=oom) is reason
