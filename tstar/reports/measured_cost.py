"""What work costs, measured: seconds with their spread, peaks of memory, each in a process of its own; and what machine it was.

Two things never run at once: a caller measures one piece of work after another, and waits for its child processes. Nothing here
needs torch but what is about a CUDA device.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from tstar.reports.parent_process import PARENT

Work = Callable[[], object]
Result = TypeVar("Result")
MIB, GIB = 2**20, 2**30
PACKAGES = ("tstar", "torch", "transformers", "numba", "numpy")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "bf16", "sve")
CLEAR_REFS = Path("/proc/self/clear_refs")
SLOW = 60.0
"""Seconds from which on a call is not repeated: it needs no warming up, and its spread is not worth the wait."""


# Times


@dataclass(frozen=True)
class Spread:
    """Seconds of several calls."""

    median: float
    quartile1: float
    quartile3: float
    mean: float
    least: float
    greatest: float
    calls: int

    @classmethod
    def of(cls, times: Sequence[float]) -> "Spread":
        """Of at least one time; quartiles lie between neighbours, as numpy's."""
        ordered = sorted(times)
        first, _, third = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
        return cls(
            statistics.median(ordered), first, third, statistics.fmean(ordered), ordered[0], ordered[-1], len(ordered)
        )


def synchronize(device: str) -> None:
    """Wait until a device has done all it was given."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def timed(work: Callable[[], Result], device: str = "cpu") -> tuple[float, Result]:
    """Seconds of one call, up to the end of what it started on the device, and its result."""
    synchronize(device)
    begun = time.perf_counter()
    result = work()
    synchronize(device)
    return time.perf_counter() - begun, result


def seconds_of(work: Work, device: str = "cpu") -> float:
    """As :func:`timed`, without the result: giving memory back is not part of the work."""
    return timed(work, device)[0]


def repeated(
    measure: Callable[[], Mapping[str, float]],
    *,
    warmup: int,
    samples: int,
    slow: float = SLOW,
    until: float | None = None,
) -> tuple[dict[str, list[float]], bool]:
    """Times of a measurement that is made again and again.

    Args:
        measure: makes it once; gives seconds by name.
        warmup: measurements before those that count.
        samples: measurements that count.
        slow: where one takes longer, warm-ups too, it counts and is the last.
        until: by :func:`time.monotonic`; no measurement is begun that would end later, if it takes as long as the last one. Where
            that is so before the warm-ups are over, the last of them counts.

    Returns:
        The seconds that count by name, at least one each; and whether ``until`` left calls out.
    """
    found: list[Mapping[str, float]] = []
    cut, calls = False, warmup + samples
    for number in range(calls):
        begun = time.monotonic()
        times = measure()
        taken = time.monotonic() - begun
        last = taken > slow or number == calls - 1
        if not last and until is not None:
            cut = last = time.monotonic() + taken > until
        if number >= warmup or last:
            found.append(times)
        if last:
            break
    return {name: [times[name] for times in found] for name in found[0]}, cut


# Memory


class PeakMeter:
    """Most memory that is used at once beyond what is there when this is made.

    On a CUDA device it is what PyTorch has allocated there. On the CPU it is the process's resident memory, whose record of its
    largest size is set back where the system can do that (Linux). Where it cannot, a peak is the largest of the process so far,
    and so may be too large: loading is in it. Where the system does not tell the present size either (macOS), peaks are beyond
    the largest one before, and so may be too small.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.resets = True
        """Whether all restarts so far forgot the peaks before them."""
        if self._cuda is None:
            _give_back()
            self.base = _resident()
        else:
            self.base = self._cuda.memory_allocated(device)
        self.restart()

    @property
    def _cuda(self) -> Any:
        if not self.device.startswith("cuda"):
            return None
        import torch

        return torch.cuda

    def restart(self) -> None:
        """Forget peaks so far; where that fails, ``resets`` says so."""
        if self._cuda is not None:
            self._cuda.reset_peak_memory_stats(self.device)
        else:
            self.resets = _reset_peak() and self.resets

    def peak(self) -> int:
        """Bytes beyond the beginning's, since the last restart."""
        highest = _highest() if self._cuda is None else self._cuda.max_memory_allocated(self.device)
        return max(0, highest - self.base)


def peak_of(work: Work) -> int:
    """Bytes that one call of ``work`` needs beyond what the process holds before it; see :class:`PeakMeter`."""
    meter = PeakMeter()
    if not meter.resets:
        print("the record of the largest size cannot be set back here: peaks may be wrong", file=sys.stderr)
    result = work()
    peak = meter.peak()
    del result
    return peak


def available_bytes() -> int:
    """Memory that a new array could have; physical memory where the system does not tell."""
    status = _kilobytes("/proc/meminfo", "MemAvailable")
    if status is not None:
        return status
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes(device: str) -> int:
    """Memory that is free on a device; for the CPU see :func:`available_bytes`."""
    if not device.startswith("cuda"):
        return available_bytes()
    import torch

    return int(torch.cuda.mem_get_info(device)[0])


def _reset_peak() -> bool:
    """Set the record of the process's largest size back to the present one; whether the system did."""
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


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


# Processes


class ChildError(RuntimeError):
    """A child process did not answer."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status
        """Its exit status, below 0 where a signal ended it; None where it took longer than it was given."""


def run_child(
    program: Path | str,
    case: str,
    settings: Mapping[str, Any],
    environment: Mapping[str, str],
    time_limit: float | None = None,
) -> dict[str, Any]:
    """What ``program CASE SETTINGS`` prints as its last line, run by itself and waited for.

    An error here, a signal's included, ends the child. Where this process is killed, a program that begins with
    :func:`tstar.reports.parent_process.stop_with_parent` ends too (Linux).

    Args:
        program: a script, or the name of a module.
        case: its first argument.
        settings: its second, as JSON.
        environment: variables beside those of this process.
        time_limit: seconds after which it is ended.

    Raises:
        ChildError: it failed; the message holds the end of what it said.
    """
    start = ["-m", program] if isinstance(program, str) else [str(program)]
    name = program if isinstance(program, str) else program.name
    command = [sys.executable, *start, case, json.dumps(settings)]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, PARENT: str(os.getpid()), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=time_limit,
        )
    except subprocess.TimeoutExpired:
        raise ChildError(f"{name} {case} took longer than {time_limit:g} s", None) from None
    if done.returncode:
        raise ChildError(f"{name} {case} ended with status {done.returncode}:\n{done.stderr[-2000:]}", done.returncode)
    return json.loads(done.stdout.strip().splitlines()[-1])


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
