"""The manual pages are what the commands and the tables of keys say now, and groff has nothing to complain of."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from procman.cli import manual
from procman.cli.procmanctl import main
from procman.config.keys import TABLES
from procman.config.problems import Code

DIRECTORY = Path(__file__).parents[3] / "docs" / "man"
PAGES = manual.pages()


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_up_to_date(name):
    assert (DIRECTORY / name).read_text() == PAGES[name], "python -m procman.cli.manual docs/man"


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed here")
@pytest.mark.parametrize("name", PAGES)
def test_it_is_shown_without_warnings(name):
    command = ["groff", "-man", "-ww", "-Tutf8", "-P-cbou"]
    shown = subprocess.run(command, input=PAGES[name], capture_output=True, text=True, check=True)
    assert shown.stderr == ""
    assert "NAME" in shown.stdout


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed here")
def test_everything_is_in_them_as_it_is_written():
    def shown(name):
        command = ["groff", "-man", "-Tutf8", "-P-cbou", "-rLL=2000n"]
        done = subprocess.run(command, input=PAGES[name], capture_output=True, text=True, check=True)
        return " ".join(done.stdout.split())

    control, configuration = shown("procmanctl.1"), shown("procman.toml.5")
    for command in main.commands:
        assert command in control
    assert "events [OPTIONS]" not in control
    assert "--follow" in control
    assert "scale POOL N|+N|-N" in control
    for table in TABLES:
        assert f"[{table.title}]" in configuration
        for key in table.keys:
            assert key.name in configuration
    for code in Code:
        assert code.code in configuration
    assert '"${NAME:-default}"' in configuration


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        (".nothing", "\\&.nothing"),
        ("'nothing", "\\(aqnothing"),
        ("a-b \\n `c`", "a\\-b \\en \\fBc\\fR"),
        ("[words](file.md)", "words"),
        ("e…", "e\\[u2026]"),
    ],
)
def test_text_means_itself(text, roff):
    assert manual._text(text) == roff
