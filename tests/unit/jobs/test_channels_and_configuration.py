"""`procman.toml` is checked before anything runs, by code that knows only the notation: it must agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from procman.config import read
from procman.errors import ConfigurationError
from procman.jobs.channels import ChannelError, parse

CASES = json.loads(Path(__file__).with_name("channel_cases.json").read_text())
TEXTS = sorted({case["input"] for kind in ("parse", "tree") for case in CASES[kind] if case["input"].strip(" ,\n")})


def accepted_by_runner(text):
    try:
        parse(text)
    except ChannelError:
        return False
    return True


def accepted_by_configuration(text, directory):
    path = directory / "procman.toml"
    path.write_text(
        '[database]\nurl = "postgresql:///x"\n[pools.jobs]\nkind = "jobrunner"\nurl = "http://localhost:1"\n'
        f"channels = {json.dumps(text)}\n"
    )
    try:
        read(str(path), {})
    except ConfigurationError as error:
        return "channels" not in str(error)
    return True


@pytest.mark.parametrize("text", TEXTS)
def test_both_accept_the_same(text, tmp_path):
    assert accepted_by_runner(text) == accepted_by_configuration(text, tmp_path)
