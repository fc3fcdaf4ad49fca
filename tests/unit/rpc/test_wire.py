"""Bodies to calls, and answers to bodies."""

from __future__ import annotations

import json
import xmlrpc.client
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procman.rpc import json_rpc, xml_rpc
from procman.rpc.faults import AccessDenied, InvalidRequest, MethodNotFound, ParseError, UserError
from procman.rpc.values import for_xml

# -- JSON-RPC 2.0, the examples of section 7 and what surrounds them -------------------------------------------


def one(text):
    (request,) = json_rpc.parse(text.encode()).requests
    return request


def test_arguments_by_position_and_by_name():
    assert one('{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}').args == (42, 23)
    assert one('{"jsonrpc": "2.0", "method": "subtract", "params": {"a": 1}, "id": "x"}').kwargs == {"a": 1}


def test_a_notification_has_no_id():
    assert one('{"jsonrpc": "2.0", "method": "update"}').notification
    assert not one('{"jsonrpc": "2.0", "method": "update", "id": null}').notification


@pytest.mark.parametrize(
    "text",
    [
        '{"jsonrpc": "2.0", "method": 1, "params": "bar"}',
        '{"jsonrpc": "2.0", "method": "x", "params": 1, "id": 1}',
        '{"jsonrpc": "1.0", "method": "x", "id": 1}',
        '{"method": "x", "id": 1}',
        '{"jsonrpc": "2.0", "method": "x", "id": [1]}',
        '{"jsonrpc": "2.0", "method": "x", "id": true}',
        "1",
        "null",
        '"x"',
    ],
)
def test_what_is_no_call(text):
    assert isinstance(one(text).fault, InvalidRequest)


def test_a_batch():
    batch = json_rpc.parse(b'[1, {"jsonrpc": "2.0", "method": "sum", "params": [1], "id": 9}]')
    assert batch.several
    assert batch.requests[0].fault is not None
    assert batch.requests[1].method == "sum"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a": 1}{"b": 2}', b"[" * 100_000])
def test_what_is_no_json(body):
    with pytest.raises(ParseError):
        json_rpc.parse(body)


@pytest.mark.parametrize("body", [b"[]", json.dumps([1] * (json_rpc.MOST_CALLS + 1)).encode()], ids=["none", "many"])
def test_a_batch_that_is_empty_or_too_long(body):
    with pytest.raises(InvalidRequest):
        json_rpc.parse(body)


def test_answers():
    assert json.loads(json_rpc.response(1, [2])) == {"jsonrpc": "2.0", "id": 1, "result": [2]}
    assert json.loads(b"".join(json_rpc.stream("a", iter([1, "x"])))) == {
        "jsonrpc": "2.0",
        "id": "a",
        "result": [1, "x"],
    }
    assert json.loads(b"".join(json_rpc.stream("a", iter([])))) == {"jsonrpc": "2.0", "id": "a", "result": []}
    assert json.loads(json_rpc.several([b"1", b"2"])) == [1, 2]


@pytest.mark.parametrize(
    ("fault", "code", "fault_code", "name"),
    [
        (MethodNotFound("no"), -32601, -32601, "procman.rpc.faults.MethodNotFound"),
        (UserError("sold out"), 200, 2, "procman.rpc.faults.UserError"),
        (AccessDenied("no"), 200, 3, "procman.rpc.faults.AccessDenied"),
    ],
)
def test_faults(fault, code, fault_code, name):
    error = json.loads(json_rpc.failure(5, fault))["error"]
    assert (error["code"], error["message"]) == (code, str(fault))
    assert error["data"]["fault_code"] == fault_code
    assert error["data"]["name"] == name
    assert error["data"]["arguments"] == [str(fault)]


@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:0123456789.eE+-truefalsn ', max_size=60).map(str.encode))
def test_no_body_breaks_the_json_reader(body):
    try:
        json_rpc.parse(body)
    except (ParseError, InvalidRequest):
        pass


# -- XML-RPC --------------------------------------------------------------------------------------------------


def test_a_call_as_the_standard_library_makes_it():
    body = xmlrpc.client.dumps((1, "é", b"\0", [None], {"a": datetime(2026, 1, 2)}), "product.price", allow_none=True)
    assert xml_rpc.parse(body.encode()) == (
        "product.price",
        [1, "é", b"\0", [None], {"a": datetime(2026, 1, 2)}],
    )


def test_an_answer_as_the_standard_library_reads_it():
    value = for_xml({"n": 2**40, "m": -3, "none": None, "text": "<&>\0", "list": [1.5, True], "b": b"\xff"})
    (found,), _ = xmlrpc.client.loads(xml_rpc.response(value), use_builtin_types=True)
    assert found == {"n": 2**40, "m": -3, "none": None, "text": "<&>\ufffd", "list": [1.5, True], "b": b"\xff"}


def test_an_array_that_comes_in_pieces():
    whole = b"".join(xml_rpc.stream(iter([1, "x", {"a": [2]}])))
    assert xmlrpc.client.loads(whole)[0] == ([1, "x", {"a": [2]}],)
    assert xmlrpc.client.loads(b"".join(xml_rpc.stream(iter([]))))[0] == ([],)


def test_a_fault_as_the_standard_library_reads_it():
    with pytest.raises(xmlrpc.client.Fault) as caught:
        xmlrpc.client.loads(xml_rpc.failure(UserError("sold\0out")))
    assert (caught.value.faultCode, caught.value.faultString) == (2, "sold\ufffdout")


BOMB = b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<methodCall><methodName>x</methodName><params><param><value>&b;</value></param></params></methodCall>"""


@pytest.mark.parametrize("body", [BOMB, b"", b"<methodCall>", b"no", b"<?xml version='1.0' encoding='utf-16'?><a/>"])
def test_what_is_no_xml(body):
    with pytest.raises(ParseError):
        xml_rpc.parse(body)


def call(value):
    return (
        b"<methodCall><methodName>x</methodName><params><param><value>%s</value></param></params></methodCall>" % value
    )


@pytest.mark.parametrize(
    "body",
    [
        b"<a/>",
        b"<methodCall><params/></methodCall>",
        call(b"<int>x</int>"),
        call(b"<boolean>7</boolean>"),
        call(b"<struct><member><value><int>1</int></value></member></struct>"),
        b"<methodResponse><fault><value><int>1</int></value></fault></methodResponse>",
    ],
)
def test_what_is_no_call_in_xml(body):
    with pytest.raises(InvalidRequest):
        xml_rpc.parse(body)


TAGS = ["methodCall", "methodName", "params", "param", "value", "int", "i8", "string", "struct", "member", "name"]
TAGS += ["array", "data", "base64", "dateTime.iso8601", "nil", "double", "boolean", "fault"]
PIECES = st.sampled_from([f"<{tag}>" for tag in TAGS] + [f"</{tag}>" for tag in TAGS] + ["1", "x", " ", "2026"])
NESTED = st.recursive(
    st.sampled_from(["1", "x", ""]),
    lambda inner: st.tuples(st.sampled_from(TAGS), st.lists(inner, max_size=3)).map(
        lambda pair: f"<{pair[0]}>{''.join(pair[1])}</{pair[0]}>"
    ),
)


@given(st.binary(max_size=100) | st.lists(PIECES).map("".join).map(str.encode) | NESTED.map(str.encode))
def test_no_body_breaks_the_xml_reader(body):
    try:
        xml_rpc.parse(body)
    except (ParseError, InvalidRequest):
        pass
