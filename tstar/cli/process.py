"""How the libraries below share memory and cores in a process that trains."""

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of the settings in malloc.h."""
KEPT, IN_HEAP = 512 << 20, 32 << 20
"""Bytes of freed memory that are kept, and up to which size an array comes from them; 32 MiB is the most glibc allows."""
SPINS = 3000
"""Rounds, of some nanoseconds, that a thread of PyTorch's waits for more work before it sleeps; by default, 300,000."""


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed instead of giving it back to the system; False where that is not ours to say.

    A training step asks for the same arrays as the one before. By default glibc returns large ones at once, and the system
    clears every page again before the next step may write to it.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, IN_HEAP) and mallopt(_TRIM_THRESHOLD, KEPT))


def share_cores() -> None:
    """Let PyTorch's threads leave the cores soon after their work, for others; to be called before PyTorch is imported.

    Between two of its operations they keep their cores busy with waiting, for a millisecond, and the compressors' kernels,
    which run on threads of their own (:mod:`tstar.ops.cpu_threads`), had to share the core with that: on two cores those
    kernels were hardly quicker than on one.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
