"""How the C library hands out memory to a training."""

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of the settings in malloc.h."""
KEPT, IN_HEAP = 512 << 20, 32 << 20
"""Bytes of freed memory that are kept, and up to which size an array comes from them; 32 MiB is the most glibc allows."""


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed instead of giving it back to the system; False where that is not ours to say.

    A training step asks for the same arrays as the one before. By default glibc returns large ones at once, and the system
    clears every page again before the next step may write to it, which took a fifth of a small compressor's time.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, IN_HEAP) and mallopt(_TRIM_THRESHOLD, KEPT))
