"""The dashboard: what the daemon would tell `procmanctl`, told to browsers, to Prometheus and to load balancers.

    GET /              a page that follows what happens     GET /status.json   what it is made of
    GET /metrics       for Prometheus                       GET /livez         200 while this worker answers
    GET /readyz        200 when every pool has the workers it should have, else 503 and what is missing

A plain WSGI application in an http pool of its own, which `[procman] dashboard` adds. It only reads: it asks the
daemon over the control socket ($PROCMAN_ENDPOINT) and sends no command that changes anything. There is no login, so
it belongs on an address of this machine, or behind a proxy that asks for one.
"""

from __future__ import annotations

from procman.dashboard.web import application

__all__ = ["application"]
