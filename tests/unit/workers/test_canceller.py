"""The thread that cancels queries takes no signal but its own."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, signal
from procman.unix.process import CANCEL
from procman.workers.canceller import Canceller

def blocked(task):
    with open(f"/proc/self/task/{task}/status") as file:
        mask = int(next(line for line in file if line.startswith("SigBlk")).split()[1], 16)
    return {number for number in range(1, 65) if mask >> number - 1 & 1}

Canceller(lambda: False).start()
(thread,) = set(os.listdir("/proc/self/task")) - {str(os.getpid())}
assert blocked(os.getpid()) == {CANCEL}, blocked(os.getpid())
while CANCEL in blocked(thread):
    pass  # it only starts
# sigwait(3) has its own signal unblocked while it waits; glibc keeps 32 and 33 to itself, KILL and STOP nobody blocks.
print(sorted(set(signal.valid_signals()) - blocked(thread) - {CANCEL, signal.SIGKILL, signal.SIGSTOP}))
"""


def test_what_interrupts_the_unit_is_never_given_to_the_thread_beside_it():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
