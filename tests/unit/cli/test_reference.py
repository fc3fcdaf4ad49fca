"""docs/cli.md is what the commands say now."""

from __future__ import annotations

from pathlib import Path

import click

from procman.cli import reference
from procman.cli.procmanctl import main
from procman.control.commands import COMMANDS

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == reference.markdown(), "python -m procman.cli.reference > docs/cli.md"


def test_the_page_has_every_command():
    page = PAGE.read_text()
    for name, command in main.commands.items():
        words = [f"{name} {word}" for word in command.commands] if isinstance(command, click.Group) else [name]
        for word in words:
            assert f"### procmanctl {word}\n" in page
    for name in COMMANDS:
        assert f"### `{name}`\n" in page
    assert "## procmand\n" in page
