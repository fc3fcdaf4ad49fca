"""The environ of a request: PEP 3333, with the names of RFC 3875."""

from __future__ import annotations

import sys
from io import BytesIO
from typing import TYPE_CHECKING, Any

from procman.workers.wsgi import FileWrapper

if TYPE_CHECKING:
    from procman.wire.request import Request


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


def peer_environ(base: dict[str, Any], peer: tuple[str, int]) -> dict[str, Any]:
    """What is the same in every request of one connection: ``peer`` is ("", 0) on a unix socket."""
    address, port = peer
    if port:
        return {**base, "REMOTE_ADDR": address, "REMOTE_PORT": str(port)}
    return {**base, "REMOTE_ADDR": address}


def make_environ(request: Request, of_connection: dict[str, Any]) -> dict[str, Any]:
    """The environ of one request, on a connection that has this in common.

    The body has been read and unchunked, so CONTENT_LENGTH is its real size and Transfer-Encoding is no more.
    """
    environ = of_connection.copy()
    environ["REQUEST_METHOD"] = request.method
    environ["PATH_INFO"] = request.path
    environ["QUERY_STRING"] = request.query
    environ["REQUEST_URI"] = request.target
    environ["SERVER_PROTOCOL"] = request.version
    environ.update(request.fields)
    if request.body is None:
        environ["wsgi.input"] = BytesIO()
        if "CONTENT_LENGTH" in environ:
            environ["CONTENT_LENGTH"] = "0"
    else:
        environ["wsgi.input"] = request.body
        environ["CONTENT_LENGTH"] = str(request.body_size)
        environ.pop("HTTP_TRANSFER_ENCODING", None)
    if "HTTP_EXPECT" in environ:
        del environ["HTTP_EXPECT"]  # the server itself has used it up
    if request.authority is not None:
        environ["HTTP_HOST"] = request.authority
    return environ
