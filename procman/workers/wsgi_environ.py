"""The environ of a request: PEP 3333, with the names of RFC 3875."""

from __future__ import annotations

import sys
from io import BytesIO
from typing import TYPE_CHECKING, Any

from procman.workers.wsgi import FileWrapper

if TYPE_CHECKING:
    from procman.wire.request import Line, Request


def base_environ(server_name: str, server_port: str, *, threads: bool = False) -> dict[str, Any]:
    """What is the same in every request that comes in by one listening socket."""
    return {
        "SCRIPT_NAME": "",
        "SERVER_NAME": server_name,
        "SERVER_PORT": server_port,
        "SERVER_SOFTWARE": "procman",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": threads,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
    }


def peer_environ(peer: tuple[str, int]) -> dict[str, Any]:
    """What is the same in every request of one connection: ``peer`` is ("", 0) on a unix socket."""
    address, port = peer
    return {"REMOTE_ADDR": address, "REMOTE_PORT": str(port)} if port else {"REMOTE_ADDR": address}


def make_environ(request: Request, base: dict[str, Any], remote: dict[str, Any]) -> dict[str, Any]:
    """The environ of one request, with what it has in common with others.

    ``base`` is never changed once it has been given. The body has been read and unchunked, so CONTENT_LENGTH is its
    real size and Transfer-Encoding is no more.
    """
    line, head = request.line, request.head
    made = head.environ
    if made is not None and made[0] is base:
        environ = made[1].copy()
    else:
        environ = base | head.fields
        if head.familiar:
            head.environ = base, environ.copy()
    environ.update(line.environ or _environ_of(line))
    environ.update(remote)
    if request.body is not None:
        environ["wsgi.input"] = request.body
        environ["CONTENT_LENGTH"] = str(request.body_size)
        environ.pop("HTTP_TRANSFER_ENCODING", None)
    else:
        environ["wsgi.input"] = BytesIO()
    if not head.familiar:
        if request.body is None and "CONTENT_LENGTH" in environ:
            environ["CONTENT_LENGTH"] = "0"
        if "HTTP_EXPECT" in environ:
            del environ["HTTP_EXPECT"]  # the server itself has used it up
        if line.authority is not None:
            environ["HTTP_HOST"] = line.authority
    return environ


def _environ_of(line: Line) -> dict[str, str]:
    line.environ = environ = {
        "REQUEST_METHOD": line.method,
        "PATH_INFO": line.path,
        "QUERY_STRING": line.query,
        "REQUEST_URI": line.target,
        "SERVER_PROTOCOL": line.version,
    }
    return environ
