"""nginx in front of a real daemon, with kept connections to its workers, while releases come and go."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess

import pytest

from tests.support.daemon import PATIENCE, Procmand, wait_until
from tests.support.traffic import Traffic

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx on this machine (.ci/run installs it)")

APPLICATION = """
import json

VERSION = "one"

def application(environ, start_response):
    names = ("REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme", "HTTP_HOST", "HTTP_X_FORWARDED_FOR")
    seen = {name: environ.get(name) for name in names} | {"version": VERSION}
    seen["length"] = len(environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen).encode()]
"""

CONFIGURATION = """
[pools.http]
kind = "http"
app = "app:application"
bind = ["127.0.0.1:0", "unix:web.sock"]
workers = 2
keepalive = 5
trusted_proxies = ["127.0.0.1", "unix"]
proxy_headers = ["x-forwarded-for", "x-forwarded-proto"]
"""

# A request that fails is not tried again, or nothing would be seen of it.
NGINX_CONF = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr notice;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream workers {{ server {upstream}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://workers;
            proxy_http_version 1.1;
            proxy_next_upstream off;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto https;
        }}
    }}
}}
"""


class Nginx:
    """A proxy before ``upstream``."""

    def __init__(self, directory, upstream):
        self.directory = directory / "nginx"
        self.directory.mkdir()
        self.upstream = upstream
        self.port = 0
        self._process = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def __enter__(self):
        for _ in range(
            5
        ):  # nginx can't say which port it was given, and a free one may be somebody else's the next moment
            self._start()
            wait_until(lambda: self._process.poll() is not None or self._listens(), "nginx to listen")
            if self._process.poll() is None:
                return self
        raise AssertionError((self.directory / "log").read_text())

    def _start(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        conf = self.directory / "nginx.conf"
        conf.write_text(NGINX_CONF.format(directory=self.directory, upstream=self.upstream, port=self.port))
        command = [NGINX, "-p", str(self.directory), "-c", str(conf), "-e", "stderr"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def _listens(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(PATIENCE)


@pytest.mark.parametrize("unix", [False, True])
def test_reloads_behind_nginx_lose_nothing(short_path, unix):
    with Procmand(short_path, CONFIGURATION, modules={"app.py": APPLICATION}) as daemon:
        upstream = f"unix:{short_path}/web.sock" if unix else daemon.address()
        with Nginx(short_path, upstream) as nginx:
            with (
                Traffic(nginx.address, keep_alive=True) as keeping,
                Traffic(nginx.address, keep_alive=False) as closing,
            ):
                for version in ("two", "three", "four"):
                    keeping.wait_for(50)
                    (short_path / "app.py").write_text(APPLICATION.replace('"one"', f'"{version}"'))
                    run = daemon.procmanctl("reload", "http")
                    assert run.returncode == 0, run.stderr
                    closing.wait_for(50)
            assert keeping.lost == closing.lost == []
            answers = keeping.answers + closing.answers
            assert {status for status, _ in answers} == {200}
            seen = [json.loads(body) for _, body in answers]
            assert {one["version"] for one in seen} == {"one", "two", "three", "four"}
            assert {(one["REMOTE_ADDR"], one["wsgi.url_scheme"], one["HTTP_HOST"]) for one in seen} == {
                ("127.0.0.1", "https", nginx.address)
            }


def test_what_a_client_sends_through_nginx_deceives_nobody(short_path):
    with (
        Procmand(short_path, CONFIGURATION, modules={"app.py": APPLICATION}) as daemon,
        Nginx(short_path, daemon.address()) as nginx,
    ):
        spoofed = {
            "X-Forwarded-For": "6.6.6.6",
            "X-Forwarded-Host": "evil.example",
            "X-Forwarded-Port": "1",
            "Forwarded": "for=6.6.6.6;host=evil.example;proto=http",
        }
        client = http.client.HTTPConnection(nginx.address, timeout=PATIENCE)
        client.request("POST", "/", b"x" * 100_000, headers=spoofed)
        seen = json.loads(client.getresponse().read())
        client.close()
        assert (seen["HTTP_HOST"], seen["wsgi.url_scheme"], seen["length"]) == (nginx.address, "https", 100_000)
        # nginx has come from 127.0.0.1 as well, so that its word is taken one hop too far; from elsewhere it is not.
        assert seen["HTTP_X_FORWARDED_FOR"] == "6.6.6.6, 127.0.0.1"
