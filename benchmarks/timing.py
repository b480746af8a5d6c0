"""Shared by the benchmarks: times with their spread, peaks of memory in a process of their own, and what machine it was.

Two things never run at once: a caller measures one piece of work after another, and waits for its child processes.
"""

import ctypes
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Work = Callable[[], object]
GIB = 2**30
PACKAGES = ("tstar", "torch", "transformers", "numba", "numpy")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "bf16", "sve")


@dataclass(frozen=True)
class Timing:
    """Seconds of one call."""

    median: float
    low: float
    high: float
    calls: int

    def __str__(self) -> str:
        return f"{1e3 * self.median:9.2f} ms  ({1e3 * self.low:.2f} to {1e3 * self.high:.2f}, {self.calls} calls)"


def measure(work: Work, seconds: float, least: int = 3) -> Timing:
    """Times of ``work`` after a call that does not count: at least ``least`` of them, and for about ``seconds``."""
    return measure_together({"": work}, seconds, rounds=1, least=least)[""]


def measure_together(
    works: Mapping[str, Work], seconds: float, *, rounds: int = 3, least: int = 3
) -> dict[str, Timing]:
    """Times of several pieces of work that are going to be compared.

    They take turns, ``rounds`` times over, so that a machine that slows down slows them all. Within a turn a piece runs
    several times in a row, and the first call does not count, for it finds the caches as another left them.

    Args:
        works: by name.
        seconds: for each piece, about.
        rounds: turns.
        least: calls that count, of each piece.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds):
        for name, work in works.items():
            first = _once(work)
            counted = [first] if turn and first > seconds else [_once(work)]  # one that slow minds no caches
            wanted = max(int(seconds / rounds / max(counted[0], 1e-9)), -(-least // rounds))
            counted += [_once(work) for _ in range(min(wanted, 1000) - 1)]
            times[name] += counted
    return {name: Timing(statistics.median(t), min(t), max(t), len(t)) for name, t in times.items()}


def _once(work: Work) -> float:
    begun = time.perf_counter()
    result = work()
    taken = time.perf_counter() - begun
    del result  # giving memory back is not part of the work
    return taken


def to_json(value: Any) -> Any:
    """``value`` with every :class:`Timing` in it as a dictionary."""
    if isinstance(value, Timing):
        return asdict(value)
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


# Memory


def peak_of(work: Work) -> int:
    """Bytes that one call of ``work`` needs beyond what the process holds before it.

    The process's record of its largest size is set back first where the system can do that (Linux); where it cannot,
    a larger size before the call hides the call's own, and the result is too small.
    """
    _give_back()
    before = _resident()
    if Path("/proc/self/clear_refs").exists():
        _reset_peak()
    result = work()
    peak = _highest()
    del result
    return max(0, peak - before)


def available_bytes() -> int:
    """Memory that a new array could have; physical memory where the system does not tell."""
    status = _kilobytes("/proc/meminfo", "MemAvailable")
    if status is not None:
        return status
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def run_child(script: Path, case: str, settings: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """What ``script CASE SETTINGS`` prints as its last line, run by itself and waited for.

    Raises:
        RuntimeError: it failed; the message holds the end of what it said.
    """
    command = [sys.executable, str(script), case, json.dumps(settings)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{script.name} {case} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("the record of the largest size cannot be set back here: peaks may come out too small", file=sys.stderr)


def _give_back() -> None:
    """Hand freed memory that the C library keeps back to the system: reused, it would not show in a peak."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def _resident() -> int:
    now = _kilobytes("/proc/self/status", "VmRSS")
    return _highest() if now is None else now


def _highest() -> int:
    # ru_maxrss of a child starts at its parent's size, whose copy it is for a moment; VmHWM does not.
    highest = _kilobytes("/proc/self/status", "VmHWM")
    if highest is not None:
        return highest
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _kilobytes(path: str, field: str) -> int | None:
    """A ``Field:  123 kB`` line of a file of the system, in bytes; None where there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


# The machine


def machine(threads: int) -> dict[str, Any]:
    """What a reader has to know to set numbers beside these."""
    name, flags = _cpu()
    return {
        "cpu": name,
        "instructions": [flag for flag in CPU_FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _cpu() -> tuple[str, set[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown", set()
    pairs = [line.split(":", 1) for line in lines if ":" in line]
    fields = {name.strip(): value.strip() for name, value in reversed(pairs)}  # of the first core, named first
    return fields.get("model name", platform.machine()), set(fields.get("flags", fields.get("Features", "")).split())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
