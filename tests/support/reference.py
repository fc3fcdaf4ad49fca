"""Requests as h11 reads them: another parser of RFC 9112, to compare ours with."""

from __future__ import annotations

from dataclasses import dataclass

import h11

# h11 collects a head before it looks at it.
_MOST = 1 << 20


@dataclass(frozen=True, slots=True)
class Seen:
    """What two parsers must agree about."""

    method: str
    target: bytes
    version: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def requests(data: bytes) -> list[Seen]:
    """The complete requests that h11 finds in ``data``, up to the first that it refuses."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST)
    connection.receive_data(data)
    found: list[Seen] = []
    try:
        while (seen := _one(connection)) is not None:
            found.append(seen)
            _answer(connection)
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                break  # the connection can't be used again
            connection.start_next_cycle()
    except h11.ProtocolError:
        pass
    return found


def _one(connection: h11.Connection) -> Seen | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        match event:
            case h11.Request():
                head = event
            case h11.Data():
                body += event.data
            case h11.EndOfMessage() if head is not None:
                headers = tuple((bytes(name), bytes(value)) for name, value in head.headers)
                version = "HTTP/" + head.http_version.decode()
                return Seen(head.method.decode(), bytes(head.target), version, headers, bytes(body))
            case _:
                return None


def _answer(connection: h11.Connection) -> None:
    connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
    connection.send(h11.EndOfMessage())
