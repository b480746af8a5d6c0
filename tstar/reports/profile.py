"""Measures cases one after the other, each in a process of its own, and keeps what is finished.

A line of ``results.jsonl`` is one finished case: a run that was stopped goes on with what is not there, and what was measured with
other settings, versions or on another machine is measured again. The last line of a case counts.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.data.cores import usable_cores
from tstar.errors import ConfigError, DataError
from tstar.reports.durations import duration
from tstar.reports.measured_cost import GIB, MIB, ChildError, available_bytes, free_bytes, machine, run_child
from tstar.reports.profile_cases import CUT, FAILED, FREE, Case
from tstar.stages.checkpoint_io import append_line

RESULTS = "results.jsonl"
PROGRAM = "tstar.reports.profile_child"
KILLED = -9
"""Exit status of a process that the system ended, as it does where memory runs out."""
CLEARLY_MORE = 1.1
"""Times the free memory with which a case failed that make another attempt worth its time."""
STEEPEST = 2.0
"""Power of the frames that a case's time is taken to grow with at most: attention's."""

Result = dict[str, Any]


class ProfileStore:
    """Finished cases in a file.

    Args:
        path: the file; made with the first case.
        here: the machine; cases of another do not count.
        fresh: nothing that is there counts.

    Raises:
        DataError: the path exists but cannot be read.
    """

    def __init__(self, path: Path, here: Mapping[str, Any], fresh: bool = False) -> None:
        self.path, self.here = path, dict(here)
        self._found: dict[str, dict[str, Any]] = {}
        if fresh:
            return
        try:
            lines = path.read_bytes().split(b"\n") if path.exists() else []
        except OSError as error:
            raise DataError(f"{path}: results cannot be read ({error.strerror}); take another --out") from None
        for line in lines:
            try:
                row = json.loads(line)
                self._found[_key(row["case"], row["machine"])] = row
            except (ValueError, TypeError, KeyError):
                continue  # cut by a kill: its case is measured again

    def get(self, case: Case) -> Result | None:
        """What was found, if it still holds: a failure is tried again, and what a limit ended or cut under a wider one."""
        row = self._found.get(_key(case.identity(), self.here))
        if row is None or row["result"]["status"] == FAILED or _widened(row, case):
            return None
        return row["result"]

    def written(self, case: Case) -> Result | None:
        """What is written of the case, whether or not it would be tried again."""
        row = self._found.get(_key(case.identity(), self.here))
        return None if row is None else row["result"]

    def add(self, case: Case, result: Result) -> None:
        """Write down a case the moment it is finished."""
        row = {"case": case.identity(), "machine": self.here, "limits": case.limits(), "result": result}
        append_line(self.path, json.dumps(row))
        self._found[_key(case.identity(), self.here)] = row


def _widened(row: Mapping[str, Any], case: Case) -> bool:
    """Whether a finished case might find more now: it met a limit, and the case's is wider."""
    result, limits = row["result"], row["limits"]
    if result["status"] == "out of memory":
        return _has_more_memory(result.get(FREE), limits["memory_limit_gib"], case)
    limited = result["status"] != "measured" or result.get(CUT, False)
    return limited and case.time_limit > limits["time_limit"]


def _has_more_memory(free: int | None, limit_gib: float | None, case: Case) -> bool:
    """Whether a case may have more memory now than when it ran out of it.

    Args:
        free: bytes that were free then; None where nobody wrote them down.
        limit_gib: of then.
        case: as it would be measured now.
    """
    same = case.memory_limit_gib == limit_gib
    if free is None:
        return not same
    now = _within(case.memory_limit_gib, free_bytes(case.device))
    return now > _within(limit_gib, free) * (CLEARLY_MORE if same else 1)


def _within(limit_gib: float | None, free: int) -> float:
    return free if limit_gib is None else min(limit_gib * GIB, free)


def _key(case: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    return json.dumps([case, here], sort_keys=True)


def where(device: str) -> dict[str, Any]:
    """This machine, and the name of its GPU where that is the device."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    found = machine(int(threads) if threads.isdecimal() else usable_cores())
    if not device.startswith("cuda"):
        return found
    import torch

    return {**found, "gpu": torch.cuda.get_device_name(device)}


def run_cases(cases: Sequence[Case], store: ProfileStore, tell: Callable[[str], None]) -> list[Result]:
    """Measure what is not in the store.

    Args:
        cases: in the order in which they are measured.
        store: where finished ones are.
        tell: is given a line before and after a case.

    Returns:
        What was found of each case, failures and what ended by a limit too.

    Raises:
        ConfigError: settings that a case's model cannot be built with.
    """
    results: list[Result] = []
    took = [(case, result["wall_seconds"]) for case in cases if (result := store.get(case)) is not None]
    for number, case in enumerate(cases):
        left = seconds_left([c for c in cases[number:] if store.get(c) is None], took)
        tell(f"[{number + 1}/{len(cases)}] {case.title}{f'; about {duration(left)} left' if left else ''}")
        result, before = store.get(case), " (measured before)"
        if result is None:
            begun, before = time.monotonic(), ""
            result = measured_apart(case)
            if result["status"] == "mistake":
                raise ConfigError(f"{case.title}: {result['reason']}")
            result["wall_seconds"] = round(time.monotonic() - begun, 2)
            took.append((case, result["wall_seconds"]))
            store.add(case, result)
        tell(f"  {in_words(result)}{before}")
        results.append(result)
    return results


def measured_apart(case: Case) -> Result:
    """What a process of its own finds, or why it found nothing."""
    free = available_bytes()
    result = _answer(case)
    if result["status"] == "out of memory" and case.device == "cpu":
        result[FREE] = free  # as it will be asked for again: before the process is there
    return result


def _answer(case: Case) -> Result:
    try:
        # the folder it is started in holds no modules
        return run_child(PROGRAM, "measure", case.to_json(), {"PYTHONSAFEPATH": "1"}, case.time_limit)
    except ChildError as error:
        if error.status is None:
            return {"status": "time limit", "reason": f"not one measurement in {case.time_limit:g} s"}
        if error.status == KILLED:
            return {"status": "out of memory", "reason": "the system ended the process"}
        return {"status": FAILED, "reason": str(error).strip().splitlines()[-1][:300], "log": str(error)}


def in_words(result: Result) -> str:
    """A result in one short line."""
    if result["status"] != "measured":
        return f"{result['status']} ({result['reason']})"
    name, seconds = next(
        ((n, s) for n, s in result["seconds"].items() if n == "total"), list(result["seconds"].items())[-1]
    )
    spread = f" ({seconds['quartile1']:.3g} to {seconds['quartile3']:.3g})" if seconds["calls"] > 1 else ""
    what = "" if name == "total" else f"{name.replace('_', ' ')} "
    needed = result["memory"]["needed"] / MIB
    return f"{what}{seconds['median']:.3g} s{spread}, {needed:,.0f} MiB beyond weights and input"


def seconds_left(todo: Sequence[Case], took: Sequence[tuple[Case, float]]) -> float:
    """About how long cases will take, from how long others of their kind took with fewer frames.

    Args:
        todo: cases to come.
        took: seconds of finished ones.
    """
    return sum(_expected(case, took) for case in todo)


def _expected(case: Case, took: Sequence[tuple[Case, float]]) -> float:
    """What a case's kind took last, beyond what every case takes to start, times a power of the frames."""
    if not took:
        return 0.0
    start = min(seconds for _, seconds in took)
    kind = sorted((c.frames, seconds - start) for c, seconds in took if _kind(c) == _kind(case))
    if not kind:
        return min(sum(seconds for _, seconds in took) / len(took), case.time_limit)
    frames, seconds = kind[-1]
    power = 1.0
    if len(kind) > 1 and kind[-2][1] > 0 and seconds > 0 and kind[-2][0] < frames:
        power = min(max(math.log(seconds / kind[-2][1]) / math.log(frames / kind[-2][0]), 0.0), STEEPEST)
    return min(start + seconds * (case.frames / frames) ** power, case.time_limit)


def _kind(case: Case) -> tuple[str, str, str]:
    return case.group, case.label, case.protocol
