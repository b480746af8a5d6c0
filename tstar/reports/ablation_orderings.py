"""The paper's orderings held against what was measured: each is a few comparisons of rows, by the mean over suites.

A comparison is ``NAME@FRAMES OP NAME@FRAMES`` with ``>`` (better), ``<`` (worse) or ``~`` (alike). Its difference is paired: both
rows answered the same questions, and what they share cancels.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tstar.errors import ConfigError, suggest
from tstar.evaluation import Report
from tstar.evaluation.contrasts import in_mean_cells
from tstar.evaluation.statistics import Difference, mean_difference

_COMPARISON = re.compile(r"([\w.-]+@\d+)\s*([<>~])\s*([\w.-]+@\d+)")
HOLDS, REVERSED, NOISE, UNKNOWN = "holds", "does not hold", "cannot be told from noise", "not measured"
Answers = Mapping[str, Mapping[str, Report]]
"""Reports of one row by seed and suite."""


@dataclass(frozen=True)
class Comparison:
    """Two rows, what the paper says of them, and what was found."""

    left: str
    operator: str
    right: str
    found: Difference | None
    """Left minus right in the mean over suites, as fractions; None where a row was not measured."""

    @property
    def verdict(self) -> str:
        """Whether it holds. Alike are rows whose interval has 0 in it: it cannot show that they are equal."""
        if self.found is None:
            return UNKNOWN
        low, high = self.found.interval
        sign = 1 if low > 0 else -1 if high < 0 else 0
        wanted = {">": 1, "<": -1, "~": 0}[self.operator]
        if sign == wanted:
            return HOLDS
        return NOISE if sign == 0 else REVERSED


@dataclass(frozen=True)
class Ordering:
    """A sentence of the paper's and its comparisons."""

    said: str
    comparisons: tuple[Comparison, ...]

    @property
    def verdict(self) -> str:
        """Holds if all comparisons do; does not if one is reversed; else it cannot be told, or was not measured whole."""
        found = [one.verdict for one in self.comparisons]
        return next((word for word in (REVERSED, UNKNOWN, NOISE) if word in found), HOLDS)


def check_orderings(orderings: Sequence[tuple[str, Sequence[str]]], rows: Sequence[str]) -> None:
    """ConfigError for a comparison that cannot be read or names a row that the table lacks."""
    for said, comparisons in orderings:
        for text in comparisons:
            for row in _parsed(text, said)[::2]:
                if row not in rows:
                    raise ConfigError(f"orderings, '{said}': there is no row '{row}'{suggest(row, rows)}")


def hold_against(orderings: Sequence[tuple[str, Sequence[str]]], rows: Mapping[str, Answers]) -> list[Ordering]:
    """Every ordering with what was found.

    Args:
        orderings: sentences and comparisons, as in the table's file.
        rows: what was measured, by ``NAME@FRAMES``.
    """
    found = []
    for said, comparisons in orderings:
        parsed = [_parsed(text, said) for text in comparisons]
        own = [Comparison(left, op, right, difference(rows.get(left), rows.get(right))) for left, op, right in parsed]
        found.append(Ordering(said, tuple(own)))
    return found


def difference(left: Answers | None, right: Answers | None) -> Difference | None:
    """``left - right`` of the mean over suites, over the seeds that both have; None if there is none.

    Seeds answer the same questions: a question's answers by all seeds are drawn together.
    """
    if not left or not right:
        return None
    seeds = [seed for seed in left if seed in right and left[seed] and left[seed].keys() == right[seed].keys()]
    if not seeds:
        return None
    suites = list(left[seeds[0]])
    pairs = {}
    for suite in suites:
        sides = [[cell for seed in seeds for cell in in_mean_cells(side[seed][suite])] for side in (right, left)]
        pairs[suite] = (sides[0], sides[1])
    return mean_difference(pairs)


def paragraph(orderings: Sequence[Ordering], seeds: int) -> str:
    """What the measurements say of the paper's orderings, in words made from the data."""
    if not orderings:
        return ""
    lines = []
    for verdict in (HOLDS, REVERSED, NOISE, UNKNOWN):
        own = [ordering for ordering in orderings if ordering.verdict == verdict]
        if own:
            start = {HOLDS: "Seen here too", REVERSED: "Not seen here, against the paper"}.get(
                verdict, verdict.capitalize()
            )
            lines.append(f"{start}: {'; '.join(f'{o.said} ({_counted(o)})' for o in own)}.")
    several = f"{seeds} seeds" if seeds > 1 else "one seed, so that chance in training is not in the intervals"
    lines.append(f"Differences are paired, in the mean over suites, with 95% intervals over videos; {several}.")
    return " ".join(lines)


def _counted(ordering: Ordering) -> str:
    found = [one.verdict for one in ordering.comparisons]
    told = [f"{found.count(word)} {word}" for word in (HOLDS, REVERSED, NOISE, UNKNOWN) if word in found]
    return f"of {len(found)} comparisons {', '.join(told)}"


def _parsed(text: str, said: str) -> tuple[str, str, str]:
    match = _COMPARISON.fullmatch(str(text).strip())
    if match is None:
        raise ConfigError(f"orderings, '{said}': must be like 'mambamia@128 > mamba@128', got {text!r}")
    return match[1], match[2], match[3]
