"""The memory allocator of the process."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory() -> None:
    """Make the process keep freed memory for later tensors instead of returning it to the system.

    The C library returns large blocks at once, and the next step pays for each of their pages again, which may take
    longer than computing. Only glibc has this option; elsewhere nothing changes. Kept memory is fragmented, so the
    peak memory of the process grows (the table `memory` of docs/speed.md), and grows more if steps differ in size.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim, mmap, most = -1, -3, 1 << 30  # as in malloc.h
        mallopt(trim, most)
        _ = mallopt(mmap, most) or mallopt(mmap, 1 << 25)  # the most that older versions allow
