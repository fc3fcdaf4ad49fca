"""Accounts and what they may do: `procman.unix.privileges`, which the embedded server needs most."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from procman.errors import ConfigurationError
from procman.unix.privileges import Account, account_of, can_execute, can_reach, drop_to, service_account

STRANGER = Account("", 54321, 54321)

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: changes accounts")


def test_every_directory_above_counts(short_path):
    short_path.chmod(0o755)
    inner = short_path / "inner"
    inner.mkdir(mode=0o711)
    (inner / "file").touch()
    assert can_reach(STRANGER, str(inner / "file"))
    inner.chmod(0o700)
    assert not can_reach(STRANGER, str(inner / "file"))
    assert can_reach(STRANGER, str(inner))
    assert can_reach(account_of(os.getuid()), str(inner / "file"))


def test_links_are_followed(short_path):
    short_path.chmod(0o755)
    closed = short_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").touch()
    (short_path / "link").symlink_to(closed / "file")
    assert not can_reach(STRANGER, str(short_path / "link"))


def test_a_group_counts_before_the_others(tmp_path):
    program = tmp_path / "program"
    program.touch()
    mine = Account("", 54321, program.stat().st_gid)
    program.chmod(0o701)
    assert not can_execute(mine, str(program))  # as the kernel has it: the group's bits decide for its members
    assert can_execute(STRANGER, str(program))
    program.chmod(0o710)
    assert can_execute(mine, str(program))
    assert not can_execute(STRANGER, str(program))


def test_unknown_names():
    with pytest.raises(ConfigurationError, match="user 'no-such-user' does not exist"):
        drop_to("no-such-user")
    with pytest.raises(ConfigurationError, match="group 'no-such-group' does not exist"):
        drop_to(None, "no-such-group")


def test_nothing_to_do():
    before = os.getresuid(), os.getresgid()
    drop_to(None)
    assert (os.getresuid(), os.getresgid()) == before


@root_only
def test_the_service_account_is_not_root():
    assert service_account().uid != 0


def after(statements):
    code = f"import os\nfrom procman.unix.privileges import *\n{statements}\n"
    code += "print(os.getresuid(), os.getresgid(), os.getgroups())\n"
    code += "print([line.split()[1] for line in open('/proc/self/status') if line.startswith(('CapEff', 'CapPrm'))])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()


@root_only
def test_dropped_for_good():
    ids, capabilities = after("drop_to('nobody')")
    nobody = account_of(65534)
    assert ids.startswith(f"({nobody.uid}, {nobody.uid}, {nobody.uid}) ({nobody.gid}, {nobody.gid}, {nobody.gid})")
    assert capabilities == "['0000000000000000', '0000000000000000']"


@root_only
def test_a_group_of_its_own_and_numbers():
    ids, _ = after("drop_to('12345', '23456')")
    assert ids == "(12345, 12345, 12345) (23456, 23456, 23456) [23456]"


@root_only
def test_one_capability_is_kept():
    _, capabilities = after("become(account_of(65534), (CAP_DAC_READ_SEARCH,))")
    assert capabilities == "['0000000000000004', '0000000000000004']"


@root_only
def test_who_is_not_root_can_not_change():
    with pytest.raises(subprocess.CalledProcessError) as caught:
        after("drop_to('nobody'); drop_to('daemon')")
    assert "only a daemon started by root can change accounts" in caught.value.stderr
