"""Probes of commands: when they are asked, and what the answers change."""

from __future__ import annotations

from procman.core import effect as do
from procman.core import event as ev
from tests.support.simulation import World, probed


def asked(effects):
    return sum(isinstance(effect, do.Ask) for effect in effects)


def test_a_command_is_asked_as_soon_as_it_runs_and_is_ready_when_it_says_so():
    world = World(probed("web"))
    world.start()
    assert world.pool("web").ready == 0
    assert asked(world.pass_time(0)) == 1
    assert world.pool("web").ready == 1
    assert asked(world.pass_time(100)) == 0


def test_one_that_is_not_ready_is_asked_again_after_the_interval():
    world = World(probed("web"))
    world.not_answering.add("web")
    world.start()
    assert asked(world.pass_time(10.5)) == 11
    world.not_answering.clear()
    world.pass_time(1)
    assert world.pool("web").ready == 1


def test_a_slow_answer_does_not_put_off_the_next_question():
    world = World(probed("web"))
    world.slow.add("web")
    world.start()
    worker = world.id_of("web.1")
    world.slow.clear()
    world.send(ev.CommandRuns(worker))
    world._perform = lambda effect: None  # answers come by hand from here on
    assert asked(world.pass_time(0.9)) == 1
    world.send(ev.Probed(worker, "no answer"))
    assert asked(world.pass_time(0.2)) == 1
    world.now += 5  # much longer than the interval
    world.send(ev.Probed(worker, "no answer"))
    assert asked(world.pass_time(0.0)) == 1


def test_one_that_never_is_ready_ends_with_what_the_probe_said_last():
    world = World(probed("web", start_timeout=5.0, max_restarts=1))
    world.not_answering.add("web")
    world.start()
    world.pass_time(60)
    assert world.pool("web").exits[0].reason == "boot_timeout"
    assert world.pool("web").parked.endswith("last: not ready: connection refused")
    assert any("boot_timeout (not ready: connection refused)" in report.text for report in world.of(do.Report))


def test_a_reload_to_a_command_that_is_never_ready_says_why():
    world = World(probed("web", start_timeout=5.0))
    world.start()
    world.pass_time(20)
    world.not_answering.add("web")
    world.send(ev.ReloadAsked("op", ("web",)))
    world.pass_time(6)
    end = world.of(do.Concluded)[-1]
    assert (end.outcome.value, end.reason) == (
        "failed",
        "a new worker did not become ready: not ready: connection refused",
    )


def test_an_answer_that_comes_too_late_changes_nothing():
    world = World(probed("web"))
    world.start()
    world.pass_time(1)
    worker = world.id_of("web.1")
    assert world.send(ev.Probed(worker, "connection refused")) == []
    assert world.send(ev.Probed(worker + 1, "")) == []


def test_a_command_without_a_probe_is_not_asked():
    from tests.support.simulation import Kind, pool

    world = World(pool("plain", Kind.EXEC))
    world.start()
    assert asked(world.pass_time(100)) == 0
