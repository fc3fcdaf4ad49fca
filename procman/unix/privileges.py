"""Which account a process runs as, and what it may still do there: setuid(2), capabilities(7), prctl(2).

Two users of this module: a pool with ``user`` drops to it for good (`drop_to`), and the embedded PostgreSQL,
which refuses to run as root, becomes an unprivileged account that may keep the one capability it needs to
reach its own files below a directory that the account cannot enter, such as /root (`become`).
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import stat
from typing import TYPE_CHECKING, NamedTuple

from procman.errors import ConfigurationError, DatabaseSetupError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2

_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_SECBIT_KEEP_CAPS = 1 << 4
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

# Accounts that exist on most machines and own nothing of value, best first.
_SERVICE_ACCOUNTS = ("procman", "postgres", "nobody")

# Loaded here and not where it is used: between fork and exec there should be no dlopen(3).
_libc = ctypes.CDLL(None, use_errno=True)


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


class Account(NamedTuple):
    """A user a process can become. ``name`` is empty for a uid that is not in the user database."""

    name: str
    uid: int
    gid: int

    def __str__(self) -> str:
        return self.name or str(self.uid)


def account_of(uid: int) -> Account:
    """The account with this uid; its group is the uid's number when the user database does not know it."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Account("", uid, uid)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def service_account() -> Account:
    """The unprivileged account for a server started by root; DatabaseSetupError when there is none."""
    for name in _SERVICE_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise DatabaseSetupError(
        f"PostgreSQL does not run as root, and none of the accounts {', '.join(_SERVICE_ACCOUNTS)} exists: "
        "create one with `useradd --system procman`"
    )


def can_reach(account: Account, path: str) -> bool:
    """Whether the mode bits let the account search every directory above ``path``.

    Access control lists are not looked at: where they alone open the way, a capability is kept in vain.
    """
    directory = os.path.dirname(os.path.realpath(path))
    while True:
        if not _permits(account, os.stat(directory), stat.S_IXUSR):
            return False
        above = os.path.dirname(directory)
        if above == directory:
            return True
        directory = above


def can_execute(account: Account, path: str) -> bool:
    """Whether the mode bits of the file itself let the account execute it."""
    return _permits(account, os.stat(path), stat.S_IXUSR)


def _permits(account: Account, status: os.stat_result, user_bit: int) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & user_bit)
    if status.st_gid == account.gid:
        return bool(status.st_mode & user_bit >> 3)
    return bool(status.st_mode & user_bit >> 6)


def search_capability() -> int:
    """The weakest capability this process has that opens closed directories; DatabaseSetupError when none.

    CAP_DAC_READ_SEARCH is enough. Containers often lack it and have CAP_DAC_OVERRIDE, which serves too.
    """
    permitted = _permitted()
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if permitted >> capability & 1:
            return capability
    raise DatabaseSetupError(
        "the embedded PostgreSQL lies below a directory its account cannot enter, and neither CAP_DAC_READ_SEARCH "
        "nor CAP_DAC_OVERRIDE is there to help: choose a state_dir and a virtual environment outside of it"
    )


def _permitted() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("CapPrm:"):
                return int(line.split()[1], 16)
    return 0


def become(account: Account, capabilities: Iterable[int] = ()) -> None:
    """Become the account for good, keeping only these capabilities, also across execve(2). Raises OSError.

    To be called by root between fork and exec.
    """
    keep = sum(1 << capability for capability in capabilities)
    if keep:
        # NO_SETUID_FIXUP, not KEEP_CAPS alone: access(2), by which PostgreSQL looks at its files, takes a process
        # whose *real* uid is not 0 to have no capabilities, unless this bit says that uids mean nothing.
        _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP | _SECBIT_KEEP_CAPS)
    if account.name:
        os.initgroups(account.name, account.gid)
    else:
        os.setgroups([])
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    if keep:
        _capset(keep)
        for capability in capabilities:
            # Ambient: execve(2) of a plain file hands on nothing else to a process that is not root.
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def _capset(mask: int) -> None:
    header = _CapHeader(_LINUX_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)()
    data[0].effective = data[0].permitted = data[0].inheritable = mask
    if _libc.capset(ctypes.byref(header), data) != 0:
        raise _last_error("capset")


def _prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    if _libc.prctl(option, *padded) != 0:
        raise _last_error("prctl")


def _last_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


def drop_to(user: str | None, group: str | None = None) -> None:
    """Become ``user`` for good, without any capability; names or numbers. Nothing happens if both are None.

    ``group`` replaces the user's own group. Raises ConfigurationError for a user or a group that does not
    exist, and when this process may not change to it.
    """
    if user is None and group is None:
        return
    account = _find_user(user) if user is not None else account_of(os.getuid())
    gid = _find_group(group) if group is not None else account.gid
    if (account.uid, gid) == (os.getuid(), os.getgid()) and os.getuid() != 0:
        return
    try:
        os.setgroups(_groups(account, gid))
        os.setresgid(gid, gid, gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except PermissionError:
        raise ConfigurationError(
            f"cannot run as user {account}, group {gid}: only a daemon started by root can change accounts"
        ) from None


def _groups(account: Account, gid: int) -> Sequence[int]:
    return os.getgrouplist(account.name, gid) if account.name else [gid]


def _find_user(user: str) -> Account:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        if user.isdecimal():
            return account_of(int(user))
        raise ConfigurationError(f"user {user!r} does not exist") from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _find_group(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if group.isdecimal():
            return int(group)
        raise ConfigurationError(f"group {group!r} does not exist") from None
