from __future__ import annotations

import json

import pytest

from procman.core import lifecycle as say
from procman.core.codec import decode, encode
from procman.core.reason import Reason
from procman.core.spec import DatabaseSpec, HttpWork, Kind, PassedSocket, PoolSpec, TcpAddress, UnixAddress

BOOT = say.Boot(
    pool=PoolSpec(
        name="http",
        kind=Kind.HTTP,
        work=HttpWork(
            app="a:b",
            binds=(TcpAddress(host="::1", port=1), UnixAddress(path="/x"), PassedSocket(name="web")),
        ),
        env=(("A", "1"),),
    ),
    generation=2,
    seat=say.Seat(name="http.1", slot=1, generation=2, record=3),
    database=DatabaseSpec(url="postgresql:///x"),
    log_format="text",
    state_dir="/var",
)


@pytest.mark.parametrize(
    ("union", "message"),
    [
        (say.ToChild, BOOT),
        (say.ToChild, say.Retire(reason=Reason.RELOAD)),
        (say.ToChild, say.Fork(seat=BOOT.seat)),
        (say.FromChild, say.Forked(pid=7)),
        (say.FromChild, say.Failed(traceback="é\n")),
    ],
)
def test_what_is_encoded_decodes_to_the_same(union, message):
    assert decode(union, json.loads(json.dumps(encode(message)))) == message


def test_unknown_fields_are_ignored_and_missing_ones_take_their_default():
    data = encode(BOOT.pool)
    data["from_the_future"] = 1
    del data["stop_timeout"]
    assert decode(PoolSpec, data).stop_timeout == 30.0


@pytest.mark.parametrize(
    "data",
    [None, 1, [], {}, {"is": "Nothing"}, {"is": "Forked"}, {"is": "Forked", "pid": "7"}, {"is": "Boot", "pool": {}}],
)
def test_what_is_no_message_is_refused(data):
    with pytest.raises(ValueError, match=r"expected|missing"):
        decode(say.FromChild, data)
