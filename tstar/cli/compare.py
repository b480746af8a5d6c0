"""``tstar compare``: two models on the same questions, from what they left."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tstar.cli.tables import print_table
from tstar.errors import ConfigError

if TYPE_CHECKING:
    from tstar.reports.answer_sources import Budget
    from tstar.reports.compared import Compared, Shown, SuiteComparison

EQUAL = 0.01
"""Budgets that differ by no larger share are called equal."""


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; returns the exit status."""
    from tstar.reports.answer_sources import read_side
    from tstar.reports.compared import compare_sides

    annotations = {name: Path(path) for name, path in arguments.annotations}
    wanted = [name.strip() for name in arguments.benchmarks.split(",")] if arguments.benchmarks else None
    first, second = (
        read_side(_paths(text), annotations, arguments.rules, wanted) for text in (arguments.first, arguments.second)
    )
    compared = compare_sides(first, second, arguments.rules, annotations)
    if arguments.json:
        print(compared.to_json())
        return 0
    _print(compared)
    return 0


def _paths(text: str) -> list[Path]:
    parts = [part for part in text.split(",") if part]
    if not parts:
        raise ConfigError("a model's runs are given as PATH or PATH,PATH,…")
    return [Path(part) for part in parts]


def _print(compared: "Compared") -> None:
    for letter, paths in (("A", compared.first), ("B", compared.second)):
        print(f"{letter}: {', '.join(paths)}")
    rows = []
    for suite in compared.suites:
        for value, shown in suite.values.items():
            rows.append(_row(suite, value, shown))
    if compared.mean is not None:
        rows.append(["mean over suites", "", *_values("", "", compared.mean), *[""] * 5])
    header = ["", "n", "A", "B", "B minus A", "only A / only B", "p", "tokens A", "tokens B", "n for 80 %"]
    print()
    print_table("", header, rows)
    for line in _notes(compared):
        print(f"- {line}")


def _row(suite: "SuiteComparison", value: str, shown: "Shown") -> list[str]:
    label = f"{suite.suite} {value}" if len(suite.values) > 1 else suite.suite
    cells = [label, str(suite.n), *_values(suite.suite, value, shown)]
    if value != suite.main:  # the rest is about questions, and told once
        return [*cells, *[""] * 5]
    alone = "–" if suite.only_first is None else f"{suite.only_first} / {suite.only_second}"
    p_value = "–" if suite.p_value is None else f"{suite.p_value:.2g}"
    needed = "–" if suite.needed is None else f"{suite.needed:,}"
    return [*cells, alone, p_value, *(_tokens(budget) for budget in suite.budgets), needed]


def _values(suite: str, value: str, shown: "Shown") -> list[str]:
    from tstar.evaluation.table import number_text, value_text

    def text(number: float | None, interval: Sequence[float] | None, sign: str = "") -> str:
        if suite:
            return value_text(suite, value, number, interval, sign)
        ends = [100 * end for end in interval] if interval else None
        return number_text(None if number is None else 100 * number, ends, sign=sign)

    return [
        text(shown.first, shown.first_interval),
        text(shown.second, shown.second_interval),
        text(shown.difference, shown.interval, "+"),
    ]


def _tokens(budget: "Budget | None") -> str:
    if budget is None:
        return "–"
    frames = "" if budget.frames is None else f" ({budget.frames:.0f} frames)"
    return f"{budget.visual_tokens:.0f}{frames}"


def _notes(compared: "Compared") -> list[str]:
    from tstar.evaluation.table import mean_notes

    several = len(compared.first) > 1 or len(compared.second) > 1
    rules = dict.fromkeys(suite.rules for suite in compared.suites)
    notes = [f"accuracy in percent by {' and '.join(rules)} rules; n: questions"]
    if several:
        runs = f"A is the mean of {len(compared.first)} runs, B of {len(compared.second)}"
        notes.append(
            f"{runs}; [a, b]: {compared.level:.0%} interval over questions, in whole clusters, and seeds; p: Student's t test"
        )
        if 1 in (len(compared.first), len(compared.second)):
            notes.append("of the model with one run the seed's part is unknown and not in the intervals")
    else:
        notes.append(
            f"[a, b]: {compared.level:.0%} interval, bootstrap over clusters, drawn together for the difference; p: McNemar's "
            "exact test, which takes questions as independent"
        )
    notes.append(
        f"n for {100 * compared.power:.0f} %: questions with which a difference of this size would be seen so often, if all else "
        "stayed as it is"
        + ("; the seeds' part of the error stays, however many questions there are" if several else "")
    )
    notes += [
        f"{suite.suite}: {suite.unpaired} of {suite.n} questions are not counted for both, so they are in neither 'only A' nor "
        "'only B', and not in the test"
        for suite in compared.suites
        if suite.unpaired
    ]
    notes += [f"{suite.suite}: {text}" for suite in compared.suites if (text := _budget_text(suite))]
    if compared.mean is not None:
        notes += mean_notes(suite.suite for suite in compared.suites)
    if compared.left_out:
        notes.append(f"left out, as not all have it: {', '.join(compared.left_out)}")
    notes += compared.unjudged
    return notes


def _budget_text(suite: "SuiteComparison") -> str:
    one, two = suite.budgets
    if one is None or two is None:
        return "visual tokens are not known of both"
    if not one.visual_tokens or not two.visual_tokens:
        return ""
    ratio = two.visual_tokens / one.visual_tokens
    return "equal budget" if abs(ratio - 1) <= EQUAL else f"B has {ratio:.2f} times the visual tokens of A"
