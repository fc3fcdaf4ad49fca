"""Children and their children, and signals to them and to nobody else."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from procman.observe import processes
from procman.unix import family
from tests.support.daemon import wait_until

GRANDPARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
child.wait()
sys.stdin.read()
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen(["sleep", "1000"])
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def grandparent():
    process = subprocess.Popen(
        [sys.executable, "-c", GRANDPARENT, PARENT, "x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.youngest = int(process.stdout.readline())
    yield process
    for pid in (*family.descendants(process.pid), process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def test_children_and_descendants(grandparent):
    (parent,) = family.children(grandparent.pid)
    assert family.children(parent) == [grandparent.youngest]
    assert family.descendants(grandparent.pid) == [parent, grandparent.youngest]
    assert family.descendants(grandparent.youngest) == []


def test_a_signal_to_a_descendant_only(grandparent):
    assert not family.signal_descendant(os.getpid(), signal.SIGKILL, of=grandparent.pid)
    assert not family.signal_descendant(grandparent.pid, signal.SIGKILL, of=grandparent.youngest)
    pidfd = os.pidfd_open(grandparent.youngest)
    assert family.signal_descendant(grandparent.youngest, signal.SIGTERM, of=grandparent.pid)
    ended = select.select([pidfd], [], [], 30)[0]
    os.close(pidfd)
    assert ended == [pidfd]
    assert not family.signal_descendant(2**22 - 1, signal.SIGTERM, of=grandparent.pid)


def test_what_is_gone_has_no_family():
    process = subprocess.Popen(["true"])
    process.wait()
    assert family.children(process.pid) == []
    with pytest.raises((FileNotFoundError, ProcessLookupError)):
        processes.usage(process.pid)


def test_what_a_process_uses(grandparent):
    # Between fork and exec it is another program, and for a moment none.
    wait_until(lambda: processes.identity(grandparent.youngest).command == "sleep", "the command to run")
    wait_until(lambda: processes.usage(grandparent.youngest).rss >= 4096, "its memory to be mapped")
    usage, identity = processes.usage(grandparent.youngest), processes.identity(grandparent.youngest)
    assert (identity.command, usage.nice) == ("sleep", os.nice(0))
    assert identity.user == processes.identity(os.getpid()).user
    assert 4096 <= usage.rss < usage.vms
    assert 0 <= usage.cpu_seconds < 5
    assert processes.usage(os.getpid()).started <= processes.usage(grandparent.pid).started <= usage.started
