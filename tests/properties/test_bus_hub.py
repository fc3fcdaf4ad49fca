"""However messages come and memory is bounded: a reader gets each message of its channels once and in order."""

from __future__ import annotations

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from procman.bus.hub import Hub, Message

channels = st.sampled_from("abc")
batches = st.lists(st.lists(st.tuples(channels, st.integers(0, 9)), max_size=6), max_size=12)
subscribed = st.sets(channels)


@given(
    batches=batches,
    wanted=subscribed,
    most_messages=st.integers(0, 8),
    most_characters=st.integers(0, 40),
    most=st.integers(1, 4),
    reads=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_nothing_is_missed_or_repeated(batches, wanted, most_messages, most_characters, most, reads):
    hub = Hub(most_messages=most_messages, most_characters=most_characters)
    hub.begin(1)
    table: list[Message] = []
    got: list[Message] = []
    last, woken = 1, []
    hub.subscribe(wanted, lambda: woken.append(1))

    def read() -> None:
        nonlocal last
        while True:
            found = hub.after(wanted, last, most)
            if found is None:  # memory begins too late: what the table has
                found = [message for message in table if message.channel in wanted and message.id > last][:most]
            if not found:
                return
            assert len(found) <= most
            got.extend(found)
            last = found[-1].id

    number = 1
    for batch, reads_now in zip(batches, reads, strict=False):
        new = []
        for channel, size in batch:
            number += 1
            new.append(Message(number, channel, "x" * size))
        table += new
        woken.clear()
        hub.feed(new)
        assert bool(woken) == any(message.channel in wanted for message in new)
        assert len(woken) <= 1
        if reads_now:
            read()
    read()
    assert got == [message for message in table if message.channel in wanted]


@given(batches=batches, most_messages=st.integers(0, 8), last=st.integers(0, 80))
def test_memory_never_claims_more_than_it_has(batches, most_messages, last):
    hub = Hub(most_messages=most_messages)
    hub.begin(1)
    table = [Message(number, channel, "x" * size) for number, (channel, size) in enumerate(chain(*batches), start=2)]
    hub.feed(table)
    found = hub.after("abc", last, 1000)
    assert found is None or found == [message for message in table if message.id > last]
    if last >= max(len(table) + 1 - most_messages, 1):
        assert found is not None
