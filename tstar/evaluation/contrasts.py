"""What the baselines leave to the model: paired differences to it, and every suite broken down by its categories."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from tstar.errors import DataError
from tstar.evaluation import get_benchmark
from tstar.evaluation.items import Report
from tstar.evaluation.prediction_store import BASELINES, MODES, modes_of
from tstar.evaluation.statistics import Cell, Difference, aggregate, mean_difference, mean_interval, tried

Value = TypeVar("Value")


def report_difference(first: Mapping[str, Report], second: Mapping[str, Report]) -> dict[str, Difference]:
    """``second - first`` for each suite's value that enters the mean, and as ``mean`` for the mean over all suites.

    A suite that is missing in one of them, or that was asked other questions or scored by other rules, is left out,
    and with it the mean. A judge's marks are not in the mean, and what waits for a judge in both is passed over.
    """
    first, second = measured(first), measured(second)
    found: dict[str, Difference] = {}
    pairs: dict[str, tuple[list[Cell], list[Cell]]] = {}
    for suite in first:
        if suite not in second:
            continue
        benchmark = get_benchmark(suite)
        try:
            compared = benchmark.compare(first[suite], second[suite])
        except DataError:
            continue
        if benchmark.in_mean in compared.differences:
            found[suite] = compared.differences[benchmark.in_mean]
            pairs[suite] = (in_mean_cells(first[suite]), in_mean_cells(second[suite]))
    if found.keys() == first.keys() == second.keys() and (averaged := _averaged(pairs)):
        found["mean"] = mean_difference(averaged)
    return found


def baseline_differences(reports: Mapping[str, Mapping[str, Report]]) -> dict[str, dict[str, Difference]]:
    """The model minus each baseline that was measured, by baseline, as :func:`report_difference` gives them.

    The mean is over the suites that have the baseline: single pictures have no order of frames.

    Args:
        reports: by suite and mode.
    """
    full = {suite: modes["full"] for suite, modes in reports.items() if "full" in modes}
    found = {}
    for mode in BASELINES:
        own = {suite: modes[mode] for suite, modes in reports.items() if mode in modes}
        if own:
            against = {suite: report for suite, report in full.items() if modes_of(get_benchmark(suite), [mode])}
            found[mode] = report_difference(own, against)
    return found


def in_mean_cells(report: Report) -> list[Cell]:
    """The cells of the value that enters the mean over suites."""
    benchmark = get_benchmark(report.benchmark)
    return benchmark.cells(report.items)[benchmark.in_mean]


def measured(reports: Mapping[str, Report]) -> dict[str, Report]:
    """Those of ``reports`` that do not wait for a judge."""
    return {name: report for name, report in reports.items() if not report.unmeasured}


def in_suite_mean(suite: str) -> bool:
    """Whether a suite enters the mean over suites: one whose value is a judge's mark does not."""
    benchmark = get_benchmark(suite)
    return benchmark.in_mean not in benchmark.ratings


def suite_mean(reports: Mapping[str, Report]) -> tuple[float, tuple[float, float] | None]:
    """Plain mean over suites of the values that enter it, and its interval, as fractions.

    The interval is None where a suite's rule counts no answer at all: there is nothing to resample. Where no suite enters,
    the mean is 0 without one. What waits for a judge does not enter.
    """
    cells = _averaged({suite: in_mean_cells(report) for suite, report in measured(reports).items()})
    if not cells:
        return 0.0, None
    mean = sum(aggregate(own) for own in cells.values()) / len(cells)
    return mean, mean_interval(cells) if all(map(tried, cells.values())) else None


def _averaged(by_suite: Mapping[str, Value]) -> dict[str, Value]:
    return {suite: value for suite, value in by_suite.items() if in_suite_mean(suite)}


@dataclass(frozen=True)
class Part:
    """One category of a suite: accuracies as fractions, by mode and under ``chance``."""

    suite: str
    label: str
    n: int
    """Questions; groups of four tries for VNBench's circular score."""
    values: dict[str, float]


def suite_parts(by_mode: Mapping[str, Report]) -> list[Part]:
    """The categories of one suite, in the order of its questions; none where the answers wait for a judge.

    Args:
        by_mode: reports on the same questions.
    """
    by_mode = measured(by_mode)
    if not by_mode:
        return []
    lead = by_mode.get("full") or next(iter(by_mode.values()))
    benchmark = get_benchmark(lead.benchmark)
    tables = {mode: benchmark.cells(by_mode[mode].items) for mode in MODES if mode in by_mode}
    tables["chance"] = benchmark.cells([replace(i, correct=i.chance, counted=True) for i in lead.items])
    parts = []
    for category, prefix in benchmark.breakdown:
        for word in dict.fromkeys(i.categories[category] for i in lead.items if category in i.categories):
            name = prefix + word
            label = benchmark.category_names.get(word, word.replace("_", " "))
            if [kind for kind, _ in benchmark.breakdown].count(category) > 1:  # several scores of one category
                label += f", {prefix.rstrip('/')}"
            values = {mode: aggregate(cells[name]) for mode, cells in tables.items() if name in cells}
            parts.append(Part(lead.benchmark, label, len(tables["chance"][name]), values))
    return parts
