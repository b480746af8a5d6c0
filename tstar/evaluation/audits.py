"""What a score may hide: answers that follow the letter instead of the question."""

from typing import NamedTuple

from tstar.evaluation.files import LETTERS
from tstar.evaluation.items import Report

NO_LETTER = ""
"""Letter of the row about answers of which no letter was read."""


class LetterRow(NamedTuple):
    """One letter among the lettered questions of a report; shares are fractions of all of them."""

    letter: str
    truth_share: float
    """How often it is the right one."""
    answer_share: float
    """How often it was answered."""
    accuracy: float | None
    """Share of right answers where it is the right one; None where it never is."""
    n: int
    """Questions of which it is the right one."""


def letter_bias(report: Report) -> list[LetterRow]:
    """How often each letter is right and how often it was said, A first.

    A model that reads its questions says every letter about as often as it is right and is as often right on each. Questions
    whose truth is no letter (free text, MLVU's two without a right option) are left out.

    Returns:
        A row a letter up to the last that is right or was said, then one with letter :data:`NO_LETTER` for answers that hold
        none (failed, missing and unreadable ones); [] where no question has letters.
    """
    lettered = [item for item in report.items if len(item.answer) == 1 and item.answer in LETTERS]
    if not lettered:
        return []
    said = [item.extracted if _is_letter(item.extracted) else NO_LETTER for item in lettered]
    last = max(LETTERS.index(letter) for letter in (*(item.answer for item in lettered), *filter(None, said)))
    rows = []
    for letter in (*LETTERS[: last + 1], NO_LETTER):
        true = [bool(item.correct) for item in lettered if item.answer == letter]
        accuracy = sum(true) / len(true) if true else None
        shares = len(true) / len(lettered), said.count(letter) / len(lettered)
        rows.append(LetterRow(letter, *shares, accuracy, len(true)))
    return rows


def _is_letter(text: str | None) -> bool:
    return text is not None and len(text) == 1 and text in LETTERS
