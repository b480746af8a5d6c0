"""Finished run folders read back: what was trained, what it took, what was measured, and what is not there."""

import copy
import csv
import hashlib
import json
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tstar.data.files import damage_named, json_object, text_of
from tstar.errors import ConfigError, DataError
from tstar.evaluation import Report, get_benchmark
from tstar.evaluation.contrasts import measured
from tstar.evaluation.prediction_store import MODE_LABELS, MODES, modes_of
from tstar.evaluation.settings import chosen_modes
from tstar.evaluation.table import waiting_for_judge

Reports = dict[str, dict[str, Report]]
"""By suite and mode."""
Asked = dict[str, tuple[str, Any]]
"""By suite: the run that was asked first, and its questions and rules."""
_FRAMES_TAG = re.compile(r"max_frames=(\d+)(-baselines=False)?")
_CASUAL = {
    "data": ("features", "num_workers", "seed"),
    "evaluation": ("benchmarks", "batch_size", "workers", "time_limit"),
}
"""Settings beside seeds, names and ``run`` that two seeds of one recipe may differ in."""


@dataclass(frozen=True)
class StageRecord:
    """One stage of a run; what its files do not say is None or empty."""

    name: str
    done: dict[str, Any] | None
    """The completion record: steps, seconds, seed, parameters_trained."""
    train_loss: list[tuple[int, float]]
    """(step, loss)."""
    val_loss: list[tuple[int, float]]


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of a run's last checkpoint."""

    max_frames: int
    reports: Reports
    record: dict[str, Any]
    """``evaluation.json``: model, settings, seconds, memory, command; empty where there is none."""
    unjudged: dict[str, str] = field(default_factory=dict)
    """Suites whose answers wait for a judge, with what has to be done; they have no reports here."""


@dataclass(frozen=True)
class Run:
    """A run's folder as data."""

    path: Path
    recipe: str
    """Names of its recipe and overlays, from the command that started it; else the run's name."""
    seed: str
    config: dict[str, Any]
    stages: list[StageRecord]
    own: Evaluated
    """The evaluation that the recipe asks for, without what waits for a judge."""
    other_frames: list[Evaluated]
    """The same checkpoint at other frame counts, rising."""
    card: dict[str, Any]
    events: list[dict[str, Any]]
    missing: list[str] = field(default_factory=list)

    @property
    def suites(self) -> list[str]:
        """Of the recipe, but for those whose answers wait for a judge."""
        return [name for name in self.config["evaluation"]["benchmarks"] if name not in self.own.unjudged]

    @property
    def kind(self) -> str:
        """Hash of the settings that runs of one recipe share, whatever their seed."""
        return hashlib.sha256(json.dumps(_shared(self.config), sort_keys=True).encode()).hexdigest()


def read_run(path: Path) -> Run:
    """Read a run's folder.

    Raises:
        DataError: it is no run's folder, or one of its files is damaged.
        ConfigError: its recipe evaluates nothing, or all of it waits for a judge.
    """
    if not (path / "config.yaml").is_file():
        raise DataError(
            f"{path} is no run's folder (config.yaml is missing); give one that `tstar fit` wrote, as runs/NAME"
        )
    with damage_named(path):
        return _read_run(path)


def _read_run(path: Path) -> Run:
    config = _config(path / "config.yaml")
    evaluation = config.get("evaluation") or {}
    if not evaluation.get("benchmarks"):
        raise ConfigError(f"the recipe of {path} has no suites (evaluation.benchmarks), so there is nothing to report")
    for suite in evaluation["benchmarks"]:
        get_benchmark(suite)
    missing: list[str] = []
    stages = [_stage(path / f"{k}-{name}", name, missing) for k, name in enumerate(config["stages"], 1)]
    card = json_object(path / "run_card.json")
    if not card:
        missing.append(f"{path}/run_card.json: the run is not finished; versions and memory are unknown")
    events = [_row(line, path) for line in _lines(path / "events.jsonl")]
    expected = chosen_modes(evaluation.get("baselines", True))
    own = _evaluated(path / "eval", int(evaluation.get("max_frames", 128)), list(evaluation["benchmarks"]))
    if own.unjudged and not own.reports:
        raise ConfigError(f"{path}: nothing is measured yet; {'; '.join(own.unjudged.values())}")
    missing += [f"{path}/eval: {line}" for line in own.unjudged.values()]
    asked = [suite for suite in evaluation["benchmarks"] if suite not in own.unjudged]
    for mode in expected:
        suites = [suite for suite in asked if modes_of(get_benchmark(suite), [mode])]
        lacking = [suite for suite in suites if mode not in own.reports.get(suite, {})]
        if lacking:
            missing.append(f"{path}/eval: no report of {MODE_LABELS[mode]} for {', '.join(lacking)}")
    if own.reports and not own.record:
        missing.append(f"{path}/eval/evaluation.json: what the evaluation took is unknown")
    return Run(
        path=path,
        recipe=_recipe_name(events) or str(config.get("name", path.name)),
        seed=_seed(config),
        config=config,
        stages=stages,
        own=own,
        other_frames=_other_frames(path / "eval", own, missing),
        card=card,
        events=events,
        missing=missing,
    )


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by recipe, each group by rising seed. Runs are of one recipe if nothing but their seed (and name) differs.

    Raises:
        ConfigError: suites differ, or a recipe and seed come twice.
        DataError: a suite's questions or rules differ.
    """
    first = runs[0]
    asked: Asked = {}
    for run in runs:
        if sorted(run.suites) != sorted(first.suites):
            raise ConfigError(
                f"{run.path} was evaluated on {', '.join(run.suites)}, but {first.path} on {', '.join(first.suites)}; "
                "a report needs runs on the same suites"
            )
        check_questions(run, asked)
    kinds: dict[str, list[Run]] = {}
    for run in runs:
        same = [other for other in kinds.get(run.kind, []) if other.seed == run.seed]
        if same:
            raise ConfigError(f"{same[0].path} and {run.path} are the same recipe with the same seed; give one of them")
        kinds.setdefault(run.kind, []).append(run)
    names = [group[0].recipe for group in kinds.values()]
    labelled = {}
    for group in kinds.values():
        label = group[0].recipe
        if names.count(label) > 1:  # a setting beside the recipe's files differs
            label += f" ({', '.join(run.path.name for run in group)})"
        labelled[label] = sorted(group, key=lambda run: (len(run.seed), run.seed))
    return labelled


def check_questions(run: Run, asked: Asked) -> None:
    """DataError if a run answered other questions than the runs before it, or by other rules; ``asked`` learns what is new."""
    for evaluated in (run.own, *run.other_frames):
        for suite, modes in evaluated.reports.items():
            for report in modes.values():
                answers = sorted((item.id, item.answer) for item in report.items)
                questions = report.rules, report.fingerprint, answers
                where, known = asked.setdefault(suite, (str(run.path), questions))
                if questions != known:
                    raise DataError(
                        f"{run.path} answered other questions of {suite}, or by other rules, than {where}; a report "
                        "needs runs on the same suites: evaluate them again by `tstar validate`"
                    )


def check_shards(run: Run, known: dict[str, tuple[str, str]]) -> None:
    """DataError if a run was trained on other contents of the same shard sets than a run before it; ``known`` learns what is new.

    Args:
        run: finished; stages that recorded no digest are not held against others.
        known: path of the run that was first, and its digest, by the sets that a stage names.
    """
    for stage in run.stages:
        digest = (stage.done or {}).get("shards")
        if not digest:
            continue
        sets = ", ".join(map(str, run.config["stages"][stage.name]["data"]["shards"]))
        first, known_digest = known.setdefault(sets, (str(run.path), digest))
        if digest != known_digest:
            raise DataError(f"{run.path} was trained on other shards than {first}, though both call them {sets}")


def _config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(config, dict) or not isinstance(config.get("stages"), dict):
        raise DataError(f"{path}: is not the resolved recipe of a run (it has no stages)")
    return config


def _lines(path: Path) -> list[str]:
    return text_of(path).splitlines() if path.is_file() else []


def _row(line: str, path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError, RecursionError):
        raise DataError(f"{path / 'events.jsonl'}: a line is not a JSON object: {line[:60]!r}") from None


def _stage(folder: Path, name: str, missing: list[str]) -> StageRecord:
    done = json_object(folder / "done.json") or None
    if done is None:
        missing.append(f"{folder}/done.json: stage {name} is not finished")
    losses = {}
    for key in ("train/loss", "val/loss"):
        losses[key] = _column(folder / "metrics.csv", key)
    if not losses["train/loss"]:
        missing.append(f"{folder}/metrics.csv: no losses of stage {name}")
    return StageRecord(name, done, losses["train/loss"], losses["val/loss"])


def _column(path: Path, name: str) -> list[tuple[int, float]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        try:
            found = [(int(row["step"]), float(row[name])) for row in csv.DictReader(stream) if row.get(name)]
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise DataError(f"{path}: column {name} or step cannot be read ({error})") from None
    return [(step, loss) for step, loss in found if math.isfinite(loss)]


def _evaluated(folder: Path, max_frames: int, suites: list[str]) -> Evaluated:
    reports: Reports = {}
    for suite in suites:
        for mode in MODES:
            path = folder / f"{suite}.{mode}.json"
            if not path.is_file():
                continue
            text = text_of(path)
            try:
                report = Report.from_json(text)
            except DataError as error:
                raise DataError(f"{path}: {error}") from None
            if report.benchmark != suite:
                raise DataError(f"{path}: is a report of {report.benchmark}, not of {suite}")
            reports.setdefault(suite, {})[mode] = report
    leads = {suite: by_mode.get("full") or next(iter(by_mode.values())) for suite, by_mode in reports.items()}
    unjudged = {suite: waiting_for_judge(lead) for suite, lead in leads.items() if lead.unmeasured}
    judged = {suite: measured(by_mode) for suite, by_mode in reports.items() if suite not in unjudged}
    return Evaluated(max_frames, judged, json_object(folder / "evaluation.json"), unjudged)


def _other_frames(folder: Path, own: Evaluated, missing: list[str]) -> list[Evaluated]:
    """Evaluations that differ from the recipe's in nothing but the frame count; those of another checkpoint are refused."""
    found: dict[int, Evaluated] = {}
    for place in sorted(folder.iterdir()) if folder.is_dir() else []:
        tag = _FRAMES_TAG.fullmatch(place.name)
        if tag is None or not place.is_dir():
            continue
        other = _evaluated(place, int(tag[1]), list(own.reports))
        models = {e.record["model"] for e in (own, other) if "model" in e.record}
        if len(models) > 1:
            missing.append(f"{place}: is of another checkpoint than {folder}, so it is left out")
            continue
        lacking = [suite for suite in own.reports if "full" not in other.reports.get(suite, {})]
        if lacking:
            missing.append(f"{place}: no report for {', '.join(lacking)}")
        if other.reports:
            found[other.max_frames] = other
    return [found[count] for count in sorted(found)]


def _recipe_name(events: list[dict[str, Any]]) -> str:
    """``two_stage + avg_pool`` for a run started by ``--config stages/two_stage.yaml --config …/avg_pool.yaml``."""
    command = next((str(event.get("command", "")) for event in events if event.get("event") == "start"), "")
    try:
        words = shlex.split(command)
    except ValueError:  # an odd quote: the command was recorded without its quoting
        words = command.split()
    files = []
    for word, after in zip(words, [*words[1:], ""], strict=False):
        if word == "--config" or word.startswith("--config="):
            files.append(word.partition("=")[2] or after)
    return " + ".join(Path(file).stem for file in files)


def _seed(config: dict[str, Any]) -> str:
    seeds = list(dict.fromkeys(str((stage or {}).get("seed_everything", 0)) for stage in config["stages"].values()))
    return "/".join(seeds)


def _shared(config: dict[str, Any]) -> dict[str, Any]:
    shared = copy.deepcopy({key: value for key, value in config.items() if key != "name"})
    for section in (shared, *shared["stages"].values()):
        for key in ("seed_everything", "run"):
            section.pop(key, None)
        for part, names in _CASUAL.items():
            for name in names:
                (section.get(part) or {}).pop(name, None)
    return shared
