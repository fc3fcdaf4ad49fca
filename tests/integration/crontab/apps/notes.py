"""What the functions of these modules have in common: they leave a row behind."""

from __future__ import annotations

import os
import socket

import procman
from procman import signaling


def note(name: str) -> None:
    """A row with the call's planned time, as the transaction sees it."""
    with procman.cursor() as cr:
        cr.execute(
            "INSERT INTO ran (name, planned, pid) SELECT name, next_call, %s FROM procman.cron WHERE name = %s",
            (os.getpid(), name),
        )


def trace(text: str) -> None:
    """A line in a file, which stays also when the transaction does not."""
    with open(os.environ["TRACE"], "a", encoding="utf-8") as file:
        file.write(f"{text}\n")  # one write(2) in append mode: lines of several processes do not mix


def hold() -> None:
    """Wait at the gate."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(os.environ["GATE"])
        sock.send(str(os.getpid()).encode())
        sock.recv(1)


def end_backend() -> None:
    """Lose the connection of this unit."""
    unit = signaling.current()
    assert unit is not None
    with unit.cursor() as cr:
        cr.execute("SELECT pg_backend_pid()")
        (pid,) = cr.fetchone()
    with signaling.connect(unit.database) as other, other.cursor() as cr:
        cr.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    other.close()
