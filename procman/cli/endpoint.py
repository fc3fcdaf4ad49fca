"""Where the daemon listens, from the command line, the environment or a configuration file.

Of the file only what says where the control socket is gets read: an operator asks a running daemon for its status
also when the file on disk has been broken since, or needs variables that are set for the daemon alone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from procman.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

FILES = ("procman.toml", "/etc/procman/procman.toml")


def find(endpoint: str | None, config: str | None, environ: Mapping[str, str]) -> str:
    """The endpoint that is meant, looked for in this order.

    ``--endpoint``, ``-c``, $PROCMAN_ENDPOINT, $PROCMAN_CONFIG, ./procman.toml, /etc/procman/procman.toml.
    Raises ConfigurationError when there is none of these, or when the file can't be read.
    """
    if endpoint:
        return endpoint
    if config:
        return in_file(config, environ)
    if environ.get("PROCMAN_ENDPOINT"):
        return environ["PROCMAN_ENDPOINT"]
    if environ.get("PROCMAN_CONFIG"):
        return in_file(environ["PROCMAN_CONFIG"], environ)
    for path in FILES:
        if os.path.exists(path):
            return in_file(path, environ)
    raise ConfigurationError(
        f"no daemon is named: give -c FILE or --endpoint EP (there is no {' and no '.join(FILES)})"
    )


def find_keys(keys: str | None, config: str | None, environ: Mapping[str, str]) -> str | None:
    """The file of the client's keys, looked for in this order: ``--keys``, $PROCMAN_KEYS, ``client_keys`` in the file.

    None when nothing says where they are. Raises ConfigurationError when the configuration file can't be read.
    """
    if keys or environ.get("PROCMAN_KEYS"):
        return keys or environ["PROCMAN_KEYS"]
    path = config or environ.get("PROCMAN_CONFIG") or next(filter(os.path.exists, FILES), None)
    if path is None:
        return None
    auth = _daemon_table(path, environ).get("auth")
    found = auth.get("client_keys") if isinstance(auth, dict) else None
    return os.path.join(os.path.dirname(os.path.abspath(path)), found) if isinstance(found, str) else None


def in_file(path: str, environ: Mapping[str, str]) -> str:
    """The first control endpoint of this configuration file, over ipc if there is one. Raises ConfigurationError."""
    daemon = _daemon_table(path, environ)
    base = os.path.dirname(os.path.abspath(path))
    control = daemon.get("control")
    if isinstance(control, list):
        local = (one for one in control if isinstance(one, str) and one.startswith("ipc://"))
        control = next(local, control[0] if control else None)
    if control is None:
        state_dir = daemon.get("state_dir", "var")
        if not isinstance(state_dir, str):
            raise ConfigurationError(f"{path}: procman.state_dir: expected a path")
        # Not simply in there: the path of a unix socket is short, and a state directory may be deep.
        from procman.config.places import default_endpoint

        return default_endpoint("control.sock", os.path.normpath(os.path.join(base, state_dir)), environ)
    if not isinstance(control, str):
        raise ConfigurationError(f'{path}: procman.control: expected an endpoint such as "ipc://var/control.sock"')
    scheme, separator, rest = control.partition("://")
    return f"ipc://{os.path.normpath(os.path.join(base, rest))}" if scheme == "ipc" and separator else control


def _daemon_table(path: str, environ: Mapping[str, str]) -> dict[str, Any]:
    # Imported here: with --endpoint, or $PROCMAN_ENDPOINT, no file is read.
    import tomli

    from procman.config.environment import expand_document

    try:
        with open(path, "rb") as file:
            document = tomli.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # TOML that is none, or bytes that are no UTF-8
        raise ConfigurationError(f"{path}: {error}") from None
    table = document.get("procman", {})
    if not isinstance(table, dict):
        raise ConfigurationError(f"{path}: procman: expected a table")
    problems: list[Any] = []
    wanted = {name: table[name] for name in ("auth", "control", "state_dir") if name in table}
    expanded = expand_document(wanted, environ, problems, ("procman",))
    if problems:
        raise ConfigurationError("\n".join(f"{path}: {'.'.join(map(str, p.path))}: {p.message}" for p in problems))
    return dict(expanded)
