"""An application to try the gevent worker with."""

from __future__ import annotations

import gc
import os
import socket
import time

import procman
from procman.bus.exchange import Exchange


def application(environ, start_response):
    name = environ["PATH_INFO"].strip("/").replace("/", "_") or "index"
    answer = globals().get(f"page_{name}")
    if answer is None:
        start_response("404 Not Found", [])
        return []
    return answer(environ, start_response)


def make_application():
    return application


def say(start_response, text, status="200 OK"):
    start_response(status, [("Content-Type", "text/plain")])
    return [str(text).encode()]


def page_waiting(environ, start_response):
    return say(start_response, sum(one.waiting for one in gc.get_objects() if isinstance(one, Exchange)))


def page_patched(environ, start_response):
    return say(start_response, f"{socket.socket.__module__} {os.environ['PROCMAN_WORKER']}")


def page_sleep(environ, start_response):
    time.sleep(float(environ["QUERY_STRING"]))
    return say(start_response, "slept")


def page_sqlsleep(environ, start_response):
    with procman.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [float(environ["QUERY_STRING"])])
    return say(start_response, "slept")


def page_send(environ, start_response):
    procman.bus.send("a", environ["QUERY_STRING"])
    return say(start_response, "sent")


def page_fail(environ, start_response):
    procman.bus.send("a", "never")
    raise ValueError("as asked")


def page_refuse(environ, start_response):
    procman.bus.send("a", "never")
    return say(start_response, "sorry", "503 Service Unavailable")


def page_silent(environ, start_response):
    procman.bus.send("a", "never")
    return []


def page_stream(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    procman.bus.send("a", "streamed")
    for number in range(3):
        yield b"%d\n" % number


def page_big(environ, start_response):
    with procman.cursor() as cursor:
        cursor.execute("SELECT 1")
    procman.bus.send("a", "big")
    start_response("200 OK", [("Content-Type", "text/plain")])
    for _ in range(40):
        yield b"x" * 65536


def page_torn(environ, start_response):
    with procman.cursor() as cursor:
        cursor.execute("SELECT 1")
    procman.bus.send("a", "never")
    start_response("200 OK", [("Content-Type", "text/plain")])
    for _ in range(40):
        yield b"x" * 65536
    raise ValueError("torn")


def page_echo(environ, start_response):
    return say(start_response, environ["wsgi.input"].read().decode())


def page_away(environ, start_response):
    with procman.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    return say(start_response, "not reached")
