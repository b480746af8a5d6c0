"""Freed memory is used again: counted by the pages that the system has to clear."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory")

STEPS = """
import resource, sys
import numpy as np
from tstar.cli.memory import keep_freed_memory

def faults(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        arrays = [np.ones(1 << 20) for _ in range(6)]  # 8 MiB each, 2048 pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
faults(3)
print(kept, faults(10))
"""


def pages(how, **variables):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, "-c", STEPS, how]
    done = subprocess.run(command, env={**clean, **variables}, capture_output=True, text=True, check=True)
    kept, number = done.stdout.split()
    return kept, int(number)


def test_pages_are_cleared_once():
    assert pages("keep")[0] == "True"
    assert pages("keep")[1] < 0.1 * pages("leave")[1]


def test_whoever_sets_malloc_up_has_the_say():
    kept, number = pages("keep", MALLOC_TRIM_THRESHOLD_="131072")
    assert kept == "False"
    assert number > 10 * pages("keep")[1]
