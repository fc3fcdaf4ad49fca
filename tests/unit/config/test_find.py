"""Which file."""

from __future__ import annotations

import os

import pytest

from procman.config import find
from procman.config.files import PLACES
from procman.errors import ConfigurationError


def test_the_file_asked_for_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "procman.toml").touch()
    assert find("given.toml", {"PROCMAN_CONFIG": "variable.toml"}) == "given.toml"
    assert find(None, {"PROCMAN_CONFIG": "variable.toml"}) == "variable.toml"
    assert find(None, {"PROCMAN_CONFIG": ""}) == "procman.toml"


@pytest.mark.skipif(os.path.exists(PLACES[-1]), reason="this machine has a configuration of its own")
def test_none_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"^no configuration: expected -c FILE, \$PROCMAN_CONFIG, "):
        find(None, {})
