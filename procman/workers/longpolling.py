"""The gevent worker: ``python -m procman.workers.longpolling <channel-fd>``.

It is executed on its own, not forked from a template, because gevent has to replace the blocking parts of the
standard library before anything else has taken hold of them. So this module imports nothing of procman's at its
top; the packages above it, which Python imports first, are kept light for the same reason.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from gevent import monkey


def main(channel_fd: int) -> NoReturn:
    """Become the worker that the arbiter describes over the channel, and serve."""
    monkey.patch_all()
    # From here on "blocking" means: other greenlets go on.
    from procman.workers.boot import executed, run
    from procman.workers.evented.serve import serve
    from procman.workers.evented.waiting import let_psycopg2_cooperate

    let_psycopg2_cooperate()
    child = executed(channel_fd)
    run(child, lambda: serve(child))


if __name__ == "__main__":
    main(int(sys.argv[1]))
