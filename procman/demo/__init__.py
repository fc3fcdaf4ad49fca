"""The demo: a price list kept in PostgreSQL, and something to try each part of procman with.

    GET  /                    the page: prices, who answered, and live changes from the bus
    GET  /prices              all prices                     GET /prices/1   one, with `worker` and `cached`
    PUT  /prices/1            {"price": "12.50"} or 12.50    POST /prices    {"name": "Kettle", "price": "39.00"}
    GET  /jobs                how many jobs in each state    POST /jobs?n=100   enqueue some
    GET  /stock               the last stock-takings         POST /stock?seconds=20   begin one: a long job
    GET  /cron                what the cron function left behind
    GET  /slow?seconds=10     idle     GET /burn?seconds=10  busy     GET /eat?mib=100   keep memory, as a leak would

A plain WSGI application: procman wants nothing more. The interesting part comes first.
"""

from __future__ import annotations

import json
import os
import re
import time
from contextvars import ContextVar
from decimal import Decimal, InvalidOperation
from functools import cache
from html import escape
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import procman
from procman import jobs, signaling
from procman.jobs import report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SHELVES = 5  # of each product

_computed: ContextVar[bool] = ContextVar("computed", default=False)


@procman.cached("prices")
def price(product: int) -> Decimal | None:
    """What a product costs; None when there is no such product. Looked up once, until somebody changes a price."""
    _computed.set(True)
    with procman.cursor() as cr:
        cr.execute("SELECT price FROM demo.product WHERE id = %s", [product])
        row = cr.fetchone()
        return row[0] if row else None


@procman.registry_loader
def catalogue(cr: Any) -> dict[int, str]:
    """The registry of this application: the products and their names, built when a product was added."""
    cr.execute("SELECT id, name FROM demo.product ORDER BY id")
    return dict(cr.fetchall())


def set_price(product: int, new: Decimal) -> None:
    """Change a price. All of this happens when the unit commits, in every process, or never."""
    with procman.cursor() as cr:
        cr.execute("SELECT name, price FROM demo.product WHERE id = %s FOR UPDATE", [product])
        row = cr.fetchone()
        if row is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no product {product}")
        cr.execute("UPDATE demo.product SET price = %s WHERE id = %s", [new, product])
    name, old = row
    procman.invalidate("prices")
    procman.bus.send("prices", {"id": product, "name": name, "price": str(new), "was": str(old), "worker": worker()})
    note_change.delay(product, str(old), str(new))


def add_product(name: str, first_price: Decimal) -> int:
    """Add a product: the registry is built anew in every process."""
    with procman.cursor() as cr:
        cr.execute("INSERT INTO demo.product (name, price) VALUES (%s, %s) RETURNING id", [name, first_price])
        ((product,),) = cr.fetchall()
    procman.reload_registry()
    procman.invalidate("prices")
    procman.bus.send("products", {"id": product, "name": name, "price": str(first_price), "worker": worker()})
    return int(product)


@procman.job
def note_change(product: int, old: str, new: str) -> None:
    """Runs later, in an http worker: keeps the history of a price."""
    with procman.cursor() as cr:
        cr.execute("INSERT INTO demo.change (product, old, new) VALUES (%s, %s, %s)", [product, old, new])
    procman.bus.send("changes", {"id": product, "name": procman.registry().get(product), "worker": worker()})


@procman.job
def work(number: int) -> None:
    """A job of `POST /jobs`: leaves a row, so that one can count them."""
    with procman.cursor() as cr:
        cr.execute("INSERT INTO demo.work (number, worker) VALUES (%s, %s)", [number, worker()])


@procman.job(channel="root.stock", description="stock-taking")
def take_stock(seconds: float) -> dict[str, Any]:
    """A long job: counts what is on the shelves, and says how far it is. Kill its worker: it begins anew, elsewhere.

    What it has written until then was in its transaction, and is gone; in the end each shelf is counted once.
    """
    shelves = [
        (product, name, shelf) for product, name in procman.registry().items() for shelf in range(1, SHELVES + 1)
    ]
    job = jobs.current()
    counted = 0
    for done, (product, name, shelf) in enumerate(shelves):
        _tell(job, done, len(shelves), f"{name}, shelf {shelf}")
        time.sleep(seconds / len(shelves))
        pieces = (7 * product + 3 * shelf) % 11
        counted += pieces
        with procman.cursor() as cr:
            cr.execute(
                "INSERT INTO demo.stock (taking, product, shelf, pieces) VALUES (%s, %s, %s, %s)",
                [job and job.uuid, product, shelf, pieces],
            )
    _tell(job, len(shelves), len(shelves), "")
    procman.bus.send("stock", {"uuid": job and job.uuid, "over": True})  # with the commit
    return {"shelves": len(shelves), "pieces": counted}


def _tell(job: jobs.Current | None, done: int, total: int, note: str) -> None:
    """For operators, and for whoever has the page open: now, not with the commit."""
    procman.progress(done, total, note)
    if job is not None:
        said = {"uuid": job.uuid, "try": job.number, "done": done, "total": total, "note": note}
        procman.bus.send("stock", {**said, "worker": worker(), "pid": os.getpid()}, at_once=True)


@procman.cron(every="10s")
def tick() -> None:
    """Every ten seconds, in one of the cron workers."""
    set_up()
    with procman.cursor() as cr:
        cr.execute(
            "INSERT INTO demo.clock (id, ticks, at, worker) VALUES (1, 1, now(), %s) ON CONFLICT (id)"
            " DO UPDATE SET ticks = clock.ticks + 1, at = excluded.at, worker = excluded.worker RETURNING ticks",
            [worker()],
        )
        ((ticks,),) = cr.fetchall()
    procman.bus.send("cron", {"ticks": ticks, "worker": worker()})


def worker() -> str:
    """The name of the worker that this runs in; procman sets it."""
    return os.environ.get("PROCMAN_WORKER", "no worker")


# -- tables ------------------------------------------------------------------------------------------------------

_TABLES = """
CREATE SCHEMA IF NOT EXISTS demo;
CREATE TABLE IF NOT EXISTS demo.product (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, price numeric(12, 2) NOT NULL
);
CREATE TABLE IF NOT EXISTS demo.change (
    product integer NOT NULL, old numeric(12, 2), new numeric(12, 2), at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS demo.work (number integer, worker text, at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS demo.stock (taking uuid, product integer, shelf integer, pieces integer);
CREATE TABLE IF NOT EXISTS demo.clock (id integer PRIMARY KEY, ticks bigint, at timestamptz, worker text);
INSERT INTO demo.product (name, price)
    SELECT name, price FROM (VALUES
        ('Espresso beans, 1 kg', 18.90), ('Olive oil, 0.75 l', 12.50), ('Notebook, A5, dotted', 9.80),
        ('Fountain pen', 34.00), ('Desk lamp', 79.00), ('Wool blanket', 120.00), ('Bicycle bell', 14.95),
        ('Enamel mug', 11.20)
    ) AS first (name, price) WHERE NOT EXISTS (SELECT FROM demo.product);
"""


def set_up() -> None:
    """Create the tables in the unit's database if they aren't there: each process once, many at the same time."""
    unit = signaling.current()
    _set_up(unit.database if unit is not None else signaling.databases()[0])


@cache
def _set_up(database: str) -> None:
    # Not in the unit: its snapshot may be older than the tables that another process has just made.
    connection = signaling.connect(database)
    try:
        with connection.cursor() as cr:
            cr.execute("BEGIN; SELECT pg_advisory_xact_lock(hashtext('procman.demo'))")
            cr.execute(_TABLES)
            cr.execute("COMMIT")
    finally:
        connection.close()


# -- the web -----------------------------------------------------------------------------------------------------


class Refused(Exception):
    """The request can't be carried out: the status and, for the client, why."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application."""
    status, kind, headers = HTTPStatus.OK, "application/json", []
    try:
        answer = _handler(environ["REQUEST_METHOD"], environ["PATH_INFO"])(environ)
    except Refused as refused:
        status, answer = refused.status, {"error": str(refused)}
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers = [("Allow", str(refused).partition("use ")[2])]
    if isinstance(answer, str):
        kind, body = "text/html", answer.encode()
    else:
        body = json.dumps(answer, ensure_ascii=False).encode() + b"\n"
    headers += [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body)))]
    headers.append(("Cache-Control", "no-store"))
    start_response(f"{status.value} {status.phrase}", headers)
    return [body]


def _handler(method: str, path: str) -> Callable[[dict[str, Any]], Any]:
    method = "GET" if method == "HEAD" else method
    for pattern, handlers in _ROUTES:
        found = re.fullmatch(pattern, path, re.ASCII)
        if found:
            if method not in handlers:
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"not {method} here: use {', '.join(handlers)}")
            handler, arguments = handlers[method], [int(text) for text in found.groups()]
            return lambda environ: handler(environ, *arguments)
    raise Refused(HTTPStatus.NOT_FOUND, f"there is nothing at {path}")


def _page(environ: dict[str, Any]) -> str:
    shown = _prices(environ)
    rows = "".join(
        f'<tr data-id="{item["id"]}"><td>{escape(item["name"])}</td><td class="price">{item["price"]}</td></tr>'
        for item in shown["prices"]
    )
    template = resources.files(__name__).joinpath("page.html").read_text("utf-8")
    values = {"rows": rows, "worker": escape(worker()), "port": os.environ.get("PROCMAN_DEMO_POLL_PORT", "8072")}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def _prices(environ: dict[str, Any]) -> dict[str, Any]:
    set_up()
    items = [_item(product, name) for product, name in procman.registry().items()]
    return {"prices": items, "worker": worker()}


def _price(environ: dict[str, Any], product: int) -> dict[str, Any]:
    set_up()
    name = procman.registry().get(product)
    if name is None:
        raise Refused(HTTPStatus.NOT_FOUND, f"there is no product {product}")
    return {**_item(product, name), "worker": worker()}


def _item(product: int, name: str) -> dict[str, Any]:
    _computed.set(False)
    return {"id": product, "name": name, "price": str(price(product)), "cached": not _computed.get()}


def _put_price(environ: dict[str, Any], product: int) -> dict[str, Any]:
    set_up()
    given = _body(environ)
    set_price(product, _amount(given.get("price") if isinstance(given, dict) else given))
    return _price(environ, product)


def _post_product(environ: dict[str, Any]) -> dict[str, Any]:
    set_up()
    given = _body(environ)
    name = given.get("name") if isinstance(given, dict) else None
    if not isinstance(name, str) or not 0 < len(name.strip()) <= 100 or not name.isprintable():
        raise Refused(HTTPStatus.BAD_REQUEST, 'expected {"name": "Kettle", "price": "39.00"}')
    return _price(environ, add_product(name.strip(), _amount(given.get("price"))))


def _jobs(environ: dict[str, Any]) -> dict[str, int]:
    return jobs.counts()


def _post_jobs(environ: dict[str, Any]) -> dict[str, Any]:
    set_up()
    number = int(_number(environ, "n", 1, least=1, most=10_000))
    work.delay_many((each,) for each in range(number))
    return {"enqueued": number, "worker": worker()}


def _post_stock(environ: dict[str, Any]) -> dict[str, Any]:
    set_up()
    uuid = take_stock.delay(_number(environ, "seconds", 20, least=0, most=100))
    procman.bus.send("stock", {"uuid": uuid})
    return {"uuid": uuid, "worker": worker()}


def _stock(environ: dict[str, Any]) -> dict[str, Any]:
    set_up()
    wanted = report.Wanted(function=take_stock.reference, since=86400.0, limit=3)
    found = [report.details(job["uuid"]) for job in report.listing(wanted)]
    with procman.cursor() as cr:
        cr.execute("SELECT taking::text, count(*) FROM demo.stock GROUP BY taking")
        rows = dict(cr.fetchall())
    return {"takings": [_taking(job, rows) for job in found if job is not None]}


def _taking(job: dict[str, Any], rows: dict[str, int]) -> dict[str, Any]:
    """What the page shows of the job, and how many rows it has left behind."""
    shown = ("uuid", "state", "attempt", "max_retries", "progress", "result", "date_created", "exc_name", "exc_message")
    tries = ("number", "worker", "worker_pid", "date_started", "date_ended", "seconds", "outcome", "reason")
    return {
        **{name: job[name] for name in shown},
        "tries": [{name: one[name] for name in tries} for one in job["attempts"]],
        "rows": rows.get(job["uuid"], 0),
    }


def _cron(environ: dict[str, Any]) -> dict[str, Any]:
    set_up()
    with procman.cursor() as cr:
        cr.execute("SELECT ticks, at, worker FROM demo.clock")
        row = cr.fetchone()
    return {"ticks": row[0], "at": row[1].isoformat(), "worker": row[2]} if row else {"ticks": 0}


def _slow(environ: dict[str, Any]) -> dict[str, Any]:
    seconds = _number(environ, "seconds", 10, least=0, most=3600)
    time.sleep(seconds)
    return {"slept": seconds, "worker": worker()}


def _burn(environ: dict[str, Any]) -> dict[str, Any]:
    seconds = _number(environ, "seconds", 10, least=0, most=3600)
    rounds, until = 0, time.thread_time() + seconds
    while time.thread_time() < until:
        rounds += 1
    return {"burnt": seconds, "rounds": rounds, "worker": worker()}


_eaten: list[bytes] = []


def _eat(environ: dict[str, Any]) -> dict[str, Any]:
    mib = int(_number(environ, "mib", 100, least=1, most=1024 * 1024))
    _eaten.append(b"\1" * (mib * 1024 * 1024))  # not zeros: those would be given no memory before they are used
    return {"eaten": mib, "in_all": sum(map(len, _eaten)) // 1024**2, "worker": worker()}


# A handler gets the environ and the numbers in the path.
_ROUTES: list[tuple[str, dict[str, Callable[..., Any]]]] = [
    ("/", {"GET": _page}),
    ("/prices", {"GET": _prices, "POST": _post_product}),
    (r"/prices/(\d{1,9})", {"GET": _price, "PUT": _put_price}),
    ("/jobs", {"GET": _jobs, "POST": _post_jobs}),
    ("/stock", {"GET": _stock, "POST": _post_stock}),
    ("/cron", {"GET": _cron}),
    ("/slow", {"GET": _slow}),
    ("/burn", {"GET": _burn}),
    ("/eat", {"GET": _eat}),
]


# -- what clients send -------------------------------------------------------------------------------------------


def _body(environ: dict[str, Any]) -> Any:
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdigit() or int(length) > 10_000:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "a price is not that long")
    try:
        # Decimal: 0.1 is meant as 0.1.
        return json.loads(environ["wsgi.input"].read(int(length)), parse_float=Decimal, parse_constant=str)
    except (ValueError, RecursionError):
        raise Refused(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None


def _amount(given: Any) -> Decimal:
    if isinstance(given, (str, int, Decimal)) and not isinstance(given, bool):
        try:
            amount = Decimal(given)
            if 0 <= amount < 10**10 and amount == round(amount, 2):
                return round(amount, 2)
        except (InvalidOperation, ValueError):
            pass
    raise Refused(HTTPStatus.BAD_REQUEST, 'expected {"price": "12.50"}: a number from 0 with at most two decimals')


def _number(environ: dict[str, Any], name: str, default: float, *, least: float, most: float) -> float:
    given = parse_qs(environ["QUERY_STRING"]).get(name, [str(default)])[-1]
    try:
        number = float(given)
    except ValueError:
        number = -1
    if not least <= number <= most:
        raise Refused(HTTPStatus.BAD_REQUEST, f"{name}: expected a number from {least:g} to {most:g}, got {given!r}")
    return number
