"""contrib/systemd/procman.service is one that systemd understands and that says what the daemon relies on."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[3] / "contrib" / "systemd" / "procman.service"


@pytest.fixture(scope="module")
def service():
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read(UNIT)
    return parser["Service"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("KillMode", "mixed"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "78"),
        ("OOMPolicy", "continue"),
        ("StateDirectoryMode", "0700"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
    ],
)
def test_what_the_daemon_relies_on(service, key, value):
    assert service[key] == value


def test_it_reloads_by_a_command_that_waits(service):
    assert service["ExecReload"].split()[1:] == ["-c", "/etc/procman/procman.toml", "reload"]
    assert service["ExecReload"].split()[0].endswith("/procmanctl")
    assert service["ExecStart"].split()[1:] == ["-c", "/etc/procman/procman.toml"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here to ask")
def test_systemd_understands_every_line(tmp_path):
    # The two programs must exist for systemd-analyze; any executable will do.
    text = UNIT.read_text()
    for program in ("procmand", "procmanctl"):
        text = text.replace(f"/opt/procman/bin/{program}", sys.executable)
    copy = tmp_path / "procman.service"
    copy.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.returncode == 0
