"""An application that writes through procman's unit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import procman

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg2.extensions import cursor as Cursor


def write(cr: Cursor, value: str) -> None:
    cr.execute("INSERT INTO written VALUES (%s)", [value])


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path, value = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/free":
        start_response("200 OK", [])
        return [b"free"]
    with procman.cursor() as cr:
        if path == "/count":
            cr.execute("SELECT count(*) FROM written WHERE value = %s", [value])
            row = cr.fetchone()
            start_response("200 OK", [])
            return [b"%d" % (row[0] if row else -1)]
        write(cr, value)
        if path == "/conflict":
            cr.execute("DO $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '40001'; END $$")
        if path == "/deferred":
            cr.execute("INSERT INTO parent_of_nobody VALUES (1)")
    if path == "/raise":
        raise LookupError("on purpose")
    if path == "/burn":
        end = time.process_time() + 30
        while time.process_time() < end:
            pass
    if path == "/unavailable":
        from procman.errors import DatabaseUnavailable

        raise DatabaseUnavailable("on purpose")
    start_response({"/refuse": "500 No", "/deny": "404 Not Found"}.get(path, "200 OK"), [])
    if path == "/large":
        return (b"x" * 500_000 for _ in range(10))
    return [b"written"]
