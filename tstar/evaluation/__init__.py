"""Benchmarks: questions of the published annotation files, verdicts on answers, numbers with intervals.

Importing this loads neither a model nor torch. The ``mini-`` suites are generated worlds in the format of the benchmark
they are named after, and are read and scored by the same code.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import ConfigError, suggest
from tstar.evaluation.base import Benchmark
from tstar.evaluation.items import RULES, Comparison, Item, ItemScore, Report
from tstar.evaluation.judging import JudgeReplies
from tstar.evaluation.mlvu import MLVU
from tstar.evaluation.tempcompass import TempCompass
from tstar.evaluation.videomme import VideoMME
from tstar.evaluation.vnbench import VNBench

__all__ = [
    "RULES",
    "Benchmark",
    "Comparison",
    "Item",
    "ItemScore",
    "JudgeReplies",
    "Report",
    "compare",
    "get_benchmark",
    "list_benchmarks",
    "score",
]

_FORMATS: dict[str, type[Benchmark]] = {
    "vnbench": VNBench,
    "tempcompass": TempCompass,
    "mlvu": MLVU,
    "videomme": VideoMME,
}
_BENCHMARKS = _FORMATS | {f"mini-{name}": kind for name, kind in _FORMATS.items()}


def list_benchmarks() -> list[str]:
    """Names that :func:`get_benchmark` knows."""
    return sorted(_BENCHMARKS)


def get_benchmark(name: str) -> Benchmark:
    """The benchmark or miniature suite of that name; ConfigError if there is none."""
    if name not in _BENCHMARKS:
        raise ConfigError(f"unknown benchmark {name!r}{suggest(name, _BENCHMARKS)}")
    return _BENCHMARKS[name](name)


def score(
    benchmark: str,
    annotations: str | Path | Sequence[Any] | Mapping[str, Any],
    responses: Any,
    rules: str = "official",
    judge_replies: JudgeReplies | None = None,
) -> Report:
    """Score stored responses; no model is needed.

    Args:
        benchmark: a name of :func:`list_benchmarks`.
        annotations: the official file, the folder that holds the official files, or their parsed content.
        responses: a JSON Lines file of ``{"id", "response"}``, a result file in the benchmark's official layout, or the
            parsed content of either; also a plain mapping from id to response.
        rules: ``official``, ``strict`` or, where that harness has the benchmark, ``lmms-eval``.
        judge_replies: what a judge said about the responses, for benchmarks that need one.

    Raises:
        ConfigError: the benchmark or the rules have no such name.
        DataError: a file is missing or damaged, or a response answers no question of the annotations.
    """
    suite = get_benchmark(benchmark)
    items = suite.load(annotations)
    return suite.score(items, suite.responses(responses, items), rules, judge_replies)


def compare(first: Report, second: Report) -> Comparison:
    """Paired comparison ``second - first`` of two reports on the same items by the same rules."""
    return get_benchmark(first.benchmark).compare(first, second)
