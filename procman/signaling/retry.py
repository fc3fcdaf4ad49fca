"""Units that may be done again: what loses against another transaction is rolled back and repeated.

PostgreSQL (13.2.2, 13.3.4) ends one of two transactions that want the same and expects the client to repeat it,
all of it. Only who knows that nothing but the database has been changed can decide that: jobs, cron functions,
RPC calls and functions marked by `retryable` are repeated; a WSGI request, which may have read its body, is not.
"""

from __future__ import annotations

import logging
import random
import time
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from procman.errors import LOST_AGAINST_ANOTHER
from procman.signaling.runtime import unit
from procman.signaling.units import current

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from procman.signaling.units import Unit

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("procman.signaling")

MOST_ATTEMPTS = 5
FIRST_PAUSE = 0.04  # seconds at most before the second attempt; doubled each time


def lost_against_another(error: BaseException, codes: Collection[str] = LOST_AGAINST_ANOTHER) -> bool:
    """Whether all of it done again may well succeed: a serialization failure or a deadlock (or one of these ``codes``).

    Frameworks wrap the driver's error in one of their own, so its causes are looked at as well. psycopg2 calls
    the SQLSTATE ``pgcode``, psycopg 3 and asyncpg call it ``sqlstate``.
    """
    seen: BaseException | None = error
    while seen is not None:
        code = getattr(seen, "pgcode", None) or getattr(seen, "sqlstate", None)
        if code in codes:
            return True
        seen = seen.__cause__
    return False


def repeating(work: Callable[[], R], *, database: str | None = None) -> R:
    """What ``work`` returns, called in a unit of its own, at most `MOST_ATTEMPTS` times.

    Raises what ``work`` raises, and the last error of the database when every attempt was lost.
    """
    for attempt in range(1, MOST_ATTEMPTS):
        try:
            with unit(database):
                return work()
        except Exception as error:  # looked at, and passed on
            if not lost_against_another(error):
                raise
            log.info("Attempt %d of %s lost against another transaction: %s", attempt, _name(work), _line(error))
        # Who lost together would meet again: full jitter.
        time.sleep(random.random() * FIRST_PAUSE * 2 ** (attempt - 1))
    with unit(database):
        return work()


def retryable(function: Callable[P, R]) -> Callable[P, R]:
    """Make each call of the function a unit of its own that is repeated when it loses against another transaction.

    Inside a unit it is a plain call: a transaction can only be repeated as a whole, by whoever began it. The
    function should change nothing but the database, because its attempts before the last leave no trace there.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if current() is not None:
            return function(*args, **kwargs)

        @wraps(function)
        def work() -> R:
            return function(*args, **kwargs)

        return repeating(work)

    return call


@contextmanager
def transaction(database: str | None = None) -> Iterator[Unit]:
    """A transaction for the block: committed when the block ends well, rolled back by an exception.

    Outside of units it is a unit of its own. Inside a unit it is a savepoint: an exception undoes the block, its
    invalidations and what it has sent or enqueued included, and the unit can go on.

    Raises ValueError when the current unit is in another database than asked for, DatabaseUnavailable, NoDatabase.
    """
    outer = current()
    if outer is None:
        with unit(database) as own:
            yield own
        return
    if database is not None and database != outer.database:
        raise ValueError(f"the unit is in database {outer.database!r}, not in {database!r}")
    with outer.savepoint():
        yield outer


def _name(work: Callable[..., object]) -> str:
    return str(getattr(work, "__qualname__", work))


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
