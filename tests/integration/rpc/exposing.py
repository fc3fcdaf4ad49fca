"""An application that exposes functions."""

from __future__ import annotations

import hmac
import os
import time
from datetime import UTC, datetime
from decimal import Decimal

import procman

KEYS = {"ada": (7, "lovelace"), 7: (7, "lovelace"), None: (9, "a-token")}


@procman.rpc.authenticator
def check(credentials):
    user, secret = KEYS.get(credentials.login or credentials.user, (None, ""))
    return user if hmac.compare_digest(secret.encode(), credentials.secret.encode()) else None


@procman.expose("product.price")
def price(product: int = 1, *, currency: str = "EUR"):
    """The price of a product."""
    with procman.cursor() as cr:
        cr.execute("SELECT price FROM item WHERE id = %s", [product])
        return {"price": Decimal(cr.fetchone()[0]), "currency": currency}


@procman.expose("product.set_price")
def set_price(product: int, value: int):
    with procman.cursor() as cr:
        cr.execute("UPDATE item SET price = %s WHERE id = %s", [value, product])
    procman.invalidate("prices")
    if value < 0:
        raise procman.rpc.UserError("a price is positive")
    return value


@procman.cached("prices")
def cached_price(product: int) -> int:
    with procman.cursor() as cr:
        cr.execute("SELECT price FROM item WHERE id = %s", [product])
        return int(cr.fetchone()[0])


@procman.expose(public=True)
def cached(product: int) -> int:
    return cached_price(product)


@procman.expose("product.raise")
def raise_price(product: int):
    """Adds one, reading first: two at once can't both be right."""
    with procman.cursor() as cr:
        cr.execute("SELECT price FROM item WHERE id = %s", [product])
        before = cr.fetchone()[0]
        cr.execute("UPDATE item SET price = %s WHERE id = %s", [before + 1, product])
    return before + 1


@procman.expose
def whoami():
    return [procman.rpc.user(), os.environ["PROCMAN_WORKER"]]


@procman.expose("fail")
def fail():
    raise LookupError("a secret")


@procman.expose("public.fail", public=True)
def fail_in_public():
    raise LookupError("a secret")


@procman.expose("public.values", public=True)
def values(echo=None):
    return [echo, datetime(2026, 3, 1, tzinfo=UTC), b"\xff", None, 2**40]


@procman.expose("public.unsendable", public=True)
def unsendable():
    with procman.cursor() as cr:
        cr.execute("UPDATE item SET price = 99")
    return object()


@procman.expose("public.sleep", public=True)
def sleep(seconds):
    time.sleep(seconds)


@procman.expose("public.burn", public=True)
def burn():
    while True:
        pass


@procman.expose("public.leave", public=True)
def leave():
    os._exit(9)


@procman.expose("report.items", public=True)
def items(stop_at: int = 0):
    """Page by page, from one snapshot."""
    with procman.cursor() as cr:
        cr.execute("SELECT id, price FROM item ORDER BY id")
        while rows := cr.fetchmany(2):
            if stop_at and rows[0][0] >= stop_at:
                raise LookupError("on purpose")
            yield rows


def application(environ, start_response):
    if environ["PATH_INFO"] == "/database":
        with procman.cursor() as cr:
            cr.execute("SELECT current_database()")
            start_response("200 OK", [])
            return [f"{environ['procman.database']} {cr.fetchone()[0]}".encode()]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the application: " + environ["PATH_INFO"].encode()]
