"""The embedded PostgreSQL as a worker: ``python -m procman.workers.postgres <channel-fd>``.

This process becomes the postmaster itself, so that the pid in ``stats`` is PostgreSQL's and a signal to the
worker is a signal to PostgreSQL. What procman needs beside it is done by a *companion*, a small process that
was forked before: it tells the arbiter when the server accepts connections or why it does not, and puts the
server's messages into procman's log.

Who stops it: the arbiter, with SIGINT (fast shutdown). If the arbiter dies, the kernel sends SIGTERM (smart
shutdown: workers finish the units they are in, and go); that holds even if the companion is dead too, which is
why it is not left to the companion. A foreign session could keep a smart shutdown waiting for ever, so after a
while the companion asks for the fast one; and a daemon that is started again meanwhile does so at once
(`procman.db.occupancy`).
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from procman.core.lifecycle import Failed
from procman.core.spec import PostgresWork
from procman.db.embedded import Cluster, Owner, binaries_for
from procman.errors import ChannelClosed, DatabaseSetupError
from procman.observe import logs
from procman.observe.scoreboard import Scoreboard
from procman.unix.privileges import account_of, become, can_execute, can_reach, search_capability, service_account
from procman.unix.process import die_with_parent
from procman.workers.boot import BOOT_FAILED, receive_boot
from procman.workers.companion import Companion

if TYPE_CHECKING:
    from procman.core.lifecycle import Boot
    from procman.db.binaries import Binaries
    from procman.db.occupancy import Occupancy
    from procman.unix.channel import Channel
    from procman.unix.privileges import Account


def embedded_cluster(data_dir: str, socket_dir: str, binaries: Binaries | None = None) -> Cluster:
    """The cluster in ``data_dir``, owned by an account that PostgreSQL accepts. Raises DatabaseSetupError."""
    binaries = binaries or binaries_for(data_dir)
    if os.geteuid() != 0:
        return Cluster(data_dir, socket_dir, Owner(os.getuid(), os.getgid()), binaries)
    account = _account(data_dir)
    capabilities = _capabilities(account, (data_dir, socket_dir), binaries)
    return Cluster(
        data_dir, socket_dir, Owner(account.uid, account.gid, partial(become, account, capabilities)), binaries
    )


def _account(data_dir: str) -> Account:
    # Files that belong to an ordinary user already, who ran the daemon before root did, stay that user's.
    try:
        uid = os.stat(data_dir).st_uid
    except FileNotFoundError:
        uid = 0
    return account_of(uid) if uid != 0 else service_account()


def _capabilities(account: Account, directories: tuple[str, ...], binaries: Binaries) -> tuple[int, ...]:
    programs = [binaries[name] for name in ("postgres", "initdb")]
    for program in programs:
        if not can_execute(account, program):
            raise DatabaseSetupError(
                f"the account {account}, which PostgreSQL is to run as, may not execute {program}: "
                f"run `chmod -R a+rX {os.path.dirname(binaries.directory)}`"
            )
    if all(can_reach(account, path) for path in (*directories, *programs)):
        return ()
    return (search_capability(),)


def main(channel_fd: int) -> NoReturn:
    """Be the worker: prepare the cluster, fork the companion, become the postmaster."""
    parent = os.getppid()
    # Before there is a server there is nothing to shut down: the arbiter's SIGINT just ends this process.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    boot, channel, fds = receive_boot(channel_fd)
    work = boot.pool.work
    if not isinstance(work, PostgresWork):
        raise TypeError(f"pool {boot.pool.name} is not of the kind postgres")
    _settle(boot, fds)
    try:
        cluster = embedded_cluster(work.data_dir, work.socket_dir)
        # initdb must not outlive this process: what it leaves half made is swept up by the next one.
        occupancy = cluster.prepare(partial(die_with_parent, signal.SIGKILL, os.getpid()))
    except DatabaseSetupError as error:
        _fail(channel, str(error))
    log_reader, log_writer = os.pipe()
    companion = Companion(cluster, work.database, channel, log_fd=log_reader, pidfd=os.pidfd_open(os.getpid()))
    _fork_companion(companion, (log_writer, occupancy.fd))
    _become_postmaster(cluster, occupancy, log_writer, parent)


def _settle(boot: Boot, fds: list[int]) -> None:
    # A session of its own: Ctrl-C in the daemon's terminal is for the arbiter, which stops PostgreSQL last.
    os.setsid()
    if boot.seat is None:
        raise ValueError("PostgreSQL needs a seat")
    logs.configure(boot.log_format, pool=boot.pool.name, worker=boot.seat.name)
    Scoreboard(fds[0]).writer(boot.seat.record).claim(os.getpid())


def _fork_companion(companion: Companion, not_for_it: tuple[int, ...]) -> None:
    # Forked twice, so that it becomes a child of the arbiter: a postmaster takes a child it does not know, and
    # that dies of a signal, for a crashed backend, and restarts every session.
    between = os.fork()
    if between == 0:
        if os.fork() != 0:
            os._exit(0)
        for fd in not_for_it:
            os.close(fd)
        companion.run()
    os.waitpid(between, 0)


def _become_postmaster(cluster: Cluster, occupancy: Occupancy, log_writer: int, parent: int) -> NoReturn:
    command = cluster.command()
    os.dup2(log_writer, 1)
    os.dup2(log_writer, 2)
    os.set_inheritable(occupancy.fd, True)
    if occupancy.fd > 3:
        os.closerange(3, occupancy.fd)
    os.closerange(occupancy.fd + 1, os.sysconf("SC_OPEN_MAX"))
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        if cluster.owner.enter is not None:
            cluster.owner.enter()
        os.chdir("/")
        # After the change of account, which would clear it.
        die_with_parent(signal.SIGTERM, parent)
        os.execve(command[0], command, cluster.environment())
    except OSError as error:
        os.write(2, f"[{os.getpid()}] FATAL:  cannot become PostgreSQL: {error}\n".encode())
        os._exit(BOOT_FAILED)


def _fail(channel: Channel, text: str) -> NoReturn:
    try:
        channel.send(Failed(traceback=text))
    except ChannelClosed:
        pass  # nobody is left to be told
    sys.exit(BOOT_FAILED)


if __name__ == "__main__":
    main(int(sys.argv[1]))
