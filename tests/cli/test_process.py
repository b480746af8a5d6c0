"""Memory and cores of a training process: counted by the pages that the system has to clear, and read from the environment."""

import os
import platform
import subprocess
import sys

import pytest

from tstar.cli.process import share_cores

STEPS = """
import resource, sys
import numpy as np
from tstar.cli.process import keep_freed_memory

def faults(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        arrays = [np.ones(1 << 20) for _ in range(6)]  # 8 MiB each, 2048 pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
faults(3)
print(kept, faults(10))
"""

IMPORTED = "import sys; from tstar.cli.main import _parse; _parse(['doctor']); print('torch' in sys.modules)"

only_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory")


def pages(how, **variables):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, "-c", STEPS, how]
    done = subprocess.run(command, env={**clean, **variables}, capture_output=True, text=True, check=True)
    kept, number = done.stdout.split()
    return kept, int(number)


@only_glibc
def test_pages_are_cleared_once():
    assert pages("keep")[0] == "True"
    assert pages("keep")[1] < 0.1 * pages("leave")[1]


@only_glibc
def test_whoever_sets_malloc_up_has_the_say():
    kept, number = pages("keep", MALLOC_TRIM_THRESHOLD_="131072")
    assert kept == "False"
    assert number > 10 * pages("keep")[1]


@pytest.mark.parametrize(
    ("theirs", "spins"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_waiting_threads_leave_the_cores_unless_the_user_decides(monkeypatch, theirs, spins):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that the patch takes back what is set below
        monkeypatch.delenv(name)
    for name, value in theirs.items():
        monkeypatch.setenv(name, value)
    share_cores()
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_pytorch_is_not_there_yet_when_the_command_has_been_read():
    # PyTorch's threads read their settings once, when it is imported
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
