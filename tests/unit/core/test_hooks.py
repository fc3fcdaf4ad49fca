"""Hooks: what each is put before, and what comes of it when it fails, hangs, or is not waited for any more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from procman.core import effect as do
from procman.core import event as ev
from procman.core.spec import HookName, Hooks
from tests.support.simulation import Kind, World, pool

ALL = Hooks(**{hook.value: (hook.value,) for hook in HookName}, timeout=3.0)


def story(effects):
    """What is done, in order: hooks by name, effects on workers by kind."""
    words = []
    for effect in effects:
        match effect:
            case do.RunHook():
                words.append(effect.hook.value)
            case do.Spawn() | do.Retire() | do.Kill() | do.EndHook():
                words.append(type(effect).__name__)
            case do.Report(event="ready" | "exited" | "reloaded" | "reloading" | "reload_rejected" | "hook_failure"):
                words.append(effect.event)
    return words


def hooked(kind=Kind.HTTP, hooks=ALL, **policy):
    return World(pool("one", kind, hooks=hooks, stop_timeout=10.0, **policy))


def test_a_worker_s_life_with_all_hooks():
    world = hooked()
    assert story(world.start()) == ["before_start", "Spawn", "ready", "after_start"]
    assert story(world.send(ev.StopAsked("op", ("one",)))) == ["before_stop", "Retire", "exited", "after_stop"]
    assert world.concluded[-1] == ("op", "one", "done")


def test_a_reload_with_all_hooks():
    world = hooked()
    world.start()
    assert story(world.send(ev.ReloadAsked("op", ("one",)))) == [
        "before_reload",
        "reloading",
        "before_start",
        "Spawn",
        "ready",
        "after_start",
        "before_stop",
        "reloaded",
        "after_reload",
        "Retire",
        "exited",
        "after_stop",
    ]


def test_a_hook_is_told_of_the_worker():
    world = hooked()
    world.start()
    world.send(ev.KillAsked(world.id_of("one.1")))
    told = {run.hook.value: (run.worker, run.slot, run.generation, run.pid, run.reason) for run in world.of(do.RunHook)}
    assert told["before_start"] == ("one.1", 1, 1, None, None)
    assert told["after_stop"] == ("one.1", 1, 1, 1001, "killed_by_user")


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_worker_does_not_start_without_its_before_start(how):
    world = hooked(max_restarts=2)
    (world.failing_hooks if how == "fails" else world.hanging_hooks).add("before_start")
    world.start()
    world.pass_time(60)
    assert not world.of(do.Spawn)
    assert world.pool("one").state.value == "parked"
    assert {str(record.reason) for record in world.pool("one").exits} == {"boot_failed"}
    why = "status 1" if how == "fails" else "not done within 3 s"
    assert world.pool("one").parked == f"failed 3 times in a row, last: before_start: {why}"


def test_a_before_start_that_fails_rejects_a_reload():
    world = hooked()
    world.start()
    world.failing_hooks.add("before_start")
    world.send(ev.ReloadAsked("op", ("one",)))
    end = world.of(do.Concluded)[-1]
    assert (end.outcome.value, end.reason) == ("failed", "a new worker did not become ready: before_start: status 1")
    assert world.names() == ["one.1@1"]


def test_a_before_reload_that_fails_rejects_the_reload_and_its_configuration():
    world = hooked()
    world.start()
    world.failing_hooks.add("before_reload")
    new = replace(world.arbiter.pools["one"].spec, workers=5, nice=1)
    assert story(world.send(ev.Configured((new,), "op"))) == ["before_reload", "hook_failure", "reload_rejected"]
    assert world.of(do.Concluded)[-1].reason == "before_reload: status 1"
    world.failing_hooks.clear()
    world.send(ev.ReloadAsked("op2", ("one",)))
    assert world.names() == ["one.1@2"]


def test_a_newer_reload_supersedes_one_whose_before_reload_runs():
    world = hooked()
    world.start()
    world.hanging_hooks.add("before_reload")
    world.send(ev.ReloadAsked("first", ("one",)))
    assert world.pool("one").state.value == "reloading"
    world.hanging_hooks.clear()
    world.send(ev.ReloadAsked("second", ("one",)))
    assert world.concluded == [("first", "one", "superseded"), ("second", "one", "done")]
    assert world.names() == ["one.1@2"]


@pytest.mark.parametrize("hook", ["after_start", "before_stop", "after_stop", "after_reload"])
@pytest.mark.parametrize("fault", ["failing_hooks", "hanging_hooks"])
@pytest.mark.parametrize("kind", [Kind.HTTP, Kind.EXEC])
def test_no_other_hook_decides_anything(hook, fault, kind):
    world = hooked(kind, workers=2)
    getattr(world, fault).add(hook)
    world.start()
    world.pass_time(5)
    world.send(ev.ReloadAsked("op", ("one",)))
    world.pass_time(30)
    assert world.concluded == [("op", "one", "done")]
    assert world.names() == ["one.1@2", "one.2@2"]
    assert "hook_failure" in world.reports
    assert all(record.reason == "reload" for record in world.pool("one").exits)


def test_a_before_stop_counts_in_the_drain():
    world = hooked(hooks=replace(ALL, timeout=60.0))
    world.start()
    world.hanging_hooks.add("before_stop")
    world.send(ev.StopAsked("op", ("one",)))
    effects = world.pass_time(9.9)
    assert story(effects) == []
    effects = world.pass_time(3)
    assert story(effects) == ["EndHook", "Kill", "hook_failure", "exited", "after_stop"]
    assert world.concluded[-1] == ("op", "one", "done")


def test_a_worker_that_never_served_is_not_asked_by_a_hook():
    world = hooked()
    world.slow.add("one")
    world.start()
    assert story(world.send(ev.StopAsked("op", ("one",)))) == ["Retire", "exited", "after_stop"]


def test_a_pool_that_is_stopped_does_not_wait_for_a_before_start():
    world = hooked()
    world.hanging_hooks.add("before_start")
    world.start()
    assert story(world.send(ev.StopAsked("op", ("one",)))) == ["EndHook", "hook_failure", "exited"]
    assert world.concluded == [("op", "one", "done")]
    assert world.pool("one").exits[-1].reason == "shutdown"
    assert "parked" not in world.reports


def test_a_shutdown_waits_for_after_stop_and_a_second_one_does_not():
    world = hooked()
    world.start()
    world.hanging_hooks.add("after_stop")
    world.send(ev.ShutdownAsked(ev.Haste.BOUNDED))
    assert world.left is None
    world.send(ev.ShutdownAsked(ev.Haste.NOW))
    assert world.left == 0
    assert not world.hooks


def test_a_command_is_not_started_where_the_last_one_s_after_stop_still_cleans_up():
    world = hooked(Kind.EXEC)
    world.start()
    world.pass_time(10)
    world.hanging_hooks.add("after_stop")
    assert "Spawn" not in story(world.kill("one.1"))
    assert "Spawn" in story(world.finish_hook("after_stop"))


def test_others_replace_a_worker_at_once_whatever_its_after_stop_does():
    world = hooked()
    world.start()
    world.pass_time(10)
    world.hanging_hooks.add("after_stop")
    assert "Spawn" in story(world.kill("one.1"))


def test_no_hook_no_effect():
    world = hooked(hooks=Hooks())
    world.start()
    world.send(ev.ReloadAsked("op", ("one",)))
    world.send(ev.StopAsked("op2", ("one",)))
    assert not world.of(do.RunHook)
