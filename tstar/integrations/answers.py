"""What a run answered to a suite, read back beside the suite's questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tstar.errors import ConfigError, DataError, suggest
from tstar.evaluation import Benchmark, Item, ItemScore, Report, get_benchmark
from tstar.evaluation.files import read_json
from tstar.evaluation.items import MISSING
from tstar.evaluation.judging import JudgeReplies, read_replies
from tstar.evaluation.prediction_store import MODES, PredictionStore, prompt_sha
from tstar.evaluation.responses import ResponseLine, ResponseSet
from tstar.evaluation.settings import Place, place_of

Row = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Evaluated:
    """A run's folder, or that of an evaluation, as far as its answers are concerned."""

    path: Path
    suites: dict[str, Place]
    """Where the recipe's suites lie."""
    settings: dict[str, Any]
    """How the model looked at the videos: ``max_frames``, ``fps``, ``max_new_tokens``, …; {} where that is not recorded."""
    seconds: float | None
    """What answering took; None where that is not recorded."""

    @property
    def annotations(self) -> dict[str, Path]:
        """Where the suites' annotations lie."""
        return {name: place.annotations for name, place in self.suites.items()}


@dataclass(frozen=True)
class Answers:
    """One checkpoint's answers to one suite in one mode."""

    benchmark: Benchmark
    items: list[Item]
    """All questions of the suite, asked or not."""
    rows: dict[str, Row]
    """Stored predictions by question id."""
    mode: str
    model: str
    """Hash of the checkpoint."""
    prompts: dict[str, str]
    """What the model was asked, by question id."""
    replies: JudgeReplies | None = None
    """What a judge said about the answers."""
    other_prompts: int = 0
    """Stored answers to questions that the annotations have by another text."""
    _reports: dict[str, Report] = field(default_factory=dict)

    @property
    def unjudged(self) -> bool:
        """Whether there is nothing to be said about right and wrong."""
        return self.benchmark.judged and self.replies is None

    @property
    def asked(self) -> list[Item]:
        """The questions that were asked, failed ones included, in the order of the annotations."""
        return [item for item in self.items if item.id in self.rows]

    @cached_property
    def responses(self) -> ResponseSet:
        """What came back, None for a failure."""
        lines = ((key, None if row["error"] else row["response"]) for key, row in self.rows.items())
        return ResponseSet(ResponseLine(key, text) for key, text in lines)

    def report(self, rules: str) -> Report:
        """The questions that were asked, scored by ``rules``; once each."""
        if rules not in self._reports:
            self._reports[rules] = self.benchmark.score(self.asked, self.responses, rules, self.replies)
        return self._reports[rules]

    def scores(self, rules: str) -> dict[str, ItemScore]:
        """Verdicts by question id."""
        return {score.id: score for score in self.report(rules).items}


def read_evaluated(path: Path) -> Evaluated:
    """What lies in ``path``: a run's folder, or the ``--out`` of an evaluation.

    Raises:
        DataError: it holds no predictions, or a file is damaged.
    """
    if not (path / "predictions").is_dir():
        raise DataError(
            f"{path}: holds no predictions; give the folder of a run, as runs/NAME, or the --out of `tstar validate`"
        )
    record = _json_object(path / "eval" / "evaluation.json")
    settings = dict(record.get("settings") or {})
    config = path / "config.yaml"
    if not settings and config.is_file():
        try:
            settings = dict((yaml.safe_load(config.read_text(encoding="utf-8")) or {}).get("evaluation") or {})
        except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise DataError(f"{config}: cannot be read ({str(error).splitlines()[0]})") from None
    suites = settings.pop("benchmarks", None) or {}
    seconds = record.get("seconds")
    return Evaluated(
        path,
        {name: Place(*(_from_here(part, path) for part in place_of(name, given))) for name, given in suites.items()},
        settings,
        float(seconds) if isinstance(seconds, (int, float)) else None,
    )


def answered_suites(evaluated: Evaluated, mode: str) -> list[str]:
    """Suites with stored predictions in ``mode``, the recipe's first and in its order."""
    found = (evaluated.path / "predictions").glob(
        f"*/{mode}*.jsonl"
    )  # of a killed evaluation by several processes, too
    there = sorted({path.parent.name for path in found if path.name.split(".")[0] == mode})
    return [name for name in evaluated.suites if name in there] + [n for n in there if n not in evaluated.suites]


def read_answers(
    evaluated: Evaluated,
    suite: str,
    *,
    annotations: Path | None = None,
    mode: str = "full",
    frames: str | None = None,
    replies: Path | None = None,
) -> Answers:
    """The stored answers to one suite.

    Args:
        evaluated: whose.
        suite: name of the benchmark.
        annotations: its official file or folder; default where the recipe says.
        mode: full, or one of the baselines.
        frames: where answers under several conditions are stored, which: their ``frames``.
        replies: file of a judge's replies.

    Raises:
        ConfigError: there is no such mode or suite, or which answers are wanted is not clear.
        DataError: a file is missing or damaged, or the answers are to other questions.
    """
    if mode not in MODES:
        raise ConfigError(f"--mode must be one of {', '.join(MODES)}, got '{mode}'")
    path = evaluated.path / "predictions" / suite / f"{mode}.jsonl"
    store = PredictionStore(path)
    if not store.rows():
        there = answered_suites(evaluated, mode)
        raise ConfigError(f"{evaluated.path} has no answers to '{suite}' in mode {mode}{suggest(suite, there)}")
    place = evaluated.suites.get(suite) if annotations is None else place_of(suite, annotations)
    if place is None:
        raise ConfigError(
            f"where {suite} lies is not recorded in {evaluated.path}; say it by --annotations {suite}=PATH"
        )
    benchmark = get_benchmark(suite)
    items = benchmark.load(place.annotations, place.media)
    report = _saved_report(evaluated.path / "eval" / f"{suite}.{mode}.json")
    rows = one_condition(store.rows(), path, mode, frames, report)
    known = {item.id: item for item in items}
    own: dict[str, Row] = {}
    prompts: dict[str, str] = {}
    for row in rows:
        item = known.get(row["id"])
        if item is None:
            continue
        prompt = benchmark.prompt_for(item, place.media, row.get("timestamps") or ())
        if prompt_sha(item, prompt) == row["prompt_sha"] and (item.id not in own or not row["error"]):
            own[item.id], prompts[item.id] = row, prompt
    if not own:
        raise DataError(f"{path}: its {len(rows)} answers are to other questions than {place.annotations} has")
    said = read_replies(replies) if replies is not None else None
    others = sum(row["id"] not in own for row in rows)
    return Answers(benchmark, items, own, mode, str(rows[0]["model"]), prompts, said, others)


def entry_of(table: Mapping[type[Benchmark], T], benchmark: Benchmark) -> T | None:
    """What ``table`` has for a benchmark's class, or for the nearest that it derives from."""
    return next((table[kind] for kind in type(benchmark).__mro__ if kind in table), None)


def one_condition(rows: Sequence[Row], path: Path, mode: str, frames: str | None, report: Report | None) -> list[Row]:
    """The rows of one checkpoint and one way of looking; those that the saved report was made of, where there are several."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["mode"] == mode:
            groups.setdefault((str(row["model"]), str(row["frames"])), []).append(row)
    if not groups:
        raise DataError(f"{path}: holds no answers in mode {mode}")
    wanted = [own for (_, seen), own in groups.items() if frames in (None, seen)]
    if len(wanted) > 1 and report is not None:
        said = {item.id: item.response for item in report.items if item.how != MISSING}
        same = [own for own in wanted if said.items() <= {row["id"]: row["response"] for row in own}.items()]
        wanted = same if len(same) == 1 else wanted
    if len(wanted) == 1:
        return wanted[0]
    listed = "; ".join(f"checkpoint {model}, frames '{seen}'" for model, seen in groups)
    which = f"none of frames '{frames}'" if frames and not wanted else "several, and which are wanted is not clear"
    raise ConfigError(f"{path} holds {which}: {listed}; choose by --frames, or evaluate into another --out")


def _saved_report(path: Path) -> Report | None:
    if not path.is_file():
        return None
    try:
        return Report.from_json(path.read_text(encoding="utf-8"))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _json_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}: must be a JSON object, got {type(found).__name__}")
    return found


def _from_here(folder: Path, run: Path) -> Path:
    """A suite's folder as the recipe says, from here or else from where the run's folder of runs lies."""
    start = run.absolute().parent.parent
    return start / folder if not folder.exists() and (start / folder).exists() else folder
