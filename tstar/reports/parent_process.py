"""A process that ends with the one that started it; nothing heavy is imported, for it has to be the first thing a process does."""

import ctypes
import os
import signal
import sys

PARENT = "TSTAR_PARENT"
"""Variable with the number of the process that wants its child to end with it."""


def stop_with_parent() -> None:
    """Be sent SIGTERM when the process that started this one dies, if it asked for that by TSTAR_PARENT, its number (Linux)."""
    parent = os.environ.get(PARENT)
    if parent != str(os.getppid()) or not sys.platform.startswith("linux"):
        return
    die_signal = 1  # PR_SET_PDEATHSIG in sys/prctl.h
    ctypes.CDLL(None).prctl(die_signal, signal.SIGTERM)
    if parent != str(os.getppid()):  # it died before it was heard
        os.kill(os.getpid(), signal.SIGTERM)
