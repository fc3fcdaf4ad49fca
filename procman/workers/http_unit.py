"""One request as a unit of work: the application's call, the transaction around it, the limits on it.

What can go wrong, and what the client gets: the application raises - 500; a limit ends the unit - 503, and the
worker retires; PostgreSQL is away, or the transaction lost against another one - 503 with Retry-After, because
the same request may well succeed; the client is gone - nothing. In every case the transaction is rolled back.
"""

from __future__ import annotations

import logging
import sys
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from procman.core.spec import HttpWork
from procman.errors import LOST_AGAINST_ANOTHER, BadRequest, DatabaseUnavailable, NoDatabase, UnitAborted
from procman.wire.response import plain
from procman.workers.http_database import KEY, resolver
from procman.workers.wsgi import ClientGone, Exchange
from procman.workers.wsgi_environ import make_environ

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.wire.request import Request
    from procman.workers.child import Child
    from procman.workers.http_access import Accesses
    from procman.workers.http_connection import Connection
    from procman.workers.http_proxies import Proxies
    from procman.workers.http_threads import Bench

    Work = Callable[[Exchange, dict[str, Any]], int]  # returns a status

log = logging.getLogger("procman.http")

RUN_JOB = "/queue_job/runjob"
_UUID = 36  # characters


class Units:
    """Runs the units of this worker, one at a time, in the main thread."""

    def __init__(
        self, child: Child | Bench, application: Any, proxies: Proxies, accesses: Accesses | None = None
    ) -> None:
        self._child = child
        self._proxies = proxies
        self._scribe = accesses.scribe(child.record) if accesses is not None else None
        self._record = child.record
        self._application = application
        self._signaling: Any = None
        if child.database is not None:
            # Not at the top: without a database no driver is loaded.
            from procman import signaling

            self._signaling = signaling
        # What is done in a unit; None: the application is called, and nothing else.
        self._work: Work | None = None if self._signaling is None else self._transact
        # Called before a job runs on a connection, by whoever has other connections to look after.
        self.before_job: Callable[[Any], object] = lambda connection: None
        # Who exposes functions has imported it.
        self._rpc: Any = sys.modules.get("procman.rpc")
        work = child.spec.work
        self._database_of = resolver(work.database_from) if isinstance(work, HttpWork) else None
        # Not asked again for each request.
        self.serve = self._serve if self._scribe is None else self._serve_and_log  # type: ignore[method-assign]

    def serve(self, exchange: Exchange, connection: Connection) -> float:
        """Answer the request, and send as much of that as the kernel takes; when the unit ended, CLOCK_MONOTONIC."""
        return self._serve(exchange, connection)

    def _serve_and_log(self, exchange: Exchange, connection: Connection) -> float:
        assert self._scribe is not None
        self._scribe.begin()
        ended = self._serve(exchange, connection)
        self._scribe.end(exchange, connection)
        return ended

    def _serve(self, exchange: Exchange, connection: Connection) -> float:
        """Bracket what there is to do as a unit, and send what has come of it."""
        exchange.client = connection
        line, child, record = exchange.line, self._child, self._record
        environ = make_environ(exchange, connection.environ, connection.remote)
        name, work = line.name, self._work
        if line.path == RUN_JOB or exchange.head.told is not None or self._rpc is not None:
            found = self._look_closer(exchange, environ, connection.peer[0])
            if found is None:
                return monotonic()
            name, work = found
        sent = connection.sent
        status = 500
        ended = False
        try:
            child.begin_unit(name)
            try:
                status = exchange.run(self._application, environ) if work is None else work(exchange, environ)
            except BaseException as error:
                status = self._failed(name, exchange, error)
            finally:
                child.end_unit(status >= 500)
                ended = True
        except UnitAborted:
            self._end_again(exchange, ended=ended)
        if connection.closed:
            exchange.drop_file()
        else:
            exchange.finish(record.ended)
        record.served(record.ended - record.started, exchange.body_size, connection.sent - sent)
        if exchange.body is not None:
            exchange.body.close()
        return record.ended

    def _end_again(self, exchange: Exchange, *, ended: bool) -> None:
        """A limit struck while another end of the unit was being dealt with. After end_unit() it can't any more."""
        if not ended:
            self._child.end_unit(failed=True)
        self._roll_back_leftover()
        exchange.replace(*plain(503))

    def _look_closer(self, exchange: Exchange, environ: dict[str, Any], peer: str) -> tuple[bytes, Work | None] | None:
        """What the unit is called, and what is to be done in it; None when the answer is out without one."""
        line = exchange.line
        if line.path == RUN_JOB and self._is_for_job(exchange):
            return self._find_job(exchange, peer)
        if exchange.head.told is not None and not self._believe(exchange, environ, peer):
            return None
        if self._rpc is not None and self._rpc.serves(line.path):
            return line.name, self._call
        return line.name, self._work

    def _believe(self, exchange: Exchange, environ: dict[str, Any], peer: str) -> bool:
        """Take what proxies tell for what it is worth; false when the request is refused for it."""
        try:
            self._proxies.tell(environ, exchange.head.told or {}, peer)
            exchange.origin = environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ.get("HTTP_HOST")
        except BadRequest as refusal:
            exchange.keep_alive = False
            exchange.replace(*plain(refusal.status, str(refusal)))
            exchange.finish(monotonic())
            if exchange.body is not None:
                exchange.body.close()
            return False
        return True

    def _transact(self, exchange: Exchange, environ: dict[str, Any]) -> int:
        """Call the application in a transaction, which is free as long as nothing uses it."""
        try:
            transaction = self._signaling.begin(self._resolve(environ))
        except NoDatabase as error:
            log.info("%s", error)
            return _answer(exchange, 404)
        exchange.held = lambda: transaction.opened
        try:
            status = exchange.run(self._application, environ)
            if status >= 500:
                transaction.rollback()
            elif not transaction.ended:  # by the application itself
                transaction.commit()
        except BaseException:
            transaction.rollback()
            raise
        return status

    def _call(self, exchange: Exchange, environ: dict[str, Any]) -> int:
        """Serve RPC, where each call is a transaction of its own."""
        try:
            self._resolve(environ)
        except NoDatabase as error:
            log.info("%s", error)
            return _answer(exchange, 404)
        return exchange.run(self._rpc.application, environ)

    def _resolve(self, environ: dict[str, Any]) -> str | None:
        """The database that the request is for, which the application finds in its environ; None: the main one."""
        if self._database_of is None:
            return None
        database = environ[KEY] = self._database_of(environ)
        return database

    # -- failures --------------------------------------------------------------------------------------------

    def _failed(self, unit: bytes, exchange: Exchange, error: BaseException) -> int:
        """The application's boundary: whatever it raises is the answer to this one request; its status."""
        name = unit.decode()
        match error:
            case UnitAborted():
                self._roll_back_leftover()
                log.warning("%s was ended: %s", name, error.reason)
                return _answer(exchange, 503)
            case DatabaseUnavailable():
                log.warning("%s found no database: %s", name, error)
                return _answer(exchange, 503, retry_after=1)
            case ClientGone():
                log.info("%s was not finished: the client %s", name, error)
                exchange.client.abort()
                return 499
        if getattr(error, "pgcode", None) in LOST_AGAINST_ANOTHER:
            log.info("%s lost against another transaction: %s", name, str(error).strip())
            return _answer(exchange, 503, retry_after=0)
        log.error("%s failed", name, exc_info=error)
        return _answer(exchange, 500)

    def _roll_back_leftover(self) -> None:
        if self._signaling is not None:
            self._signaling.roll_back_leftover()

    # -- jobs ----------------------------------------------------------------------------------------------

    def _is_for_job(self, request: Request) -> bool:
        """Of ours: without a database there are none, and those of an Odoo, which is the application, name it so."""
        ours = request.line.method == "GET" and self._signaling is not None
        return ours and "HTTP_X_ODOO_DATABASE" not in request.head.fields

    def _find_job(self, exchange: Exchange, peer: str) -> tuple[bytes, Work] | None:
        """The job that the job runner of this machine asks for."""
        asked = parse_qs(exchange.line.query)
        database, uuid = asked.get("db", [""])[0], asked.get("job_uuid", [""])[0]
        if not _is_local(exchange, peer):
            exchange.replace(*plain(403, "jobs are run for this machine only"))
        elif not database or not uuid:
            exchange.replace(*plain(400, "db and job_uuid are needed"))
        else:
            self.before_job(exchange.client)
            # Of several the first one; the others are units as they come.
            return b"job %b" % uuid[:_UUID].encode(), partial(self._job, database, uuid)
        exchange.finish(monotonic())
        return None

    def _job(self, database: str, uuid: str, exchange: Exchange, environ: dict[str, Any]) -> int:
        from procman.jobs.execute import run

        outcome = run(database, uuid, worker=self._child.name, watch=self._child)
        exchange.replace(*plain(outcome.status))
        return 500 if outcome.failed else 200


def _answer(exchange: Exchange, status: int, *, retry_after: int | None = None) -> int:
    headers = () if retry_after is None else (("Retry-After", str(retry_after)),)
    exchange.replace(*plain(status, headers=headers))
    return status


def _is_local(request: Request, address: str) -> bool:
    """Asked from this machine, and not by a proxy on it for somebody else."""
    if request.head.told is not None or "HTTP_VIA" in request.head.fields:
        return False
    return address == "" or address == "::1" or address.removeprefix("::ffff:").startswith("127.")
