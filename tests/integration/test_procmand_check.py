"""``procmand --check``, ``--print-config``, ``--version`` and what happens to a wrong file, as a person sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from procman.version import __version__

ROOT = Path(__file__).parents[2]
POOL = '[pools.sh]\nkind = "exec"\ncommand = ["sh"]\n'
WRONG = '[procman]\nlog_format = "jsno"\n[pools.sh]\nkind = "exec"\ncommand = ["sh"]\nworkres = 2\n'
COMPLAINT = (
    'procman.toml:2:14: error[P025]: procman.log_format: expected one of "text" or "json", got "jsno"; '
    'did you mean "json"?\n'
    'procman.toml:6:1: error[P010]: pools.sh.workres: unknown key; did you mean "workers"?\n'
)


@pytest.fixture
def procmand(tmp_path):
    def run(*arguments, text=None, **environ):
        if text is not None:
            (tmp_path / "procman.toml").write_text(text)
        environ = {"PATH": os.environ["PATH"], **environ}
        command = [sys.executable, "-c", "from procman.cli.procmand import main; main()", *arguments]
        environ["PYTHONPATH"] = str(ROOT)
        return subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_a_right_file(procmand, tmp_path):
    result = procmand("-c", "procman.toml", "--check", text=POOL)
    assert (result.returncode, result.stdout, result.stderr) == (0, "procman.toml: ok (1 pool)\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["procman.toml"]


def test_the_embedded_database_is_a_pool(procmand):
    result = procmand("--check", text='[database]\nurl = "embedded"\n' + POOL)
    assert result.stdout == "procman.toml: ok (2 pools)\n"


@pytest.mark.parametrize("arguments", [(), ("--check",), ("--print-config",), ("-c", "procman.toml", "--check")])
def test_a_wrong_file(procmand, arguments):
    result = procmand(*arguments, text=WRONG)
    assert (result.returncode, result.stdout, result.stderr) == (78, "", COMPLAINT)


def test_no_file(procmand):
    result = procmand("-c", "other.toml")
    complaint = "other.toml: error[P001]: can't read the configuration: No such file or directory\n"
    assert (result.returncode, result.stderr) == (78, complaint)


def test_the_file_of_the_environment(procmand, tmp_path):
    (tmp_path / "other.toml").write_text(POOL)
    result = procmand("--check", text=WRONG, PROCMAN_CONFIG="other.toml")
    assert result.stdout == "other.toml: ok (1 pool)\n"


def test_what_is_tried_beyond_reading(procmand):
    result = procmand("--check", text=POOL.replace('"sh"', '"no-such-program"'), PATH="/nowhere")
    complaint = (
        "procman.toml:3:12: error[P051]: pools.sh.command[0]: "
        "there is no program no-such-program on PATH (/nowhere) that can be executed\n"
    )
    assert (result.returncode, result.stderr) == (78, complaint)


def test_the_effective_configuration_is_a_configuration(procmand, tmp_path):
    first = procmand("--print-config", text='[database]\nurl = "embedded"\n' + POOL)
    assert (first.returncode, first.stderr) == (0, "")
    assert "restart_window" in first.stdout
    (tmp_path / "procman.toml").write_text(first.stdout)
    second = procmand("-c", "procman.toml", "--print-config")
    assert second.stdout == first.stdout


def test_the_version(procmand):
    assert procmand("--version").stdout == f"procmand {__version__}\n"


def test_a_wrong_option(procmand):
    assert procmand("--chekc").returncode == 2


def test_the_example_of_the_repository(procmand):
    result = procmand("-c", str(ROOT / "procman.toml"), "--check")
    assert (result.stdout, result.stderr) == (f"{ROOT}/procman.toml: ok (6 pools)\n", "")
