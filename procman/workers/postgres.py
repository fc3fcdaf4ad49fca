"""The embedded PostgreSQL as a worker: ``python -m procman.workers.postgres <channel-fd>``."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import TYPE_CHECKING

from procman.db.embedded import Cluster, Owner, binaries_for
from procman.errors import DatabaseSetupError
from procman.unix.privileges import (
    Account,
    account_of,
    become,
    can_execute,
    can_reach,
    die_with_parent,
    search_capability,
    service_account,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from procman.db.binaries import Binaries


def embedded_cluster(data_dir: str, socket_dir: str) -> Cluster:
    """The cluster in ``data_dir``, owned by an account that PostgreSQL accepts. Raises DatabaseSetupError."""
    binaries = binaries_for(data_dir)
    if os.geteuid() != 0:
        owner = Owner(os.getuid(), os.getgid(), partial(die_with_parent, signal.SIGKILL, os.getpid()))
    else:
        account = _account(data_dir)
        enter = _entrance(account, data_dir, socket_dir, binaries)
        owner = Owner(account.uid, account.gid, enter)
    return Cluster(data_dir, socket_dir, owner, binaries)


def _account(data_dir: str) -> Account:
    # Files that belong to an ordinary user already, who ran the daemon before root did, stay that user's.
    try:
        uid = os.stat(data_dir).st_uid
    except FileNotFoundError:
        uid = 0
    return account_of(uid) if uid != 0 else service_account()


def _entrance(account: Account, data_dir: str, socket_dir: str, binaries: Binaries) -> Callable[[], None]:
    programs = [binaries[name] for name in ("postgres", "initdb")]
    for program in programs:
        if not can_execute(account, program):
            raise DatabaseSetupError(
                f"the account {account}, which PostgreSQL is to run as, may not execute {program}: "
                f"run `chmod -R a+rX {os.path.dirname(binaries.directory)}`"
            )
    closed = [path for path in (data_dir, socket_dir, *programs) if not can_reach(account, path)]
    capabilities = (search_capability(),) if closed else ()
    parent = os.getpid()

    def enter() -> None:
        become(account, capabilities)
        die_with_parent(signal.SIGKILL, parent)

    return enter
