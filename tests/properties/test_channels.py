"""The scheduler against a model so simple that it is right: a list of rows, sorted and filtered each time."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from procman.jobs.channels import Channel
from procman.jobs.scheduler import Job, Scheduler

NAMES = ["root", "root.a", "root.a.x", "root.a.y", "root.b", "root.b.z"]
KEYS = st.integers(1, 12)


@st.composite
def configurations(draw):
    channels = {}
    for name in draw(st.sets(st.sampled_from(NAMES))):
        sequential = draw(st.booleans()) and name != "root"
        channels[name] = Channel(
            name=name,
            capacity=1 if sequential else draw(st.one_of(st.none(), st.integers(1, 4))),
            sequential=sequential,
            throttle=draw(st.sampled_from([0.0, 0.0, 3.0])),
            paused=draw(st.sampled_from([False, False, False, True])),
        )
    return channels


class Model:
    """All rows in a dictionary; every question is answered from scratch."""

    def __init__(self, channels):
        self.channels = {"root": Channel(name="root"), **channels}
        self.rows = {}
        self.throttled = {}

    def path(self, name):
        parts = name.split(".")
        return [".".join(parts[: count + 1]) for count in range(len(parts))]

    def settings(self, name):
        return self.channels.get(name, Channel(name=name, capacity=None))

    def running(self, name):
        return sum(name in self.path(row.channel) for row in self.rows.values() if row.state in ("enqueued", "started"))

    def open(self, name, now):
        channel = self.settings(name)
        full = channel.capacity is not None and self.running(name) >= channel.capacity
        return not channel.paused and not full and self.throttled.get(name, 0.0) <= now

    def candidates(self, now):
        waiting = [row for row in self.rows.values() if row.state == "pending"]
        found = sorted(
            row for row in waiting if row.eta <= now and all(self.open(name, now) for name in self.path(row.channel))
        )
        # From the leaves up: a sequential channel lets only its best through, and nobody if it is held up.
        for name in sorted(NAMES, key=lambda name: -name.count(".")):
            if not self.settings(name).sequential:
                continue
            inside = [row for row in found if name in self.path(row.channel)]
            if not inside:
                continue
            later = sorted((row.eta, row) for row in waiting if row.eta > now and row.channel == name)
            failed = any(row.state == "failed" and row.channel == name for row in self.rows.values())
            passes = [] if failed or (later and later[0][1] < inside[0]) else inside[:1]
            found = [row for row in found if row not in inside or row in passes]
        return found

    def start(self, row, now):
        self.rows[row.database, row.id] = row._replace(state="enqueued")
        for name in self.path(row.channel):
            if self.settings(name).throttle:
                self.throttled[name] = now + self.settings(name).throttle


class Channels(RuleBasedStateMachine):
    @initialize(channels=configurations())
    def begin(self, channels):
        self.scheduler = Scheduler(channels)
        self.model = Model(channels)
        self.now = 100.0

    @rule(
        key=KEYS,
        database=st.sampled_from(["one", "two"]),
        priority=st.integers(0, 3),
        created=st.integers(0, 3),
        channel=st.sampled_from(NAMES),
        delay=st.sampled_from([None, None, -5, 2, 20]),
        state=st.sampled_from(["pending", "pending", "pending", "enqueued", "started", "failed", "done", "cancelled"]),
    )
    def row_is_read(self, key, database, priority, created, channel, delay, state):
        eta = 0.0 if delay is None else self.now + delay
        # No two rows are equal in the order: which of two databases is first then is of no importance.
        id = 2 * key + (database == "two")  # noqa: A001
        row = Job(priority, float(created), id, database, id if database == "one" else f"k{id}", eta, channel, state)
        self.scheduler.put(row)
        self.model.rows[database, row.id] = row

    @rule(key=KEYS, database=st.sampled_from(["one", "two"]))
    def row_is_gone(self, key, database):
        id = 2 * key + (database == "two")  # noqa: A001
        self.scheduler.remove(database, id if database == "one" else f"k{id}")
        self.model.rows.pop((database, id), None)

    @rule(key=KEYS, database=st.sampled_from(["one", "two"]), state=st.sampled_from(["pending", "done", "failed"]))
    def running_job_ends(self, key, database, state):
        row = self.model.rows.get((database, 2 * key + (database == "two")))
        if row is not None and row.state in ("enqueued", "started"):
            row = row._replace(state=state)
            self.scheduler.put(row)
            self.model.rows[database, row.id] = row

    @rule(database=st.sampled_from(["one", "two"]))
    def database_is_lost(self, database):
        self.scheduler.remove_database(database)
        self.model.rows = {key: row for key, row in self.model.rows.items() if key[0] != database}

    @rule(seconds=st.sampled_from([0.5, 3.0, 30.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(channels=configurations())
    def channels_are_configured_again(self, channels):
        self.scheduler.configure(channels)
        self.model.channels = {"root": Channel(name="root"), **channels}
        throttled = self.model.throttled.items()
        self.model.throttled = {name: until for name, until in throttled if self.model.settings(name).throttle}
        # Failed jobs are only remembered where they matter: they are put again, as the runner does.
        for row in self.model.rows.values():
            if row.state == "failed":
                self.scheduler.put(row)

    @rule()
    def the_next_one(self):
        candidates = self.model.candidates(self.now)
        chosen = self.scheduler.next(self.now)
        if not candidates:
            assert chosen is None
            return
        assert chosen == candidates[0]._replace(state="enqueued")
        self.model.start(candidates[0], self.now)

    @rule()
    def wakes_up_in_time(self):
        deadline = self.scheduler.deadline(self.now)
        if self.model.candidates(self.now):
            return
        # Whatever becomes possible by the mere passing of time does so no earlier than announced, and then.
        moments = sorted(
            {row.eta for row in self.model.rows.values()} | set(self.model.throttled.values()) | {self.now}
        )
        first = next((moment for moment in moments if moment > self.now and self.model.candidates(moment)), None)
        if first is not None:
            assert deadline is not None
            assert self.now < deadline <= first

    @invariant()
    def counts_are_right(self):
        if not hasattr(self, "model"):
            return
        figures = self.scheduler.figures()
        for name, figure in figures.items():
            assert figure.running == self.model.running(name)
            inside = [row for row in self.model.rows.values() if name in self.model.path(row.channel)]
            assert figure.waiting == sum(row.state == "pending" for row in inside)
        # Channels that were made for a job go with their last job.
        live = {row.channel for row in self.model.rows.values() if row.state in ("pending", "enqueued", "started")}
        for name in set(figures) - set(self.model.channels):
            assert any(name in self.model.path(other) for other in {*live, *self.model.channels})


Channels.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestChannels = Channels.TestCase


def test_never_more_running_than_capacity():
    """Over a long run with everything always waiting, and jobs ending one by one."""
    channels = {
        "root": Channel(name="root", capacity=5),
        "root.a": Channel(name="root.a", capacity=3),
        "root.a.x": Channel(name="root.a.x", capacity=2),
        "root.b": Channel(name="root.b", capacity=4),
    }
    scheduler = Scheduler(channels)
    for number in range(2000):
        scheduler.put(Job(number % 7, 0.0, number, "one", number, 0.0, NAMES[number % len(NAMES)], "pending"))
    running, done = [], 0
    while True:
        while job := scheduler.next(1.0):
            running.append(job)
        for name, figure in scheduler.figures().items():
            assert figure.running <= (channels[name].capacity if name in channels else 5)
        if not running:
            break
        done += 1
        scheduler.put(running.pop(done * 31 % len(running))._replace(state="done"))
    assert done == 2000
