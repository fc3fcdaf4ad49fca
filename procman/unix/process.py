"""Processes: starting, watching and ending them, by descriptor and never by number alone.

A pidfd (pidfd_open(2)) names one process for good, so that a signal can't hit a stranger who got its number,
and becomes readable when the process ends.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

MOST_DESCRIPTORS = 65536
# Asks a worker to end the unit it is in. A real-time signal, because applications use ALRM, USR1 and USR2.
INTERRUPT = signal.SIGRTMIN + 1
# Sent with it: cancels what the unit waits for in PostgreSQL.
CANCEL = signal.SIGRTMIN + 2

CHANNEL_FD = 3  # where an executed child finds its channel

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, argument: int) -> None:
    """prctl(2); raises OSError."""
    if _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), f"prctl({option})")


def become_subreaper() -> None:
    """Have orphaned descendants become children of this process (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(signum: int, parent: int) -> None:
    """Get ``signum`` when the parent dies; at once if it is not ``parent`` any more (the setting came too late)."""
    prctl(PR_SET_PDEATHSIG, signum)
    if os.getppid() != parent:
        os.kill(os.getpid(), signum)


def await_adoption(between: int) -> None:
    """Wait until the process ``between``, which has forked this one, has ended and this one has its lasting parent.

    The kernel says so: it sends the signal of PR_SET_PDEATHSIG when the parent has been replaced already. SIGURG means
    nothing to a process that does not expect it, so that one which comes after we have stopped waiting is lost.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGURG,))
    prctl(PR_SET_PDEATHSIG, signal.SIGURG)
    while os.getppid() == between:
        signal.sigwait((signal.SIGURG,))
    prctl(PR_SET_PDEATHSIG, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGURG,))


def has_terminal() -> bool:
    """Whether the process has a controlling terminal, which sends signals of its own (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def spawn(module: str, channel: int, *, env: Mapping[str, str]) -> int:
    """Execute ``python -m module`` with the channel as descriptor 3 and no input; its pid. Raises OSError."""
    # -P: what is importable is the pool's business (working_dir), not the arbiter's current directory.
    command = [sys.executable, "-P", "-m", module, str(CHANNEL_FD)]
    return execute(command, env=env, descriptors={CHANNEL_FD: channel})


def spawn_bare(module: str, channel: int, *, env: Mapping[str, str]) -> int:
    """The same with nothing but the standard library and this package: no installed package is looked for.

    That halves the time and the memory that an interpreter takes.
    """
    home = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    code = f"import sys; sys.path.append({home!r}); from {module} import main; main({CHANNEL_FD})"
    return execute([sys.executable, "-P", "-S", "-c", code], env=env, descriptors={CHANNEL_FD: channel})


def execute(command: Sequence[str], *, env: Mapping[str, str], descriptors: Mapping[int, int]) -> int:
    """Execute a command with no input and these descriptors (its number: ours); its pid. Raises OSError.

    posix_spawn(3) does not copy the arbiter's page tables, and needs no Python between fork and exec.
    """
    return os.posix_spawn(
        command[0],
        list(command),
        dict(env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            *((os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in descriptors.items()),
        ],
        setsigmask=(),
        # Ignored signals survive exec; Python ignores PIPE and XFSZ, and whoever started us may have ignored more.
        setsigdef=[signum for signum in signal.valid_signals() if signum not in (signal.SIGKILL, signal.SIGSTOP)],
    )


def open_pidfd(pid: int) -> int:
    """A pidfd for a child that was just started and is not reaped; raises OSError, and then the child is killed."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        raise


def exit_status(pidfd: int | None, pid: int | None) -> int | None:
    """Reap the process if it is our ended child: its status, -N for signal N. None: not (yet) ours to reap.

    A worker that was forked through an intermediate process is not our child before that one has gone, which
    may be a moment after the pidfd says that the worker has ended: waitid(2) fails with ECHILD until then.
    ``pid`` is for a process that no pidfd could be had for.
    """
    if pidfd is None and pid is None:
        return None
    kind, which = (os.P_PIDFD, pidfd) if pidfd is not None else (os.P_PID, pid)
    try:
        result = os.waitid(kind, which or 0, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def next_ended_child() -> int | None:
    """The pid of some ended child, which is left unreaped; None when there is none."""
    try:
        result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return result.si_pid if result else None


def reap(pid: int) -> None:
    """Reap an ended child that nobody asks about."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass  # somebody else's by now


def keep_descriptors() -> None:
    """Let no child inherit what whoever started us has left open; what a child is to get it is sent."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2:
                os.set_inheritable(int(name), False)
        except OSError:
            pass  # the one by which the directory was read


def use_all_descriptors() -> int:
    """Raise our limit of open descriptors as far as we may; what it was, for `limit_descriptors` in children.

    One process needs three. The customary soft limit of 1024 is for programs that use select(2), which we do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, MOST_DESCRIPTORS)), hard))
    return soft


def limit_descriptors(soft: int) -> None:
    """Have the soft limit of open descriptors that the daemon was started with."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard), hard))


def send_signal(pidfd: int, signum: int) -> bool:
    """Send a signal; False when the process has ended, or has become one that we may not send signals to."""
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except (ProcessLookupError, PermissionError):  # the latter: a command with the set-user-ID bit, kill(2)
        return False
    return True


def kill_session(leader: int) -> None:
    """SIGKILL to the process group that an executed command leads, whatever of it is left.

    Only while the leader is not reaped is it certain that the number is still that of its group.
    """
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nobody is left, or none of it is ours any more


def make_room(descriptors: int) -> None:
    """Let this process have so many descriptors open, or as many as its hard limit allows; never fewer than before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = descriptors if hard == resource.RLIM_INFINITY else min(descriptors, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
