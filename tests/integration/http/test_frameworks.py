"""Real frameworks, unchanged, served by a real worker."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import urllib3

from tests.integration.http.framework_applications import FILE
from tests.integration.http.harness import PATIENCE, Service, service

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAMEWORKS = ["flask", "django", "falcon", "pyramid", "webob"]


class Site:
    """A client of one site, with its connections kept."""

    def __init__(self, web: Service, name: str) -> None:
        self.name = name
        self.web = web
        self.base = f"http://127.0.0.1:{web.address[1]}"
        self._pool = urllib3.PoolManager(retries=False, timeout=PATIENCE)

    def __call__(self, method: str, path: str, **more: object) -> urllib3.BaseHTTPResponse:
        return self._pool.request(method, self.base + path, redirect=False, **more)  # type: ignore[arg-type]

    def close(self) -> None:
        self._pool.clear()


@pytest.fixture(params=FRAMEWORKS)
def site(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Site]:
    pytest.importorskip(request.param)
    with service(short_path, f"framework_applications:{request.param}_application()") as web:
        web.start()
        made = Site(web, request.param)
        yield made
        made.close()


def test_the_site(site: Site) -> None:
    """All in one: starting a worker with a framework is what takes the time."""
    home = site("GET", "/")
    assert (home.status, home.data.decode()) == (200, "home é")
    if site.name != "falcon":  # whose resources have no HEAD of their own
        assert site("HEAD", "/").headers["Content-Length"] == str(len(home.data))

    assert site("POST", "/json", json={"a": ["é", 1]}).json() == {"got": {"a": ["é", 1]}}
    chunked = site(
        "POST", "/json", body=(part for part in (b'{"a"', b": 1}")), headers={"Content-Type": "application/json"}
    )
    assert chunked.json() == {"got": {"a": 1}}

    form = site("POST", "/form", fields={"name": "é", "file": ("f.bin", b"x" * 700_000)})
    assert form.json() == {"name": "é", "file": "f.bin", "size": 700_000}

    cookies = site("GET", "/cookies", headers={"Cookie": "x=1; y=2"})
    assert cookies.json() == {"x": "1", "y": "2"}
    assert len(cookies.headers.getlist("Set-Cookie")) == 2

    redirect = site("GET", "/go")
    assert (redirect.status, redirect.headers["Location"]) == (302, site.base + "/")

    assert site("GET", "/stream").data == b"".join(b"%d\n" % number for number in range(1000))

    content = Path(FILE).read_bytes()
    download = site("GET", "/download")
    assert (download.status, download.data) == (200, content)
    if site.name != "falcon":
        assert site("HEAD", "/download").headers["Content-Length"] == str(len(content))
    if site.name in ("flask", "pyramid", "webob"):
        part = site("GET", "/download", headers={"Range": "bytes=10-19"})
        assert (part.status, part.data) == (206, content[10:20])
    if modified := download.headers.get("Last-Modified"):
        unchanged = site("GET", "/download", headers={"If-Modified-Since": modified})
        assert (unchanged.status, unchanged.data) == (304, b"")

    error = site("GET", "/error")
    assert error.status == 500
    assert "LookupError: on purpose" in site.web.workers[0].log.read_text()

    where = site("GET", "/where?a=b", headers={"Host": "shop.example:81", "X-Forwarded-Proto": "https"}).json()
    assert where == {"url": "http://shop.example:81/where?a=b", "client": "127.0.0.1"}  # whatever a client says
    assert site("GET", "/").status == 200


@pytest.mark.parametrize("name", ["flask_application", "django_application", "proxy_fix"])
def test_behind_a_proxy_they_know_their_address(short_path: Path, name: str) -> None:
    # Django and ProxyFix look at the headers themselves, and Flask at the environ: they agree.
    with service(short_path, f"framework_applications:{name}()", trusted_proxies=("127.0.0.1",)) as web:
        web.start()
        told = {"X_Forwarded_For": "6.6.6.6, 1.2.3.4", "X_Forwarded_Proto": "https", "X_Forwarded_Host": "shop.example"}
        where = json.loads(web.get("/where", **told).body)
        assert where == {"url": "https://shop.example/where", "client": "1.2.3.4"}


def test_werkzeug_s_debugger(short_path: Path) -> None:
    with service(short_path, "framework_applications:werkzeug_debugger()") as web:
        web.start()
        site = Site(web, "werkzeug")
        page = site("GET", "/error").data.decode()
        assert "LookupError: on purpose" in page
        secret, frame = re.search(r'SECRET = "(\w+)"', page), re.search(r'id="frame-(\d+)"', page)
        assert secret is not None
        assert frame is not None
        # Its console runs where the exception was raised.
        fields = {"__debugger__": "yes", "cmd": "6 * 7", "frm": frame[1], "s": secret[1]}
        assert "42" in site("GET", "/console", fields=fields).data.decode()
        assert site("GET", "/").data.decode() == "home é"
        site.close()
