"""The control socket: who may open it, whose file it is, and what it makes of every kind of message."""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import time
from contextlib import closing, contextmanager

import pytest
import zmq

from procman.control import protocol
from procman.control.protocol import Errno
from procman.control.server import ControlServer
from procman.errors import AddressError


@pytest.fixture
def context():
    with zmq.Context() as context:
        yield context


@pytest.fixture
def server(endpoint):
    with closing(ControlServer([endpoint])) as server:
        yield server


@contextmanager
def client(context, endpoint, kind=zmq.DEALER, **options):
    with context.socket(kind) as sock:
        sock.linger = 0
        for name, value in options.items():
            sock.setsockopt(getattr(zmq, name), value)
        sock.connect(endpoint)
        yield sock


def calls(server, number, seconds=10.0, most=64):
    """Loop as the daemon does until so many calls have come."""
    epoll = select.epoll()
    for fd in server.filenos():
        epoll.register(fd, select.EPOLLIN)
    found = []
    deadline = time.monotonic() + seconds
    while len(found) < number:
        if not server.pending():
            assert epoll.poll(deadline - time.monotonic()), f"slept on {number - len(found)} calls"
        found.extend(server.receive(most))
    epoll.close()
    return found


def answer(server, sock, seconds=10.0):
    """What the client gets while the server loops."""
    epoll = select.epoll()
    for fd in server.filenos():
        epoll.register(fd, select.EPOLLIN)
    deadline = time.monotonic() + seconds
    while not sock.poll(1):
        if server.pending() or epoll.poll(0.01):
            assert server.receive() == []
        assert time.monotonic() < deadline, "no answer"
    epoll.close()
    return json.loads(sock.recv_multipart()[-1])


def ask(command="stats", identity="1", **more):
    return json.dumps({"id": identity, "command": command, **more}).encode()


def path_of(endpoint):
    return endpoint.removeprefix("ipc://")


# -- the file ---------------------------------------------------------------------------------------------


def test_nobody_else_can_open_it_whatever_the_umask(endpoint):
    before = os.umask(0)
    try:
        with closing(ControlServer([endpoint])):
            path = path_of(endpoint)
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    finally:
        os.umask(before)


def test_close_removes_the_files(endpoint, short_path):
    second = f"ipc://{short_path}/second.sock"
    ControlServer([endpoint, second]).close()
    assert not os.path.exists(path_of(endpoint))
    assert not os.path.exists(path_of(second))


def test_the_file_of_a_dead_daemon_is_replaced(endpoint):
    path = path_of(endpoint)
    os.mkdir(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    with closing(ControlServer([endpoint])), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(path)


def test_a_living_daemon_keeps_its_socket(server, endpoint):
    with pytest.raises(AddressError, match=f"process {os.getpid()} listens there already"):
        ControlServer([endpoint])
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(path_of(endpoint))


def test_a_server_that_can_not_bind_everything_leaves_nothing(endpoint, short_path):
    with pytest.raises(AddressError):
        ControlServer([endpoint, "tcp://127.0.0.1:0"])
    assert not os.path.exists(path_of(endpoint))


def test_the_file_of_a_successor_is_left_alone(endpoint):
    path = path_of(endpoint)
    old = ControlServer([endpoint])
    os.unlink(path)
    with closing(ControlServer([endpoint])):
        old.close()
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)


def test_what_is_no_socket_is_not_removed(short_path):
    (short_path / "data").write_text("precious")
    with pytest.raises(AddressError, match="there is a file which is no socket"):
        ControlServer([f"ipc://{short_path}/data"])
    assert (short_path / "data").read_text() == "precious"


def test_a_directory_where_anybody_may_replace_it(short_path):
    short_path.chmod(0o777)
    with pytest.raises(AddressError, match="everybody may write to"):
        ControlServer([f"ipc://{short_path}/control.sock"])
    short_path.chmod(0o1777)  # as /tmp: only the owner of a file removes it
    ControlServer([f"ipc://{short_path}/control.sock"]).close()


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("tcp://127.0.0.1:5555", "needs CURVE keys"),
        ("inproc://x", "expected an endpoint such as ipc://"),
        ("ipc://", "expected the path of a socket"),
        ("ipc://@abstract", "expected the path of a socket"),
        ("ipc://*", "expected the path of a socket"),
        ("ipc:///tmp/" + "x" * 103, "longer than 107 bytes"),
        ("ipc:///proc/no/control.sock", "No such file or directory"),
    ],
)
def test_endpoints_that_are_refused(endpoint, message):
    with pytest.raises(AddressError) as caught:
        ControlServer([endpoint])
    assert str(caught.value).startswith(f"{endpoint}: ")
    assert message in str(caught.value)


# -- messages ---------------------------------------------------------------------------------------------


def test_circus_client_speaks_from_a_dealer(server, endpoint, context):
    """As circus.client: a DEALER with an identity of its own, and one frame."""
    with client(context, endpoint, IDENTITY=b"0123456789abcdef") as sock:
        sock.send(ask(properties={"name": "http"}))
        (call,) = calls(server, 1)
        assert (call.command, call.properties) == ("stats", {"name": "http"})
        assert call.reply({"info": 1})
        reply = answer(server, sock)
    assert reply.pop("time") == pytest.approx(time.time(), abs=60)
    assert reply == {"id": "1", "status": "ok", "info": 1}


def test_a_req_socket_gets_its_answer(server, endpoint, context):
    with client(context, endpoint, zmq.REQ) as sock:
        for identity in ("1", "2"):
            sock.send(ask(identity=identity))
            calls(server, 1)[0].reply({})
            assert answer(server, sock)["id"] == identity


def test_a_proxy_may_stand_between(server, endpoint, context):
    with client(context, endpoint) as sock:
        sock.send_multipart([b"far client", b"", ask()])
        calls(server, 1)[0].reply({})
        assert sock.recv_multipart()[:2] == [b"far client", b""]


def test_several_endpoints_are_one_server(short_path, context):
    endpoints = [f"ipc://{short_path}/{name}.sock" for name in "ab"]
    with closing(ControlServer(endpoints)) as server:
        for endpoint in endpoints:
            with client(context, endpoint) as sock:
                sock.send(ask(identity=endpoint))
                calls(server, 1)[0].reply({})
                assert answer(server, sock)["id"] == endpoint


@pytest.mark.parametrize(
    ("frames", "reason", "errno"),
    [
        ([b""], "the message is not valid JSON", Errno.INVALID_JSON),
        ([b"hello"], "the message is not valid JSON", Errno.INVALID_JSON),
        ([b"[" * 50_000], "the message is not valid JSON", Errno.INVALID_JSON),
        ([b"x" * 100_000], "the message has 100000 bytes", Errno.MESSAGE_ERROR),
        ([b"a", b"b"], "expected one frame, got 2", Errno.MESSAGE_ERROR),
        ([b"a"] * 40, "expected one frame, got 40", Errno.MESSAGE_ERROR),
        ([ask("relaod")], "did you mean 'reload'?", Errno.UNKNOWN_COMMAND),
        ([ask("rm", properties={"name": "http"})], "is refused", Errno.REFUSED),
    ],
)
def test_what_is_no_request_is_answered_and_goes_no_further(server, endpoint, context, frames, reason, errno):
    with client(context, endpoint) as sock:
        sock.send_multipart(frames)
        reply = answer(server, sock)
    assert reply["status"] == "error"
    assert reason in reply["reason"]
    assert reply["errno"] == errno


def test_a_late_command_is_dropped(server, endpoint, context):
    with client(context, endpoint) as sock:
        sock.send(ask("shutdown", deadline=time.time() - 1))
        reply = answer(server, sock)
        assert (reply["status"], reply["errno"]) == ("error", Errno.LATE)
        sock.send(ask("shutdown", deadline=time.time() + 60))
        assert calls(server, 1)[0].command == "shutdown"


def test_a_call_that_had_to_wait_can_become_late(endpoint, context):
    now = 100.0
    with closing(ControlServer([endpoint], clock=lambda: now)) as server, client(context, endpoint) as sock:
        sock.send(ask("reload", deadline=110))
        (call,) = calls(server, 1)
        assert not call.late
        now = 111.0
        assert call.late


def test_a_cast_gets_no_answer(server, endpoint, context):
    with client(context, endpoint) as sock:
        sock.send(ask("reload", msg_type="cast"))
        sock.send(ask("stats", identity="2"))
        cast, other = calls(server, 2)
        assert cast.reply({})
        other.reply({})
        assert answer(server, sock)["id"] == "2"


def test_the_first_answer_counts(server, endpoint, context):
    with client(context, endpoint) as sock:
        sock.send(ask())
        (call,) = calls(server, 1)
        assert call.refuse("no")
        assert not call.reply({})
        reply = answer(server, sock)
        assert (reply["status"], reply["reason"], reply["errno"]) == ("error", "no", Errno.REFUSED)
        assert not sock.poll(50)


@pytest.mark.parametrize("fields", [{"x": object()}, {"x": float("nan")}, {("a", "b"): 1}])
def test_an_answer_that_is_no_json_is_an_error_and_not_the_end(server, endpoint, context, fields, caplog):
    with client(context, endpoint) as sock:
        sock.send(ask())
        calls(server, 1)[0].reply(fields)
        assert answer(server, sock)["errno"] == Errno.BAD_MSG_DATA
    assert "can't be sent" in caplog.text


def test_a_client_that_is_gone_costs_nothing(server, endpoint, context):
    with client(context, endpoint) as sock:
        sock.send(ask())
        (call,) = calls(server, 1)
    with client(context, endpoint) as other:
        # The server learns of the disconnection by what its socket does next; a later client's request is that.
        for _ in range(100):
            other.send(ask())
            calls(server, 1)
            if not server.send(call._way, "1", lambda now: protocol.ok("1", now, {})):
                break
        else:
            pytest.fail("the answer to a client that is gone was accepted for ever")


def test_a_client_that_comes_back_with_its_identity_gets_the_answer(server, endpoint, context):
    with client(context, endpoint, IDENTITY=b"same") as first:
        first.send(ask(identity="1"))
        calls(server, 1)
        with client(context, endpoint, IDENTITY=b"same") as second:
            second.send(ask(identity="2"))
            calls(server, 1)[0].reply({})
            assert answer(server, second)["id"] == "2"


# -- under load -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 7, 64])
def test_the_loop_never_sleeps_on_pending_work(server, endpoint, context, most):
    """The descriptor is edge-triggered: answering must not lose the edge of what has come meanwhile."""
    number = 500
    with client(context, endpoint, SNDHWM=0, RCVHWM=0) as sock:
        for n in range(number):
            sock.send(ask(identity=n))
        answered = 0
        while answered < number:
            for call in calls(server, 1, most=most):
                call.reply({})
                answered += 1
        assert [json.loads(sock.recv())["id"] for _ in range(number)] == list(range(number))


def test_a_turn_is_bounded_in_a_flood(server, endpoint, context):
    with client(context, endpoint, SNDHWM=0) as sock:
        for n in range(300):
            sock.send(ask(identity=n))
        first = calls(server, 1)
        assert len(first) <= 64
        rest = calls(server, 300 - len(first))
        assert [call.request.id for call in first + rest] == list(range(300))


def test_a_client_that_does_not_read_its_answers_does_not_block_the_server(server, endpoint, context):
    with client(context, endpoint, RCVHWM=1, SNDHWM=0) as deaf, client(context, endpoint) as other:
        answers = []
        for n in range(1500):
            deaf.send(ask(identity=n))
            answers.append(calls(server, 1)[0].reply({"text": "x" * 10_000}))
        assert answers[0]
        assert not answers[-1]
        other.send(ask())
        calls(server, 1)[0].reply({})
        assert answer(server, other)["status"] == "ok"


def test_a_frame_far_too_large_ends_its_connection_only(server, endpoint, context):
    with client(context, endpoint) as huge, client(context, endpoint) as other:
        huge.send(b"x" * (17 * protocol.MOST_BYTES))
        for n in range(20):
            other.send(ask(identity=n))
            calls(server, 1)[0].reply({})
            assert answer(server, other)["id"] == n
        assert not huge.poll(50)


def test_bytes_that_are_no_zeromq_disturb_nobody(server, endpoint, context):
    with socket.socket(socket.AF_UNIX) as rude, client(context, endpoint) as sock:
        rude.connect(path_of(endpoint))
        rude.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        sock.send(ask())
        calls(server, 1)[0].reply({})
        assert answer(server, sock)["status"] == "ok"
