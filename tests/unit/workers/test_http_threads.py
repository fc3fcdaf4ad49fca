"""What the loop of a worker with threads decides about their units, without any thread."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from procman.core.reason import Reason
from procman.core.spec import Limits
from procman.workers.http_threads import Threads


def test_the_arbiters_signal_may_come_in_the_midst_of_a_look():
    # The handler runs in the loop's own thread, and would wait for itself.
    spec = SimpleNamespace(limits=Limits(time_real=1.0))
    child = SimpleNamespace(spec=spec, abort_current=None, limits_changed=None)
    threads = Threads(child, make_units=lambda bench: None, count=0)

    def look():
        with threads._lock:
            child.abort_current(Reason.REAL_TIME)
        looked.set()

    looked = threading.Event()
    threading.Thread(target=look, daemon=True).start()
    assert looked.wait(10)
