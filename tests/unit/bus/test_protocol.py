"""Polls on the wire."""

from __future__ import annotations

import json

import pytest

from procman.bus import protocol
from procman.bus.hub import Message
from procman.bus.protocol import PollError, PollRequest


def test_an_odoo_poll_is_understood():
    params = b'{"channels":["a","b"],"last":7,"options":{"peek":true,"database":"x"}}'
    body = b'{"jsonrpc":"2.0","method":"call","params":%b,"id":"q"}' % params
    assert protocol.parse(body) == PollRequest(id="q", channels=("a", "b"), last=7, peek=True, database="x")


@pytest.mark.parametrize("last", [b"", b', "last": 0', b', "last": null'])
def test_without_a_position_it_is_from_now_on(last):
    assert protocol.parse(b'{"params": {"channels": ["a"]%b}, "id": 1}' % last) == PollRequest(id=1, channels=("a",))


def test_plain_parameters_are_understood():
    assert protocol.parse(b'{"channels": ["a"], "last": 3}') == PollRequest(channels=("a",), last=3)


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        (b"", -32700, "not JSON"),
        (b"{", -32700, "not JSON"),
        (b"\xff\xfe\xff", -32700, "not JSON"),
        (b"[" * 60_000, -32700, "not JSON"),
        (b"[]", -32600, "one JSON-RPC request"),
        (b'[{"params": {"channels": []}}]', -32600, "one JSON-RPC request"),
        (b'{"id": [], "params": {}}', -32600, "id:"),
        (b'{"id": NaN, "params": {}}', -32600, "id:"),
        (b'{"method": "drop", "params": {"channels": []}}', -32601, "method"),
        (b"{}", -32602, "params: expected an object"),
        (b'{"params": []}', -32602, "params: expected an object"),
        (b'{"params": {}}', -32602, "channels: expected a list of strings"),
        (b'{"params": {"channels": "a"}}', -32602, "channels: expected a list of strings"),
        (b'{"params": {"channels": [1]}}', -32602, "channels: expected a list of strings"),
        (b'{"params": {"channels": ["a\\u0000"]}}', -32602, "channels: expected a list of strings"),
        (b'{"params": {"channels": ["\\ud800"]}}', -32602, "channels: expected a list of strings"),
        (b'{"params": {"channels": [%b]}}' % b",".join([b'"a"'] * 1001), -32602, "at most 1000"),
        (b'{"params": {"channels": [], "last": -1}}', -32602, "last:"),
        (b'{"params": {"channels": [], "last": 1.5}}', -32602, "last:"),
        (b'{"params": {"channels": [], "last": true}}', -32602, "last:"),
        (b'{"params": {"channels": [], "last": "7"}}', -32602, "last:"),
        (b'{"params": {"channels": [], "last": 9223372036854775808}}', -32602, "last:"),
        (b'{"params": {"channels": [], "options": [1]}}', -32602, "options: expected an object"),
        (b'{"params": {"channels": [], "options": {"database": 1}}}', -32602, "options.database"),
    ],
)
def test_what_is_wrong_is_said(body, code, reason):
    with pytest.raises(PollError, match=reason) as caught:
        protocol.parse(body)
    assert caught.value.code == code


def test_an_error_names_the_request_it_belongs_to():
    with pytest.raises(PollError) as caught:
        protocol.parse(b'{"id": 12, "params": []}')
    assert json.loads(protocol.error(caught.value)) == {
        "jsonrpc": "2.0",
        "id": 12,
        "error": {"code": -32602, "message": "params: expected an object"},
    }


def test_the_answer_is_the_list_of_messages():
    request = PollRequest(id=3, channels=("é",))
    messages = [Message(5, "é", '{"price":"12.50"}'), Message(6, "é", "null")]
    assert json.loads(protocol.answer(request, messages, 6)) == {
        "jsonrpc": "2.0",
        "id": 3,
        "result": [
            {"id": 5, "channel": "é", "message": {"price": "12.50"}},
            {"id": 6, "channel": "é", "message": None},
        ],
    }


def test_a_peek_says_where_the_bus_stands():
    request = PollRequest(channels=("a",), peek=True)
    assert json.loads(protocol.answer(request, [], 9)) == {
        "jsonrpc": "2.0",
        "id": None,
        "result": {"notifications": [], "channels": ["a"], "last": 9},
    }
