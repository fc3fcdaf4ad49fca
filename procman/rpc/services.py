"""What the name of a method means: a function of the application, or a service of this runtime.

The services ``common`` and ``object`` are those that Odoo's clients speak (External API): ``authenticate`` first,
then ``execute_kw(database, user, password, model, method, args, kwargs)``, which calls ``model.method``.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from procman import signaling
from procman.rpc.calls import Call, guarded
from procman.rpc.credentials import identify
from procman.rpc.exposure import exposed, names
from procman.rpc.faults import AccessDenied, Fault, InvalidParams, MethodNotFound
from procman.rpc.xml_rpc import described
from procman.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from procman.rpc.calls import Origin
    from procman.rpc.credentials import Credentials

MOST_CALLS = 1000  # in one system.multicall


def direct(origin: Origin, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, may_stream: bool) -> Any:
    """Call the function of that name, with the credentials of the request."""
    call = Call(name, args, kwargs, origin.credentials, origin.database, origin.prepare)
    return call.perform(may_stream=may_stream)


def service(origin: Origin, name: str, method: str, args: Sequence[Any], *, may_stream: bool) -> Any:
    """Call a method of the service ``common`` or ``object``."""
    match name, method, args:
        case "common", "version", []:
            return _version()
        case "common", "authenticate", [database, login, password, _]:
            return _authenticate(origin, database, login, password)
        case "common", "login", [database, login, password]:
            return _authenticate(origin, database, login, password)
        case "object", "execute_kw", [database, user, password, model, function, positional]:
            return _execute(origin, (database, user, password), f"{model}.{function}", positional, {}, may_stream)
        case "object", "execute_kw", [database, user, password, model, function, positional, named]:
            return _execute(origin, (database, user, password), f"{model}.{function}", positional, named, may_stream)
        case "object", "execute", [database, user, password, model, function, *positional]:
            return _execute(origin, (database, user, password), f"{model}.{function}", positional, {}, may_stream)
        case ("common", "version" | "authenticate" | "login", _) | ("object", "execute_kw" | "execute", _):
            raise InvalidParams(f"{name}.{method} does not take {len(args)} arguments")
        case _:
            raise MethodNotFound(f"there is no {name}.{method}")


def system(origin: Origin, method: str, args: Sequence[Any]) -> Any:
    """XML-RPC's introspection, and several calls in one request."""
    match method, args:
        case "system.listMethods", []:
            known = guarded(method, lambda: signaling.repeating(lambda: _is_known(origin.credentials)))
            return [name for name in names() if known or exposed(name).public]
        case "system.methodHelp", [str(name)]:
            return origin.prepare(inspect.getdoc(exposed(name).function) or "")
        case "system.methodSignature", [str(name)]:
            exposed(name)
            return "undef"  # as the convention has it: arguments of a Python function have no one type
        case "system.multicall", [list(calls)] if len(calls) <= MOST_CALLS:
            return [_one_of_several(origin, call) for call in calls]
        case _:
            raise MethodNotFound(f"there is no {method} with {len(args)} such arguments")


def _one_of_several(origin: Origin, call: Any) -> Any:
    try:
        match call:
            case {"methodName": str(name), "params": list(args)} if not name.startswith("system."):
                return [direct(origin, name, args, {}, may_stream=False)]
            case _:
                raise InvalidParams("expected a struct of methodName and params")
    except Fault as fault:
        return described(fault)


def _is_known(credentials: Credentials | None) -> bool:
    try:
        identify(credentials)
    except AccessDenied:
        return False
    return True


def _version() -> dict[str, Any]:
    parts = [int(part) if part.isdigit() else part for part in __version__.split(".")]
    return {"server": "procman", "server_version": __version__, "server_version_info": parts, "protocol_version": 1}


def _authenticate(origin: Origin, database: Any, login: Any, password: Any) -> int | bool:
    """The user's id; False, not a fault, for somebody unknown."""
    name = _text_or_none(database)
    shown = origin.shown(login=_text(login), user_id=None, secret=_text(password), database=name)
    try:
        return guarded("authenticate", lambda: signaling.repeating(lambda: identify(shown), database=name))
    except AccessDenied:
        return False


def _execute(origin: Origin, who: tuple[Any, Any, Any], name: str, args: Any, kwargs: Any, may_stream: bool) -> Any:
    database, user, password = who
    if isinstance(user, bool) or not isinstance(user, int):
        raise AccessDenied("access denied")  # what a client sends that did not look at authenticate's answer
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
        raise InvalidParams("expected an array of arguments and, perhaps, a struct of named ones")
    named = _text_or_none(database)
    shown = origin.shown(login=None, user_id=user, secret=_text(password), database=named)
    return Call(name, args, kwargs, shown, named, origin.prepare).perform(may_stream=may_stream)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidParams(f"expected a string, got {type(value).__name__}")
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None or value is False or value == "" else _text(value)
