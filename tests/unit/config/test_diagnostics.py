"""Every kind of wrong configuration, with the exact message: the corpus in tests/errors."""

from __future__ import annotations

import re

import pytest

from procman.config import read
from procman.config.problems import Code
from procman.errors import ConfigurationError
from tests.errors.corpus import CASES, DIRECTORY, diagnose

LINE = re.compile(r"(?P<file>[^:]+\.toml)(:(?P<line>\d+):(?P<column>\d+))?: error\[(?P<code>P\d{3})\]: (?P<message>.+)")


@pytest.mark.parametrize("name", CASES)
def test_says_exactly_what_is_expected(name, monkeypatch):
    monkeypatch.chdir(DIRECTORY)
    assert diagnose(name) == (DIRECTORY / f"{name}.expected").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_says_it_in_the_form_of_a_compiler_and_in_the_order_of_the_file(name):
    lines = (DIRECTORY / f"{name}.expected").read_text(encoding="utf-8").splitlines()
    found = [LINE.fullmatch(line) for line in lines]
    assert lines
    assert all(found)
    places = [(int(match["line"] or 0), int(match["column"] or 0)) for match in found if match]
    assert places == sorted(places)


def test_every_code_of_the_index_has_a_case():
    said = "".join(path.read_text(encoding="utf-8") for path in DIRECTORY.glob("*.expected"))
    assert {code.code for code in Code} == set(re.findall(r"error\[(P\d{3})\]", said))


def test_codes_are_unique():
    assert len({code.code for code in Code}) == len(Code)


def test_every_expectation_has_its_case():
    assert {path.stem for path in DIRECTORY.glob("*.expected")} == set(CASES)


def test_the_example_of_the_design(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pool = '[pools.http]\nkind = "http"\napp = "shop:application"\nbind = "127.0.0.1:8069"\n'
    text = pool + "\n" * 8 + '[pools.http.limits]\nmemory_soft = "512 megs"\n'
    (tmp_path / "procman.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        read("procman.toml", {})
    assert str(caught.value) == (
        "procman.toml:14:15: error[P021]: pools.http.limits.memory_soft: "
        'expected a size such as "512MiB", got "512 megs"'
    )
