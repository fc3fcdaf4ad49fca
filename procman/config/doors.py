"""A way in for the job runner, where the addresses of the pool that runs its jobs all expect something before HTTP.

TLS, or the header of a proxy, is for those who come from outside; and what systemd passes is not known before.
Then the pool gets a unix socket in the state directory besides.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from procman.config.places import fits
from procman.config.proxies import UNIX
from procman.config.rules import plain_addresses, target_of
from procman.core.spec import Kind, UnixAddress

if TYPE_CHECKING:
    from procman.config.rules import Draft, PoolDraft


def open_doors(draft: Draft) -> None:
    """Put in the sockets that are missing."""
    state_dir = draft.daemon.get("state_dir")
    for runner in draft.of_kind(Kind.JOBRUNNER):
        target = target_of(runner, draft)
        if state_dir is not None and target is not None and _needs_one(target):
            path = os.path.join(state_dir, f"{target.name}.jobs.sock")
            if fits(path):
                target.fields["binds"] = (*target.fields["binds"], UnixAddress(path=path))


def _needs_one(pool: PoolDraft) -> bool:
    asks_for_header = pool.fields.get("proxy_protocol") and UNIX in pool.fields.get("trusted_proxies", ())
    return bool(pool.fields.get("binds")) and not asks_for_header and not plain_addresses(pool.fields)
