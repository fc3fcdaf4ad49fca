"""The Python stack of every thread (and greenlet) of this process, as text that one can paste into a report."""

from __future__ import annotations

import sys
import threading
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

MOST_FRAMES = 100


def format_stacks(current: FrameType | None = None) -> str:
    """Every thread's stack, the main thread first; ``current`` stands for the calling thread's frame."""
    frames = sys._current_frames()
    if current is not None:
        frames[threading.get_ident()] = current
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    blocks = []
    for ident in sorted(frames, key=lambda ident: ident != main):
        stack = traceback.extract_stack(frames[ident], limit=MOST_FRAMES)
        blocks.append(f"Thread {names.get(ident, '?')} ({ident:#x})\n" + "".join(traceback.format_list(stack)))
    return "\n".join(blocks)
