"""The page about finished runs: one group of rows a recipe, its seeds, their baselines, what they took, and examples."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import DataError
from tstar.evaluation.prediction_store import BASELINES, MODE_LABELS, MODES
from tstar.evaluation.statistics import LEVEL
from tstar.evaluation.table import ABSENT, ROW_LABELS, markdown_table
from tstar.reports.curves import loss_curves
from tstar.reports.examples import RULE, SHOWN, example_sheet
from tstar.reports.records import RECORDS, write_records
from tstar.reports.runs import Run
from tstar.reports.seed_numbers import Numbers, results_of
from tstar.stages.checkpoint_io import write_atomically

EXAMPLES = 3
"""Right and wrong answers of each suite."""


def write_seeds_report(groups: Mapping[str, Sequence[Run]], out: Path, title: str = "", command: str = "") -> Numbers:
    """Write ``README.md``, ``results.json``, the pictures and the runs' records into ``out``.

    Args:
        groups: runs by recipe, as of :func:`tstar.reports.runs.group_runs`.
        out: folder; made if it is not there. What an earlier report left under the same names is replaced.
        title: of the page; it will say "miniature" where all suites are generated ones.
        command: that repeats the report.

    Returns:
        What ``results.json`` holds.
    """
    results = results_of(groups)
    title = title or f"Results of {', '.join(groups)}"
    if results["miniature"] and "miniature" not in title.lower():
        title += " (miniature scale)"
    out.mkdir(parents=True, exist_ok=True)
    results = {"title": title, "command": command, **results}
    results["curves"] = _curves(groups, out, results["missing"])
    results["examples"] = _examples(next(iter(groups.values()))[0], out, results["missing"])
    write_records([run for group in groups.values() for run in group], out / RECORDS)
    write_atomically(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_atomically(out / "README.md", page(results))
    return results


def page(results: Numbers) -> str:
    """The page as Markdown, from what ``results.json`` holds and nothing else."""
    text = [f"# {results['title']}\n"]
    if results["miniature"]:
        text.append("All suites are generated: these numbers say nothing about the benchmarks they are named after.\n")
    text += ["## Overview\n", _overview(results), _notes(results)]
    for label, recipe in results["recipes"].items():
        text += [f"## {label}\n", *_recipe(label, recipe, results)]
    text += ["## What it took\n", _costs(results), "## Versions\n", _versions(results)]
    text += ["## Examples\n", *_example_lines(results), "## Commands\n", _commands(results)]
    text.append(
        f"[{RECORDS}]({RECORDS}) holds what this page was made of: settings, losses, every answer and its verdict. Unpacked, each "
        "run is a folder for `tstar report`.\n"
    )
    text += ["## What is missing\n", "".join(f"- {line}\n" for line in results["missing"]) or "Nothing.\n"]
    return "\n".join(text)


def percent(value: float | None, interval: Sequence[float] | None = None, sign: str = "") -> str:
    """``45.0 [40.1, 49.8]`` of fractions, with ``sign="+"`` as a difference in points."""
    if value is None:
        return ABSENT
    spread = f" [{100 * interval[0]:{sign}.1f}, {100 * interval[1]:{sign}.1f}]" if interval else ""
    return f"{100 * value:{sign}.1f}{spread}"


def spread(summary: Numbers | None, sign: str = "") -> str:
    """``45.0 ± 1.2 (43.9 to 46.3) [40.3, 49.7]``: mean, standard deviation, least, greatest, and the interval over items and seeds
    where there is one; of one seed only the value."""
    if summary is None:
        return ABSENT
    mean = percent(summary["mean"], sign=sign)
    if summary["sd"] is None:
        return mean
    ends = " to ".join(percent(summary[end], sign=sign) for end in ("min", "max"))
    both = percent(summary["mean"], summary.get("interval"), sign).removeprefix(mean)
    return f"{mean} ± {100 * summary['sd']:.1f} ({ends}){both}"


def _overview(results: Numbers) -> str:
    columns, rows = results["columns"], []
    for label, recipe in results["recipes"].items():
        for mode, found in recipe["modes"].items():
            cells = [percent((found["summary"].get(column) or {}).get("mean")) for column in columns]
            rows.append([f"{label}, {MODE_LABELS[mode]}", _seeds(len(found["seeds"])), *cells])
    chance = next(iter(results["recipes"].values()))["chance"]
    rows.append(["chance", "", *(percent(chance.get(column)) for column in columns)])
    return markdown_table(["accuracy in percent, mean over seeds", "", *columns], rows)


def _notes(results: Numbers) -> str:
    lines = [
        f"- [a, b]: {LEVEL:.0%} interval of one seed, bootstrap over clusters (videos; VNBench: the four tries of a question); "
        "the mean's and the differences' with every suite resampled on its own",
        "- m ± s (a to b) [c, d]: mean, standard deviation (n - 1), least and greatest over seeds, and the same interval over "
        "questions and seeds together (Student's t)",
        "- mean: plain mean over suites; VNBench enters with its independent score",
        "- shuffled frames: the same frames in a random order fixed per video; single frame: the middle one; blind: no video",
    ]
    counts: Numbers = next((recipe["counts"] for recipe in results["recipes"].values() if recipe["counts"]), {})
    for suite, own in counts.items():
        lines.append(f"- {suite}: {own['n']} questions in {own['clusters']} clusters, {own['rules']} rule")
    return "\n".join(lines) + "\n"


def _recipe(label: str, recipe: Numbers, results: Numbers) -> list[str]:
    columns, suites = results["columns"], [*results["suites"], "mean"]
    text = [f"{_seeds(len(recipe['runs']))}, at most {recipe['max_frames']} frames of a video.\n"]
    rows = _seed_rows(recipe["modes"], columns, "value", MODES, lambda mode: MODE_LABELS[mode])
    rows.append(["chance", *(percent(recipe["chance"].get(column)) for column in columns)])
    text.append(markdown_table(["accuracy in percent", *columns], rows))
    name = {mode: f"{MODE_LABELS['full']} minus {MODE_LABELS[mode]}" for mode in BASELINES}
    rows = _seed_rows(recipe["differences"], suites, "difference", BASELINES, lambda mode: name[mode], sign="+")
    if rows:
        text.append(markdown_table(["difference in points, paired", *suites], rows))
    text += ["### By category\n", _categories(recipe), "### Other frame counts\n", _frames(recipe, results)]
    if label in results["curves"]:
        text += ["### Losses\n", f"![Training losses of {label}]({results['curves'][label]})\n"]
    return text


def _seed_rows(
    table: Numbers, columns: Sequence[str], key: str, order: Sequence[str], name: Callable[[str], str], sign: str = ""
) -> list[list[str]]:
    rows = []
    for mode in order:
        if mode not in table:
            continue
        for seed, values in table[mode]["seeds"].items():
            own = [values.get(column, {}) for column in columns]
            cells = [percent(one.get(key), one.get("interval"), sign) for one in own]
            rows.append([f"{name(mode)}, seed {seed}", *cells])
        several = len(table[mode]["seeds"])
        if several > 1:
            cells = [spread(table[mode]["summary"].get(column), sign) for column in columns]
            rows.append([f"**{name(mode)}, {_seeds(several)}**", *cells])
    return rows


def _categories(recipe: Numbers) -> str:
    shown = [m for m in (*MODES, "chance") if any(m in entry["values"] for entry in recipe["categories"])]
    if not shown:
        return "No suite has been answered.\n"
    rows = []
    for entry in recipe["categories"]:
        cells = [percent((entry["values"].get(mode) or {}).get("mean")) for mode in shown]
        rows.append([f"{entry['suite']}: {entry['label']}", str(entry["n"]), *cells])
    return markdown_table(["accuracy in percent, mean over seeds", "n", *(ROW_LABELS[m] for m in shown)], rows)


def _frames(recipe: Numbers, results: Numbers) -> str:
    if not recipe["frames"]:
        return "None measured; `tstar validate --ckpt RUN --max-frames K --no-baselines` adds one.\n"
    suites, column = [*results["suites"], "mean"], {**results["in_mean"], "mean": "mean"}
    base = recipe["modes"].get("full", {"seeds": {}})["seeds"]
    rows = []
    for entry in sorted(recipe["frames"], key=lambda e: e["max_frames"]):
        cells = []
        for suite in suites:
            change = entry["changes"].get(suite) or {}
            value = entry["values"].get(column[suite]) or {}
            told = percent(change.get("difference"), change.get("interval"), "+")
            cells.append(f"{percent(value.get('value'))} ({told})")
        rows.append([f"{entry['max_frames']} frames, seed {entry['seed']}", *cells])
    for seed, values in reversed(base.items()):
        own = [values.get(column[suite]) or {} for suite in suites]
        label = f"{recipe['max_frames']} frames (the recipe's), seed {seed}"
        rows.insert(0, [label, *(percent(one.get("value")) for one in own)])
    head = "accuracy in percent (change in points from the recipe's frame count, paired)"
    return markdown_table([head, *suites], rows)


def _costs(results: Numbers) -> str:
    rows = []
    for label, recipe in results["recipes"].items():
        for run in recipe["runs"]:
            stages = [f"{stage['stage']} {_time(stage['seconds'])}" for stage in run["stages"]]
            memory = run["peak_memory_mib"]
            rows.append(
                [
                    f"{label}, seed {run['seed']}",
                    "; ".join(stages),
                    _time(run["training_seconds"]),
                    _time(run["evaluation_seconds"]),
                    _time(run["seconds"]),
                    ABSENT if memory is None else f"{memory / 1024:.1f} GiB",
                    str(run["starts"]),
                ]
            )
    header = ["wall time", "by stage", "training", "evaluation", "whole", "peak memory", "starts"]
    told = "A stage that was stopped and resumed counts the time since its last start.\n"
    return markdown_table(header, rows) + "\n" + told


def _versions(results: Numbers) -> str:
    found: dict[str, list[str]] = {}
    for recipe in results["recipes"].values():
        for run in recipe["runs"]:
            packages = ", ".join(f"{name} {number}" for name, number in run["packages"].items())
            told = f"Python {run['python']}, {packages}; {run['machine']}" if packages else "not recorded"
            found.setdefault(told, []).append(run["run"])
    if len(found) == 1:
        return f"{next(iter(found))}.\n"
    return "".join(f"- {', '.join(runs)}: {told}\n" for told, runs in found.items())


def _example_lines(results: Numbers) -> list[str]:
    found = results["examples"]
    if not found["sheets"]:
        return ["None could be drawn, see below.\n"]
    told = f"Of {found['run']}; {RULE.format(shown=SHOWN)}. Green: the right answer; red: a wrong one that was given.\n"
    return [told, *(f"![Examples of {suite}]({file})\n" for suite, file in found["sheets"].items())]


def _commands(results: Numbers) -> str:
    commands = [c for recipe in results["recipes"].values() for run in recipe["runs"] for c in run["commands"]]
    commands += [results["command"]] if results["command"] else []
    plain = (re.sub(r"^\S*/tstar(?= )", "tstar", command) for command in commands)
    return "\n".join(["```", *dict.fromkeys(plain), "```"]) + "\n"


def _curves(groups: Mapping[str, Sequence[Run]], out: Path, missing: list[str]) -> dict[str, str]:
    files = {}
    for label, group in groups.items():
        file = f"losses_{_slug(label)}.png"
        if loss_curves(group, out / file, label):
            files[label] = file
        else:
            missing.append(f"{label}: no run has losses, so there are no curves")
    return files


def _examples(run: Run, out: Path, missing: list[str]) -> dict[str, Any]:
    sheets = {}
    for suite in run.suites:
        file = f"examples_{_slug(suite)}.png"
        try:
            example_sheet(run, suite, out / file, EXAMPLES)
        except DataError as error:
            missing.append(f"examples of {suite}: {error}")
        else:
            sheets[suite] = file
    return {"run": str(run.path), "sheets": sheets}


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", label).strip("_")


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ABSENT
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
