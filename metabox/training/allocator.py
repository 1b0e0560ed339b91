"""The memory of the process."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory() -> None:
    """From now on the process keeps what it frees of its memory, for the next tensor of that size.

    The C library gives large blocks back at once, and the next step pays for every page of them anew, which may take
    longer than computing. Only glibc can be told; elsewhere nothing changes. What is kept lies in pieces, so the most
    that the process needs grows (the table `memory` of docs/speed.md), and more where steps differ in size.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim, mmap, most = -1, -3, 1 << 30  # of malloc.h
        mallopt(trim, most)
        _ = mallopt(mmap, most) or mallopt(mmap, 1 << 25)  # the most that older versions allow
