"""The one comparison table: suites across, and down chance, the baselines from the one that sees least, and the model.

A number says something about seeing only beside what the question alone (blind) and a single frame already give, and
something about time only beside what the frames give in a random order.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tstar.errors import ConfigError, suggest
from tstar.evaluation import get_benchmark
from tstar.evaluation.contrasts import Part, baseline_differences, in_suite_mean
from tstar.evaluation.items import FAILED, MISSING, UNJUDGED, Report
from tstar.evaluation.prediction_store import BASELINES, MODE_LABELS, MODES, OF_FRAMES, modes_of
from tstar.evaluation.statistics import HIGHEST_RATING, LEVEL, aggregate

if TYPE_CHECKING:
    from rich.table import Table

ROW_LABELS = {"chance": "chance"} | {mode: MODE_LABELS[mode] for mode in reversed(MODES)}
ABSENT = "–"
NAMED = 3
"""Reasons for unanswered questions, and questions of one, that the table's notes name; the page below it names all."""


@dataclass(frozen=True)
class Entry:
    """A value in percent, or a judge's mark; its interval if it has one; ``value`` None where nothing was measured."""

    value: float | None
    interval: tuple[float, float] | None = None
    digits: int = 1
    """Behind the point."""

    def __str__(self) -> str:
        return number_text(self.value, self.interval, self.digits)


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


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A GitHub-flavoured table with an empty line after it; the first ``texts`` columns are text, the others are numbers."""
    lines = [header, [*["---"] * texts, *["---:"] * (len(header) - texts)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def number_text(value: float | None, interval: Sequence[float] | None = None, digits: int = 1, sign: str = "") -> str:
    """``45.0 [40.1, 49.8]``; with ``sign="+"`` as a difference."""
    if value is None:
        return ABSENT
    spread = f" [{interval[0]:{sign}.{digits}f}, {interval[1]:{sign}.{digits}f}]" if interval else ""
    return f"{value:{sign}.{digits}f}{spread}"


def value_text(
    suite: str, name: str, value: float | None, interval: Sequence[float] | None = None, sign: str = ""
) -> str:
    """An aggregate of a suite as tables have it: a count as it is, a judge's mark with two digits, the rest in percent."""
    benchmark = get_benchmark(suite)
    if value is not None and name in benchmark.counts:
        return f"{value:{sign}.0f}"
    scale, digits = (1, 2) if name in benchmark.ratings else (100, 1)
    ends = [scale * end for end in interval] if interval else None
    return number_text(None if value is None else scale * value, ends, digits, sign)


def comparison_table(reports: Mapping[str, Mapping[str, Report]]) -> ComparisonTable:
    """Table of ``{suite: {mode: report}}``, suites in the order given; modes as in :data:`MODES`.

    The mean weighs suites equally, takes VNBench's ``independent``, and is left out of a row that lacks a suite. Judges' marks
    are no share of questions and not in it, nor are suites whose answers wait for a judge; rows about the frames of a video have
    no suites of single pictures in it. Where questions were never asked, a row of its own has the model's values without them.

    Raises:
        ConfigError: no suites, an unknown suite or mode, or more than one judge.
    """
    _check(reports)
    columns = table_columns(reports)
    rows = []
    for label, (mode, found) in _rows_of(reports).items():
        entries = {(suite, value): _entry(found[suite], mode, value) for suite, value in columns}
        if all(entry.value is None for entry in entries.values()):
            continue
        suites = [suite for suite in _averaged(reports) if mode not in OF_FRAMES or _has(suite, mode)]
        values = [entries[suite, get_benchmark(suite).in_mean].value for suite in suites]
        there = [value for value in values if value is not None]
        mean = Entry(sum(there) / len(there)) if there and len(there) == len(values) else Entry(None)
        rows.append((label, (*entries.values(), mean)))
    return ComparisonTable(_title(reports), (*columns.values(), "mean"), tuple(rows), _notes(reports))


def waiting_for_judge(report: Report) -> str:
    """What has to be done for numbers of a report that is unmeasured."""
    name = report.benchmark
    return (
        f"{name}: {report.counts[UNJUDGED]} answers wait for a judge: tstar score {name} --annotations PATH --responses "
        f"predictions/{name}/full.jsonl --judge-url URL --judge-model NAME --out REPORT.json"
    )


def table_columns(suites: Iterable[str]) -> dict[tuple[str, str], str]:
    """The (suite, value) pairs that tables have a column for, with their labels."""
    labels: dict[tuple[str, str], str] = {}
    for suite in suites:
        benchmark = get_benchmark(suite)
        for value in benchmark.columns:
            label = f"{suite} {value}" if len(benchmark.columns) > 1 else suite
            labels[suite, value] = f"{label} (0-{HIGHEST_RATING:.0f})" if value in benchmark.ratings else label
    return labels


def not_answered(reports: Mapping[str, Mapping[str, Report]]) -> dict[str, dict[str, str]]:
    """Why questions have no answer or no judgement, by suite and question: their video cannot be decoded, or is not there.

    Where a question failed in a baseline only, that is said.
    """
    found: dict[str, dict[str, str]] = {}
    for suite, by_mode in reports.items():
        lead = _leading(by_mode)
        for report in (lead, *by_mode.values()):
            mode = next(mode for mode, other in by_mode.items() if other is report)
            only = "" if report is lead else f" ({ROW_LABELS[mode]} only)"
            for item_id, reason in report.reasons.items():
                if item_id not in lead.reasons or report is lead:
                    found.setdefault(suite, {}).setdefault(item_id, reason + only)
    return found


def by_reason(unanswered: Mapping[str, str]) -> dict[str, list[str]]:
    """Questions by why they have no answer."""
    found: dict[str, list[str]] = {}
    for item_id, reason in unanswered.items():
        found.setdefault(reason, []).append(item_id)
    return found


def not_answered_lines(reports: Mapping[str, Mapping[str, Report]]) -> list[str]:
    """A line a suite that has unanswered questions: how many failed, were never asked, or have no judgement."""
    lines = []
    for suite in not_answered(reports):
        lead = _leading(reports[suite])
        told = [f"{len(lead.named(how))} {words}" for how, words in _UNANSWERED.items() if lead.named(how)]
        if not told:  # one that a rule decides without the judge is not unjudged
            told = [
                f"{len(lead.reasons)} have no answer of the judge" if lead.reasons else "some failed in a baseline only"
            ]
        lines.append(f"{suite}: of {lead.counts['n']} questions {' and '.join(told)}")
    return lines


_UNANSWERED = {
    FAILED: "failed, for their media cannot be read",
    MISSING: "were never asked, for their media are missing",
    UNJUDGED: "have no judgement",
}


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
    judges = sorted({report.judge for by_mode in reports.values() for report in by_mode.values() if report.judge})
    if len(judges) > 1:
        raise ConfigError(f"one table has one judge, these reports have {', '.join(judges)}; score them again with one")


def _entry(by_mode: Mapping[str, Report], mode: str, value: str) -> Entry:
    lead = _leading(by_mode)
    scale, digits = (1, 2) if value in get_benchmark(lead.benchmark).ratings else (100, 1)
    found = lead.chance if mode == "chance" else by_mode[mode].aggregate if mode in by_mode else {}
    if value not in found or (by_mode.get(mode) or lead).unmeasured:
        return Entry(None)
    interval = by_mode[mode].intervals.get(value) if mode == "full" else None
    ends = (scale * interval[0], scale * interval[1]) if interval else None
    return Entry(scale * found[value], ends, digits)


def _averaged(reports: Mapping[str, Mapping[str, Report]]) -> list[str]:
    """Suites that enter means."""
    return [suite for suite, modes in reports.items() if in_suite_mean(suite) and not _leading(modes).unmeasured]


def _has(suite: str, mode: str) -> bool:
    return bool(modes_of(get_benchmark(suite), [mode]))


def _rows_of(
    reports: Mapping[str, Mapping[str, Report]],
) -> dict[str, tuple[str, Mapping[str, Mapping[str, Report]]]]:
    """What a row is about and taken from, by its label."""
    rows = {label: (mode, reports) for mode, label in ROW_LABELS.items()}
    full = {suite: by_mode["full"] for suite, by_mode in reports.items() if "full" in by_mode}
    if any(0 < len(report.named(MISSING)) < len(report.items) for report in full.values()):
        asked = {suite: {"full": _of_asked(full[suite])} if suite in full else by for suite, by in reports.items()}
        rows[f"{ROW_LABELS['full']}, of what was asked"] = "full", asked
    return rows


def _of_asked(report: Report) -> Report:
    """Its values over the questions that were asked."""
    items = tuple(item for item in report.items if item.how != MISSING)
    if not items or len(items) == len(report.items):
        return report
    benchmark = get_benchmark(report.benchmark)
    cells = benchmark.cells(items)
    values = {name: aggregate(cells[name]) for name in benchmark.columns if name in cells}
    return replace(report, items=items, aggregate=values, intervals={})


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
        note += f"; {lead.beside}" if lead.beside else ""
        for mode, report in by_mode.items():
            if (report.rules, report.counts["n"]) != (lead.rules, lead.counts["n"]):
                note += f"; {ROW_LABELS[mode]}: {report.rules} rule, n = {report.counts['n']}"
        everything = lead.aggregate.get("accuracy_all")
        if everything is not None and everything != lead.aggregate["accuracy"]:
            note += f"; accuracy is of the answered, of all questions it is {100 * everything:.1f}"
        notes.append("; ".join([note, *([] if lead.unmeasured else _other_rules(lead))]))
        notes += [f"{waiting_for_judge(lead)}; they are in no mean"] if lead.unmeasured else []
        notes += _unanswered_notes(suite, by_mode)
    notes.append(
        f"brackets: {LEVEL:.0%} interval, bootstrap over clusters (videos; VNBench: the four tries of a question), Wilson's where "
        "all are alike"
    )
    notes += mean_notes(reports)
    pictures = [suite for suite in _averaged(reports) if get_benchmark(suite).pictures_only]
    rows = [ROW_LABELS[mode] for mode in OF_FRAMES if any(mode in by_mode for by_mode in reports.values())]
    if pictures and rows:
        notes.append(
            f"mean of {' and '.join(rows)}: without {', '.join(pictures)}, whose questions are about single pictures"
        )
    found = baseline_differences(reports)
    for mode in BASELINES:
        if mode in found and "mean" in found[mode]:
            gain, (low, high) = found[mode]["mean"].difference, found[mode]["mean"].interval
            told = f"{100 * gain:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points"
            less = f" without {', '.join(pictures)}" if pictures and mode in OF_FRAMES else ""
            notes.append(f"{MODE_LABELS['full']} minus {MODE_LABELS[mode]}: {told}, mean over suites{less}, paired")
    return tuple(notes)


def _unanswered_notes(suite: str, by_mode: Mapping[str, Report]) -> list[str]:
    """What has no answer and why, in a few words."""
    unanswered = not_answered({suite: by_mode}).get(suite)
    if not unanswered:
        return []
    (line,) = not_answered_lines({suite: by_mode})
    reasons = by_reason(unanswered)
    told = [
        f"{reason} ({', '.join(ids[:NAMED])}{', ...' if len(ids) > NAMED else ''})"
        for reason, ids in list(reasons.items())[:NAMED]
    ]
    more = f"; and {len(reasons) - NAMED} more reasons" if len(reasons) > NAMED else ""
    return [f"{line}: {'; '.join(told)}{more}"]


def mean_notes(suites: Iterable[str]) -> list[str]:
    """What has to be said about a mean over these suites."""
    names = list(suites)
    notes = ["mean: VNBench enters with its independent score"] if any("vnbench" in name for name in names) else []
    marked = [name for name in names if not in_suite_mean(name)]
    if marked:
        notes.append(f"mean: without {', '.join(marked)}, whose value is a mark and no share of questions")
    return notes


def _other_rules(report: Report) -> list[str]:
    """What the other rules make of the same answers, and how often they say otherwise."""
    told = []
    columns = get_benchmark(report.benchmark).columns
    for rules, other in report.other_rules.items():
        values = {name: other["aggregate"][name] for name in columns if name in other["aggregate"]}
        texts = [
            f"{name} {text}" if len(values) > 1 else text
            for name, value in values.items()
            for text in [value_text(report.benchmark, name, value)]
        ]
        questions = "1 question" if other["differ"] == 1 else f"{other['differ']} questions"
        told.append(", ".join([f"{rules} rule: {' '.join(texts)}".rstrip(": "), f"another verdict on {questions}"]))
    return told
