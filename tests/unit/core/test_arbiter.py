"""What the arbiter does about what happens, in a world without processes."""

from __future__ import annotations

import pytest

from procman.core import effect as do
from procman.core import event as ev
from procman.core.worker import State
from tests.support.simulation import Kind, Limits, World, pool


def serving(*specs):
    world = World(*specs)
    world.start()
    return world


def test_a_pool_starts_with_its_template_and_then_all_workers():
    world = serving(pool("http", workers=3))
    assert [type(e) for e in world.effects if not isinstance(e, do.Report)] == [
        do.StartTemplate,
        do.Spawn,
        do.Spawn,
        do.Spawn,
        do.Serving,
    ]
    assert world.pool("http").state.value == "running"
    assert world.names() == ["http.1@1", "http.2@1", "http.3@1"]


def test_serving_is_said_once_and_only_when_every_pool_serves():
    world = World(pool("http"), pool("cron", Kind.CRON))
    world.slow.add("cron")
    world.start()
    assert not world.of(do.Serving)
    world.send(ev.WorkerReady(world.id_of("cron.1")))
    assert len(world.of(do.Serving)) == 1
    world.kill("cron.1")
    world.pass_time(60)
    assert len(world.of(do.Serving)) == 1


def test_a_killed_worker_is_replaced_at_once_from_the_same_template():
    world = serving(pool("http", workers=2))
    world.pass_time(10)
    effects = world.kill("http.1")
    assert [e.slot for e in world.of(do.Spawn, effects)] == [1]
    assert not world.of(do.StartTemplate, effects)
    assert world.names() == ["http.1@1", "http.2@1"]


def test_the_first_young_death_is_free_and_the_next_ones_wait_ever_longer():
    world = serving(pool("http"))
    waits = []
    for _ in range(4):
        before = world.now
        world.kill("http.1")
        while not world.alive:
            world.pass_time(0.05)
        waits.append(round(world.now - before, 2))
    assert waits[0] == 0.0
    assert waits[1:] == sorted(waits[1:])
    assert waits[1] > 0.3


def test_a_crash_loop_parks_its_pool_alone_and_start_takes_it_out():
    world = World(pool("http"), pool("other"))
    world.stillborn.add("http")
    world.start()
    world.pass_time(120)
    assert world.pool("http").state.value == "parked"
    assert "stillborn" in world.pool("http").parked
    assert world.pool("other").ready == 1
    spawned = len(world.of(do.Spawn))
    assert spawned <= 8
    world.pass_time(3600)
    assert len(world.of(do.Spawn)) == spawned
    world.stillborn.clear()
    world.send(ev.StartAsked("op", ("http",)))
    assert world.pool("http").state.value == "running"
    assert ("op", "http", "done") in world.concluded


def test_eight_workers_that_fail_together_count_as_one_failure():
    world = serving(pool("http", workers=8))
    world.pass_time(1)
    for worker in list(world.alive):
        world.exit(worker, 1)
    assert world.pool("http").parked is None
    world.pass_time(1)
    assert world.pool("http").ready == 8


def test_of_fifty_workers_in_a_crash_loop_one_tries_for_all():
    world = World(pool("http", workers=50, max_restarts=50))
    world.stillborn.add("http")
    world.start()
    world.pass_time(30)
    assert 32 <= len(world.of(do.Spawn)) < 60
    world.stillborn.clear()
    world.pass_time(30)
    assert world.pool("http").ready == 50


def test_a_worker_that_had_lived_clears_the_record_of_failures():
    world = serving(pool("http"))
    for _ in range(30):
        world.pass_time(6)
        world.kill("http.1", 1)
    assert world.pool("http").parked is None


def test_pools_wait_for_those_they_depend_on_and_stop_in_reverse():
    world = World(pool("web", depends_on=("db",)), pool("db", Kind.POSTGRES))
    world.slow.add("db")
    world.start()
    assert world.names() == ["db.1@1"]
    assert world.pool("web").state.value == "waiting"
    world.send(ev.WorkerReady(world.id_of("db.1")))
    assert world.names() == ["db.1@1", "web.1@1"]
    effects = world.send(ev.ShutdownAsked(ev.Haste.GRACEFUL))
    stopped = [e.text.split()[1] for e in world.of(do.Report, effects) if e.event == "exited"]
    assert stopped == ["web.1", "db.1"]
    assert world.left == 0


def test_reload_is_canary_then_slot_by_slot_and_never_fewer_ready_workers():
    world = serving(pool("http", workers=3))
    world.slow.add("http")
    world.send(ev.ReloadAsked("op", ("http",)))
    assert world.names(2) == ["http.1@2"]
    for slot in (1, 2, 3):
        assert world.pool("http").ready == 3
        world.send(ev.WorkerReady(world.id_of(f"http.{slot}", 2)))
    assert world.names() == ["http.1@2", "http.2@2", "http.3@2"]
    assert world.concluded == [("op", "http", "done")]
    assert world.templates == {("http", 2)}


def test_a_broken_import_rejects_the_reload_and_leaves_the_old_generation_alone():
    world = serving(pool("http", workers=2))
    world.pass_time(10)
    world.broken_imports.add("http")
    world.send(ev.ReloadAsked("op", ("http",)))
    (end,) = world.of(do.Concluded)
    assert end.outcome is do.Outcome.FAILED
    assert end.traceback == "ImportError: broken"
    assert world.names() == ["http.1@1", "http.2@1"]
    assert world.pool("http").generation == 1
    world.broken_imports.clear()
    world.send(ev.ReloadAsked("op2", ("http",)))
    assert world.concluded[-1] == ("op2", "http", "done")


def test_a_canary_that_dies_rejects_the_reload():
    world = serving(pool("http", workers=2))
    world.stillborn.add("http")
    world.send(ev.ReloadAsked("op", ("http",)))
    assert world.concluded == [("op", "http", "failed")]
    assert world.names() == ["http.1@1", "http.2@1"]
    assert world.templates == {("http", 1)}


def test_a_canary_that_never_gets_ready_rejects_the_reload_in_time():
    world = serving(pool("http", workers=2, start_timeout=20.0))
    world.slow.add("http")
    world.send(ev.ReloadAsked("op", ("http",)))
    world.pass_time(30)
    assert world.concluded == [("op", "http", "failed")]
    assert world.names() == ["http.1@1", "http.2@1"]


def test_a_newer_reload_supersedes_an_unfinished_one():
    world = serving(pool("http", workers=2))
    world.slow.add("http")
    world.send(ev.ReloadAsked("one", ("http",)))
    world.slow.clear()
    world.send(ev.ReloadAsked("two", ("http",)))
    assert world.concluded == [("one", "http", "superseded"), ("two", "http", "done")]
    assert world.names() == ["http.1@3", "http.2@3"]
    assert world.templates == {("http", 3)}


def test_a_worker_of_the_old_generation_that_dies_during_a_reload_is_not_missed():
    world = serving(pool("http", workers=3))
    world.pass_time(10)
    world.slow.add("http")
    world.send(ev.ReloadAsked("op", ("http",)))
    world.kill("http.3")
    assert "http.3@1" in world.names()


def test_commands_are_reloaded_one_after_the_other_never_side_by_side():
    world = serving(pool("x", Kind.EXEC, workers=2))
    world.pass_time(2)
    world.send(ev.ReloadAsked("op", ("x",)))
    for _ in range(10):
        slots = [spawn.slot for spawn in world.alive.values()]
        assert len(slots) == len(set(slots))
        world.pass_time(0.5)
    assert world.names() == ["x.1@2", "x.2@2"]
    assert world.concluded == [("op", "x", "done")]


def test_a_database_is_left_alone_by_a_reload():
    world = serving(pool("db", Kind.POSTGRES))
    world.send(ev.ReloadAsked("op", ("db",)))
    assert world.names() == ["db.1@1"]
    assert world.concluded == [("op", "db", "done")]


def test_a_killed_template_is_made_anew_for_the_generation_in_force():
    world = serving(pool("http"))
    world.pass_time(10)
    world.templates.clear()
    effects = world.send(ev.TemplateGone("http", 1, "killed", 0.5))
    assert [e.generation for e in world.of(do.StartTemplate, effects)] == [1]
    assert world.names() == ["http.1@1"]


def test_a_unit_over_time_is_asked_then_dumped_then_killed():
    spec = pool("http", limits=Limits(time_real=10.0), kill_timeout=2.0)
    world = serving(spec)
    world.stubborn.add("http")
    worker = world.id_of("http.1")
    world.unit_started[worker] = world.now + 5
    world.pass_time(14.9)
    assert not world.of(do.Interrupt)
    world.pass_time(0.2)
    assert len(world.of(do.Interrupt)) == 1
    assert not world.of(do.Dump)
    effects = world.pass_time(2.5)
    kinds = [type(e) for e in effects if isinstance(e, (do.Dump, do.Kill, do.Spawn))]
    assert kinds == [do.Dump, do.Kill, do.Spawn] or kinds == [do.Dump, do.Spawn, do.Kill]
    assert world.pool("http").exits[-1].reason.value == "real_time"


def test_a_unit_over_time_that_ends_when_asked_costs_no_kill():
    world = serving(pool("http", limits=Limits(time_real=10.0)))
    world.unit_started[world.id_of("http.1")] = world.now
    world.pass_time(30)
    assert len(world.of(do.Interrupt)) == 1
    assert not world.of(do.Kill)
    assert world.pool("http").ready == 1


def test_short_units_are_never_interrupted_and_looking_costs_little():
    world = serving(pool("http", limits=Limits(time_real=10.0)))
    worker = world.id_of("http.1")
    for _ in range(100):
        world.unit_started[worker] = world.now
        world.pass_time(1.0)
    assert not world.of(do.Interrupt)
    assert len(world.of(do.Look)) <= 12


def test_shutdown_ends_a_stubborn_worker_after_stop_timeout_with_its_stacks():
    world = serving(pool("http", stop_timeout=5.0, kill_timeout=1.0))
    world.stubborn.add("http")
    world.send(ev.ShutdownAsked(ev.Haste.BOUNDED))
    world.pass_time(4.9)
    assert world.left is None
    effects = world.pass_time(1.2)
    assert [type(e) for e in effects if isinstance(e, (do.Dump, do.Kill))] == [do.Dump, do.Kill]
    assert world.left == 0


def test_a_graceful_shutdown_waits_for_its_units_and_a_second_word_makes_it_quick():
    world = serving(pool("http", stop_timeout=5.0))
    world.stubborn.add("http")
    world.unit_started[world.id_of("http.1")] = world.now
    world.send(ev.ShutdownAsked(ev.Haste.GRACEFUL))
    world.pass_time(600)
    assert world.left is None
    world.send(ev.ShutdownAsked(ev.Haste.NOW))
    assert world.left == 0


def test_a_graceful_shutdown_does_not_wait_for_a_worker_that_has_no_unit_to_finish():
    world = serving(pool("http", stop_timeout=5.0))
    world.stubborn.add("http")
    world.send(ev.ShutdownAsked(ev.Haste.GRACEFUL))
    world.pass_time(4.9)
    assert world.left is None
    effects = world.pass_time(1.0)
    assert [type(e) for e in effects if isinstance(e, (do.Dump, do.Kill))] == [do.Dump, do.Kill]
    assert world.pool("http").exits[-1].reason.value == "grace_expired"
    assert world.left == 0


def test_nothing_is_started_once_a_shutdown_has_begun():
    world = serving(pool("http", workers=2, stop_timeout=5.0))
    world.stubborn.add("http")
    world.send(ev.ShutdownAsked(ev.Haste.BOUNDED))
    effects = world.kill("http.1") + world.send(ev.ReloadAsked("op", ("http",)))
    effects += world.send(ev.StartAsked("op2", ("http",))) + world.pass_time(60)
    assert not world.of(do.Spawn, effects)
    assert not world.of(do.StartTemplate, effects)
    assert {end[2] for end in world.concluded} == {"failed"}


def test_stop_and_start_of_one_pool():
    world = serving(pool("http", workers=2), pool("other"))
    world.send(ev.StopAsked("stop", ("http",)))
    assert world.pool("http").state.value == "stopped"
    assert world.pool("http").target == 0
    assert world.names() == ["other.1@1"]
    world.send(ev.StartAsked("start", ("http",)))
    assert world.pool("http").ready == 2
    assert world.concluded == [("stop", "http", "done"), ("start", "http", "done")]


@pytest.mark.parametrize("command", [ev.StartAsked, ev.RestartAsked])
def test_who_waits_for_a_stop_that_is_taken_back_is_told(command):
    world = serving(pool("http", stop_timeout=8.0))
    world.stubborn.add("http")
    world.send(ev.StopAsked("stop", ("http",)))
    assert world.pool("http").state.value == "stopping"
    world.send(command("again", ("http",)))
    world.pass_time(20)
    assert world.concluded == [("stop", "http", "superseded"), ("again", "http", "done")]


def test_scale_up_and_really_down():
    world = serving(pool("http", workers=2))
    world.send(ev.ScaleAsked("up", "http", 4))
    assert len(world.alive) == 4
    world.send(ev.ScaleAsked("down", "http", 1))
    assert world.names() == ["http.1@1"]
    world.send(ev.ScaleAsked("none", "http", 0))
    assert world.names() == []
    assert [end[2] for end in world.concluded] == ["done"] * 3


def test_a_new_configuration_adds_changes_and_removes_pools():
    world = serving(pool("http", workers=1), pool("old"))
    world.send(ev.Configured((pool("http", workers=3, nice=1), pool("new"), pool("not", autostart=False)), "op"))
    assert world.names() == ["http.1@2", "http.2@2", "http.3@2", "new.1@1"]
    assert sorted(world.concluded) == [("op", "http", "done"), ("op", "new", "done"), ("op", "not", "done")]
    assert [e.pool for e in world.of(do.Forget)] == ["old"]


def test_a_reload_to_more_workers_starts_no_more_of_the_old_generation():
    world = serving(pool("http", workers=1))
    world.slow.add("http")
    world.send(ev.Configured((pool("http", workers=3, nice=1),), "op"))
    assert world.names() == ["http.1@1", "http.2@2"]
    for slot in (2, 3, 1):
        world.send(ev.WorkerReady(world.id_of(f"http.{slot}", 2)))
    assert world.names() == ["http.1@2", "http.2@2", "http.3@2"]


def test_a_configuration_that_is_taken_back_half_way_leaves_what_there_was():
    world = serving(pool("http", workers=1))
    world.slow.add("http")
    world.send(ev.Configured((pool("http", workers=3, nice=1),), "op"))
    world.slow.clear()
    world.send(ev.Configured((pool("http", workers=1),), "op2"))
    assert world.names() == ["http.1@3"]
    assert world.concluded == [("op", "http", "superseded"), ("op2", "http", "done")]


def test_a_pool_that_is_put_back_before_it_has_gone_comes_again():
    world = serving(pool("http"), pool("other"))
    world.stubborn.add("http")
    world.send(ev.Configured((pool("other"),), "op1"))
    world.send(ev.Configured((pool("http", workers=2), pool("other")), "op"))
    world.stubborn.clear()
    world.exit(world.id_of("http.1"))
    assert world.names() == ["http.1@1", "http.2@1", "other.1@1"]
    assert ("op", "http", "done") in world.concluded


def test_a_pool_that_becomes_another_kind_is_ended_and_begins_anew():
    world = serving(pool("x", Kind.EXEC, workers=2))
    world.pass_time(2)
    world.send(ev.Configured((pool("x", workers=1),), "op"))
    assert world.names() == ["x.1@1"]
    assert world.pool("x").kind == "http"
    assert world.pool("x").state.value == "running"
    assert world.concluded == [("op", "x", "done")]
    world.send(ev.Configured((pool("x", Kind.EXEC),), "op2"))
    world.pass_time(2)
    assert world.templates == set()
    assert world.concluded[-1] == ("op2", "x", "done")


def test_a_pool_that_goes_can_not_be_started_again():
    world = serving(pool("http"), pool("other"))
    world.stubborn.add("http")
    world.send(ev.Configured((pool("other"),), "op"))
    for number, command in enumerate((ev.StartAsked, ev.RestartAsked)):
        world.send(command(f"op{number}", ("http",)))
    world.send(ev.ScaleAsked("op2", "http", 3))
    world.exit(world.id_of("http.1"))
    assert [p.name for p in world.arbiter.snapshot().pools] == ["other"]
    assert [end[2] for end in world.concluded if end[0] != "op"] == ["failed"] * 3


def test_a_superseded_reload_costs_no_capacity():
    world = serving(pool("http", workers=3))
    world.slow.add("http")
    world.send(ev.ReloadAsked("one", ("http",)))
    world.send(ev.WorkerReady(world.id_of("http.1", 2)))
    world.send(ev.WorkerReady(world.id_of("http.2", 2)))
    world.send(ev.ReloadAsked("two", ("http",)))
    assert world.pool("http").ready == 3
    for slot in (1, 2, 3):
        world.send(ev.WorkerReady(world.id_of(f"http.{slot}", 3)))
        assert world.pool("http").ready == 3
    assert world.names() == ["http.1@3", "http.2@3", "http.3@3"]
    assert world.concluded == [("one", "http", "superseded"), ("two", "http", "done")]


def test_a_reload_that_is_rejected_half_way_costs_no_capacity():
    world = serving(pool("http", workers=3))
    world.pass_time(10)
    world.slow.add("http")
    world.send(ev.ReloadAsked("op", ("http",)))
    world.send(ev.WorkerReady(world.id_of("http.1", 2)))
    world.send(ev.WorkerReady(world.id_of("http.2", 2)))
    world.exit(world.id_of("http.3", 2), 1)
    assert world.concluded == [("op", "http", "failed")]
    for slot in (1, 2):
        assert world.pool("http").ready == 3
        assert len(world.alive) == 4
        world.send(ev.WorkerReady(world.id_of(f"http.{slot}", 1)))
    assert world.names() == ["http.1@1", "http.2@1", "http.3@1"]
    assert world.templates == {("http", 1)}


def test_a_rejected_reload_says_how_the_canary_ended():
    world = serving(pool("http"))
    world.slow.add("http")
    world.send(ev.ReloadAsked("op", ("http",)))
    world.exit(world.id_of("http.1", 2), -9)
    (end,) = world.of(do.Concluded)
    assert end.reason == "a new worker did not become ready: signal 9"


def test_the_old_generation_may_keep_dying_while_the_cure_is_on_its_way():
    world = serving(pool("http", start_timeout=200.0, max_restarts=2))
    world.slow.add("http")
    world.send(ev.ReloadAsked("op", ("http",)))
    for _ in range(10):
        world.exit(world.id_of("http.1", 1), 1)
        while not world.names(1):
            world.pass_time(1)
    assert world.pool("http").parked is None
    world.send(ev.WorkerReady(world.id_of("http.1", 2)))
    assert world.concluded == [("op", "http", "done")]


def test_a_reload_whose_workers_die_as_soon_as_they_serve_is_rejected():
    world = serving(pool("http", workers=2, max_restarts=3))
    world.pass_time(10)
    world.slow.add("http")
    world.send(ev.ReloadAsked("op", ("http",)))
    for _ in range(200):
        if world.concluded:
            break
        for worker, spawn in list(world.alive.items()):
            if spawn.generation == 2 and worker in world.alive:
                world.send(ev.WorkerReady(worker))
                world.exit(worker, 1)
                break
        world.pass_time(1)
        for worker in [w for w, spawn in world.alive.items() if spawn.generation == 1]:
            world.send(ev.WorkerReady(worker))
    assert world.concluded == [("op", "http", "failed")]
    assert world.pool("http").parked is None
    assert world.names() == ["http.1@1", "http.2@1"]


def test_a_pool_that_is_parked_while_it_reloads_lets_nobody_wait():
    world = World(pool("http", max_restarts=1))
    world.stillborn.add("http")
    world.start()
    world.send(ev.ReloadAsked("op", ("http",)))
    world.pass_time(60)
    assert world.pool("http").state.value == "parked"
    assert world.concluded == [("op", "http", "failed")]


def test_scaling_a_pool_that_does_not_run_is_done_at_once():
    world = serving(pool("http"))
    world.send(ev.StopAsked("stop", ("http",)))
    world.send(ev.ScaleAsked("scale", "http", 3))
    assert world.concluded[-1] == ("scale", "http", "done")
    world.send(ev.StartAsked("start", ("http",)))
    assert world.pool("http").ready == 3


def test_a_stopped_pool_that_was_reloaded_starts_with_a_new_template():
    world = serving(pool("http"))
    world.stubborn.add("http")
    world.send(ev.StopAsked("stop", ("http",)))
    world.send(ev.ReloadAsked("reload", ("http",)))
    world.send(ev.StartAsked("start", ("http",)))
    assert world.names(2) == ["http.1@2"]
    world.exit(world.id_of("http.1", 1))
    assert world.templates == {("http", 2)}


def test_a_template_that_does_not_fork_is_replaced():
    world = serving(pool("http", workers=2))
    world.pass_time(10)
    world.frozen.add(("http", 1))
    world.kill("http.1")
    effects = world.pass_time(6)
    assert [e.generation for e in world.of(do.StopTemplate, effects)] == [1]
    assert world.names() == ["http.1@1", "http.2@1"]
    assert world.pool("http").ready == 2


def test_a_template_is_not_asked_for_more_workers_than_its_channel_holds():
    world = World(pool("http", workers=500))
    world.frozen.add(("http", 1))
    world.start()
    assert len(world.of(do.Spawn)) == 32
    world.thaw()
    assert world.pool("http").ready == 500


def test_a_worker_that_can_not_be_talked_to_is_replaced():
    world = serving(pool("http", workers=2))
    world.pass_time(10)
    world.send(ev.WorkerLost(world.id_of("http.1")))
    assert world.pool("http").ready == 2
    assert world.pool("http").exits[-1].reason.value == "lost"
    assert [type(e) for e in world.effects if isinstance(e, (do.Dump, do.Kill))] == [do.Dump, do.Kill]


def test_an_essential_pool_that_parks_takes_the_daemon_down_with_status_1():
    world = World(pool("http", essential=True), pool("other"))
    world.stillborn.add("http")
    world.start()
    world.pass_time(120)
    assert world.left == 1


def test_every_worker_has_exactly_one_exit_record():
    world = serving(pool("http", workers=3))
    for _ in range(5):
        world.pass_time(10)
        world.kill("http.2")
        world.send(ev.ReloadAsked("op", ("http",)))
    world.send(ev.ShutdownAsked(ev.Haste.GRACEFUL))
    exits = [report.pid for report in world.of(do.Report) if report.event == "exited"]
    assert len(exits) == len(set(exits)) == len(world.of(do.Spawn))


def test_events_about_workers_that_are_gone_change_nothing():
    world = serving(pool("http"))
    worker = world.id_of("http.1")
    world.pass_time(10)
    world.kill("http.1")
    assert not world.send(ev.WorkerReady(worker))
    assert not world.send(ev.WorkerExited(worker, 0, 0.5))
    assert not world.send(ev.TemplateReady("nobody", 1))
    assert world.pool("http").workers[0].state is State.READY
