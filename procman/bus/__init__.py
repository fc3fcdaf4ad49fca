"""The bus: messages to whoever listens, in the transaction of whoever sends.

    procman.bus.send("prices", {"id": 1, "price": "12.50"})

A message exists when, and only when, the sending unit commits. Browsers get it by long polling
(`procman.bus.exchange`, served by `procman.workers.longpolling`), in the order of the commits, and find what they
have missed for as long as messages are kept (`procman.bus.listener.KEPT_SECONDS`).
"""

from __future__ import annotations

from procman.bus.outbox import send

__all__ = ["send"]
