"""Invalidating from the command line."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

import procman
from tests.support.daemon import program


@pytest.fixture
def price(configured):
    @procman.cached("prices")
    def price():
        with procman.cursor() as cr:
            cr.execute("SELECT price FROM item WHERE id = 1")
            return cr.fetchone()[0]

    return price


def procmanctl(directory, *arguments, **environ):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PROCMAN")}
    return subprocess.run(
        [program("procmanctl"), *arguments],
        cwd=directory,
        env=clean | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_it_names_is_computed_anew(price, prices_url, truth, tmp_path):
    assert price() == 0
    truth("UPDATE item SET price = 5 WHERE id = 1")
    assert price() == 0
    done = procmanctl(tmp_path, "invalidate", "prices", "other", PROCMAN_DATABASE_URL=prices_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("invalidated in database t_")
    assert done.stdout.endswith(": prices, other\n")
    assert price() == 5


def test_with_a_configuration(price, prices_url, tmp_path):
    (tmp_path / "procman.toml").write_text(
        f'[database]\nurl = "{prices_url}"\n[pools.x]\nkind = "exec"\ncommand = ["true"]\n'
    )
    done = procmanctl(tmp_path, "invalidate", "prices", "--json")
    assert json.loads(done.stdout)["groups"] == ["prices"]


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "says"),
    [
        (["prices"], {}, 78, "no database is named"),
        ([], {"PROCMAN_DATABASE_URL": "postgresql:///x"}, 2, "Missing argument"),
        (["it's"], {"PROCMAN_DATABASE_URL": "postgresql:///x"}, 2, "is no group"),
        (["prices"], {"PROCMAN_DATABASE_URL": "postgresql:///x?host=/nonexistent"}, 1, "can't be reached"),
        (["prices", "--database", "y"], {"PROCMAN_DATABASE_URL": "postgresql:///x"}, 1, "not among the configured"),
    ],
)
def test_what_goes_wrong(tmp_path, arguments, environ, code, says):
    done = procmanctl(tmp_path, "invalidate", *arguments, **environ)
    assert done.returncode == code, done.stderr
    assert says in done.stderr


def test_a_configuration_without_a_database(tmp_path):
    (tmp_path / "procman.toml").write_text('[pools.x]\nkind = "exec"\ncommand = ["true"]\n')
    done = procmanctl(tmp_path, "invalidate", "prices")
    assert (done.returncode, done.stderr) == (78, "procmanctl: procman.toml: there is no [database]\n")
