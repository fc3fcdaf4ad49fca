"""Statements of ours in transactions of others: cursors of any driver, connections and sessions of SQLAlchemy."""

from __future__ import annotations

from typing import Any


def execute_in(using: Any, statement: str) -> list[Any]:
    """Run a statement without parameters in the transaction of ``using``; the rows, if it has any.

    ``using`` is a DB-API cursor (PEP 249), or SQLAlchemy's Connection or Session, whose ``execute`` wants something
    else than text.
    """
    if hasattr(using, "get_bind") and callable(getattr(using, "connection", None)):
        using = using.connection()  # a Session's
    if hasattr(using, "exec_driver_sql"):
        # It hands an empty tuple of parameters to the driver, which then takes per cent signs for places of some.
        result = using.exec_driver_sql(statement.replace("%", "%%"))
        return list(result.fetchall()) if result.returns_rows else []
    using.execute(statement)
    return list(using.fetchall()) if using.description else []
