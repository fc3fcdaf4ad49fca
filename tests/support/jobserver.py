"""A worker that runs jobs, without the rest of one: ``python -m tests.support.jobserver URL FD DATABASES…``."""

from __future__ import annotations

import os
import socket
import sys
from urllib.parse import parse_qs, urlsplit

from procman import signaling
from procman.core.spec import DatabaseSpec
from procman.errors import DatabaseUnavailable
from procman.jobs import execute


def serve(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            try:
                answer(connection)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the runner is gone; the job is done all the same


def answer(connection: socket.socket) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(4096)
        if not data:
            return
        head += data
    query = parse_qs(urlsplit(head.split()[1].decode()).query)
    try:
        status, _ = execute.run(query["db"][0], query["job_uuid"][0], worker=f"test.{os.getpid()}")
    except DatabaseUnavailable:
        status = 503
    connection.sendall(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)


if __name__ == "__main__":
    signaling.configure(DatabaseSpec(url=sys.argv[1], databases=tuple(sys.argv[3:])))
    serve(socket.socket(fileno=int(sys.argv[2])))
