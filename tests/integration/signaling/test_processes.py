"""Several processes, one database: caches that never disagree with what is committed."""

from __future__ import annotations

import random
import threading
import time


def test_what_one_commits_the_others_see(start):
    one, two, three = start(), start(), start()
    for value in range(1, 20):
        writer, *readers = random.sample([one, two, three], 3)
        assert writer.ask("set", 1, value) is None
        for reader in (*readers, writer):
            assert reader.ask("price", 1) == value


def test_before_the_commit_only_the_writer_sees_it(start):
    one, two = start(), start()
    assert two.ask("price", 1) == 0
    one.ask("begin")
    one.ask("in unit: set", 1, 7)
    assert one.ask("in unit: price", 1) == 7
    assert two.ask("price", 1) == 0
    one.ask("commit")
    assert two.ask("price", 1) == 7
    assert one.ask("price", 1) == 7


def test_a_rollback_changes_nothing_anywhere(start):
    one, two = start(), start()
    assert (one.ask("price", 1), two.ask("price", 1)) == (0, 0)
    one.ask("begin")
    one.ask("in unit: set", 1, 7)
    assert one.ask("in unit: price", 1) == 7
    one.ask("rollback")
    assert (one.ask("price", 1), two.ask("price", 1)) == (0, 0)


def test_a_value_computed_from_an_uncommitted_change_is_never_shared(start):
    one = start()
    one.ask("begin")
    one.ask("in unit: update only", 1, 7)
    assert one.ask("in unit: price", 1) == 7  # computed before anything was invalidated
    one.ask("in unit: invalidate")
    one.ask("rollback")
    assert one.ask("price", 1) == 0


def test_a_unit_keeps_to_its_snapshot(start):
    one, two = start(), start()
    one.ask("begin")
    assert one.ask("in unit: price", 2) == 0  # begins the transaction
    two.ask("set", 1, 7)
    assert one.ask("in unit: price", 1) == 0
    one.ask("commit")
    assert one.ask("price", 1) == 7


def test_killed_between_any_two_statements(start, truth):
    reader = start()
    steps = ["begin", "in unit: update only", "in unit: invalidate", "in unit: price", "commit"]
    arguments = {"in unit: update only": (1, 7), "in unit: price": (1,)}
    for count in range(1, len(steps) + 1):
        assert reader.ask("price", 1) == truth()
        writer = start()
        for step in steps[:count]:
            writer.ask(step, *arguments.get(step, ()))
        writer.kill()
        assert reader.ask("price", 1) == truth() == (7 if count == len(steps) else 0)


def test_killed_at_random_instants(start, truth):
    reader = start()
    for _ in range(12):
        writer = start()
        writer.ask("raise", 1)
        for _ in range(200):
            writer.tell("raise", 1)  # does not wait: the kill falls anywhere
        time.sleep(random.random() * 0.05)
        before = reader.ask("price", 1)
        writer.kill()
        _until_no_transaction(truth)
        assert reader.ask("price", 1) == truth() >= before


def _until_no_transaction(truth):
    # A COMMIT that was on its way when the writer was killed may still take effect.
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' "
        "AND pid <> pg_backend_pid()"
    )
    deadline = time.monotonic() + 30
    while truth(others):
        assert time.monotonic() < deadline


def test_no_read_that_begins_after_an_acknowledged_write_is_older(start):
    """Prices only grow: so a price that is lower than one that was acknowledged before the question is stale."""
    acknowledged = dict.fromkeys(range(1, 6), 0)
    stale, reads = [], []
    lock = threading.Lock()
    end = time.monotonic() + 4

    def write(process):
        while time.monotonic() < end:
            item = random.randint(1, 5)
            new = process.ask("raise", item)
            if isinstance(new, int):  # else a serialization failure, rolled back
                with lock:
                    acknowledged[item] = max(acknowledged[item], new)

    def read(process):
        while time.monotonic() < end:
            item = random.randint(1, 5)
            least = acknowledged[item]
            got = process.ask("price", item)
            reads.append(got)
            if got < least:
                stale.append((item, got, least))

    jobs = [threading.Thread(target=job, args=(start(),)) for job in (write, write, read, read)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert stale == []
    assert len(reads) > 100
    assert sum(acknowledged.values()) > 100


def test_the_registry_follows_in_every_process(start):
    one, two = start(), start()
    assert (one.ask("registry"), two.ask("registry")) == (0, 0)
    one.ask("set", 1, 7)
    assert (one.ask("registry"), two.ask("registry")) == (0, 0)  # nobody has said that it changed
    one.ask("begin")
    one.ask("in unit: reload registry")
    one.ask("commit")
    assert (one.ask("registry"), two.ask("registry")) == (7, 7)
