"""How procmanctl reaches the databases, to which the daemon itself has no connection."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from procman.cli.endpoint import FILES
from procman.errors import ConfigurationError, ControlError, DatabaseSetupError, DatabaseUnavailable, NoDatabase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from procman.core.spec import DatabaseSpec

T = TypeVar("T")


class NotAsked(ControlError):
    """A database could not be asked, so what it knows is not known here."""


def spec(config: str | None, environ: Mapping[str, str]) -> DatabaseSpec:
    """The database of the configuration that is meant; without any, that of $PROCMAN_DATABASE_URL.

    Raises ConfigurationError.
    """
    from procman.config.reader import read_database
    from procman.core.spec import DatabaseSpec

    path = config or environ.get("PROCMAN_CONFIG") or next((path for path in FILES if os.path.exists(path)), None)
    if path is not None:
        database = read_database(path, environ)
        if database is None:
            raise ConfigurationError(f"{path}: there is no [database]")
        return database
    if url := environ.get("PROCMAN_DATABASE_URL"):
        return DatabaseSpec(url=url)
    raise ConfigurationError(
        f"no database is named: give -c FILE or set $PROCMAN_DATABASE_URL (there is no {' and no '.join(FILES)})"
    )


@contextmanager
def opened(config: str | None, environ: Mapping[str, str], only: str | None = None) -> Iterator[tuple[str, ...]]:
    """For the block, units can be begun in the databases of these names: ``only`` this one, or all that there are.

    Raises ConfigurationError, and ControlError when they can't be listed or ``only`` is not among them.
    """
    import psycopg2

    from procman import signaling

    # A question must not leave tables in a database that is none of procman's, such as an Odoo's.
    signaling.configure(spec(config, environ), application_name="procmanctl", install=False)
    try:
        try:
            names = signaling.databases()
        except (DatabaseUnavailable, psycopg2.Error) as error:
            raise NotAsked(str(error).strip()) from error
        if only is not None and only not in names:
            raise ControlError(f"no database is called {only!r}{_meant(only, names)}")
        yield names if only is None else (only,)
    finally:
        signaling.configure(None)


def _meant(name: str, names: Sequence[str]) -> str:
    from procman.control.protocol import did_you_mean

    return did_you_mean(name, names) or f"; there {'is' if len(names) == 1 else 'are'} {', '.join(names[:10])}"


def ask_each(names: Iterable[str], ask: Callable[[str], T]) -> tuple[dict[str, T], dict[str, str]]:
    """What ``ask`` returns for each database, and for those where it can't, why: one must not hide the others."""
    import psycopg2

    answers: dict[str, T] = {}
    problems: dict[str, str] = {}
    for name in names:
        try:
            answers[name] = ask(name)
        except (DatabaseSetupError, DatabaseUnavailable, NoDatabase, psycopg2.Error) as error:
            problems[name] = str(error).strip() or type(error).__name__
    return answers, problems


def invalidate(database: DatabaseSpec, name: str | None, groups: Sequence[str]) -> str:
    """Signal these groups in a transaction of its own; the name of the database. Raises ControlError."""
    import psycopg2

    from procman import signaling

    signaling.configure(database, application_name="procmanctl")
    try:
        with signaling.unit(name) as unit:
            unit.invalidate(*groups)
            return unit.database
    except (DatabaseUnavailable, NoDatabase, psycopg2.Error) as error:
        raise ControlError(str(error).strip()) from error
    finally:
        signaling.configure(None)
