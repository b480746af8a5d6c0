"""Runs to numbers: each seed's, and what the seeds of one recipe have in common. Accuracies are fractions 0 to 1.

Everything here is computed from the reports in the run folders; the page and ``results.json`` print nothing else.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tstar.evaluation import Report, get_benchmark
from tstar.evaluation.contrasts import (
    baseline_differences,
    in_suite_mean,
    report_difference,
    suite_mean,
    suite_parts,
)
from tstar.evaluation.prediction_store import MODES, modes_of
from tstar.evaluation.seeds import combined, summary
from tstar.evaluation.statistics import HIGHEST_RATING, Cell, Difference, tried
from tstar.evaluation.table import table_columns
from tstar.reports.runs import Evaluated, Run

Numbers = dict[str, Any]


def results_of(groups: Mapping[str, Sequence[Run]]) -> Numbers:
    """All numbers of the report, ready for JSON; ``groups`` as of :func:`tstar.reports.runs.group_runs`."""
    runs = [run for group in groups.values() for run in group]
    suites = runs[0].suites
    return {
        "miniature": all(suite.startswith("mini-") for suite in suites),
        "suites": suites,
        "columns": [*table_columns(suites).values(), "mean"],
        "in_mean": {suite: table_columns([suite])[suite, get_benchmark(suite).in_mean] for suite in suites},
        "recipes": {label: recipe_numbers(group) for label, group in groups.items()},
        "missing": [line for run in runs for line in run.missing],
    }


def recipe_numbers(group: Sequence[Run]) -> Numbers:
    """Numbers of the seeds of one recipe."""
    lead = next((run for run in group if run.own.reports), group[0])
    modes = {}
    for mode in MODES:
        seeds = {run.seed: mode_values(run.own, mode, run.suites) for run in group}
        seeds = {seed: values for seed, values in seeds.items() if values}
        if seeds:
            together = summaries(seeds, "value")
            reports = [{suite: own[mode] for suite, own in run.own.reports.items() if mode in own} for run in group]
            for column, interval in both_intervals(reports, with_mode(group[0].suites, mode)).items():
                together[column]["interval"] = interval
            modes[mode] = {"seeds": seeds, "summary": together}
    differences: dict[str, Numbers] = {}
    for run in group:
        for mode, found in baseline_differences(run.own.reports).items():
            values = {suite: _difference(one) for suite, one in found.items()}
            if len(run.own.reports) < len(run.suites):
                values.pop("mean", None)
            differences.setdefault(mode, {"seeds": {}})["seeds"][run.seed] = values
    for own in differences.values():
        own["summary"] = summaries(own["seeds"], "difference")
    return {
        "runs": [run_facts(run) for run in group],
        "max_frames": lead.own.max_frames,
        "counts": {suite: _counts(modes) for suite, modes in lead.own.reports.items()},
        "modes": modes,
        "chance": chance_values(lead),
        "differences": differences,
        "frames": [frame_values(run, other) for run in group for other in run.other_frames],
        "categories": category_numbers(group),
    }


def mode_values(evaluated: Evaluated, mode: str, suites: Sequence[str]) -> Numbers:
    """Value and interval of each column that was measured in ``mode``; ``mean`` only if every suite was that has the mode."""
    reports = {suite: evaluated.reports[suite][mode] for suite in suites if mode in evaluated.reports.get(suite, {})}
    values: Numbers = {}
    for (suite, name), label in table_columns(suites).items():
        if suite in reports and name in reports[suite].aggregate:
            values[label] = {"value": reports[suite].aggregate[name], "interval": reports[suite].intervals.get(name)}
    whole = [suite for suite, report in reports.items() if get_benchmark(suite).in_mean in report.aggregate]
    if whole and len(whole) == len(with_mode(suites, mode)):
        mean, interval = suite_mean(reports)
        values["mean"] = {"value": mean, "interval": interval}
    return values


def with_mode(suites: Sequence[str], mode: str) -> list[str]:
    """The suites that a mode says something about."""
    return [suite for suite in suites if modes_of(get_benchmark(suite), [mode])]


def both_intervals(runs: Sequence[Mapping[str, Report]], suites: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Interval over items and seeds of each column that several runs were measured in, and of the mean if all suites were.

    Args:
        runs: reports by suite of each seed.
        suites: all that should be there.
    """
    found = {}
    tables: dict[str, list[list[Cell]]] = {}
    for (suite, name), label in table_columns(suites).items():
        benchmark = get_benchmark(suite)
        cells = [benchmark.cells(own[suite].items)[name] for own in runs if suite in own]
        if len(cells) < 2 or not all(map(tried, cells)):
            continue
        highest = HIGHEST_RATING if name in benchmark.ratings else 1.0
        found[label] = combined({suite: cells}, highest=highest).interval
        if name == benchmark.in_mean and in_suite_mean(suite) and len(cells) == len(runs):
            tables[suite] = cells
    if tables and tables.keys() == {suite for suite in suites if in_suite_mean(suite)}:
        found["mean"] = combined(tables).interval
    return found


def chance_values(run: Run) -> Numbers:
    """What uniform guessing gives in each column; the questions decide it."""
    leads = {suite: next(iter(modes.values())) for suite, modes in run.own.reports.items()}
    values = {
        label: leads[suite].chance[name]
        for (suite, name), label in table_columns(run.suites).items()
        if suite in leads and name in leads[suite].chance
    }
    if len(leads) == len(run.suites):
        averaged = [r.chance.get(get_benchmark(suite).in_mean) for suite, r in leads.items() if in_suite_mean(suite)]
        known = [value for value in averaged if value is not None]
        if known and len(known) == len(averaged):
            values["mean"] = statistics.fmean(known)
    return values


def frame_values(run: Run, other: Evaluated) -> Numbers:
    """One run at another frame count: values as of :func:`mode_values`, each suite's and the mean's with its change."""
    values = mode_values(other, "full", run.suites)
    full = [
        {suite: modes["full"] for suite, modes in evaluated.reports.items() if "full" in modes}
        for evaluated in (run.own, other)
    ]
    changes = {suite: _difference(one) for suite, one in report_difference(full[0], full[1]).items()}
    if "mean" not in values:
        changes.pop("mean", None)
    return {"seed": run.seed, "max_frames": other.max_frames, "values": values, "changes": changes}


def category_numbers(group: Sequence[Run]) -> list[Numbers]:
    """Each suite's categories: for every mode the mean over the seeds that measured it."""
    found: dict[tuple[str, str], Numbers] = {}
    for run in group:
        for by_mode in run.own.reports.values():
            for part in suite_parts(by_mode):
                entry = found.setdefault((part.suite, part.label), asdict(part) | {"values": {}})
                for mode, value in part.values.items():
                    entry["values"].setdefault(mode, []).append(value)
    for entry in found.values():
        entry["values"] = {mode: summary(values) for mode, values in entry["values"].items()}
    return list(found.values())


def summaries(seeds: Mapping[str, Mapping[str, Any]], key: str) -> Numbers:
    """:func:`summary` over seeds of ``key`` in every column."""
    columns = dict.fromkeys(column for values in seeds.values() for column in values)
    return {column: summary([own[column][key] for own in seeds.values() if column in own]) for column in columns}


def run_facts(run: Run) -> Numbers:
    """What a run took and what it ran with; seconds are None where a file does not say them."""
    stages: list[Numbers] = []
    for stage in run.stages:
        done = stage.done or {}
        facts = {key: done.get(key) for key in ("seconds", "steps", "parameters_trained")}
        stages.append({"stage": stage.name, **facts})
    known = [stage["seconds"] for stage in stages]
    training = sum(known) if None not in known else None
    evaluation = run.own.record.get("seconds")
    memory = [run.card.get("peak_memory_mib"), run.own.record.get("peak_memory_mib")]
    memory += [event.get("peak_memory_mib") for event in run.events]
    starts = [event for event in run.events if event.get("event") == "start"]
    commands = [str(event.get("command", "")) for event in starts]
    commands += [str(other.record["command"]) for other in run.other_frames if "command" in other.record]
    return {
        "run": str(run.path),
        "seed": run.seed,
        "stages": stages,
        "training_seconds": training,
        "evaluation_seconds": evaluation,
        "seconds": training + evaluation if training is not None and evaluation is not None else None,
        "starts": len(starts),
        "peak_memory_mib": max((m for m in memory if m is not None), default=None),
        "machine": run.card.get("machine"),
        "python": run.card.get("python"),
        "packages": run.card.get("packages") or {},
        "commands": list(dict.fromkeys(command for command in commands if command)),
    }


def _counts(by_mode: Mapping[str, Report]) -> Numbers:
    report = by_mode.get("full") or next(iter(by_mode.values()))
    return {**report.counts, "clusters": len({item.cluster for item in report.items}), "rules": report.rules}


def _difference(found: Difference) -> Numbers:
    return {"difference": found.difference, "interval": found.interval}
