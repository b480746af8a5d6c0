"""The one comparison table: suites across, and down chance, the baselines from the one that sees least, and the model.

A number says something about seeing only beside what the question alone (blind) and a single frame already give, and
something about time only beside what the frames give in a random order.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tstar.errors import ConfigError, suggest
from tstar.evaluation import get_benchmark
from tstar.evaluation.contrasts import Part, baseline_differences
from tstar.evaluation.items import Report
from tstar.evaluation.prediction_store import BASELINES, MODE_LABELS, MODES
from tstar.evaluation.statistics import LEVEL

if TYPE_CHECKING:
    from rich.table import Table

ROW_LABELS = {"chance": "chance"} | {mode: MODE_LABELS[mode] for mode in reversed(MODES)}
ABSENT = "–"


@dataclass(frozen=True)
class Entry:
    """A value in percent, its interval in percent if it has one; ``value`` None where nothing was measured."""

    value: float | None
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        if self.value is None:
            return ABSENT
        spread = f" [{self.interval[0]:.1f}, {self.interval[1]:.1f}]" if self.interval else ""
        return f"{self.value:.1f}{spread}"


@dataclass(frozen=True)
class ComparisonTable:
    """The table as plain data: ``rows`` pairs a label with one entry a column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]
    notes: tuple[str, ...]

    def to_markdown(self) -> str:
        """Title, table and notes as GitHub-flavoured Markdown."""
        table = markdown_table(["", *self.columns], ([label, *map(str, entries)] for label, entries in self.rows))
        notes = "\n".join(f"- {note}" for note in self.notes)
        return f"**{self.title}**\n\n{table}\n{notes}\n"

    def to_rich(self) -> "Table":
        """The same for a terminal."""
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=escape(self.title), caption=escape("\n".join(self.notes)), box=box.SIMPLE_HEAD)
        table.caption_justify = "left"
        table.add_column("")
        for column in self.columns:
            table.add_column(escape(column), justify="right")
        for label, entries in self.rows:
            table.add_row(escape(label), *(escape(str(entry)) for entry in entries))
        return table


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A GitHub-flavoured table with an empty line after it; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def comparison_table(reports: Mapping[str, Mapping[str, Report]]) -> ComparisonTable:
    """Table of ``{suite: {mode: report}}``, suites in the order given; modes as in :data:`MODES`.

    The mean weighs suites equally, takes VNBench's ``independent``, and is left out of a row that lacks a suite.

    Raises:
        ConfigError: no suites, or an unknown suite or mode.
    """
    _check(reports)
    columns = table_columns(reports)
    rows = []
    for mode in ROW_LABELS:
        entries = {(suite, value): _entry(reports[suite], mode, value) for suite, value in columns}
        if all(entry.value is None for entry in entries.values()):
            continue
        means = [entries[suite, get_benchmark(suite).in_mean].value for suite in reports]
        measured = [value for value in means if value is not None]
        mean = Entry(sum(measured) / len(measured)) if len(measured) == len(means) else Entry(None)
        rows.append((ROW_LABELS[mode], (*entries.values(), mean)))
    return ComparisonTable(_title(reports), (*columns.values(), "mean"), tuple(rows), _notes(reports))


def table_columns(suites: Iterable[str]) -> dict[tuple[str, str], str]:
    """The (suite, value) pairs that tables have a column for, with their labels."""
    labels: dict[tuple[str, str], str] = {}
    for suite in suites:
        values = get_benchmark(suite).columns
        labels |= {(suite, value): f"{suite} {value}" if len(values) > 1 else suite for value in values}
    return labels


def category_rows(parts: Sequence[Part]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the break-down in percent: questions, the modes that were measured, chance."""
    shown = [mode for mode in (*MODES, "chance") if any(mode in part.values for part in parts)]
    rows = []
    for part in parts:
        cells = [f"{100 * part.values[mode]:.1f}" if mode in part.values else ABSENT for mode in shown]
        rows.append([f"{part.suite}: {part.label}", str(part.n), *cells])
    return ["category", "n", *(ROW_LABELS[mode] for mode in shown)], rows


def _check(reports: Mapping[str, Mapping[str, Report]]) -> None:
    if not reports or not all(reports.values()):
        raise ConfigError("a comparison table needs at least one suite, and a report for each")
    for suite, by_mode in reports.items():
        get_benchmark(suite)
        for mode, report in by_mode.items():
            if mode not in MODES:
                raise ConfigError(f"unknown mode {mode!r} of {suite}{suggest(mode, MODES)}")
            if report.benchmark != suite:
                raise ConfigError(f"the {mode} report under {suite} is one of {report.benchmark}")


def _entry(by_mode: Mapping[str, Report], mode: str, value: str) -> Entry:
    if mode == "chance":
        return Entry(100 * _leading(by_mode).chance[value])
    if mode not in by_mode:
        return Entry(None)
    report = by_mode[mode]
    interval = report.intervals.get(value) if mode == "full" else None
    return Entry(100 * report.aggregate[value], (100 * interval[0], 100 * interval[1]) if interval else None)


def _leading(by_mode: Mapping[str, Report]) -> Report:
    return by_mode.get("full") or next(iter(by_mode.values()))


def _title(reports: Mapping[str, Mapping[str, Report]]) -> str:
    small = [suite for suite in reports if suite.startswith("mini-")]
    if not small:
        return "Benchmarks, accuracy in percent"
    if len(small) == len(reports):
        return "Generated miniature suites, accuracy in percent"
    return "Benchmarks and generated miniature suites (mini-), accuracy in percent"


def _notes(reports: Mapping[str, Mapping[str, Report]]) -> tuple[str, ...]:
    notes = []
    for suite, by_mode in reports.items():
        lead = _leading(by_mode)
        told = ", ".join(f"{name} {count}" for name, count in lead.counts.items() if name != "n")
        groups = len({item.cluster for item in lead.items})
        note = f"{suite}: {lead.rules} rule, n = {lead.counts['n']} questions in {groups} clusters ({told})"
        for mode, report in by_mode.items():
            if (report.rules, report.counts["n"]) != (lead.rules, lead.counts["n"]):
                note += f"; {ROW_LABELS[mode]}: {report.rules} rule, n = {report.counts['n']}"
        everything = lead.aggregate.get("accuracy_all")
        if everything is not None and everything != lead.aggregate["accuracy"]:
            note += f"; accuracy is of the answered, of all questions it is {100 * everything:.1f}"
        notes.append(note)
    notes.append(
        f"brackets: {LEVEL:.0%} interval, bootstrap over clusters (videos; VNBench: the four tries of a question)"
    )
    if any("vnbench" in suite for suite in reports):
        notes.append("mean: VNBench enters with its independent score")
    found = baseline_differences(reports)
    for mode in BASELINES:
        if mode in found and "mean" in found[mode]:
            gain, (low, high) = found[mode]["mean"].difference, found[mode]["mean"].interval
            told = f"{100 * gain:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points"
            notes.append(f"{MODE_LABELS['full']} minus {MODE_LABELS[mode]}: {told}, mean over suites, paired")
    return tuple(notes)
