"""Shared by the benchmarks: times with their spread, of one piece of work or of several that take turns.

Peaks of memory, child processes and the machine are in :mod:`tstar.reports.measured_cost`.
"""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tstar.reports.measured_cost import Work, seconds_of


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
            first = seconds_of(work)
            counted = [first] if turn and first > seconds else [seconds_of(work)]  # one that slow minds no caches
            wanted = max(int(seconds / rounds / max(counted[0], 1e-9)), -(-least // rounds))
            counted += [seconds_of(work) for _ in range(min(wanted, 1000) - 1)]
            times[name] += counted
    return {name: Timing(statistics.median(t), min(t), max(t), len(t)) for name, t in times.items()}


def to_json(value: Any) -> Any:
    """``value`` with every :class:`Timing` in it as a dictionary."""
    if isinstance(value, Timing):
        return asdict(value)
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value
