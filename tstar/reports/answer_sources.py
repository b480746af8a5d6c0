"""What models left, read back for a comparison: run folders, stored predictions, response files, reports of ``tstar score``."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tstar.errors import ConfigError, DataError, suggest
from tstar.evaluation import Report, get_benchmark
from tstar.evaluation.files import read_json
from tstar.evaluation.items import MISSING, fingerprint
from tstar.evaluation.prediction_store import PredictionStore
from tstar.integrations.answers import one_condition, read_evaluated

MODE = "full"


@dataclass(frozen=True)
class Budget:
    """What a model looked at, on average over the questions that say so."""

    visual_tokens: float
    frames: float | None


@dataclass
class RunAnswers:
    """One run's reports by suite, and where its suites' annotations lie as far as it says."""

    path: Path
    reports: dict[str, Report]
    budgets: dict[str, Budget] = field(default_factory=dict)
    annotations: dict[str, Path] = field(default_factory=dict)


def read_side(
    paths: Sequence[Path], annotations: Mapping[str, Path], rules: str | None, wanted: Sequence[str] | None
) -> list[RunAnswers]:
    """The runs of one model, with the reports that there are of them.

    Args:
        paths: of its runs, one a seed: run folders, files of predictions or responses, or reports.
        annotations: of suites whose responses have to be scored, by name.
        rules: whose rules, where there is a choice; None takes the official ones.
        wanted: names of suites; None for all.

    Raises:
        ConfigError: a suite is not there, or it is not known where its annotations are.
        DataError: a path holds no answers, or a file is damaged.
    """
    runs = []
    for path in paths:
        run = _read(path, annotations, rules, wanted)
        for name in wanted or ():
            if name not in run.reports:
                raise ConfigError(f"{path} has no answers to '{name}'{suggest(name, run.reports)}")
        run.reports = {name: report for name, report in run.reports.items() if wanted is None or name in wanted}
        runs.append(run)
    return runs


def report_by(run: RunAnswers, name: str, rules: str | None, annotations: Mapping[str, Path]) -> Report:
    """A run's report of a suite by these rules, None for those it was made by; its answers are scored again if need be.

    Raises:
        ConfigError: that needs annotations, and it is not known where they are.
        DataError: the annotations hold other questions than the report is about.
    """
    report = run.reports[name]
    if rules in (None, report.rules):
        return report
    benchmark = get_benchmark(name)
    benchmark.check_rules(rules)
    if benchmark.judged:
        raise ConfigError(f"{run.path}: {name} is judged; score its responses with `tstar score --rules {rules}`")
    place = annotations.get(name, run.annotations.get(name))
    if place is None or not place.exists():
        known = "" if place is None else f", which are not in {place}"
        raise ConfigError(
            f"{run.path}: {name} was scored by {report.rules} rules; {rules} ones need its annotations{known}: give "
            f"--annotations {name}=PATH"
        )
    asked = {item.id for item in report.items}
    items = [item for item in benchmark.load(place) if item.id in asked]
    if report.fingerprint and report.fingerprint != fingerprint(items):
        raise DataError(
            f"{run.path}: its {name} report is about other questions than {place} holds, or was written by an earlier version; "
            "score its answers again"
        )
    return benchmark.score(items, {i.id: i.response for i in report.items if i.how != MISSING}, rules)


def _read(path: Path, annotations: Mapping[str, Path], rules: str | None, wanted: Sequence[str] | None) -> RunAnswers:
    if path.is_dir():
        return _run_folder(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; give a run's folder, its predictions, or a report")
    if path.suffix == ".json":
        data = read_json(path)
        if isinstance(data, dict) and ("reports" in data or "intervals" in data):
            return _report_file(data, path, rules)
    return _response_file(path, annotations, rules, wanted)


def _run_folder(path: Path) -> RunAnswers:
    """What lies in a run's folder, in the ``--out`` of an evaluation, or in one of the folders below its ``eval``."""
    folder = path / "eval" if (path / "eval").is_dir() else path
    found = {file.name.removesuffix(f".{MODE}.json"): file for file in sorted(folder.glob(f"*.{MODE}.json"))}
    if not found:
        raise DataError(
            f"{path}: holds no reports (eval/SUITE.{MODE}.json); give a run that was evaluated, `tstar validate` does that"
        )
    run = RunAnswers(path, {})
    root = next((place for place in (path, *path.absolute().parents[:2]) if (place / "predictions").is_dir()), None)
    if root is not None:
        run.annotations = read_evaluated(root).annotations
    record = read_json(folder / "evaluation.json") if (folder / "evaluation.json").is_file() else {}
    frames = (record.get("settings") or {}).get("max_frames") if isinstance(record, dict) else None
    for name in [*(n for n in run.annotations if n in found), *(n for n in found if n not in run.annotations)]:
        get_benchmark(name)
        run.reports[name] = _report(read_json(found[name]), found[name], name)
        if root is not None:
            _add_budget(run, name, root / "predictions" / name / f"{MODE}.jsonl", MODE, frames)
    return run


def _report_file(data: dict[str, Any], path: Path, rules: str | None) -> RunAnswers:
    if "reports" in data:
        by_rules = data["reports"]
        chosen = rules or "official"
        if not isinstance(by_rules, dict) or chosen not in by_rules:
            known = ", ".join(by_rules) if isinstance(by_rules, dict) else "none"
            raise ConfigError(f"{path}: holds no report by the rules {chosen} (it has {known}); choose by --rules")
        data = by_rules[chosen]
    report = _report(data, path)
    return RunAnswers(path, {report.benchmark: report})


def _response_file(
    path: Path, annotations: Mapping[str, Path], rules: str | None, wanted: Sequence[str] | None
) -> RunAnswers:
    """Stored predictions with the report that was made of them, or responses that are scored here."""
    stored = path.absolute().parent.parent.name == "predictions"
    names = [path.absolute().parent.name] if stored else list(wanted or annotations)
    if len(names) != 1:
        raise ConfigError(f"{path}: of which benchmark are these responses? say it by --annotations NAME=PATH")
    name, mode = names[0], path.stem
    run = RunAnswers(path, {})
    saved = path.absolute().parents[2] / "eval" / f"{name}.{mode}.json" if stored else None
    if saved is not None and saved.is_file():
        run.reports[name] = _report(read_json(saved), saved, name)
        run.annotations = read_evaluated(saved.parents[1]).annotations
    elif name in annotations:
        benchmark = get_benchmark(name)
        items = benchmark.load(annotations[name])
        run.reports[name] = benchmark.score(items, benchmark.responses(path, items), rules or "official")
    else:
        raise ConfigError(
            f"{path}: no report of {name} was made of these; give --annotations {name}=PATH to score them"
        )
    if stored:
        _add_budget(run, name, path, mode)
    return run


def _report(data: Any, path: Path, name: str | None = None) -> Report:
    try:
        report = Report.from_data(data)
        get_benchmark(report.benchmark)
    except (ConfigError, DataError) as error:
        raise DataError(f"{path}: {error}") from None
    if name not in (None, report.benchmark):
        raise DataError(f"{path}: is a report of {report.benchmark}, not of {name}")
    return report


def _add_budget(run: RunAnswers, name: str, path: Path, mode: str, max_frames: Any = None) -> None:
    """Read what the answers of a report took; unknown where nothing is stored, or several evaluations cannot be told apart.

    Args:
        run: whose report of suite ``name`` it is.
        name: of the suite.
        path: of its stored answers.
        mode: in which they were given.
        max_frames: of the evaluation, if it says so; other frame counts may have brought the same answers.
    """
    if not path.is_file():
        return
    stored = PredictionStore(path).rows()
    looked = {str(row["frames"]) for row in stored if str(row["frames"]).startswith(f"{max_frames} ")}
    try:
        rows = one_condition(stored, path, mode, looked.pop() if len(looked) == 1 else None, run.reports[name])
    except (ConfigError, DataError):
        return
    asked = {item.id for item in run.reports[name].items}
    tokens = [row["visual_tokens"] for row in rows if row["id"] in asked and row.get("visual_tokens") is not None]
    frames = [row["frame_count"] for row in rows if row["id"] in asked and row.get("frame_count") is not None]
    if tokens:
        run.budgets[name] = Budget(statistics.fmean(tokens), statistics.fmean(frames) if frames else None)
