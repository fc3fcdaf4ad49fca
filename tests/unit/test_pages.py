"""The examples of the documentation are right configurations, and the keys it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from procman.cli.procmanctl import main
from procman.config import keyfiles, read
from procman.config.keys import TABLES

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = [
    (page.name, number, text)
    for page in sorted(DOCS.glob("*.md"))
    for number, text in enumerate(re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL))
]
KEYS = {key.name for table in TABLES for key in table.keys}


@pytest.mark.parametrize(("page", "number", "text"), EXAMPLES)
def test_every_example_is_a_right_configuration(short_path, page, number, text):
    daemon, *clients = (keyfiles.generate() for _ in range(3))
    keyfiles.write(str(short_path / "daemon.keys"), daemon)
    for client in clients:
        text = text.replace('key = "…"', f'key = "{client.public}"', 1)
    text = text.replace('"monitoring"', '"root"')
    if "[pools" not in text:
        text += '\n[pools.x]\nkind = "exec"\ncommand = ["true"]\n'
    if re.search(r'kind += "(cron|jobrunner)"|kind = "(cron|jobrunner)"', text) and "[database]" not in text:
        text += '\n[database]\nurl = "embedded"\n'
    if "jobrunner]" in text and 'kind = "http"' not in text:
        text += '\n[pools.http]\nkind = "http"\napp = "shop:application"\nbind = "127.0.0.1:0"\n'
    (short_path / "procman.toml").write_text(text)
    assert read(str(short_path / "procman.toml"), {}).pools


def test_every_key_that_a_setting_becomes_exists():
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", (DOCS / "migrating.md").read_text(), re.MULTILINE)
    assert len(rows) > 60
    named = {name for _, right in rows for name in re.findall(r"`([a-z_]+)`", right)}
    assert named - KEYS == {"procmanctl"}
    assert len(named) > 40


def test_every_command_that_is_named_exists():
    for name in ("runbooks.md", "migrating.md", "security.md"):
        page = (DOCS / name).read_text()
        for command in re.findall(r"(?:`|^|&& |\$ )(?:procmanctl|ctl) ([a-z]+)", page, re.MULTILINE):
            assert command in main.commands, (name, command)
