"""The application: what is asked for, and in which form it is told."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Any

from procman.dashboard import asking, metrics
from procman.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TEXT = "text/plain; charset=utf-8"
_PAGE = resources.files("procman.dashboard").joinpath("page.html").read_text("utf-8")


def _policy() -> str:
    """The Content-Security-Policy: nothing foreign, and of what stands in the page only what stood there when the
    worker started (CSP Level 3, 2.3.1: hashes of inline elements)."""
    sources = {}
    for element in ("style", "script"):
        (text,) = re.findall(rf"<{element}>(.*?)</{element}>", _PAGE, re.DOTALL)
        sources[element] = f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    return (
        f"default-src 'none'; style-src {sources['style']}; script-src {sources['script']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


_HEADERS = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", _policy()),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: its status, its content type, its body."""

    status: HTTPStatus
    kind: str
    body: str


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application (PEP 3333). A daemon that does not answer is a 503, except for /livez."""
    method, headers = environ["REQUEST_METHOD"], list(_HEADERS)
    handler = _ROUTES.get(environ.get("PATH_INFO") or "/")
    if method not in ("GET", "HEAD"):
        answer = Answer(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, f"not {method}: nothing can be changed here\n")
        headers.append(("Allow", "GET, HEAD"))
    elif handler is None:
        answer = Answer(HTTPStatus.NOT_FOUND, _TEXT, f"there is {', '.join(_ROUTES)}\n")
    else:
        answer = handler()
    if answer.status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append(("Retry-After", "2"))
    body = answer.body.encode()
    headers += [("Content-Type", answer.kind), ("Content-Length", str(len(body)))]
    start_response(f"{answer.status.value} {answer.status.phrase}", headers)
    return [b"" if method == "HEAD" else body]


def _page() -> Answer:
    answer = _status()
    # "<" could end the element that the figures stand in (HTML, 13.1.2.6); in JSON it is only found in strings.
    figures = answer.body.replace("<", "\\u003c")
    return Answer(answer.status, "text/html; charset=utf-8", _PAGE.replace("{{figures}}", figures))


def _status() -> Answer:
    try:
        view = asking.look()
    except ControlError as error:
        status, document = HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)}
    else:
        status, document = HTTPStatus.OK, asdict(view)
    return Answer(status, "application/json", json.dumps(document) + "\n")


def _metrics() -> Answer:
    try:
        return Answer(HTTPStatus.OK, metrics.CONTENT_TYPE, metrics.exposition(asking.look()))
    except ControlError as error:
        return _silent(error)


def _livez() -> Answer:
    try:
        asking.ping()
    except ControlError as error:
        return Answer(HTTPStatus.OK, _TEXT, f"alive\nthe daemon does not answer: {error}\n")
    return Answer(HTTPStatus.OK, _TEXT, "alive\nthe daemon answers\n")


def _readyz() -> Answer:
    try:
        problems = asking.look().problems
    except ControlError as error:
        return _silent(error)
    if problems:
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, "".join(f"{problem}\n" for problem in problems))
    return Answer(HTTPStatus.OK, _TEXT, "ready\n")


def _silent(error: ControlError) -> Answer:
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, f"the daemon does not answer: {error}\n")


_ROUTES: dict[str, Callable[[], Answer]] = {
    "/": _page,
    "/status.json": _status,
    "/metrics": _metrics,
    "/livez": _livez,
    "/readyz": _readyz,
}
