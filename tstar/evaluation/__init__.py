"""Benchmarks: questions of the published annotation files, verdicts on answers, numbers with intervals.

Importing this loads neither a model nor torch. The ``mini-`` suites are generated worlds in the format of the benchmark
they are named after, and are read and scored by the same code.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import ConfigError, suggest
from tstar.evaluation.activitynetqa import ActivityNetQA
from tstar.evaluation.ai2d import AI2D
from tstar.evaluation.base import Benchmark
from tstar.evaluation.chat_temporal import ChatTemporal
from tstar.evaluation.collector import collector_paused
from tstar.evaluation.differing import Differing, differing
from tstar.evaluation.items import RULES, Comparison, Item, ItemScore, Report
from tstar.evaluation.judging import JudgeReplies
from tstar.evaluation.lvbench import LVBench
from tstar.evaluation.mlvu import MLVU
from tstar.evaluation.mmstar import MMStar
from tstar.evaluation.mvbench import MVBench
from tstar.evaluation.nextqa import NextQA
from tstar.evaluation.seed_image import SeedImage
from tstar.evaluation.tempcompass import TempCompass
from tstar.evaluation.videomme import VideoMME, VideoMMESubtitles
from tstar.evaluation.vnbench import VNBench

__all__ = [
    "RULES",
    "Benchmark",
    "Comparison",
    "Differing",
    "Item",
    "ItemScore",
    "JudgeReplies",
    "Report",
    "compare",
    "differing",
    "get_benchmark",
    "list_benchmarks",
    "score",
    "score_all",
]

_FORMATS: dict[str, type[Benchmark]] = {
    "vnbench": VNBench,
    "tempcompass": TempCompass,
    "mlvu": MLVU,
    "videomme": VideoMME,
    "videomme_subtitles": VideoMMESubtitles,
    "activitynetqa": ActivityNetQA,
    "chat_temporal": ChatTemporal,
    "lvbench": LVBench,
    "nextqa": NextQA,
    "mvbench": MVBench,
    "seed_image": SeedImage,
    "mmstar": MMStar,
    "ai2d": AI2D,
}
_MINIATURES = ("vnbench", "tempcompass", "mlvu", "videomme")
_BENCHMARKS = _FORMATS | {f"mini-{name}": _FORMATS[name] for name in _MINIATURES}


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
        responses: a file of ids and responses (JSON Lines, JSON, CSV, TSV, xlsx), lmms-eval's samples, VLMEvalKit's
            result table, a result file in the benchmark's official layout, a list of such paths, or the parsed content
            of one; also a plain mapping from id to response.
        rules: ``official``, ``strict`` or, where that harness has the benchmark, ``lmms-eval``.
        judge_replies: what a judge said about the responses, for benchmarks that need one.

    Raises:
        ConfigError: the benchmark or the rules have no such name.
        DataError: a file is missing or damaged, or a response answers no question of the annotations.
    """
    return score_all(benchmark, annotations, responses, judge_replies, (rules,))[rules]


def score_all(
    benchmark: str,
    annotations: str | Path | Sequence[Any] | Mapping[str, Any],
    responses: Any,
    judge_replies: JudgeReplies | None = None,
    rules: Sequence[str] | None = None,
) -> dict[str, Report]:
    """:func:`score` by several rules, default all that the benchmark has; :func:`differing` says where they part."""
    suite = get_benchmark(benchmark)
    for name in rules or ():
        suite.check_rules(name)
    with collector_paused():
        items = suite.load(annotations)
        return suite.score_all(items, suite.responses(responses, items), judge_replies, rules)


def compare(first: Report, second: Report) -> Comparison:
    """Paired comparison ``second - first`` of two reports on the same items by the same rules."""
    return get_benchmark(first.benchmark).compare(first, second)
