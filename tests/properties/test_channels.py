"""The scheduler against a model so simple that it is right: a list of rows, sorted and filtered each time."""

from __future__ import annotations

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from procman.core.channels import Channel
from procman.jobs.scheduler import Job, Scheduler

NAMES = ["root", "root.a", "root.a.x", "root.a.y", "root.b", "root.b.z"]
KEYS = st.integers(1, 12)


@st.composite
def rows_and_delays(draw):
    number, database = draw(KEYS), draw(st.sampled_from(["one", "two"]))
    # No two rows are equal in the order: which of two databases is first then is of no importance.
    id = 2 * number + (database == "two")  # noqa: A001
    row = Job(
        draw(st.sampled_from([0, 0, 1])),
        float(draw(st.integers(0, 3))),
        id,
        database,
        id if database == "one" else f"k{id}",
        0.0,
        draw(st.sampled_from(NAMES)),
        draw(st.sampled_from(["pending"] * 5 + ["enqueued", "started", "failed", "done", "cancelled"])),
        draw(st.sampled_from([0, 2, 3, 5])),
    )
    return row, draw(st.sampled_from([None, None, None, -5, 2, 20]))


ROWS = rows_and_delays()


@st.composite
def configurations(draw):
    # All at once would hide each other: who is paused or throttled shows nothing of batches, say.
    features = draw(st.sets(st.sampled_from(["sequential", "throttle", "paused", "fair", "limits"]), max_size=2))

    def maybe(feature, *values):
        return draw(st.sampled_from(values)) if feature in features else values[0]

    channels = {}
    for name in draw(st.sets(st.sampled_from(NAMES))) | {"root"}:
        sequential = maybe("sequential", False, True) and name != "root"
        channels[name] = Channel(
            name=name,
            capacity=1 if sequential else draw(st.sampled_from([None, 1, 2, 3, 4])),
            sequential=sequential,
            throttle=maybe("throttle", 0.0, 3.0),
            paused=maybe("paused", False, False, True),
            fair=maybe("fair", False, True),
            weights=draw(st.sampled_from([(), (("two", 3),)])),
            per_database=maybe("limits", (), (("one", 1),), (("*", 2),)),
        )
    return channels


class Model:
    """All rows in a dictionary; every question is answered from scratch."""

    def __init__(self, channels):
        self.channels = {"root": Channel(name="root"), **channels}
        self.rows = {}
        self.requests = {}  # row → the request that it shares with others
        self.throttled = {}
        self.paused = {}

    def path(self, name):
        parts = name.split(".")
        return [".".join(parts[: count + 1]) for count in range(len(parts))]

    def settings(self, name):
        return self.channels.get(name, Channel(name=name, capacity=None))

    def put(self, row):
        key = row.database, row.id
        old = self.rows.get(key)
        if not is_running(row) or (old is not None and old.channel != row.channel):
            self.requests.pop(key, None)
        self.rows[key] = row

    def running(self, name, database=None):
        rows = [row for row in self.rows.values() if is_running(row) and name in self.path(row.channel)]
        mine = [(row.database, row.id) for row in rows if database in (None, row.database)]
        return len({id(self.requests[key]) if key in self.requests else key for key in mine})

    def open(self, name, now):
        channel = self.settings(name)
        full = channel.capacity is not None and self.running(name) >= channel.capacity
        paused = self.paused.get(name, channel.paused)
        return not paused and not full and self.throttled.get(name, 0.0) <= now

    def choices(self, name, now, database=None):
        """What a channel may let through next; several where the databases take turns."""
        if not self.open(name, now):
            return []
        channel = self.settings(name)
        if not channel.by_database:
            return self.within(name, now, database)
        found = {}
        for each in [database] if database else ["one", "two"]:
            limit = next((most for pattern, most in channel.per_database if pattern in ("*", each)), 99)
            rows = self.within(name, now, each) if self.running(name, each) < limit else []
            if rows:
                found[each] = rows
        if channel.fair:
            weights = dict(channel.weights)
            shares = {each: self.running(name, each) / weights.get(each, 1) for each in found}
            return [row for each, rows in found.items() for row in rows if shares[each] == min(shares.values())]
        return [min(itertools.chain(*found.values()))] if found else []

    def within(self, name, now, database):
        """The first of its own jobs and of those that the channels below it let through."""
        own = [row for row in self.waiting(name, database) if row.eta <= now]
        below = [child for child in NAMES if child.rpartition(".")[0] == name]
        sources = [[min(own)] if own else [], *(self.choices(child, now, database) for child in below)]
        sources = [source for source in sources if source]
        found = [row for source in sources for row in source if all(row <= max(other) for other in sources)]
        if self.settings(name).sequential:
            later = sorted((row.eta, row) for row in self.waiting(name, database) if row.eta > now)
            failed = [row for row in self.rows.values() if row.state == "failed" and row.channel == name]
            if any(database in (None, row.database) for row in failed):
                return []
            return [row for row in found if not (later and later[0][1] < row)]
        return found

    def waiting(self, name, database):
        rows = [row for row in self.rows.values() if row.state == "pending" and row.channel == name]
        return [row for row in rows if database in (None, row.database)]

    def start(self, rows, now):
        request = object()
        for row in rows:
            self.rows[row.database, row.id] = row._replace(state="enqueued")
            if len(rows) > 1:
                self.requests[row.database, row.id] = request
        for name in self.path(rows[0].channel):
            if self.settings(name).throttle:
                self.throttled[name] = now + self.settings(name).throttle

    def batch(self, first, now):
        """The first job and those that share its request."""
        path = [self.settings(name) for name in self.path(first.channel)]
        if first.batch < 2 or any(channel.sequential or channel.throttle for channel in path):
            return [first]
        database = first.database if any(channel.by_database for channel in path) else None
        most, jobs = first.batch, []
        for row in sorted(row for row in self.waiting(first.channel, database) if row.eta <= now):
            most = min(most, row.batch)
            same = (row.database, row.priority) == (first.database, first.priority)
            if not same or row.batch < 2 or len(jobs) >= most:
                break
            jobs.append(row)
        return jobs


def is_running(row):
    return row.state in ("enqueued", "started")


class Channels(RuleBasedStateMachine):
    @initialize(channels=configurations())
    def begin(self, channels):
        self.scheduler = Scheduler(channels)
        self.model = Model(channels)
        self.now = 100.0

    @rule(rows=st.lists(ROWS, min_size=1, max_size=8))
    def rows_are_read(self, rows):
        for row, delay in rows:
            eta = 0.0 if delay is None else self.now + delay
            self.scheduler.put(row._replace(eta=eta))
            self.model.put(row._replace(eta=eta))

    @rule(key=KEYS, database=st.sampled_from(["one", "two"]))
    def row_is_gone(self, key, database):
        id = 2 * key + (database == "two")  # noqa: A001
        self.scheduler.remove(database, id if database == "one" else f"k{id}")
        self.model.rows.pop((database, id), None)
        self.model.requests.pop((database, id), None)

    @rule(key=KEYS, database=st.sampled_from(["one", "two"]), state=st.sampled_from(["pending", "done", "failed"]))
    def running_job_ends(self, key, database, state):
        row = self.model.rows.get((database, 2 * key + (database == "two")))
        if row is not None and is_running(row):
            row = row._replace(state=state)
            self.scheduler.put(row)
            self.model.put(row)

    @rule(database=st.sampled_from(["one", "two"]), really=st.integers(1, 4))
    def database_is_lost(self, database, really):
        if really > 1:
            return
        self.scheduler.remove_database(database)
        self.model.rows = {key: row for key, row in self.model.rows.items() if key[0] != database}
        self.model.requests = {key: each for key, each in self.model.requests.items() if key[0] != database}

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

    @rule(name=st.sampled_from(NAMES), paused=st.sampled_from([True, False, False, None, None]))
    def channel_is_paused_or_resumed(self, name, paused):
        if paused is None:
            self.scheduler.follow_configuration(name)
            self.model.paused.pop(name, None)
        else:
            (self.scheduler.pause if paused else self.scheduler.resume)(name)
            self.model.paused[name] = paused

    @rule(batches=st.booleans(), most=st.integers(1, 8))
    def the_next_ones(self, batches, most):
        for _ in range(most):
            self.next(batches=batches)

    def next(self, *, batches):
        choices = self.model.choices("root", self.now)
        jobs = self.scheduler.next_batch(self.now) if batches else [self.scheduler.next(self.now)]
        if not choices:
            assert not jobs or jobs == [None]
            return
        assert jobs[0]._replace(state="pending") in choices
        first = next(row for row in choices if row.id == jobs[0].id)
        expected = self.model.batch(first, self.now) if batches else [first]
        assert jobs == [row._replace(state="enqueued") for row in expected]
        self.model.start(expected, self.now)

    @rule(key=KEYS, database=st.sampled_from(["one", "two"]))
    def is_asked_what_a_job_waits_for(self, key, database):
        id = 2 * key + (database == "two")  # noqa: A001
        row = self.model.rows.get((database, id))
        explained = self.scheduler.explain(database, id if database == "one" else f"k{id}", self.now)
        if row is None or row.state != "pending":
            assert explained is None or explained.job.state != "pending"
            return
        assert explained.job == row
        if row in self.model.choices("root", self.now):
            assert not explained.obstacles
            assert explained.by_turns or not explained.ahead
        elif not explained.obstacles:
            # Nothing holds it up but others.
            assert self.model.choices("root", self.now)
            assert explained.ahead_in_all or explained.by_turns

    @rule()
    def wakes_up_in_time(self):
        deadline = self.scheduler.deadline(self.now)
        if self.model.choices("root", self.now):
            return
        # Whatever becomes possible by the mere passing of time does so no earlier than announced, and then.
        moments = sorted(
            {row.eta for row in self.model.rows.values()} | set(self.model.throttled.values()) | {self.now}
        )
        first = next((moment for moment in moments if moment > self.now and self.model.choices("root", moment)), None)
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


Channels.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
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
