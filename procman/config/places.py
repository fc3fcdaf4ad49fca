"""Where the daemon's sockets are when the file does not say, and where the embedded server's is.

They belong in the state directory. But the path of a unix socket is short (unix(7)), and a state directory may be
deep; then a directory with a short path, made from the state directory's, stands in for it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# unix(7): sun_path has 108 bytes with the terminating NUL.
LONGEST_SOCKET_PATH = 107

# What PostgreSQL calls its socket, in the directory it is given.
_POSTGRES_SOCKET = ".s.PGSQL.5432"


def default_endpoint(name: str, state_dir: str, environ: Mapping[str, str]) -> str:
    """The ``ipc://`` endpoint of the socket ``name`` in the state directory, or in the short one."""
    return f"ipc://{os.path.join(_directory_for(name, state_dir, environ), name)}"


def postgres_socket_dir(state_dir: str, environ: Mapping[str, str]) -> str:
    """The directory of the embedded server's socket, of its own because the server runs as another user than root."""
    socket = f"postgres-socket/{_POSTGRES_SOCKET}"
    return os.path.join(_directory_for(socket, state_dir, environ), "postgres-socket")


def _directory_for(socket: str, state_dir: str, environ: Mapping[str, str]) -> str:
    if fits(os.path.join(state_dir, socket)):
        return state_dir
    import hashlib  # late: it loads OpenSSL, for which the daemon has no other use

    digest = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:12]
    name = f"procman-{os.getuid()}-{digest}"
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and "\0" not in runtime and fits(os.path.join(runtime, name, socket)):
        return os.path.join(os.path.normpath(runtime), name)
    return f"/tmp/{name}"


def fits(path: str) -> bool:
    """Whether a unix socket can have this path (unix(7))."""
    return len(os.fsencode(path)) <= LONGEST_SOCKET_PATH
