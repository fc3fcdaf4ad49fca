"""`procmanctl invalidate`: what concerns the database, to which the daemon itself has no connection."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from procman.cli.endpoint import FILES
from procman.errors import ConfigurationError, ControlError, DatabaseUnavailable, NoDatabase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from procman.core.spec import DatabaseSpec


def spec(config: str | None, environ: Mapping[str, str]) -> DatabaseSpec:
    """The database of the configuration that is meant; without any, that of $PROCMAN_DATABASE_URL.

    Raises ConfigurationError.
    """
    from procman.config.reader import read
    from procman.core.spec import DatabaseSpec

    path = config or environ.get("PROCMAN_CONFIG") or next((path for path in FILES if os.path.exists(path)), None)
    if path is not None:
        database = read(path, environ).database
        if database is None:
            raise ConfigurationError(f"{path}: there is no [database]")
        return database
    if url := environ.get("PROCMAN_DATABASE_URL"):
        return DatabaseSpec(url=url)
    raise ConfigurationError(
        f"no database is named: give -c FILE or set $PROCMAN_DATABASE_URL (there is no {' and no '.join(FILES)})"
    )


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
