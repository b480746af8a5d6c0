"""Where two rules part: the questions on which they do not come to the same verdict, and what each of them read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tstar.evaluation.items import FAILED, MISSING, ItemScore, Report

RIGHT, WRONG, LEFT_OUT = "right", "wrong", "left out"


@dataclass(frozen=True)
class Reading:
    """What one rule made of one response."""

    extracted: str | None
    how: str
    outcome: str
    """``right``, ``wrong``, or ``left out`` of the denominator."""
    rating: float | None = None


@dataclass(frozen=True)
class Differing:
    """One question on which rules differ."""

    id: str
    response: str | None
    answer: str
    readings: dict[str, Reading]
    """By rules."""

    @property
    def answered(self) -> bool:
        """Whether there was a response to read: failed and missing ones are only counted differently."""
        return all(reading.how not in (FAILED, MISSING) for reading in self.readings.values())


def differing(reports: Mapping[str, Report]) -> list[Differing]:
    """The questions on which reports of one response set by different rules disagree, in the order of the annotations.

    They disagree where one has right what another has wrong or leaves out, or where a judge's marks differ. Of a question
    that was answered in several lines the last counts.
    """
    if not reports:
        return []
    last = {rules: {item.id: item for item in report.items} for rules, report in reports.items()}
    first = next(iter(last.values()))
    found = []
    for item_id, lead in first.items():
        items = {rules: items[item_id] for rules, items in last.items()}
        if len({_verdict(item) for item in items.values()}) > 1:
            readings = {rules: Reading(i.extracted, i.how, outcome(i), i.rating) for rules, i in items.items()}
            found.append(Differing(item_id, lead.response, lead.answer, readings))
    return found


def final_verdicts(items: Sequence[ItemScore]) -> list[tuple[str, float | None]]:
    """The verdict on each question, in their order; on one that was answered in several lines the last."""
    return list({item.id: _verdict(item) for item in items}.values())


def outcome(item: ItemScore) -> str:
    """Whether an item is right, wrong or left out of the denominator."""
    if not item.counted:
        return LEFT_OUT
    return RIGHT if item.correct else WRONG


def _verdict(item: ItemScore) -> tuple[str, float | None]:
    return outcome(item), item.rating
