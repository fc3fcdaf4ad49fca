"""Who is calling."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from procman.observe.whom import set_user
from procman.rpc.faults import AccessDenied

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("procman.rpc")


class Credentials(NamedTuple):
    """What a caller shows. One of ``login`` and ``user`` is there, or neither with a bearer token (RFC 6750).

    ``login``: a name, from ``authenticate`` or HTTP's Basic scheme. ``user``: the id that the authenticator
    gave earlier, from ``execute_kw``. ``secret``: password, key or token. ``database``: None for the main one.
    ``address``: where the call came from.
    """

    login: str | None
    user: int | None
    secret: str
    database: str | None
    address: str


Authenticator = TypeVar("Authenticator", bound="Callable[[Credentials], int | None]")

_authenticators: list[Callable[[Credentials], int | None]] = []
_user: ContextVar[int | None] = ContextVar("procman_rpc_user", default=None)


def authenticator(function: Authenticator) -> Authenticator:
    """Make this function the one that knows callers. The last one counts.

    It returns the id of the user, or None for somebody it does not know. It is called within the unit of each
    call, so `procman.cursor` and `procman.cached` work in it. It must compare the secret also when ``user`` is
    given, and in constant time (`hmac.compare_digest`).
    """
    _authenticators[:] = [function]
    return function


def user() -> int | None:
    """The user for whom the current call is made; None in a public function and outside of calls."""
    return _user.get()


def identify(credentials: Credentials | None) -> int:
    """The user's id; raises AccessDenied."""
    if credentials is None:
        raise AccessDenied("this call needs credentials")
    if not _authenticators:
        raise AccessDenied("no procman.rpc.authenticator is there to know callers")
    found = _authenticators[-1](credentials)
    # False too, as checks often answer; and whoever means user 0 or 1 does not answer by a bool.
    if found is None or isinstance(found, bool):
        who = credentials.login if credentials.login is not None else credentials.user
        log.warning("Access denied to %r from %s", who, credentials.address or "a unix socket")
        raise AccessDenied("access denied")
    return found


def act_for(user_id: int | None) -> None:
    """From here on, and until the next call, the work is done for this user."""
    _user.set(user_id)
    if user_id is not None:
        set_user(user_id)
