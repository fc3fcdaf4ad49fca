"""What ``--check`` tries beyond reading: what can be seen without starting, importing or binding anything.

Of a module nothing is executed: it is looked up as an import would look it up, from the pool's working directory.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING

from procman.config.problems import Code, Problem, quoted
from procman.config.reader import load
from procman.config.rules import is_dashboard
from procman.config.words import group_name, user_name
from procman.core.command import INHERIT, LOG, NULL
from procman.core.spec import (
    CronWork,
    ExecWork,
    HookName,
    HttpWork,
    LongpollingWork,
    Probe,
    ProbeKind,
    UnixAddress,
    listening_addresses,
)
from procman.errors import CertificateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from importlib.machinery import ModuleSpec

    from procman.config.problems import Path
    from procman.core.spec import DaemonSpec, PoolSpec


def check(path: str, environ: Mapping[str, str], *, uid: int | None = None) -> DaemonSpec:
    """Read the file and try what can be tried; raises ConfigurationError as `procman.config.read` does.

    ``uid`` is the user that the daemon is going to run as; the default is the user who asks.
    """
    uid = os.geteuid() if uid is None else uid
    loaded = load(path, environ)
    problems = [*_daemon(loaded.spec)]
    for pool in loaded.spec.pools:
        if is_dashboard(pool, loaded.spec):
            problems += _binds(pool, loaded.spec.state_dir, ("procman", "dashboard"))
            continue
        problems += [
            *_directories(pool, loaded.spec.state_dir),
            *_modules(pool),
            *_command(pool, environ),
            *_permissions(pool, uid),
            *_certificates(pool),
            *_access_log(pool),
        ]
    if problems:
        raise loaded.error(problems)
    return loaded.spec


def _daemon(spec: DaemonSpec) -> Iterator[Problem]:
    yield from _writable(spec.state_dir, ("procman", "state_dir"))


def _writable(directory: str, path: Path) -> Iterator[Problem]:
    """The directory can be written, or can be made."""
    existing = directory
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        yield Problem(Code.NO_DIRECTORY, path, f"{existing} is not a directory")
    elif not os.access(existing, os.W_OK | os.X_OK):
        what = "written" if existing == directory else "made"
        yield Problem(Code.NO_DIRECTORY, path, f"{directory} can't be {what}: no permission in {existing}")


def _directories(pool: PoolSpec, made: str) -> Iterator[Problem]:
    """``made``: the directory that the daemon makes before it binds anything."""
    if not os.path.isdir(pool.working_dir):
        yield Problem(Code.NO_DIRECTORY, ("pools", pool.name, "working_dir"), f"{pool.working_dir} is not a directory")
    yield from _binds(pool, made, ("pools", pool.name, "sockets" if isinstance(pool.work, ExecWork) else "bind"))
    for key, file in (("stdout", pool.stdout), ("stderr", pool.stderr)):
        if file not in (INHERIT, NULL, LOG) and not os.path.isdir(os.path.dirname(file)):
            message = f"{os.path.dirname(file)} is not a directory, so {file} can't be opened"
            yield Problem(Code.NO_DIRECTORY, ("pools", pool.name, key), message)


def _binds(pool: PoolSpec, made: str, path: Path) -> Iterator[Problem]:
    for bind in listening_addresses(pool):
        directory = os.path.dirname(bind.path) if isinstance(bind, UnixAddress) else made
        if directory != made and not os.path.isdir(directory):
            message = f"{directory} is not a directory, so {bind} can't be bound"
            yield Problem(Code.NO_DIRECTORY, path, message)


def _modules(pool: PoolSpec) -> Iterator[Problem]:
    match pool.work:
        case CronWork():
            modules = pool.work.modules
        case HttpWork() | LongpollingWork() if pool.work.app:
            modules = (pool.work.app.partition(":")[0],)
        case _:
            return
    paths = [pool.working_dir, *_python_path(pool), *sys.path]
    for module in modules:
        missing = missing_module(module, paths)
        if missing:
            where = "the working directory and on sys.path"
            yield Problem(Code.NO_MODULE, ("pools", pool.name, "app"), f"no module named {quoted(missing)} in {where}")


def _python_path(pool: PoolSpec) -> list[str]:
    return [path for path in dict(pool.env).get("PYTHONPATH", "").split(os.pathsep) if path]


def missing_module(name: str, paths: Sequence[str]) -> str | None:
    """The first part of the dotted name that would not be found on these paths; None when all would."""
    parts = name.split(".")
    where = list(paths)
    for index in range(len(parts)):
        dotted = ".".join(parts[: index + 1])
        spec = PathFinder.find_spec(dotted, where) or (_found_otherwise(dotted) if index == 0 else None)
        if spec is None:
            return dotted
        where = list(spec.submodule_search_locations or ())
    return None


def _found_otherwise(name: str) -> ModuleSpec | None:
    """What a finder knows that does not look at paths: built-in modules, packages installed in place."""
    for finder in sys.meta_path:
        if finder is not PathFinder and (spec := finder.find_spec(name, None)) is not None:
            return spec
    return None


def _command(pool: PoolSpec, environ: Mapping[str, str]) -> Iterator[Problem]:
    for path, program in _programs(pool):
        yield from _program(pool, program, path, environ)


def _programs(pool: PoolSpec) -> Iterator[tuple[Path, str]]:
    """What is executed for the pool, and where that is said."""
    if isinstance(pool.work, ExecWork):
        yield ("command", 0), pool.work.command[0]
        if isinstance(pool.work.ready, Probe) and pool.work.ready.kind is ProbeKind.COMMAND:
            yield ("ready", "command", 0), pool.work.ready.target[0]
    for hook in HookName:
        if command := pool.hooks.command(hook):
            yield ("hooks", hook.value, 0), command[0]


def _program(pool: PoolSpec, program: str, path: Path, environ: Mapping[str, str]) -> Iterator[Problem]:
    search = dict(pool.env).get("PATH", environ.get("PATH", os.defpath))
    found = os.path.join(pool.working_dir, program) if "/" in program else program
    if shutil.which(found, path=search) is None:
        where = "" if "/" in program else f" on PATH ({search})"
        message = f"there is no program {found}{where} that can be executed"
        yield Problem(Code.NO_COMMAND, ("pools", pool.name, *path), message)


def _access_log(pool: PoolSpec) -> Iterator[Problem]:
    if isinstance(pool.work, HttpWork) and (path := pool.work.access_log.partition(":")[2]):
        directory = os.path.dirname(path)
        place = ("pools", pool.name, "access_log")
        if not os.path.isdir(directory):
            yield Problem(Code.NO_DIRECTORY, place, f"{directory} is not a directory, so {path} can't be written")
        elif os.path.isdir(path):
            yield Problem(Code.NO_DIRECTORY, place, f"{path} is a directory; expected a file")


def _certificates(pool: PoolSpec) -> Iterator[Problem]:
    if isinstance(pool.work, HttpWork) and pool.work.certfile is not None:
        from procman.config.certificates import load as load_certificate  # ssl is not free, and seldom needed

        try:
            load_certificate(pool.work.certfile, pool.work.keyfile)
        except CertificateError as error:
            yield Problem(Code.CERTIFICATE, ("pools", pool.name, "certfile"), str(error))


def _permissions(pool: PoolSpec, uid: int) -> Iterator[Problem]:
    if uid == 0:
        return
    mine = (("user", pool.user, user_name(str(uid))), ("group", pool.group, group_name(str(os.getegid()))))
    for key, wanted, current in mine:
        if wanted is not None and wanted != current:
            message = f"only root can run a pool as the {key} {wanted}"
            yield Problem(Code.NOT_PERMITTED, ("pools", pool.name, key), message)
    if pool.nice is not None and pool.nice < os.nice(0):
        message = f"only root can be less nice than the daemon itself, got {pool.nice}"
        yield Problem(Code.NOT_PERMITTED, ("pools", pool.name, "nice"), message)
    if pool.oom_score_adj is not None and pool.oom_score_adj < (ours := _oom_score_adj()):
        message = f"only root can be killed later than the daemon itself ({ours}), got {pool.oom_score_adj}"
        yield Problem(Code.NOT_PERMITTED, ("pools", pool.name, "oom_score_adj"), message)


def _oom_score_adj() -> int:
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        return int(file.read())
