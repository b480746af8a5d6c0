"""Verdicts as cells of aggregates."""

from collections import defaultdict
from collections.abc import Iterable

from tstar.evaluation.items import ItemScore
from tstar.evaluation.statistics import Cell


def right_of_counted(
    scores: Iterable[ItemScore], category: str | None = None, prefix: str = ""
) -> dict[str, list[Cell]]:
    """One single-stratum table of counted items a value of ``category``, named ``prefix`` + value."""
    if category is None:
        return {prefix: cells} if (cells := list(map(item_cell, scores))) else {}
    tables: defaultdict[str, list[Cell]] = defaultdict(list)
    for item in scores:
        if (value := item.categories.get(category)) is not None:
            tables[value].append(item_cell(item))
    return {prefix + value: cells for value, cells in tables.items()}


def item_cell(item: ItemScore, stratum: str = "") -> Cell:
    """An item's verdict out of one trial, or nothing out of none where it is not counted."""
    known: Cell | None = item.__dict__.get("cell") if not stratum else None
    if known is None:
        counted = item.counted
        hits, trials = (float(item.correct), 1.0) if counted else (0.0, 0.0)
        known = _cell(Cell, (item.cluster, stratum, hits, trials))
        if not stratum:
            item.__dict__["cell"] = known  # most are in a table for each of their categories
    return known


_cell = tuple.__new__
"""Makes a named tuple in half the time: there are six for every question and rule."""
