"""One call as a unit: who calls, what is called, and what becomes of everything that can go wrong."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from procman import signaling
from procman.errors import DatabaseUnavailable, NoDatabase, UnitAborted
from procman.rpc.credentials import Credentials, act_for, identify, user
from procman.rpc.exposure import exposed
from procman.rpc.faults import Fault, InternalError, InvalidParams, Temporary
from procman.signaling.retry import lost_against_another

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from procman.rpc.exposure import Exposed

log = logging.getLogger("procman.rpc")

R = TypeVar("R")


class Origin(NamedTuple):
    """Where a body of calls came from. ``prepare`` makes of a result what its protocol can say."""

    address: str
    credentials: Credentials | None
    database: str | None
    prepare: Callable[[Any], Any]

    def shown(self, *, login: str | None, user_id: int | None, secret: str, database: str | None) -> Credentials:
        """The credentials within a call, instead of those of the request."""
        return Credentials(login, user_id, secret, database, self.address)


@dataclass(frozen=True, slots=True)
class Pages:
    """The result of a generator: its unit is open, and its first page is there, until this has been iterated."""

    values: Iterator[Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A function and its arguments, in a database, for somebody."""

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    credentials: Credentials | None
    database: str | None
    prepare: Callable[[Any], Any]

    def perform(self, *, may_stream: bool) -> Any:
        """What the protocol is to say of the result; `Pages` if that comes in pages and ``may_stream``.

        Raises Fault and nothing else, but for what is no Exception. The unit has ended, unless it is `Pages`.
        """
        return guarded(self.name, lambda: self._perform(exposed(self.name), may_stream=may_stream))

    def _perform(self, function: Exposed, *, may_stream: bool) -> Any:
        if function.streams and may_stream:
            return self._pages(function)

        def work() -> Any:
            self._admit(function)
            result = function.function(*self.args, **self.kwargs)
            # Before the commit: a result that can't be sent is a call that has failed.
            return self.prepare(list(result) if function.streams else result)

        return signaling.repeating(work, database=self.database)

    def _pages(self, function: Exposed) -> Pages:
        pages = self._iterate(function)
        first = list(_first(pages))

        def values() -> Iterator[Any]:
            yield from first
            yield from pages

        return Pages(values())

    def _iterate(self, function: Exposed) -> Iterator[Any]:
        with signaling.unit(self.database):
            self._admit(function)
            for page in function.function(*self.args, **self.kwargs):
                yield self.prepare(page)

    def _admit(self, function: Exposed) -> None:
        act_for(None)
        if not function.public:
            act_for(identify(self.credentials))
        function.check(self.args, self.kwargs)


def guarded(name: str, work: Callable[[], R]) -> R:
    """What ``work`` returns; whatever it raises becomes a Fault, which is logged."""
    try:
        return work()
    except Fault as fault:
        log.info("%s: %s: %s", name, type(fault).__name__, fault)
        raise
    except UnitAborted as aborted:
        signaling.roll_back_leftover()
        log.warning("%s was ended: %s", name, aborted.reason)
        raise Temporary(f"the call was ended by a limit: {aborted.reason}") from None
    except NoDatabase as error:
        raise InvalidParams(str(error)) from None
    except DatabaseUnavailable as error:
        log.warning("%s found no database: %s", name, error)
        raise Temporary("the database is away") from error
    except Exception as error:
        # The application's boundary: whatever it raises is the answer to this one call.
        if lost_against_another(error):
            log.warning("%s lost against other transactions: %s", name, str(error).strip())
            raise Temporary("the call lost against other transactions") from error
        log.exception("%s failed", name)
        # What an error says is for those who are known: it may name anything.
        detail = "" if user() is None else f": {type(error).__qualname__}: {error}"
        raise InternalError(f"{name} failed{detail}") from error


def _first(pages: Iterator[Any]) -> Iterator[Any]:
    for page in pages:
        yield page
        return
