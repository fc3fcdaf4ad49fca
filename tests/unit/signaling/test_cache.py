from __future__ import annotations

from procman.signaling.cache import MISSING, Generations, Table, shrink
from procman.signaling.store import Signals, Tag


def tag(signals, token=1, epoch=1):
    return Tag(epoch, signals, token)


def test_table_forgets_the_least_recently_used():
    table = Table(2)
    table.put("a", 1, 10)
    table.put("b", 2, 10)
    assert table.get("a") == 1
    table.put("c", 3, 10)
    assert (table.get("b"), table.get("a"), table.get("c"), len(table)) == (MISSING, 1, 3, 2)


def test_equal_tags_share_a_generation():
    generations = Generations()
    one = generations.take("g", tag(1))
    one.put("f", "k", "v", maxsize=10)
    assert generations.take("g", tag(1)).get("f", "k") == "v"
    assert generations.take("g", tag(1, token=2)).get("f", "k") is MISSING
    assert generations.take("h", tag(1)).get("f", "k") is MISSING


def test_a_newer_generation_replaces_an_older_one():
    generations = Generations()
    generations.take("g", tag(1)).put("f", "k", "old", maxsize=10)
    generations.take("g", tag(2))
    assert generations.current()["g"].tag == tag(2)
    # Nobody holds the old one any more.
    assert generations.take("g", tag(1)).get("f", "k") is MISSING


def test_an_older_one_is_found_while_somebody_holds_it_but_not_kept():
    generations = Generations()
    old = generations.take("g", tag(1))
    old.put("f", "k", "old", maxsize=10)
    generations.take("g", tag(2)).put("f", "k", "new", maxsize=10)
    assert generations.take("g", tag(1)) is old
    assert generations.current()["g"].tag == tag(2)
    assert generations.take("g", tag(2)).get("f", "k") == "new"


def test_another_epoch_is_another_database():
    generations = Generations()
    generations.take("g", tag(5)).put("f", "k", "v", maxsize=10)
    assert generations.take("g", tag(5, epoch=2)).get("f", "k") is MISSING
    assert generations.current()["g"].tag == tag(5, epoch=2)


def test_after_a_restored_backup_smaller_counts_are_kept_again():
    generations = Generations()
    generations.take("g", tag(9))
    generations.revise(Signals([("procman.epoch", 0, 1, 0), ("g", 3, 1, 0)]))
    generations.take("g", tag(3)).put("f", "k", "v", maxsize=10)
    assert generations.take("g", tag(3)).get("f", "k") == "v"
    assert generations.current()["g"].tag == tag(3)


def test_a_claim_is_for_one():
    generation = Generations().take("g", tag(1))
    assert generation.claim("f", "k") is None
    waiting = generation.claim("f", "k")
    assert waiting is not None
    assert not waiting.is_set()
    generation.release("f", "k")
    assert waiting.is_set()
    assert generation.claim("f", "k") is None


def test_signals_of_groups_that_were_never_signalled():
    signals = Signals([("procman.epoch", 0, 42, 0), ("a", 3, 7, 2)])
    assert signals.tag("a") == (42, 3, 7)
    assert signals.tag("b") == (42, 0, 0)
    assert signals.deltas == 2


def test_a_table_knows_its_size():
    table = Table(2)
    table.put("a", 1, 10)
    table.put("a", 2, 15)
    table.put("b", 3, 20)
    assert table.size == 35
    table.put("c", 4, 1)
    assert (table.size, len(table)) == (21, 2)
    table.discard("b", 99)
    table.discard("b", 3)
    assert (table.size, table.get("b")) == (1, MISSING)
    table.shrink(0)
    assert (table.size, len(table)) == (0, 0)


def tables_of(generations):
    return [table for generation in generations.current().values() for table in generation.tables().values()]


def fill(generations, group, function, count, size):
    generation = generations.take(group, tag(1))
    for number in range(count):
        generation.put(function, number, number, maxsize=1000, size=size)
    return generation


def test_the_largest_give_first_when_all_are_too_large():
    generations = Generations()
    small = fill(generations, "g", "small", 10, 1)
    large = fill(generations, "h", "large", 10, 100)
    shrink(tables_of(generations), 1010)
    assert len(large.tables()["large"]) == 10
    shrink(tables_of(generations), 900)
    assert len(small.tables()["small"]) == 10
    assert large.tables()["large"].size <= 900 - 10
    assert large.get("large", 9) == 9
    assert large.get("large", 0) is MISSING


def test_all_give_when_there_is_no_room_at_all():
    generations = Generations()
    tables = [fill(generations, "g", name, 10, 10).tables()[name] for name in "abc"]
    shrink(tables_of(generations), 0)
    assert [table.size for table in tables] == [0, 0, 0]


def test_a_cleared_function_is_empty_and_others_are_not():
    generation = Generations().take("g", tag(1))
    generation.put("f", 1, 1, maxsize=9)
    generation.put("h", 1, 1, maxsize=9)
    generation.clear("f")
    assert generation.get("f", 1) is MISSING
    assert generation.get("h", 1) == 1
