"""What ``--check`` tries. What it finds wrong is in the corpus; here is what it must let pass."""

from __future__ import annotations

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec

import pytest

from procman.config import check, read
from procman.config.trial import missing_module

TEXT = """
[database]
url = "embedded"

[pools.http]
kind = "http"
app = "shop.wsgi:application"
bind = ["unix:http.sock", "unix:var/http.sock"]

[pools.cron]
kind = "cron"
app = ["shop", "shop.tasks", "json", "sys"]
env = { PYTHONPATH = "/nowhere" }

[pools.push]
kind = "gevent-longpolling"
bind = "127.0.0.1:8072"

[pools.tool]
kind = "exec"
command = ["./tool"]
user = "root"

[pools.sh]
kind = "exec"
command = ["sh"]
nice = 19
"""


@pytest.fixture
def shop(short_path):
    package = short_path / "shop"
    package.mkdir()
    for name in ("__init__", "wsgi", "tasks"):
        (package / f"{name}.py").write_text("raise RuntimeError('imported')\n")
    (short_path / "tool").write_text("#!/bin/sh\n")
    (short_path / "tool").chmod(0o755)
    (short_path / "procman.toml").write_text(TEXT)
    return short_path


def test_what_is_right_passes_and_nothing_is_imported(shop):
    file, environ = str(shop / "procman.toml"), {"PATH": os.environ["PATH"]}
    assert check(file, environ, uid=0) == read(file, environ)
    assert "shop" not in sys.modules
    assert not (shop / "var").exists()


def test_only_root_may_change_the_user(shop):
    (shop / "procman.toml").write_text(TEXT.replace('user = "root"', ""))
    assert check(str(shop / "procman.toml"), {"PATH": os.environ["PATH"]}, uid=65534)


@pytest.mark.parametrize(
    ("module", "missing"),
    [
        ("json", None),
        ("json.decoder", None),
        ("sys", None),
        ("procman.config.trial", None),
        ("json.nothing", "json.nothing"),
        ("json.decoder.nothing", "json.decoder.nothing"),
        ("nothing_of_that_name.at_all", "nothing_of_that_name"),
    ],
)
def test_modules(module, missing):
    assert missing_module(module, sys.path) == missing


def test_packages_that_only_a_finder_of_their_own_knows(shop, monkeypatch):
    class Finder(MetaPathFinder):
        def find_spec(self, fullname, path, target=None):
            if fullname != "elsewhere":
                return None
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [str(shop / "shop")]
            return spec

    assert missing_module("elsewhere.tasks", []) == "elsewhere"
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert missing_module("elsewhere.tasks", []) is None
    assert missing_module("elsewhere.nothing", []) == "elsewhere.nothing"
