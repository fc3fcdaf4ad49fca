"""What the hub hands out and whom it wakes."""

from __future__ import annotations

from procman.bus.hub import Hub, Message


def message(number: int, channel: str = "a", text: str = "0") -> Message:
    return Message(number, channel, text)


def begun(newest: int = 1, **bounds: int) -> Hub:
    hub = Hub(**bounds)
    hub.begin(newest)
    return hub


def ids(messages: list[Message] | None) -> list[int] | None:
    return None if messages is None else [message.id for message in messages]


def test_a_reader_gets_what_is_newer_than_its_position_on_its_channels_in_order():
    hub = begun()
    hub.feed([message(2, "a"), message(3, "b"), message(5, "c"), message(6, "b"), message(9, "a")])
    assert ids(hub.after(["a", "b"], 1, 10)) == [2, 3, 6, 9]
    assert ids(hub.after(["a", "b"], 3, 10)) == [6, 9]
    assert ids(hub.after(["a"], 9, 10)) == []
    assert ids(hub.after(["nothing ever"], 1, 10)) == []
    assert ids(hub.after([], 1, 10)) == []


def test_a_channel_named_twice_is_delivered_once():
    hub = begun()
    hub.feed([message(2)])
    assert ids(hub.after(["a", "a"], 1, 10)) == [2]


def test_an_answer_is_cut_at_its_oldest_end_first():
    hub = begun()
    hub.feed(message(number, "ab"[number % 2]) for number in range(2, 12))
    assert ids(hub.after(["a", "b"], 1, 3)) == [2, 3, 4]
    assert ids(hub.after(["a", "b"], 4, 3)) == [5, 6, 7]


def test_messages_that_were_seen_are_passed_over():
    hub = begun()
    hub.feed([message(2), message(3)])
    hub.feed([message(2), message(3), message(4)])
    assert ids(hub.after(["a"], 1, 10)) == [2, 3, 4]
    assert hub.newest == 4


def test_only_the_readers_of_a_channel_are_woken_once_for_a_batch():
    hub = begun()
    woken: list[str] = []
    hub.subscribe(["a", "b"], lambda: woken.append("both"))
    hub.subscribe(["b"], lambda: woken.append("b"))
    hub.subscribe(["c"], lambda: woken.append("c"))
    hub.feed([message(2, "a"), message(3, "a"), message(4, "b")])
    assert sorted(woken) == ["b", "both"]


def test_an_unsubscribed_reader_sleeps_on():
    hub = begun()
    woken: list[int] = []
    subscription = hub.subscribe(["a"], lambda: woken.append(1))
    hub.unsubscribe(subscription)
    hub.unsubscribe(subscription)
    hub.feed([message(2)])
    hub.wake_all()
    assert woken == []
    assert hub.waiting == 0


def test_a_reader_may_unsubscribe_while_it_is_woken():
    hub = begun()
    first = hub.subscribe(["a"], lambda: hub.unsubscribe(first))
    woken: list[int] = []
    hub.subscribe(["a"], lambda: woken.append(1))
    hub.feed([message(2)])
    assert woken == [1]


def test_memory_is_bounded_by_number_and_says_where_it_begins():
    hub = begun(most_messages=3)
    hub.feed(message(number) for number in range(2, 8))
    assert hub.after(["a"], 3, 10) is None
    assert ids(hub.after(["a"], 4, 10)) == [5, 6, 7]
    assert hub.after(["never used"], 3, 10) is None


def test_memory_is_bounded_by_size():
    hub = begun(most_characters=10)
    hub.feed([message(2, text="x" * 6), message(3, text="y" * 6)])
    assert hub.after(["a"], 1, 10) is None
    assert ids(hub.after(["a"], 2, 10)) == [3]
    hub.feed([message(4, text="z" * 11)])
    assert hub.after(["a"], 3, 10) is None
    assert ids(hub.after(["a"], 4, 10)) == []


def test_a_dropped_message_leaves_its_channel_in_order():
    hub = begun(most_messages=2)
    hub.feed([message(2, "a"), message(3, "b"), message(4, "a"), message(5, "a")])
    assert ids(hub.after(["a", "b"], 3, 10)) == [4, 5]


def test_nothing_before_the_beginning_is_claimed_to_be_known():
    hub = begun(newest=40)
    assert hub.after(["a"], 39, 10) is None
    assert ids(hub.after(["a"], 40, 10)) == []


def test_a_second_beginning_forgets_and_wakes_everybody():
    hub = begun(newest=40)
    hub.feed([message(41)])
    woken: list[int] = []
    hub.subscribe([], lambda: woken.append(1))
    hub.begin(7)
    assert woken == [1]
    assert hub.newest == 7
    hub.feed([message(8)])
    assert ids(hub.after(["a"], 7, 10)) == [8]
