"""The application by itself: methods, paths, headers, and what it does when there is no daemon."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from wsgiref.validate import validator

import pytest

from procman.dashboard import application, asking

VIEW = asking.View(arbiter={"version": "1"}, pools={"</script><b>": {}}, problems=())


def ask(path="/", method="GET"):
    """(status, headers, body) of one call, which PEP 3333's own checker watches."""
    said = []
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8079",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": Nothing(),
        "wsgi.errors": Nothing(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    blocks = validator(application)(environ, lambda status, headers, exc_info=None: said.append((status, headers)))
    try:
        body = b"".join(blocks)
    finally:
        blocks.close()
    return int(said[0][0][:3]), dict(said[0][1]), body.decode()


class Nothing:
    def read(self, *size):
        return b""

    readline = readlines = __iter__ = write = writelines = flush = read


@pytest.fixture(autouse=True)
def no_daemon(monkeypatch):
    monkeypatch.delenv("PROCMAN_ENDPOINT", raising=False)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(method):
    for path in ("/", "/status.json", "/metrics", "/livez", "/readyz", "/nothing"):
        status, headers, _ = ask(path, method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "//", "/status", "/../etc/passwd"])
def test_there_is_nothing_else(path):
    assert ask(path)[0] == 404


@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics", "/readyz"])
def test_without_a_daemon_it_says_so(path):
    status, headers, body = ask(path)
    assert (status, headers["Retry-After"]) == (503, "2")
    assert "PROCMAN_ENDPOINT does not say where the daemon is" in body


def test_without_a_daemon_it_lives():
    status, _, body = ask("/livez")
    assert (status, body.splitlines()[0]) == (200, "alive")
    assert "the daemon does not answer: " in body


def test_head_is_get_without_a_body():
    for path in ("/", "/metrics", "/livez", "/nothing"):
        status, headers, body = ask(path)
        assert ask(path, "HEAD") == (status, headers, "")
        assert int(headers["Content-Length"]) == len(body.encode())


def test_the_policy_lets_in_what_is_in_the_page_and_nothing_else():
    _, headers, page = ask()
    assert headers["Cache-Control"] == "no-store"
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    for element in ("style", "script"):
        text = re.search(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{element}-src"] == f"'sha256-{digest}'"
    assert not re.search(r"(src|href)=.?(https?:)?//", page)
    assert " on" + "click=" not in page


def test_no_name_can_break_out_of_the_figures(monkeypatch):
    monkeypatch.setattr(asking, "look", lambda: VIEW)
    status, _, page = ask()
    figures = re.search(r'<script type="application/json" id="first">(.*?)</script>', page, re.DOTALL)[1]
    assert status == 200
    assert list(json.loads(figures)["pools"]) == ["</script><b>"]
