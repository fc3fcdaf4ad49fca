"""One request to the application as a unit, for a server that speaks WSGI itself.

The response is collected and let out after the unit has committed, so that whoever reads the answer to a write
sees what was written. A response that grows beyond `MOST_COLLECTED`, or whose application yields when no
transaction is open, is streamed; then its end is what waits for the commit.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from procman import signaling
from procman.errors import LOST_AGAINST_ANOTHER, DatabaseUnavailable, UnitAborted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from procman.signaling import Unit

log = logging.getLogger("procman.longpolling")

MOST_COLLECTED = 1024 * 1024


class End(Protocol):
    """Called when the unit is over."""

    def __call__(self, *, failed: bool) -> object: ...


class _Response:
    """What the application has said so far, for as long as it can be taken back."""

    def __init__(self, start_response: Callable[..., Any]) -> None:
        self._start_response = start_response
        self._given: tuple[str, list[tuple[str, str]]] | None = None
        self._blocks: list[bytes] = []
        self.size = 0
        self.sent = False

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        """PEP 3333's start_response."""
        if exc_info:
            try:
                if self.sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # the traceback knows this frame: a cycle
        elif self._given is not None:
            raise AssertionError("start_response() called again without exc_info")
        self._given = status, headers
        return self.add

    @property
    def failed(self) -> bool:
        """The application itself says that it failed."""
        return self._said()[0].startswith("5")

    def add(self, block: bytes) -> None:
        self._blocks.append(block)
        self.size += len(block)

    def let_out(self) -> bytes:
        """Give the head to the server, if it has not got it yet; what is to be sent after it."""
        if not self.sent:
            self._start_response(*self._said())
            self.sent = True
        data = b"".join(self._blocks)
        self._blocks.clear()
        return data

    def _said(self) -> tuple[str, list[tuple[str, str]]]:
        if self._given is None:
            raise AssertionError("the application did not call start_response()")
        return self._given


def run_unit(
    application: Any, environ: dict[str, Any], start_response: Callable[..., Any], end: End
) -> Iterable[bytes]:
    """Call the application in a unit of its own. ``end`` is called once, when it is over."""
    unit = signaling.begin()
    response = _Response(start_response)
    iterable: Any = ()
    try:
        iterable = application(environ, response.start)
        blocks = iter(iterable)
        for block in blocks:
            response.add(block)
            if response.size > MOST_COLLECTED or not (unit.opened or isinstance(iterable, (list, tuple))):
                return _stream(unit, response, iterable, blocks, end)
        _close(iterable)
        _finish(unit, response)
        data = response.let_out()
    except BaseException as error:  # the application's boundary: whatever it raises ends its unit, not the worker
        unit.rollback()
        end(failed=True)
        if not isinstance(error, (Exception, UnitAborted)):
            raise
        return _failure(error, environ, start_response)
    end(failed=response.failed)
    return [data]


def _stream(unit: Unit, response: _Response, iterable: Any, blocks: Iterator[bytes], end: End) -> Iterator[bytes]:
    failed = True
    try:
        data = response.let_out()
        if not unit.opened:
            yield data
            data = b""
        for block in blocks:
            yield data
            response.add(block)
            data = response.let_out()
            if not unit.opened:
                yield data
                data = b""
        _close(iterable)
        _finish(unit, response)
        failed = response.failed
        # Held back until now, so that nobody can have the whole response before the commit.
        yield data
    finally:
        if failed:
            unit.rollback()
        end(failed=failed)


def _finish(unit: Unit, response: _Response) -> None:
    if response.failed:
        unit.rollback()
    elif not unit.ended:  # by the application itself
        unit.commit()


def _close(iterable: Any) -> None:
    close = getattr(iterable, "close", None)
    if close is not None:
        close()


def _failure(error: BaseException, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    text = [("Content-Type", "text/plain; charset=utf-8")]
    if isinstance(error, UnitAborted):
        log.warning("%s %s was ended: %s", *_named(environ), error.reason)
        start_response("503 Service Unavailable", text)
        return [b"This took too long.\n"]
    if isinstance(error, DatabaseUnavailable):
        log.warning("%s %s: %s", *_named(environ), error)
        start_response("503 Service Unavailable", [*text, ("Retry-After", "1")])
        return [b"The database is not available.\n"]
    if getattr(error, "pgcode", None) in LOST_AGAINST_ANOTHER:
        log.info("%s %s lost against another transaction: %s", *_named(environ), str(error).strip())
        start_response("503 Service Unavailable", [*text, ("Retry-After", "0")])
        return [b"Somebody else was faster. Try again.\n"]
    log.error("%s %s failed", *_named(environ), exc_info=error)
    start_response("500 Internal Server Error", text)
    return [b"Internal Server Error\n"]


def _named(environ: dict[str, Any]) -> tuple[str, str]:
    return environ["REQUEST_METHOD"], environ["PATH_INFO"]
