"""The processor cores that are this process's to use."""

import os


def usable_cores() -> int:
    """Cores that this process may run on, where the system says it; else all of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
