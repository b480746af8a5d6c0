"""The paper's orderings held against what was measured: each is a few comparisons of rows, by the mean over suites.

A comparison is ``NAME@FRAMES OP NAME@FRAMES`` with ``>`` (better), ``<`` (worse), ``>=`` (as good or better) or ``~`` (alike); the
last two mean up to a margin. Its difference is paired: both rows answered the same questions, and what they share cancels; so does
chance in training where both are the same trained models. A row that is no better than the same model without the video has nothing
to compare.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tstar.errors import ConfigError, DataError, suggest
from tstar.evaluation import Report
from tstar.evaluation.contrasts import in_mean_cells, in_suite_mean
from tstar.evaluation.seeds import combined_difference
from tstar.evaluation.statistics import Cell, mean_difference, tried

_COMPARISON = re.compile(r"([\w.-]+@\d+)\s*(>=|[<>~])\s*([\w.-]+@\d+)")
HOLDS, REVERSED, NOISE, UNKNOWN = "holds", "does not hold", "cannot be told from noise", "not measured"
BLIND = "cannot be told, a side is not above blind"
VERDICTS = (HOLDS, REVERSED, NOISE, BLIND, UNKNOWN)
OF_SEVERAL = {HOLDS: "hold", REVERSED: "do not hold"}
"""Verdicts that are said of several comparisons in other words."""
MARGIN = 0.01
"""Within which rows count as alike, as a fraction, where the table's file says nothing: in the paper's table 1 two models that are
the same function are up to 1.5 points apart in a suite."""
Answers = Mapping[str, Mapping[str, Report]]
"""Reports of one row by seed and suite."""


@dataclass(frozen=True)
class Gap:
    """A difference in the mean over suites, as fractions."""

    difference: float
    interval: tuple[float, float]
    """Over videos; of a side with two seeds or more also over its seeds."""
    seeds: tuple[int, int]
    """Of the left and of the right side."""


@dataclass(frozen=True)
class Comparison:
    """Two rows, what the paper says of them, and what was found."""

    left: str
    operator: str
    right: str
    found: Gap | None
    """Left minus right; None where a row was not measured, or both are the same."""
    margin: float = MARGIN
    above: bool = True
    """Whether both rows are better than their models are without the video."""

    @property
    def verdict(self) -> str:
        """Whether it holds: the whole interval must lie where the paper says, and where it says the opposite for a reversal."""
        if not self.above:
            return BLIND
        if self.found is None:
            return UNKNOWN
        low, high = self.found.interval
        holds, reversed_ = {
            ">": (low > 0, high < 0),
            "<": (high < 0, low > 0),
            ">=": (low > -self.margin, high < -self.margin),
            "~": (-self.margin < low and high < self.margin, high < -self.margin or low > self.margin),
        }[self.operator]
        return HOLDS if holds else REVERSED if reversed_ else NOISE


@dataclass(frozen=True)
class Ordering:
    """A sentence of the paper's and its comparisons."""

    said: str
    comparisons: tuple[Comparison, ...]

    @property
    def lone(self) -> bool:
        """Whether a side of a comparison has one seed, whose chance in training no interval knows."""
        return any(1 in one.found.seeds for one in self.comparisons if one.found)

    @property
    def verdict(self) -> str:
        """Holds if all comparisons do; does not if one is reversed; else it cannot be told, or was not measured whole."""
        found = [one.verdict for one in self.comparisons]
        return next((word for word in (REVERSED, UNKNOWN, BLIND, NOISE) if word in found), HOLDS)


def check_orderings(orderings: Sequence[tuple[str, Sequence[str]]], rows: Sequence[str]) -> None:
    """ConfigError for a comparison that cannot be read or names a row that the table lacks."""
    for said, comparisons in orderings:
        for text in comparisons:
            for row in _parsed(text, said)[::2]:
                if row not in rows:
                    raise ConfigError(f"orderings, '{said}': there is no row '{row}'{suggest(row, rows)}")


def hold_against(
    orderings: Sequence[tuple[str, Sequence[str]]],
    rows: Mapping[str, Answers],
    *,
    models: Mapping[str, str] | None = None,
    margin: float = MARGIN,
    not_above: Sequence[str] = (),
) -> list[Ordering]:
    """Every ordering with what was found.

    Args:
        orderings: sentences and comparisons, as in the table's file.
        rows: what was measured, by ``NAME@FRAMES``; rows that are the same run have the same object.
        models: whose runs a row is of, by its name; rows of one model are the same runs at other frames. None: each its own.
        margin: within which rows are alike.
        not_above: measured rows that are no better than their models are without the video.
    """
    found = []
    for said, comparisons in orderings:
        own = []
        for left, operator, right in (_parsed(text, said) for text in comparisons):
            sides = rows.get(left), rows.get(right)
            same_runs = models is not None and models[left] == models[right]
            gap = None if sides[0] is sides[1] else difference(*sides, same_runs=same_runs)
            above = not all(sides) or not {left, right} & set(not_above)
            own.append(Comparison(left, operator, right, gap, margin, above))
        found.append(Ordering(said, tuple(own)))
    return found


def difference(left: Answers | None, right: Answers | None, *, same_runs: bool = False) -> Gap | None:
    """``left - right`` of the mean over suites; None if there is none, or nothing that counts.

    Args:
        left: reports by seed and suite. Seeds that lack a suite of the first one are left out.
        right: the same suites.
        same_runs: both are the same trained models, by seed. Then only seeds count that both have, each beside itself; else all.

    Raises:
        DataError: the answers are to different questions, or scored by different rules.
    """
    suites = next((list(own) for own in (left or {}).values() if own), [])
    answers = [[seed for seed, own in (side or {}).items() if own.keys() == set(suites)] for side in (left, right)]
    if same_runs:
        answers = [[seed for seed in answers[0] if seed in answers[1]]] * 2
    if not suites or not left or not right or not all(answers):
        return None
    sides: list[dict[str, list[list[Cell]]]] = [{}, {}]
    for suite in filter(in_suite_mean, suites):
        reports = [[own[seed][suite] for seed in seeds] for own, seeds in zip((left, right), answers, strict=True)]
        asked = [(r.rules, sorted((item.id, item.answer) for item in r.items)) for own in reports for r in own]
        if any(one != asked[0] for one in asked):
            raise DataError(f"{suite}: rows can be compared only on the same questions, scored by the same rules")
        for side, own in zip(sides, reports, strict=True):
            side[suite] = [in_mean_cells(report) for report in own]
    if not sides[0] or not all(tried(cells) for side in sides for own in side.values() for cells in own):
        return None
    counts = (len(answers[0]), len(answers[1]))
    if counts == (1, 1):
        one = mean_difference({suite: (sides[1][suite][0], sides[0][suite][0]) for suite in sides[0]})
        return Gap(one.difference, one.interval, counts)
    found = combined_difference(sides[1], sides[0], same_runs=same_runs)
    return Gap(found.value, found.interval, counts)


def paragraph(orderings: Sequence[Ordering], not_above: Sequence[str] = ()) -> str:
    """What the measurements say of the paper's orderings, in words made from the data."""
    if not orderings:
        return ""
    lines = []
    if not_above:
        lines.append(
            "Not surely better than the same model without the video, so that comparing them tells nothing: "
            f"{', '.join(not_above)}."
        )
    seeds = sorted({count for o in orderings for one in o.comparisons if one.found for count in one.found.seeds})
    for verdict, lone in itertools.product(VERDICTS, (False, True)):
        own = [ordering for ordering in orderings if (ordering.verdict, ordering.lone) == (verdict, lone)]
        if own:
            here = "with one seed" if lone else "here too"
            starts = {HOLDS: f"Seen {here}", REVERSED: f"Not seen {here.removesuffix(' too')}, against the paper"}
            start = starts.get(verdict, verdict.capitalize() + (" (with one seed)" if lone and seeds != [1] else ""))
            lines.append(f"{start}: {'; '.join(f'{o.said} ({_counted(o)})' for o in own)}.")
    margins = sorted({f"{100 * one.margin:g}" for ordering in orderings for one in ordering.comparisons})
    over = f"over videos and, from two seeds on, over seeds ({' or '.join(map(str, seeds))} a row)"
    if seeds in ([], [1]):
        over = "over videos (of one seed: chance in training is not in them)"
    lines.append(
        f"Differences are of the mean over suites, paired over questions, and over seeds where both rows are the same trained "
        f"models; with 95% intervals {over}; alike means within {' or '.join(margins)} points."
    )
    return " ".join(lines)


def _counted(ordering: Ordering) -> str:
    found = [one.verdict for one in ordering.comparisons]
    if len(found) == 1:
        return f"the one comparison {found[0]}"
    counts = [(found.count(word), word) for word in VERDICTS if word in found]
    told = [f"{count} {word if count == 1 else OF_SEVERAL.get(word, word)}" for count, word in counts]
    return f"of {len(found)} comparisons {', '.join(told)}"


def _parsed(text: str, said: str) -> tuple[str, str, str]:
    match = _COMPARISON.fullmatch(str(text).strip())
    if match is None:
        raise ConfigError(f"orderings, '{said}': must be like 'mambamia@128 > mamba@128', got {text!r}")
    return match[1], match[2], match[3]
