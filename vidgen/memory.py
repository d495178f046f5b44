"""How this process asks the system for memory."""

from __future__ import annotations

import ctypes
import sys

TRIM, TOP_PAD, MMAP = -1, -2, -3
"""glibc's numbers for what ``mallopt`` sets."""

LARGEST_ON_THE_HEAP = 32 * 2**20
"""Bytes; glibc takes no larger threshold. What is larger is mapped, and given back, each by itself."""

KEPT = 2**31 - 1
"""Bytes of freed memory that stay with the process: as many as glibc can count here."""


def keep_freed_memory() -> None:
    """Keeps what is freed for what is allocated next, where the C library is glibc; elsewhere it does nothing.

    On a CPU each step of training or sampling frees and allocates the same arrays. Left to itself, glibc gives the end of the
    heap back to the system as soon as 64 MiB of it are free, and the system hands it out again page by page, each filled with
    zeros first.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(MMAP, LARGEST_ON_THE_HEAP)  # it would grow by itself, but not any more once another is set
        library.mallopt(TRIM, KEPT)
        library.mallopt(TOP_PAD, 2 * LARGEST_ON_THE_HEAP)
