"""Every way in which a request can be wrong, and what it says; every way in which it can be right."""

from __future__ import annotations

import json
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procman.control import protocol
from procman.control.commands import COMMANDS
from procman.control.protocol import BadMessage, Errno, Request


def message(command="stats", **more):
    return json.dumps({"id": "1", "command": command, **more}).encode()


def wrong(data: bytes) -> BadMessage:
    with pytest.raises(BadMessage) as caught:
        protocol.parse(data)
    return caught.value


def test_a_request_of_circus_client():
    data = b'{"command": "stats", "properties": {"name": "http"}, "id": "4711"}'
    assert protocol.parse(data) == Request(id="4711", command="stats", properties={"name": "http"})


@pytest.mark.parametrize("properties", [{}, None])
def test_properties_may_be_empty_or_absent(properties):
    assert protocol.parse(message(properties=properties)).properties == {}
    assert protocol.parse(message()).properties == {}


def test_case_of_the_command_does_not_matter():
    assert protocol.parse(message("STATS")).command == "stats"


def test_null_is_absent():
    assert protocol.parse(message(properties={"name": None})).names == ()


@pytest.mark.parametrize(
    ("command", "properties", "means", "becomes"),
    [
        ("quit", {"waiting": True}, "shutdown", {"waiting": True}),
        ("incr", {"name": "http"}, "scale", {"name": "http", "by": 1}),
        ("incr", {"name": "http", "nb": 3, "waiting": True}, "scale", {"name": "http", "by": 3, "waiting": True}),
        ("decr", {"name": "http", "nb": 2}, "scale", {"name": "http", "by": -2}),
        ("scale", {"name": "http", "count": 0}, "scale", {"name": "http", "count": 0}),
        ("scale", {"name": "http", "by": -1}, "scale", {"name": "http", "by": -1}),
        ("reload", {"name": "http", "graceful": True, "sequential": False}, "reload", None),
        ("stop", {"name": "http", "match": "glob"}, "stop", None),
        ("reload", {"graceful": False, "sequential": True, "waiting": False}, "reload", None),
        ("reloadconfig", {"waiting": True}, "reloadconfig", {"waiting": True}),
        ("kill", {"name": "http", "pid": "4711", "graceful_timeout": "5"}, "kill", None),
    ],
)
def test_other_names_and_what_circus_sends_always(command, properties, means, becomes):
    request = protocol.parse(message(command, properties=properties))
    assert request.command == means
    if becomes is not None:
        assert request.properties == becomes


@pytest.mark.parametrize(
    ("name", "names"), [("http", ("http",)), (["http", "cron"], ("http", "cron")), (["http"], ("http",)), ([], ())]
)
def test_names_of_pools(name, names):
    assert protocol.parse(message("reload", properties={"name": name})).names == names


@pytest.mark.parametrize("given", ["TERM", "SIGTERM", "sigterm", "15", 15])
def test_signals_by_name_and_number(given):
    request = protocol.parse(message("signal", properties={"name": "http", "signum": given}))
    assert request.properties["signum"] == signal.SIGTERM


@pytest.mark.parametrize("given", ["TREM", "SIGSIGTERM", "", 0, -1, 999, "999", "١٥", True, 1.5, [15]])
def test_signals_that_are_none(given):
    error = wrong(message("signal", properties={"name": "http", "signum": given}))
    assert "property 'signum': expected a signal's name or number" in str(error)


@pytest.mark.parametrize(
    ("data", "reason", "errno"),
    [
        (b"", "the message is not valid JSON: Expecting value: line 1 column 1 (char 0)", Errno.INVALID_JSON),
        (b"stats", "the message is not valid JSON: Expecting value: line 1 column 1 (char 0)", Errno.INVALID_JSON),
        (b"\xff\xfe\x00", "the message is not valid JSON: ", Errno.INVALID_JSON),
        (b"[1]", "the message is a list, expected an object", Errno.INVALID_JSON),
        (b"null", "the message is nothing, expected an object", Errno.INVALID_JSON),
        (b'{"id": NaN}', "the message is not valid JSON: NaN is not a number", Errno.INVALID_JSON),
        (b"[" * 60_000, "the message is not valid JSON: ", Errno.INVALID_JSON),
        (b'{"a":' * 12_000, "the message is not valid JSON: ", Errno.INVALID_JSON),
        (b" " * 70_000, "the message has 70000 bytes, the most is 65536", Errno.MESSAGE_ERROR),
        (b'{"id": {}}', "id: expected a text or a number", Errno.MESSAGE_ERROR),
        (b'{"id": 1.5}', "id: expected a text or a number", Errno.MESSAGE_ERROR),
        (b'{"id": 1}', "command: expected a text, got nothing", Errno.MESSAGE_ERROR),
        (message(["stats"]), "command: expected a text, got a list", Errno.MESSAGE_ERROR),
        (message("sats"), "unknown command 'sats', did you mean 'stats'?", Errno.UNKNOWN_COMMAND),
        (message("zzzz"), "unknown command 'zzzz'", Errno.UNKNOWN_COMMAND),
        (message("rm"), "command 'rm' is refused: ", Errno.REFUSED),
        (message("add", properties={"cmd": "sh"}), "command 'add' is refused: ", Errno.REFUSED),
        (message(properties=[]), "properties: expected an object, got a list", Errno.MESSAGE_ERROR),
        (message(properties={"nam": "x"}), "stats: unknown property 'nam', did you mean 'name'?", Errno.MESSAGE_ERROR),
        (message(properties={"name": 1}), "stats: property 'name': expected a text, got a number", Errno.MESSAGE_ERROR),
        (message(properties={"name": ""}), "expected a text, got an empty or too long one", Errno.MESSAGE_ERROR),
        (message(properties={"name": "x" * 256}), "stats: property 'name': expected a text", Errno.MESSAGE_ERROR),
        (message("reload", properties={"name": ["a", 1]}), "expected a text or a list of texts", Errno.MESSAGE_ERROR),
        (message("reload", properties={"waiting": 1}), "expected true or false, got a number", Errno.MESSAGE_ERROR),
        (message("set", properties={"name": "a", "options": 1}), "expected an object", Errno.MESSAGE_ERROR),
        (message("kill", properties={"name": "a", "graceful_timeout": -1}), "a number of seconds", Errno.MESSAGE_ERROR),
        (message("kill", properties={"name": "a", "graceful_timeout": "soon"}), "of seconds", Errno.MESSAGE_ERROR),
        (message("stop", properties={"match": "regex"}), 'only "glob" or "simple" is supported', Errno.MESSAGE_ERROR),
        (message("scale"), "scale: property 'name' is missing", Errno.MESSAGE_ERROR),
        (message("scale", properties={"name": "a"}), "expected one of the properties 'count'", Errno.MESSAGE_ERROR),
        (
            message("scale", properties={"name": "a", "count": 1, "by": 1}),
            "expected one of the properties 'count' and 'by'",
            Errno.MESSAGE_ERROR,
        ),
        (message("scale", properties={"name": "a", "count": -1}), "a whole number, 0 or more", Errno.MESSAGE_ERROR),
        (message("scale", properties={"name": "a", "count": 10**20}), "a whole number, 0 or", Errno.MESSAGE_ERROR),
        (message("scale", properties={"name": "a", "by": True}), "a whole number, got true or", Errno.MESSAGE_ERROR),
        (message(deadline="soon"), "deadline: expected a time in seconds since the epoch", Errno.MESSAGE_ERROR),
        (message(deadline=True), "deadline: expected a time", Errno.MESSAGE_ERROR),
        (b'{"id":1,"command":"stats","deadline":1e999}', "deadline: expected a time", Errno.MESSAGE_ERROR),
        (b'{"id":1,"command":"stats","deadline":' + b"9" * 400 + b"}", "deadline: expected", Errno.MESSAGE_ERROR),
        (b'{"id":1,"command":"stats","deadline":' + b"9" * 5000 + b"}", "not valid JSON", Errno.INVALID_JSON),
    ],
)
def test_what_is_wrong_is_said(data, reason, errno):
    error = wrong(data)
    assert reason in str(error)
    assert error.errno == errno


def test_the_error_knows_the_id_of_the_request():
    assert wrong(b'{"id": "a7", "command": "sats"}').id == "a7"
    assert wrong(b"nonsense").id is None


def test_a_message_never_quotes_a_value():
    assert "s3cret" not in str(wrong(message("reload", properties={"waiting": "s3cret"})))


@pytest.mark.parametrize(("deadline", "now", "late"), [(None, 1e9, False), (10, 9.9, False), (10, 10.1, True)])
def test_deadline(deadline, now, late):
    assert protocol.parse(message(deadline=deadline)).late(now) is late


def test_cast():
    assert protocol.parse(message(msg_type="cast")).cast
    assert not protocol.parse(message()).cast


def test_every_command_that_means_another_means_one_in_the_table():
    for command in COMMANDS.values():
        assert not command.means or not COMMANDS[command.means].means


@pytest.mark.parametrize("command", [c for c in COMMANDS.values() if c.waits], ids=lambda c: c.name)
def test_every_operation_can_be_waited_for(command):
    given = {"name": "http"} if any(p.required for p in command.properties) else {}
    given |= {"scale": {"count": 1}, "set": {"options": {"numprocesses": 1}}}.get(command.name, {})
    assert protocol.parse(message(command.name, properties={**given, "waiting": True})).waiting


def test_request_and_parse_are_inverse():
    data = protocol.request("7", "reload", {"name": ["http"], "waiting": True}, 12.5)
    request = protocol.parse(data)
    assert (request.id, request.command, request.deadline) == ("7", "reload", 12.5)
    assert request.properties == {"name": ("http",), "waiting": True}


def test_replies_have_the_shape_of_circus():
    assert json.loads(protocol.ok("7", 1.5, {"pids": [1]})) == {"id": "7", "status": "ok", "time": 1.5, "pids": [1]}
    assert json.loads(protocol.error("7", 1.5, "no", Errno.REFUSED, {"pools": {}})) == {
        "id": "7",
        "status": "error",
        "time": 1.5,
        "reason": "no",
        "errno": 100,
        "tb": None,
        "pools": {},
    }


def test_fields_can_not_turn_an_error_into_a_success():
    assert json.loads(protocol.error("7", 1.5, "no", 5, {"status": "ok", "errno": 0}))["status"] == "error"


def test_a_lone_surrogate_can_be_answered():
    request = protocol.parse(b'{"id": "\\ud800", "command": "stats", "properties": {"name": "\\udfff"}}')
    assert json.loads(protocol.error(request.id, 1.0, f"no pool {request.names[0]!r}", 3))["id"] == "\ud800"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_bad_message(data):
    try:
        protocol.parse(data)
    except BadMessage as error:
        protocol.error(error.id, 0.0, str(error), error.errno)


@given(
    st.sampled_from(sorted(COMMANDS)),
    st.dictionaries(
        st.sampled_from(["name", "waiting", "count", "by", "nb", "signum", "pid"]), json_values, max_size=4
    ),
    json_values,
)
def test_any_properties_are_a_request_or_a_bad_message(command, properties, deadline):
    data = json.dumps({"id": 1, "command": command, "properties": properties, "deadline": deadline}).encode()
    try:
        request = protocol.parse(data)
    except BadMessage:
        return
    assert request.command in COMMANDS
    assert not COMMANDS[request.command].means
