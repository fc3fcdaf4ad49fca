"""Is there a daemon behind an endpoint, and does it still live? The kernel is asked, not the daemon."""

from __future__ import annotations

import os
import socket

from procman.control import ipc
from procman.errors import AddressError, NotReachable

PATIENCE = 3.0  # seconds for a connection over tcp


def probe(endpoint: str) -> int:
    """The pid of whoever listens there, 0 when it can't be known. Raises NotReachable when nobody does."""
    if endpoint.startswith("tcp://"):
        return _probe_tcp(endpoint)
    try:
        return ipc.peer(ipc.path_of(endpoint))
    except FileNotFoundError:
        raise NotReachable(f"no daemon at {endpoint}: there is no such socket") from None
    except ConnectionRefusedError:
        raise NotReachable(f"no daemon at {endpoint}: it has ended and left its socket behind") from None
    except OSError as error:
        raise NotReachable(f"no daemon at {endpoint}: {error.strerror}") from None
    except AddressError as error:
        raise NotReachable(str(error)) from None


def _probe_tcp(endpoint: str) -> int:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise NotReachable(f"{endpoint}: expected an endpoint such as tcp://192.0.2.1:5555")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    except TimeoutError:
        raise NotReachable(f"no daemon at {endpoint}: no answer within {PATIENCE:g} s") from None
    except OSError as error:
        raise NotReachable(f"no daemon at {endpoint}: {error.strerror}") from None
    return 0


def pidfd(pid: int) -> int | None:
    """A descriptor that is readable when the process has ended; None when it can't be had."""
    if pid <= 0:
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None  # gone since the probe: the call will say so in its own words
    except OSError:
        return None
