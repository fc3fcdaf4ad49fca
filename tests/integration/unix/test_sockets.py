"""Listening sockets, bound in the real kernel."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from procman.core.spec import TcpAddress, UnixAddress
from procman.errors import AddressError
from procman.unix.sockets import bind, passed, unbind

if TYPE_CHECKING:
    from pathlib import Path

ANY_PORT = TcpAddress(host="127.0.0.1", port=0)


def listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


@pytest.mark.parametrize("address", [ANY_PORT, TcpAddress(host="::1", port=0), TcpAddress(host="localhost", port=0)])
def test_a_tcp_socket_listens_and_neither_blocks_nor_leaks(address: TcpAddress) -> None:
    with bind(address) as sock:
        assert listens(sock)
        assert not sock.get_inheritable()
        with pytest.raises(BlockingIOError):
            sock.accept()
        with socket.create_connection(sock.getsockname()[:2]) as client:
            accepted, _ = sock.accept()
            with accepted:
                # No response waits for an acknowledgement: inherited from the listening socket.
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                client.sendall(b"x")
                assert accepted.recv(1) == b"x"


def test_both_families_can_have_the_same_port() -> None:
    with bind(TcpAddress(host="0.0.0.0", port=0)) as four:
        port = four.getsockname()[1]
        with bind(TcpAddress(host="::", port=port)) as six:
            assert six.getsockname()[1] == port


def test_a_port_in_use_is_told_with_its_holder() -> None:
    with bind(ANY_PORT) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(AddressError) as caught:
            bind(TcpAddress(host="127.0.0.1", port=port))
    expected = rf"cannot bind 127\.0\.0\.1:{port}: port {port} is in use by \S+ \(pid {os.getpid()}\)"
    assert re.fullmatch(expected, str(caught.value))


def test_a_port_is_free_again_at_once(short_path: Path) -> None:
    first = bind(ANY_PORT)
    port = first.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)):
        accepted, _ = first.accept()
        accepted.close()  # ours is the side that waits in TIME_WAIT
    unbind(ANY_PORT, first)
    with bind(TcpAddress(host="127.0.0.1", port=port)) as again:
        assert listens(again)


def test_an_unknown_host_is_told() -> None:
    with pytest.raises(AddressError, match=r"cannot bind host\.invalid:80: "):
        bind(TcpAddress(host="host.invalid", port=80))


def test_an_address_of_another_machine_is_told() -> None:
    with pytest.raises(AddressError, match=r"cannot bind 192\.0\.2\.1:0: cannot assign requested address"):
        bind(TcpAddress(host="192.0.2.1", port=0))


# -- unix ----------------------------------------------------------------------------------------------------


def test_a_unix_socket_and_its_file(short_path: Path) -> None:
    address = UnixAddress(path=str(short_path / "s"))
    sock = bind(address)
    assert listens(sock)
    assert stat.S_ISSOCK(os.stat(address.path).st_mode)
    unbind(address, sock)
    assert not os.path.lexists(address.path)
    unbind(address, sock)  # again: nothing to do


def test_the_file_of_a_dead_process_is_replaced(short_path: Path) -> None:
    address = UnixAddress(path=str(short_path / "s"))
    code = f"import os, socket; s = socket.socket(socket.AF_UNIX); s.bind({address.path!r}); s.listen(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert os.path.exists(address.path)
    sock = bind(address)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address.path)
    unbind(address, sock)


def test_the_socket_of_a_living_process_is_left_alone(short_path: Path) -> None:
    address = UnixAddress(path=str(short_path / "s"))
    first = bind(address)
    with pytest.raises(AddressError, match="in use by a running process"):
        bind(address)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address.path)
    unbind(address, first)


def test_a_living_process_whose_queue_is_full_is_living(short_path: Path) -> None:
    address = UnixAddress(path=str(short_path / "s"))
    first = bind(address, backlog=0)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address.path)
        with pytest.raises(AddressError, match="in use by a running process"):
            bind(address)
    unbind(address, first)


def test_unbinding_leaves_the_socket_that_somebody_else_has_bound_since(short_path: Path) -> None:
    address = UnixAddress(path=str(short_path / "s"))
    first = bind(address)
    os.unlink(address.path)
    second = bind(address)
    unbind(address, first)
    assert os.path.exists(address.path)
    unbind(address, second)
    assert not os.path.exists(address.path)


def test_other_files_are_never_removed(short_path: Path) -> None:
    path = short_path / "s"
    path.write_text("precious")
    with pytest.raises(AddressError, match="a file that is not a socket"):
        bind(UnixAddress(path=str(path)))
    assert path.read_text() == "precious"


def test_a_directory_that_is_not_there_is_told(short_path: Path) -> None:
    address = UnixAddress(path=str(short_path / "missing" / "s"))
    with pytest.raises(AddressError, match="no such file or directory"):
        bind(address)


def test_too_long_a_path_is_told(short_path: Path) -> None:
    with pytest.raises(AddressError, match="longer than 107 bytes"):
        bind(UnixAddress(path=str(short_path / ("x" * 107))))


# -- passed by systemd ---------------------------------------------------------------------------------------


def pass_to_child(setup: str, report: str, names: str = "web", pid: str = "os.getpid()", count: int = 1) -> str:
    """What a process prints that was given descriptors as systemd gives them."""
    code = f"""
import os, socket
{setup}
assert sock.fileno() == 3
os.environ.update(LISTEN_FDS="{count}", LISTEN_FDNAMES="{names}", LISTEN_PID=str({pid}))
from procman.core.spec import PassedSocket
from procman.errors import AddressError
from procman.unix.sockets import bind
try:
    {report}
except AddressError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


LISTENING = "sock = socket.create_server(('127.0.0.1', 0))"


def test_a_passed_socket_is_taken_as_often_as_wanted() -> None:
    report = (
        "a, b = bind(PassedSocket(name='web')), bind(PassedSocket(name='web'));"
        " print(a.getsockname() == b.getsockname() == sock.getsockname(),"
        " a.getblocking(), a.get_inheritable(), os.get_inheritable(3))"
    )
    assert pass_to_child(LISTENING, report) == "True False False False"


def test_a_passed_socket_that_is_not_there() -> None:
    assert (
        pass_to_child(LISTENING, "bind(PassedSocket(name='other'))")
        == "fd:other: no socket of this name was passed (passed: web)"
    )


def test_sockets_passed_to_another_process_are_not_ours() -> None:
    assert "(passed: none)" in pass_to_child(LISTENING, "bind(PassedSocket(name='web'))", pid="1")


def test_a_name_of_several_sockets_is_refused() -> None:
    setup = LISTENING + "; other = socket.create_server(('127.0.0.1', 0))"
    told = pass_to_child(setup, "bind(PassedSocket(name='web'))", names="web:web", count=2)
    assert told == "fd:web: 2 sockets have this name; give each its FileDescriptorName="


@pytest.mark.parametrize(
    ("setup", "told"),
    [
        ("sock = socket.socket(type=socket.SOCK_DGRAM)", "does not listen"),
        ("sock = socket.socket()", "does not listen"),
        ("sock = open('/dev/null')", "fd:web: socket operation on non-socket"),
    ],
)
def test_what_does_not_listen_is_refused(setup: str, told: str) -> None:
    assert told in pass_to_child(setup, "bind(PassedSocket(name='web'))")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, []),
        ({"LISTEN_FDS": "2"}, [(3, "unknown"), (4, "unknown")]),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:"}, [(3, "a"), (4, "unknown")]),
        ({"LISTEN_FDS": "nonsense"}, []),
        ({"LISTEN_FDS": "0", "LISTEN_FDNAMES": ""}, []),
    ],
)
def test_the_names_of_passed_sockets(environ: dict[str, str], expected: list[tuple[int, str]]) -> None:
    assert passed({"LISTEN_PID": str(os.getpid()), **environ}) == expected


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_file_of_a_unix_socket_has_its_permissions_from_the_beginning(short_path: Path, mode: int) -> None:
    address = UnixAddress(path=str(short_path / "s"))
    before = os.umask(0o077)
    try:
        sock = bind(address, mode=mode)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(address.path).st_mode) == mode
    unbind(address, sock)
