"""From the file to the specification: read, parse, expand, type, check, build.

A problem does not stop the reading: everything that is wrong with a file is said in one pass. Only a file that is
not TOML has one problem and no more.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import tomli

from procman.config import rules
from procman.config.addresses import EMBEDDED, DatabaseUrl, absolute
from procman.config.doors import open_doors
from procman.config.environment import expand_document, read_env_file
from procman.config.keys import DAEMON, DATABASE, KINDS, POOL, WORK
from procman.config.places import default_endpoint, postgres_socket_dir
from procman.config.positions import Positions
from procman.config.problems import Code, Problem, Wrong, suggestion
from procman.config.rules import DASHBOARD, POSTGRES, Draft, PoolDraft
from procman.config.tables import read_table
from procman.config.values import Given
from procman.config.words import PoolName
from procman.core.spec import (
    DaemonSpec,
    DatabaseSpec,
    HttpWork,
    JobQueue,
    Kind,
    Limits,
    PoolSpec,
    PostgresWork,
    Scaling,
)
from procman.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from procman.core.spec import Address

DATABASE_VARIABLE = "PROCMAN_DATABASE_URL"

_DASHBOARD_BODY = 64 * 1024  # bytes: nothing is sent to it

_TABLES = ("procman", "database", "pools")
_SYNTAX_HINTS = (
    ("Cannot overwrite a value", "there is a value of this name already"),
    ("Duplicate inline table key", "there is a value of this name already"),
    ("Cannot declare", "there is a table of this name already"),
    ("Cannot mutate immutable namespace", "the table was written in braces, and can't get more keys"),
    ("Invalid value", "expected a value: a string in quotes, a number, true, false, [an array] or {a table}"),
    ("Illegal character '\\n'", "the string does not end on its line: is a quote missing?"),
    ("Invalid statement", "expected a key, a [table], or a comment after #"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration and where its parts stand in the file, for whoever finds more to say about it."""

    spec: DaemonSpec
    file: str
    positions: Positions

    def error(self, problems: Iterable[Problem]) -> ConfigurationError:
        """The error that lists these problems."""
        return _error(problems, self.file, self.positions)


def read(path: str, environ: Mapping[str, str]) -> DaemonSpec:
    """The configuration in the file, complete with defaults.

    ``environ`` is what ``${NAME}`` and ``PROCMAN_DATABASE_URL`` are taken from. Raises ConfigurationError, whose text
    has one line for each problem: ``file:line:col: error[code]: path: message``.
    """
    return load(path, environ).spec


def read_database(path: str, environ: Mapping[str, str]) -> DatabaseSpec | None:
    """Of the configuration in the file only where its databases are; None when there are none.

    The rest may be broken since the daemon has read it, or need variables that are set for the daemon alone. Raises
    ConfigurationError.
    """
    document, positions = _parse(path)
    problems: list[Problem] = []
    draft = _Reader(os.path.dirname(os.path.abspath(path)), environ, problems).database(document)
    if problems:
        raise _error(problems, path, positions)
    return _Builder(draft, os.path.abspath(path), environ).database()


def load(path: str, environ: Mapping[str, str]) -> Loaded:
    """As `read`, with the places of keys and values."""
    document, positions = _parse(path)
    base = os.path.dirname(os.path.abspath(path))
    problems: list[Problem] = []
    draft = _Reader(base, environ, problems).draft(document)
    open_doors(draft)
    problems += rules.check(draft)
    if problems:
        raise _error(problems, path, positions)
    return Loaded(spec=_Builder(draft, os.path.abspath(path), environ).spec(), file=path, positions=positions)


def _error(problems: Iterable[Problem], file: str, positions: Positions) -> ConfigurationError:
    placed = [(positions.of_key(one.path) if one.at_key else positions.of_value(one.path), one) for one in problems]
    placed.sort(key=lambda pair: (pair[0], pair[1].code.code))
    return ConfigurationError("\n".join(one.line(file, positions) for _, one in placed))


# -- text ---------------------------------------------------------------------------------------------------------


def _parse(path: str) -> tuple[dict[str, Any], Positions]:
    text = _text(path)
    try:
        return tomli.loads(text), Positions(text)
    except tomli.TOMLDecodeError as error:
        place = f"{path}:{error.lineno}:{error.colno}"
        raise ConfigurationError(f"{place}: error[{Code.SYNTAX.code}]: not TOML: {_in_words(error)}") from None
    except RecursionError:
        message = "arrays or tables are nested too deep"
        raise ConfigurationError(f"{path}:1:1: error[{Code.SYNTAX.code}]: {message}") from None
    except ValueError:
        # int() refuses what it would take a quadratic time to read (sys.set_int_max_str_digits).
        message = "a number has too many digits"
        raise ConfigurationError(f"{path}:1:1: error[{Code.SYNTAX.code}]: {message}") from None


def _in_words(error: tomli.TOMLDecodeError) -> str:
    """What tomli says, or what is meant by it."""
    message = next((meaning for beginning, meaning in _SYNTAX_HINTS if error.msg.startswith(beginning)), error.msg)
    return message if error.pos < len(error.doc) else f"{message}; the file ends here"


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigurationError(
            f"{path}: error[{Code.UNREADABLE.code}]: can't read the configuration: {reason}"
        ) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode(errors="replace")) + 1
        byte = data[error.start]
        raise ConfigurationError(
            f"{path}:{line}:{column}: error[{Code.ENCODING.code}]: expected UTF-8, got the byte 0x{byte:02x}"
        ) from None


# -- document to draft --------------------------------------------------------------------------------------------


class _Reader:
    """Reads a document into a draft; what is wrong goes into ``problems``."""

    def __init__(self, base: str, environ: Mapping[str, str], problems: list[Problem]) -> None:
        self._base = base
        self._environ = environ
        self._problems = problems

    def database(self, document: dict[str, Any]) -> Draft:
        """A draft in which nothing is but the database, and where the state is kept."""
        daemon = document.get("procman")
        if isinstance(daemon, dict):
            document["procman"] = {name: value for name, value in daemon.items() if name == "state_dir"}
        draft = Draft()
        document = self._expanded({name: document[name] for name in ("procman", "database") if name in document})
        self._daemon(document, draft)
        self._database(document, draft)
        return draft

    def _expanded(self, document: dict[str, Any]) -> dict[str, Any]:
        if self._environ.get(DATABASE_VARIABLE) and isinstance(document.get("database"), dict):
            # What is overridden need not be usable here: it may name a variable of another machine.
            document["database"]["url"] = EMBEDDED
        expanded: dict[str, Any] = expand_document(document, self._environ, self._problems)
        return expanded

    def draft(self, document: dict[str, Any]) -> Draft:
        document = self._expanded(document)
        for name in document:
            if name not in _TABLES:
                message = f"unknown key{suggestion(name, _TABLES)}"
                self._problems.append(Problem(Code.UNKNOWN_KEY, (name,), message, at_key=True))
        draft = Draft()
        self._daemon(document, draft)
        self._database(document, draft)
        self._pools(document, draft)
        return draft

    def _daemon(self, document: dict[str, Any], draft: Draft) -> None:
        given = Given(document.get("procman", {}), ("procman",), self._base)
        draft.daemon = read_table(given, DAEMON, self._problems)
        draft.daemon_given = given.value if isinstance(given.value, dict) else {}
        if "state_dir" not in draft.daemon:
            draft.daemon["state_dir"] = absolute("var", self._base)
        state_dir = draft.daemon["state_dir"]
        for field, socket in (("control", "control.sock"), ("events", "events.sock")):
            if field not in draft.daemon_given:
                endpoint = default_endpoint(socket, state_dir, self._environ)
                draft.daemon[field] = (endpoint,)
        if "control_read_only" not in draft.daemon_given:
            endpoint = default_endpoint("monitor.sock", state_dir, self._environ)
            draft.daemon["control_read_only"] = (endpoint,) if draft.daemon.get("dashboard") else ()

    def _database(self, document: dict[str, Any], draft: Draft) -> None:
        override = self._environ.get(DATABASE_VARIABLE, "")
        if "database" in document:
            draft.database_url = ""
            given = Given(document["database"], ("database",), self._base)
            draft.database = read_table(given, DATABASE, self._problems)
            draft.database_url = draft.database.get("url", "")
        if override:
            draft.database_url = ""
            try:
                draft.database_url = DatabaseUrl().read(Given(override, (DATABASE_VARIABLE,), self._base))
            except Wrong as wrong:
                self._problems += wrong.problems
        draft.embedded = draft.database_url == EMBEDDED

    def _pools(self, document: dict[str, Any], draft: Draft) -> None:
        pools = document.get("pools", {})
        if not isinstance(pools, dict):
            self._problems += Given(pools, ("pools",), self._base).unexpected(Code.WRONG_TYPE, "a table").problems
        elif not pools:
            message = 'there is nothing to run; expected at least one pool: [pools.http] with kind = "http"'
            self._problems.append(Problem(Code.NO_POOLS, ("pools",) if "pools" in document else (), message))
        else:
            draft.pools = [self._pool(name, pool, draft) for name, pool in pools.items()]

    def _pool(self, name: str, value: Any, draft: Draft) -> PoolDraft:
        given = Given(value, ("pools", name), self._base)
        try:
            PoolName().read(Given(name, given.path, self._base))
        except Wrong as wrong:
            self._problems += [Problem(one.code, one.path, one.message, at_key=True) for one in wrong.problems]
        table = value if isinstance(value, dict) else {}
        kind = table.get("kind")
        known = Kind(kind) if isinstance(kind, str) and kind in KINDS else None
        fields = read_table(given, POOL, self._problems, known)
        fields.setdefault("working_dir", self._base)
        fields.setdefault("stop_timeout", draft.daemon.get("stop_timeout"))
        self._env_files(given, fields)
        return PoolDraft(name=name, kind=known, given=table, fields=fields)

    def _env_files(self, given: Given, fields: dict[str, Any]) -> None:
        """Put the variables of ``env_file`` before those of ``env``, which win."""
        variables: dict[str, str] = {}
        for index, path in enumerate(fields.pop("env_file", ())):
            place = given.item("env_file", given.value["env_file"])
            place = place.item(index, path) if isinstance(place.value, list) else place
            try:
                variables |= read_env_file(path)
            except OSError as error:
                self._problems += place.wrong(Code.ENV_FILE, f"can't read {path}: {error.strerror}").problems
            except UnicodeDecodeError:
                self._problems += place.wrong(Code.ENV_FILE, f"{path} is not UTF-8").problems
            except ValueError as error:
                self._problems += place.wrong(Code.ENV_FILE, f"{path}, {error}").problems
        if variables and "env" in fields:
            fields["env"] = tuple((variables | dict(fields["env"])).items())


# -- draft to specification ---------------------------------------------------------------------------------------


class _Builder:
    """Builds the specification from a draft in which nothing is wrong."""

    def __init__(self, draft: Draft, source: str, environ: Mapping[str, str]) -> None:
        self._draft = draft
        self._source = source
        self._state_dir: str = draft.daemon["state_dir"]
        self._socket_dir = postgres_socket_dir(self._state_dir, environ)

    def spec(self) -> DaemonSpec:
        pools = [self._pool(pool) for pool in self._draft.pools]
        if self._draft.embedded:
            pools.insert(0, self._postgres())
        if (address := self._draft.dashboard()) is not None:
            pools.append(self._dashboard(address))
        return DaemonSpec(source=self._source, pools=tuple(pools), database=self.database(), **self._draft.daemon)

    def database(self) -> DatabaseSpec | None:
        url = self._draft.database_url
        if url is None:
            return None
        if self._draft.embedded:
            # libpq takes a directory as the host when it is percent-encoded (chapter 32.1.1.2).
            url = f"postgresql://procman@/procman?host={quote(self._socket_dir, safe='')}"
        given = {name: value for name, value in self._draft.database.items() if name != "url"}
        return DatabaseSpec(url=url, embedded=self._draft.embedded, **given)

    def _postgres(self) -> PoolSpec:
        work = PostgresWork(data_dir=os.path.join(self._state_dir, "postgres"), socket_dir=self._socket_dir)
        # INT is PostgreSQL's fast shutdown (chapter 18.5); TERM would wait for every client to go.
        return PoolSpec(
            name=POSTGRES,
            kind=Kind.POSTGRES,
            work=work,
            stop_signal="INT",
            stop_timeout=self._draft.daemon["stop_timeout"],
        )

    def _dashboard(self, address: Address) -> PoolSpec:
        # It waits for no other pool, because it is there to say what they wait for.
        return PoolSpec(
            name=DASHBOARD,
            kind=Kind.HTTP,
            work=HttpWork(app="procman.dashboard:application", binds=(address,), max_body=_DASHBOARD_BODY),
            limits=Limits(memory_soft=256 * 1024 * 1024, time_cpu=10.0, time_real=30.0),
            stop_timeout=self._draft.daemon["stop_timeout"],
            working_dir=os.path.dirname(self._source),
            user=self._draft.daemon["dashboard_user"],
            group=self._draft.daemon["read_only_group"] if self._draft.daemon["dashboard_user"] else None,
            env=(("PROCMAN_ENDPOINT", self._draft.daemon["control_read_only"][0]),),
        )

    def _pool(self, pool: PoolDraft) -> PoolSpec:
        assert pool.kind is not None
        make = WORK[pool.kind]
        fields = dict(pool.fields)
        work = {name: fields.pop(name) for name in make.__dataclass_fields__ if name in fields}
        if pool.kind is Kind.LONGPOLLING:
            work.setdefault("app", None)
        if pool.kind is Kind.JOBRUNNER:
            work |= self._target(pool)
        if self._draft.embedded:
            others = (name for name in fields["depends_on"] if name != POSTGRES)
            fields["depends_on"] = (POSTGRES, *others)
        if isinstance(scaling := fields["workers"], Scaling):
            fields |= {"workers": scaling.least, "scaling": scaling}
        return PoolSpec(name=pool.name, work=make(**work), **fields)

    def _target(self, pool: PoolDraft) -> dict[str, Any]:
        target = rules.target_of(pool, self._draft)
        if target is None:
            return {} if "queues" in pool.fields else {"queues": (JobQueue.QUEUE_JOB,)}
        alone = len(self._draft.of_kind(Kind.HTTP)) == 1
        return {
            "target": target.name,
            "addresses": rules.plain_addresses(target.fields),
            "reserve": pool.fields.get("reserve", int(alone)),
        }
