"""A table of the paper measured again: every row with its intervals, tokens and the published numbers, as data and files."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tstar.evaluation import Report, get_benchmark
from tstar.evaluation.contrasts import in_suite_mean
from tstar.evaluation.table import table_columns
from tstar.reports.ablation_orderings import MARGIN, Ordering, difference, hold_against, paragraph
from tstar.reports.ablation_page import page, published_name
from tstar.reports.ablation_plots import PLOTS
from tstar.reports.job_queue import recorded_seconds
from tstar.reports.records import RECORDS, write_records
from tstar.reports.runs import Evaluated, Run
from tstar.reports.seed_numbers import Numbers, both_intervals, chance_values, mode_values, run_facts, summaries
from tstar.stages.checkpoint_io import write_atomically

BLIND = "blind"
MINIATURE = "miniature"
"""The scale whose models are tiny."""
CSV_COLUMNS = ("row", "model", "category", "text", "same_as", "frames", "tokens", "parameters_trained", "column")
CSV_NUMBERS = ("value", "sd", "low", "high", "seeds", "published")


@dataclass(frozen=True)
class Row:
    """One row: a model at a number of frames."""

    model: str
    label: str
    category: str
    text: str
    frames: int
    """Most frames of a video."""
    tokens: int
    """Visual tokens of a video that has as many frames."""
    paper_frames: int
    paper_tokens: int | None
    published: dict[str, float]
    """The paper's numbers by column, in its units."""
    seeds: list[str]
    """That are wanted."""
    runs: dict[str, Run]
    """Those that are there, by seed."""
    grid: tuple[int, int] | None = None
    """Place in a grid of two settings."""
    same_as: str | None = None
    """The model that this one is at this scale, and whose runs these are."""

    @property
    def name(self) -> str:
        """As orderings call it."""
        return f"{self.model}@{self.paper_frames}"

    def evaluated(self, seed: str) -> Evaluated | None:
        """The evaluation at this row's frames."""
        run = self.runs.get(seed)
        if run is None:
            return None
        return next((one for one in (run.own, *run.other_frames) if one.max_frames == self.frames), None)

    def reports(self) -> dict[str, dict[str, Report]]:
        """The model's reports by seed and suite; only of seeds that answered every suite."""
        found = {}
        for seed, run in self.runs.items():
            evaluated = self.evaluated(seed)
            full = {} if evaluated is None else _of_mode(evaluated, "full")
            if full and full.keys() == set(run.suites):
                found[seed] = full
        return found


@dataclass(frozen=True)
class Table:
    """All rows of a table, measured or not."""

    title: str
    scale: str
    suites: Sequence[str]
    """On which every model is evaluated."""
    rows: Sequence[Row]
    orderings: Sequence[tuple[str, Sequence[str]]] = ()
    """Of the paper: a sentence and its comparisons, as in the table's file."""
    grid: Sequence[str] = ()
    """Names of the two settings, where the rows are a grid."""
    margin: float = MARGIN
    """Within which rows are alike, as a fraction."""
    average_of: Sequence[str] = ()
    """Columns that the paper's average is over."""
    equal: tuple[str, str] | None = None
    """Two rows that compute the same: their gap is chance in training."""
    note: str = ""
    """On the published numbers."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why a run that is there is in no row, by model and seed."""


def write_ablation_report(table: Table, folder: Path, out: Path, command: str) -> Numbers:
    """Write ``README.md``, ``table.csv``, ``results.json``, the plots and the runs' records into ``out``; returns the data.

    Args:
        table: its rows, measured or not.
        folder: of the runs, where failures and times are recorded.
        out: made if it is not there; what an earlier report left under the same names is replaced.
        command: that repeats it.
    """
    results = results_of(table, folder, command)
    out.mkdir(parents=True, exist_ok=True)
    results["plots"] = [name for name, draw in PLOTS if draw(results, out / name)]
    for name in {name for name, _ in PLOTS} - set(results["plots"]):
        (out / name).unlink(missing_ok=True)
    runs = {str(run.path): run for row in table.rows for run in row.runs.values()}
    if runs:
        seconds = {run.path.name: recorded_seconds(folder, run.path.name) for run in runs.values()}
        write_records(list(runs.values()), out / RECORDS, seconds)
    write_atomically(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_csv(results, out / "table.csv")
    write_atomically(out / "README.md", page(results))
    return results


def results_of(table: Table, folder: Path, command: str) -> Numbers:
    """Everything that page, plots and CSV show, ready for JSON. Accuracies are fractions, published numbers as printed."""
    runs = {str(run.path): run for row in table.rows for run in row.runs.values()}
    answers: dict[tuple[str, int], dict[str, dict[str, Report]]] = {}
    leads = sorted(runs.values(), key=lambda run: -len(run.own.reports))  # one that has answered every suite first
    rows = {}
    for row in table.rows:  # of models that are one and the same, the same object
        rows[row.name] = answers.setdefault((row.same_as or row.model, row.frames), row.reports())
    facts = [_row(row) for row in table.rows]
    not_above = [row["name"] for row in facts if row["above_blind"] is False]
    models = {row.name: row.same_as or row.model for row in table.rows}
    orderings = hold_against(table.orderings, rows, models=models, margin=table.margin, not_above=not_above)
    generated = bool(table.suites) and all(suite.startswith("mini-") for suite in table.suites)
    tiny = table.scale == MINIATURE
    words = [*(["miniature scale"] if generated or tiny else []), *([] if tiny else [table.scale])]
    return {
        "title": f"{table.title} ({', '.join(words)})",
        "generated_suites": generated,
        "tiny_models": tiny,
        "scale": table.scale,
        "grid": list(table.grid),
        "command": command,
        "suites": list(table.suites),
        "columns": [*table_columns(table.suites).values(), "mean"],
        "average_of": list(table.average_of),
        "joined": _joined(table),
        "note": table.note,
        "rows": facts,
        "chance": chance_values(leads[0]) if leads else {},
        "blind": summaries({path: mode_values(run.own, BLIND, run.suites) for path, run in runs.items()}, "value"),
        "orderings": [_ordering(ordering) for ordering in orderings],
        "paragraph": paragraph(orderings, not_above),
        "equal": _equal(table, rows),
        "below_blind": not_above,
        "failed": failures(folder, table.rows),
        "left_out": dict(table.left_out),
        "runs": [{**run_facts(run), "step_seconds": recorded_seconds(folder, run.path.name)} for run in runs.values()],
    }


def failures(folder: Path, rows: Sequence[Row]) -> dict[str, str]:
    """Why models of these rows failed the last time, by name and seed; without those that have answered all their rows since."""
    found = {}
    for path in sorted((folder / "failed").glob("*.json")):
        model, _, seed = path.stem.rpartition("-")
        own = [row for row in rows if (row.same_as or row.model) == model]
        if all(row.evaluated(seed) for row in own):  # also where it is in no row of the table
            continue
        try:
            found[path.stem] = str(json.loads(path.read_text(encoding="utf-8"))["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            found[path.stem] = f"{path} cannot be read"
    return found


def write_csv(results: Numbers, path: Path) -> None:
    """One line a row and column: the mean over seeds in percent, deviation, interval, and what was published beside it."""
    lines = [[*CSV_COLUMNS, *CSV_NUMBERS]]
    for row in results["rows"]:
        fixed = [row[key] for key in ("name", "label", "category", "text", "same_as", "frames", "tokens")]
        fixed.append(row["parameters_trained"])
        joined = {column: results["joined"].get(column) for column in row["summary"] or results["columns"]}
        alone = [name for name in row["published"] if name not in joined.values()]
        for column, name in [*joined.items(), *((name, name) for name in alone)]:
            own = row["summary"].get(column) or {}
            low, high = own.get("interval") or (None, None)
            cells = ["" if c is None else f"{100 * c:.2f}" for c in (own.get("mean"), own.get("sd"), low, high)]
            words = ["" if value is None else str(value) for value in (*fixed, column)]
            lines.append([*words, *cells, str(own.get("n", 0)), str(row["published"].get(name, ""))])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_atomically(path, text.getvalue())


def _joined(table: Table) -> dict[str, str]:
    """The published column that stands beside each measured one; the average only if it is over the same columns as the mean."""
    joined = {column: published_name(column) for column in table_columns(table.suites).values()}
    averaged = [suite for suite in table.suites if in_suite_mean(suite)]
    labels = [table_columns([suite])[suite, get_benchmark(suite).in_mean] for suite in averaged]
    same = bool(labels) and {joined[label] for label in labels} == set(table.average_of)
    return joined | ({"mean": "average"} if same else {})


def _row(row: Row) -> Numbers:
    seeds = {}
    for seed in row.runs:
        evaluated = row.evaluated(seed)
        if evaluated is not None:
            seeds[seed] = mode_values(evaluated, "full", row.runs[seed].suites)
    seeds = {seed: values for seed, values in seeds.items() if values}
    summary = summaries(seeds, "value")
    if len(seeds) == 1:
        (only,) = seeds.values()
        intervals = {column: own.get("interval") for column, own in only.items()}
    else:
        reports = [_of_mode(evaluated, "full") for seed in seeds if (evaluated := row.evaluated(seed))]
        intervals = dict(both_intervals(reports, next(iter(row.runs.values())).suites)) if reports else {}
    for column, own in summary.items():
        own["interval"] = intervals.get(column)
    gain = _blind_gain(row)
    trained = [run.stages[-1].done for run in row.runs.values()]
    facts: dict[str, Any] = {
        "name": row.name,
        "model": row.model,
        "label": row.label,
        "category": row.category,
        "text": row.text,
        "same_as": row.same_as,
        "frames": row.frames,
        "tokens": row.tokens,
        "grid": list(row.grid) if row.grid else None,
        "paper_frames": row.paper_frames,
        "paper_tokens": row.paper_tokens,
        "published": row.published,
        "wanted_seeds": row.seeds,
        "seeds": seeds,
        "summary": summary,
        "over_blind": gain,
        "above_blind": gain["interval"][0] > 0 if gain else _above_chance(row, summary),
        "seeds_above_blind": _seeds_above_blind(row, gain),
        "parameters_trained": next((done["parameters_trained"] for done in trained if done), None),
    }
    return facts


def _blind_gain(row: Row, of: str | None = None) -> Numbers | None:
    """The model minus itself without the video, in the mean over suites, over the seeds that have both, or of one seed."""
    full = {seed: reports for seed, reports in row.reports().items() if of in (None, seed)}
    found = difference(full, {seed: _of_mode(row.runs[seed].own, BLIND) for seed in full}, same_runs=True)
    return None if found is None else {"difference": found.difference, "interval": list(found.interval)}


def _seeds_above_blind(row: Row, all_seeds: Numbers | None) -> list[str]:
    """Seeds that are above blind, each judged alone by the interval over videos; ``all_seeds``: the gain over all of them."""
    seeds = list(row.reports())
    gains = {seed: all_seeds if len(seeds) == 1 else _blind_gain(row, seed) for seed in seeds}
    return [seed for seed, gain in gains.items() if gain and gain["interval"][0] > 0]


def _above_chance(row: Row, summary: Numbers) -> bool | None:
    """Where it was not asked without the video, or nothing it said counts: whether it is above guessing. None if not measured."""
    if not row.reports():
        return None
    interval = summary["mean"]["interval"]
    chance = chance_values(next(iter(row.runs.values()))).get("mean", 0.0)
    return interval is not None and bool(interval[0] > chance)


def _of_mode(evaluated: Evaluated, mode: str) -> dict[str, Report]:
    return {suite: modes[mode] for suite, modes in evaluated.reports.items() if mode in modes}


def _ordering(ordering: Ordering) -> Numbers:
    return {
        "said": ordering.said,
        "verdict": ordering.verdict,
        "comparisons": [
            {
                "left": one.left,
                "operator": one.operator,
                "right": one.right,
                "verdict": one.verdict,
                "margin": one.margin,
                "difference": one.found.difference if one.found else None,
                "interval": one.found.interval if one.found else None,
                "seeds": list(one.found.seeds) if one.found else [0, 0],
            }
            for one in ordering.comparisons
        ],
    }


def _equal(table: Table, rows: Mapping[str, Mapping[str, Mapping[str, Report]]]) -> Numbers | None:
    if table.equal is None:
        return None
    found = difference(*(rows.get(name) for name in table.equal))
    return {"rows": list(table.equal), "difference": found.difference, "interval": found.interval} if found else None
