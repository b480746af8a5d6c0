"""Two models on the same questions: values, paired differences, what they looked at, and how many questions it would take.

A model may be several runs with different seeds; then the intervals are over questions and seeds. Accuracies are fractions.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tstar.errors import ConfigError
from tstar.evaluation import Report, get_benchmark
from tstar.evaluation.contrasts import in_mean_cells, in_suite_mean, report_difference, suite_mean
from tstar.evaluation.power import POWER, needed_like
from tstar.evaluation.seeds import Combined, Tables, combined, combined_difference
from tstar.evaluation.statistics import HIGHEST_RATING, LEVEL, Difference, bootstrap_intervals, tried
from tstar.evaluation.table import waiting_for_judge
from tstar.reports.answer_sources import Budget, RunAnswers, report_by


@dataclass(frozen=True)
class Shown:
    """One value of one suite: each model's with its interval, and the second minus the first."""

    first: float
    second: float
    first_interval: tuple[float, float] | None
    second_interval: tuple[float, float] | None
    difference: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class SuiteComparison:
    """Two models on one suite."""

    suite: str
    rules: str
    split: str
    fingerprint: str
    n: int
    clusters: int
    values: dict[str, Shown]
    main: str
    """The value that enters means over suites; ``needed`` is about it, and ``p_value`` where there are several runs."""
    only_first: int | None
    """Questions that the first alone has right; None where there are several runs."""
    only_second: int | None
    unpaired: int | None
    """Questions that the rule does not count for one of the two or both, which are in neither; None for several runs."""
    p_value: float | None
    """McNemar's, exact; with several runs Student's t test over questions and seeds."""
    needed: int | None
    """Questions that would show a difference of this size with :data:`~tstar.evaluation.power.POWER`."""
    budgets: tuple[Budget | None, Budget | None]


@dataclass(frozen=True)
class Compared:
    """Two models on the suites that both answered."""

    first: tuple[str, ...]
    """Paths of the first model's runs."""
    second: tuple[str, ...]
    suites: tuple[SuiteComparison, ...]
    mean: Shown | None
    """Over the suites whose value is no mark; None for fewer than two."""
    left_out: tuple[str, ...]
    """Suites that not all runs have."""
    unjudged: tuple[str, ...]
    """Those whose answers wait for a judge, with what has to be done."""
    level: float = LEVEL
    power: float = POWER

    def to_json(self) -> str:
        """All of it as one JSON object."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)


def compare_sides(
    first: Sequence[RunAnswers],
    second: Sequence[RunAnswers],
    rules: str | None = None,
    annotations: Mapping[str, Path] | None = None,
) -> Compared:
    """Compare two models on the suites that all runs of both have.

    Args:
        first: the runs of one model.
        second: the runs of the other.
        rules: whose rules; None takes those that the reports were made by.
        annotations: where suites lie that have to be scored again, by name, if not where the runs say.

    Raises:
        ConfigError: they have no suite in common that is measured, or annotations are needed.
        DataError: runs answered other questions, or were scored by other rules.
    """
    runs = [*first, *second]
    every = list(dict.fromkeys(name for run in runs for name in run.reports))
    waiting = {name: run.reports[name] for run in runs for name in run.reports if run.reports[name].unmeasured}
    unjudged = tuple(f"{waiting_for_judge(report)}, and compare the reports" for report in waiting.values())
    shared = [name for name in every if all(name in run.reports for run in runs) and name not in waiting]
    if not shared and waiting:
        raise ConfigError("; ".join(unjudged))
    if not shared:
        listed = "; ".join(f"{run.path}: {', '.join(run.reports) or 'nothing'}" for run in runs)
        raise ConfigError(f"there is no suite that all of them answered ({listed})")
    sides = [
        [{name: report_by(run, name, rules, annotations or {}) for name in shared} for run in side]
        for side in (first, second)
    ]
    budgets = {name: (_mean_budget(name, first), _mean_budget(name, second)) for name in shared}
    return Compared(
        first=tuple(str(run.path) for run in first),
        second=tuple(str(run.path) for run in second),
        suites=tuple(_suite(name, [[run[name] for run in side] for side in sides], budgets[name]) for name in shared),
        mean=_mean(sides),
        left_out=tuple(name for name in every if name not in shared and name not in waiting),
        unjudged=unjudged,
    )


def _suite(
    name: str, sides: Sequence[Sequence[Report]], budgets: tuple[Budget | None, Budget | None]
) -> SuiteComparison:
    benchmark = get_benchmark(name)
    lead, *others = [report for side in sides for report in side]
    names = [value for value in benchmark.columns if value in lead.aggregate]
    names = names or list(benchmark.main_cells(lead.items))  # a part without the headline
    main = benchmark.in_mean if benchmark.in_mean in names else names[0]
    compared = [benchmark.compare(lead, other) for other in others]  # refuses other questions, rules and judges
    alone: tuple[int | None, int | None, int | None] = (None, None, None)
    p_value: float | None = None
    error = 0.0
    if len(others) == 1:
        changes = compared[0].differences
        values = {value: _pair(lead, others[0], value, changes.get(value)) for value in names}
        pair = compared[0]
        alone, p_value = (pair.only_first, pair.only_second, pair.unpaired), pair.p_value
        if main in changes:
            error = changes[main].error
    else:
        found = {value: _several(sides, value) for value in names}
        values = {value: shown for value, (shown, _) in found.items()}
        change = found[main][1]
        if change is not None:
            p_value, error = change.p_value, change.item_error
    return SuiteComparison(
        suite=name,
        rules=lead.rules,
        split=lead.split,
        fingerprint=lead.fingerprint,
        n=lead.counts["n"],
        clusters=len({item.cluster for item in lead.items}),
        values=values,
        main=main,
        only_first=alone[0],
        only_second=alone[1],
        unpaired=alone[2],
        p_value=p_value,
        needed=needed_like(lead.counts["n"], values[main].difference or 0.0, error),
        budgets=budgets,
    )


def _pair(first: Report, second: Report, value: str, difference: Difference | None) -> Shown:
    benchmark = get_benchmark(first.benchmark)
    spans = []
    for report in (first, second):
        cells = {value: benchmark.cells(report.items)[value]}
        spans.append(bootstrap_intervals(cells, ratings=benchmark.ratings).get(value))
    return Shown(
        first=first.aggregate[value],
        second=second.aggregate[value],
        first_interval=spans[0],
        second_interval=spans[1],
        difference=difference.difference if difference else None,
        interval=difference.interval if difference else None,
    )


def _several(sides: Sequence[Sequence[Report]], value: str) -> tuple[Shown, Combined | None]:
    """One value of models with several runs; without intervals where a run has no counted answer."""
    benchmark = get_benchmark(sides[0][0].benchmark)
    tables = [[benchmark.cells(report.items)[value] for report in side] for side in sides]
    if not all(tried(cells) for side in tables for cells in side):
        means = [statistics.fmean(report.aggregate[value] for report in side) for side in sides]
        return Shown(means[0], means[1], None, None, None, None), None
    highest = HIGHEST_RATING if value in benchmark.ratings else 1.0
    return _combined({benchmark.name: tables[0]}, {benchmark.name: tables[1]}, highest)


def _combined(
    first: Mapping[str, Tables], second: Mapping[str, Tables], highest: float = 1.0
) -> tuple[Shown, Combined]:
    one, two = combined(first, highest=highest), combined(second, highest=highest)
    change = combined_difference(first, second, highest=highest)
    return Shown(one.value, two.value, one.interval, two.interval, change.value, change.interval), change


def _mean(sides: Sequence[Sequence[Mapping[str, Report]]]) -> Shown | None:
    """The mean over suites; None for fewer than two, and where one has no counted answer."""
    names = [name for name in sides[0][0] if in_suite_mean(name)]
    tables = [{name: [in_mean_cells(run[name]) for run in side] for name in names} for side in sides]
    counted = all(tried(cells) for side in tables for runs in side.values() for cells in runs)
    if len(names) < 2 or not counted:
        return None
    if all(len(side) == 1 for side in sides):
        one, two = ({name: side[0][name] for name in names} for side in sides)
        found = report_difference(one, two)["mean"]
        return Shown(
            found.first, found.second, suite_mean(one)[1], suite_mean(two)[1], found.difference, found.interval
        )
    return _combined(tables[0], tables[1])[0]


def _mean_budget(name: str, runs: Sequence[RunAnswers]) -> Budget | None:
    known = [run.budgets[name] for run in runs if name in run.budgets]
    if len(known) < len(runs):
        return None
    frames = [budget.frames for budget in known if budget.frames is not None]
    return Budget(
        statistics.fmean(budget.visual_tokens for budget in known),
        statistics.fmean(frames) if len(frames) == len(known) else None,
    )
