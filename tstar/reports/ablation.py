"""A table of the paper measured again: every row with its intervals, tokens and the published numbers, as data and files."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tstar.evaluation import Report
from tstar.evaluation.contrasts import report_difference
from tstar.reports.ablation_orderings import Ordering, hold_against, paragraph
from tstar.reports.ablation_page import page
from tstar.reports.ablation_plots import PLOTS
from tstar.reports.records import RECORDS, write_records
from tstar.reports.runs import Evaluated, Run
from tstar.reports.seed_numbers import Numbers, mode_values, run_facts, summaries
from tstar.stages.checkpoint_io import write_atomically

BLIND = "blind"


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
            own = {} if evaluated is None else evaluated.reports
            full = {suite: own[suite]["full"] for suite in run.suites if "full" in own.get(suite, {})}
            if len(full) == len(run.suites):
                found[seed] = full
        return found


@dataclass(frozen=True)
class Table:
    """All rows that were asked for, measured or not."""

    title: str
    scale: str
    rows: Sequence[Row]
    orderings: Sequence[tuple[str, Sequence[str]]] = ()
    """Of the paper: a sentence and its comparisons, as in the table's file."""
    grid: Sequence[str] = ()
    """Names of the two settings, where the rows are a grid."""


def write_ablation_report(table: Table, folder: Path, out: Path, command: str) -> Numbers:
    """Write ``README.md``, ``table.csv``, ``results.json``, the plots and the runs' records into ``out``; returns the data.

    Args:
        table: its rows; orderings of rows that it lacks are left out.
        folder: of the runs, where failures are recorded.
        out: made if it is not there; what an earlier report left under the same names is replaced.
        command: that repeats it.
    """
    names = [row.name for row in table.rows]
    whole = [(said, [c for c in own if all(n in names for n in c.split()[::2])]) for said, own in table.orderings]
    found = hold_against([(said, own) for said, own in whole if own], {row.name: row.reports() for row in table.rows})
    results = results_of(table, found, failures(folder), command)
    out.mkdir(parents=True, exist_ok=True)
    results["plots"] = [name for name, draw in PLOTS if draw(results, out / name)]
    runs = {str(run.path): run for row in table.rows for run in row.runs.values()}
    if runs:
        write_records(list(runs.values()), out / RECORDS)
    write_atomically(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_csv(results, out / "table.csv")
    write_atomically(out / "README.md", page(results))
    return results


def results_of(table: Table, orderings: Sequence[Ordering], failed: dict[str, str], command: str) -> Numbers:
    """Everything that page, plots and CSV show, ready for JSON. Accuracies are fractions, published numbers as printed."""
    rows = table.rows
    runs = {str(run.path): run for row in rows for run in row.runs.values()}
    lead = next(iter(runs.values()), None)
    miniature = table.scale.startswith("miniature")
    return {
        "title": f"{table.title} (miniature scale)" if miniature else f"{table.title} ({table.scale})",
        "miniature": miniature,
        "scale": table.scale,
        "grid": list(table.grid),
        "command": command,
        "suites": lead.suites if lead else [],
        "rows": [_row(row) for row in rows],
        "orderings": [
            {
                "said": ordering.said,
                "verdict": ordering.verdict,
                "comparisons": [
                    {
                        "left": one.left,
                        "operator": one.operator,
                        "right": one.right,
                        "verdict": one.verdict,
                        "difference": one.found.difference if one.found else None,
                        "interval": one.found.interval if one.found else None,
                    }
                    for one in ordering.comparisons
                ],
            }
            for ordering in orderings
        ],
        "paragraph": paragraph(orderings, max((len(row.reports()) for row in rows), default=0)),
        "below_blind": [row.name for row in rows if _blind_gain(row) is not None and not _above_blind(row)],
        "failed": failed,
        "runs": [run_facts(run) for run in runs.values()],
    }


def failures(folder: Path) -> dict[str, str]:
    """Why models failed the last time, by name and seed."""
    found = {}
    for path in sorted((folder / "failed").glob("*.json")):
        found[path.stem] = str(json.loads(path.read_text(encoding="utf-8")).get("reason", ""))
    return found


def write_csv(results: Numbers, path: Path) -> None:
    """One line a row and column: the mean over seeds in percent, its interval, and what was published."""
    lines = [["row", "model", "category", "frames", "tokens", "column", "value", "low", "high", "seeds", "published"]]
    for row in results["rows"]:
        fixed = [row["name"], row["label"], row["category"], row["frames"], row["tokens"]]
        for column in dict.fromkeys([*row["summary"], *row["published"]]):
            own = row["summary"].get(column) or {}
            low, high = own.get("interval") or (None, None)
            cells = [own.get("mean"), low, high]
            percent = ["" if cell is None else f"{100 * cell:.2f}" for cell in cells]
            lines.append(
                [*map(str, fixed), column, *percent, str(own.get("n", 0)), str(row["published"].get(column, ""))]
            )
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(lines)


def _row(row: Row) -> Numbers:
    seeds = {}
    for seed in row.runs:
        evaluated = row.evaluated(seed)
        if evaluated is not None:
            seeds[seed] = mode_values(evaluated, "full", row.runs[seed].suites)
    seeds = {seed: values for seed, values in seeds.items() if values}
    summary = summaries(seeds, "value")
    if len(seeds) == 1:  # then the interval is over videos; of several seeds the spread is told
        (only,) = seeds.values()
        for column, own in summary.items():
            own["interval"] = only[column].get("interval")
    trained = {seed: run.stages[-1].done for seed, run in row.runs.items()}
    facts: dict[str, Any] = {
        "name": row.name,
        "model": row.model,
        "label": row.label,
        "category": row.category,
        "text": row.text,
        "frames": row.frames,
        "tokens": row.tokens,
        "grid": list(row.grid) if row.grid else None,
        "paper_frames": row.paper_frames,
        "paper_tokens": row.paper_tokens,
        "published": row.published,
        "wanted_seeds": row.seeds,
        "seeds": seeds,
        "summary": summary,
        "over_blind": _blind_gain(row),
        "seconds": {seed: _seconds(run) for seed, run in row.runs.items()},
        "parameters_trained": next((done["parameters_trained"] for done in trained.values() if done), None),
    }
    return facts


def _blind_gain(row: Row) -> Numbers | None:
    """The model minus the blind baseline of the same run, in the mean over suites, of the first seed that has both."""
    for seed, full in row.reports().items():
        own = row.runs[seed].own.reports
        blind = {suite: own[suite][BLIND] for suite in full if BLIND in own.get(suite, {})}
        found = report_difference(blind, full).get("mean") if len(blind) == len(full) else None
        if found is not None:
            return {"difference": found.difference, "interval": found.interval, "blind": found.first}
    return None


def _above_blind(row: Row) -> bool:
    gain = _blind_gain(row)
    return gain is not None and gain["interval"][0] > 0


def _seconds(run: Run) -> float | None:
    facts = run_facts(run)
    return facts["seconds"]
