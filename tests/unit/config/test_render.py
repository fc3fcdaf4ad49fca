"""What ``--print-config`` prints reads back to the same; and no file, however wrong, breaks the reading."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest
import tomli
from hypothesis import HealthCheck, given, settings

from procman.config import read, render
from procman.errors import ConfigurationError
from tests.unit.config.documents import VALUES, any_documents, built_keys, right_documents

ENVIRON = {"A": "a", "XDG_RUNTIME_DIR": "/run/user/7"}


@pytest.fixture(scope="module")
def file():
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory) / "procman.toml"


def reading(file, text):
    file.write_text(text, encoding="utf-8")
    return read(str(file), ENVIRON)


def test_every_key_is_tried():
    assert {title: set(values) for title, values in VALUES.items()} == built_keys()


@given(text=right_documents())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_what_is_printed_reads_back_to_the_same(file, text):
    spec = reading(file, text)
    printed = render(spec)
    assert reading(file, printed) == spec
    assert render(reading(file, printed)) == printed


@given(text=any_documents())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_file_is_read_or_its_problems_are_told_with_their_places(file, text):
    tomli.loads(text)
    try:
        spec = reading(file, text)
    except ConfigurationError as error:
        lines = text.split("\n")
        for problem in str(error).split("\n"):
            match = re.match(rf"{re.escape(str(file))}:(\d+):(\d+): error\[P\d{{3}}\]: ", problem)
            assert match, problem
            line, column = int(match[1]), int(match[2])
            assert 1 <= line <= len(lines)
            assert 1 <= column <= len(lines[line - 1]) + 1
    else:
        assert reading(file, render(spec)) == spec


def test_it_is_complete_and_says_where_it_is_from(file):
    text = '[pools.http]\nkind = "http"\napp = "shop:application"\nbind = "127.0.0.1:0"\n'
    printed = render(reading(file, text))
    assert printed.startswith(f"# The effective configuration of {file}\n")
    pool = tomli.loads(printed)["pools"]["http"]
    assert pool["keepalive"] == "5s"
    assert pool["limits"]["memory_soft"] == "none"
    assert pool["backoff"]["factor"] == 2.0
    assert pool["working_dir"] == os.path.dirname(file)


def test_a_literal_expansion_stays_one(file):
    text = '[pools.sh]\nkind = "exec"\ncommand = ["sh", "-c", "echo $${HOME} $HOME"]\n'
    spec = reading(file, text)
    assert spec.pool("sh").work.command[2] == "echo ${HOME} $HOME"
    assert reading(file, render(spec)) == spec


def test_what_the_embedded_database_adds_is_not_printed(file):
    text = '[database]\nurl = "embedded"\n[pools.sh]\nkind = "exec"\ncommand = ["sh"]\ndepends_on = ["postgres"]\n'
    printed = tomli.loads(render(reading(file, text)))
    assert printed["database"]["url"] == "embedded"
    assert list(printed["pools"]) == ["sh"]
    assert printed["pools"]["sh"]["depends_on"] == []


def test_what_the_dashboard_adds_is_not_printed(file):
    text = '[procman]\ndashboard = "[::1]:8079"\n[pools.sh]\nkind = "exec"\ncommand = ["sh"]\n'
    printed = tomli.loads(render(reading(file, text)))
    assert printed["procman"]["dashboard"] == "[::1]:8079"
    assert list(printed["pools"]) == ["sh"]
    assert reading(file, render(reading(file, text))) == reading(file, text)


def test_a_pool_that_is_only_called_dashboard_is_printed(file):
    text = '[pools.dashboard]\nkind = "exec"\ncommand = ["sh"]\n'
    assert list(tomli.loads(render(reading(file, text)))["pools"]) == ["dashboard"]
