"""What the gevent worker serves: polls of the bus, and an application, one greenlet to a connection.

A poll that waits is not a unit: nothing is computed for it and no transaction is open, so no limit of a unit
applies to it. When it is answered it counts as a request. A request to the application is a unit, as in an http
worker; several run at the same time here, each in a transaction of its own.

Retiring: no more connections are accepted (who has connected already, without being accepted, is served by
another worker, since they share the socket), waiting polls are answered at once, requests are finished, and
every answer says ``Connection: close``.
"""

from __future__ import annotations

import logging
import threading
from time import monotonic
from typing import TYPE_CHECKING

from procman.bus.exchange import Exchange
from procman.core.reason import Reason
from procman.core.spec import LongpollingWork
from procman.workers.application import load
from procman.workers.evented.limits import Units
from procman.workers.evented.routes import Routes
from procman.workers.evented.server import Connections, Server
from procman.workers.evented.waiting import watching

if TYPE_CHECKING:
    from procman.workers.child import Child

log = logging.getLogger("procman.longpolling")

# How long a worker waits at its start for the bus to be heard, before it serves without.
_HEARD_WITHIN = 3.0

# How long a retiring worker leaves idle connections open: a request may be on its way on one of them.
_LINGER = 1.0


def serve(child: Child) -> None:
    """Serve until it is time to go."""
    work = child.spec.work
    if not isinstance(work, LongpollingWork):
        raise TypeError(f"not a long-polling pool: {child.spec.name}")
    application = load(work.app) if work.app is not None else None
    exchange = Exchange()
    if child.database is not None and not exchange.listen(wait=_HEARD_WITHIN):
        log.warning("The bus is not heard yet; polls wait for it")
    woken = threading.Event()
    connections = Connections(lambda: child.retiring is not None)
    # A request may reach a limit between units: then this greenlet has to see that it is time to go.
    units = Units(child, woken.set)
    units.start()
    routes = Routes(exchange, application, poll_timeout=work.poll_timeout, units=units)
    servers = [Server(listener, routes, connections) for listener in child.listeners]
    for server in servers:
        server.start()
    child.ready()
    _attend(child, woken)
    for server in servers:
        server.close()
    exchange.release()
    connections.drain(linger=0.0 if child.retiring is Reason.LOST else _LINGER)
    exchange.close()


def _attend(child: Child, woken: threading.Event) -> None:
    """Attend to the arbiter and to signals until it is time to go."""
    while child.retiring is None:
        with watching(child.wake_fds, woken.set):
            woken.wait(_seconds_to_age(child))
        woken.clear()
        child.attend()
        child.check_limits()


def _seconds_to_age(child: Child) -> float | None:
    return None if child.age_deadline is None else max(0.0, child.age_deadline - monotonic())
