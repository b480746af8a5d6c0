"""What a judge's reply says: a mark, and for some benchmarks also yes or no. Three readers, none of which runs the reply.

A reply is text from outside. Only literals are read from it, and only from one so short and so shallow that no parser of
Python runs out of memory or stack on it. What a reader cannot read is None: the judge is asked again, or the item stays unjudged.
"""

import ast
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tstar.evaluation.extraction import clean_response

LONGEST = 4000
"""Characters of a reply that are parsed; the dictionary that is asked for has about 30."""
MOST_BRACKETS = 100
"""Opening brackets, and so levels of nesting; Python's own parser stops at 200 levels."""
LARGEST_MARK = 2**53
"""Marks beyond it are no exact floats."""
MARKS = range(6)
VERDICTS = ("yes", "no")
_UNREADABLE = (ValueError, SyntaxError, TypeError, LookupError, OverflowError, MemoryError, RecursionError)


@dataclass(frozen=True)
class Reading:
    """A reply's mark, and whether it says that the answer matches."""

    mark: int
    verdict: str = ""
    """``yes``, ``no``, or "" for neither, and where no verdict is asked for."""


def literal(text: str) -> Any:
    """The value of a Python literal.

    Raises:
        ValueError, SyntaxError, TypeError, MemoryError, RecursionError: ``text`` is no literal, or too long or deep for one.
    """
    if len(text) > LONGEST or sum(map(text.count, "([{")) > MOST_BRACKETS:
        raise ValueError("too long or too deep")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python does not know
        return ast.literal_eval(text)


def read_official(reply: str, *, verdict: bool) -> Reading | None:
    """As Video-ChatGPT's scorer: the whole reply is the dictionary, the mark is ``int`` of what it has, whatever that gives.

    Args:
        reply: as the judge wrote it.
        verdict: whether ``pred`` is wanted beside ``score``.
    """
    try:
        said = literal(reply)
        json.dumps(said)  # it is stored so before it is looked at, and what cannot be stored is asked for again
        return _reading(said, verdict)
    except _UNREADABLE:
        return None


def read_first_braces(reply: str) -> Reading | None:
    """As lmms-eval for ActivityNet-QA: what stands between the first ``{`` and the next brace is the dictionary."""
    try:
        inside = reply.split("{")[1].split("}")[0]
        return _reading(literal("{" + inside + "}"), verdict=True)
    except _UNREADABLE:
        return None


def read_score_or_zero(reply: str) -> Reading | None:
    """As lmms-eval for Video-ChatGPT: the whole reply, stripped; a dictionary without ``score`` is a 0."""
    try:
        said = literal(reply.strip())
        return _reading({"score": 0} | said, verdict=False) if isinstance(said, dict) else None
    except _UNREADABLE:
        return None


def read_strictly(reply: str, *, verdict: bool) -> Reading | None:
    """From the first ``{`` to the last ``}``, thoughts apart; a mark is a whole number from 0 to 5, a verdict yes or no.

    Args:
        reply: as the judge wrote it.
        verdict: whether ``pred`` is wanted beside ``score``.
    """
    text = clean_response(reply)
    try:
        said = literal(text[text.index("{") : text.rindex("}") + 1])
        mark, word = said["score"], said["pred"] if verdict else ""
    except _UNREADABLE:
        return None
    if isinstance(mark, str) and re.fullmatch(r"\s*[0-9]\s*", mark):
        mark = int(mark)
    if isinstance(mark, bool) or not isinstance(mark, (int, float)) or mark not in MARKS:
        return None
    if verdict and (not isinstance(word, str) or word.strip().lower() not in VERDICTS):
        return None
    return Reading(int(mark), word.strip().lower())


def _reading(said: Any, verdict: bool) -> Reading:
    """Mark and verdict as both harnesses take them: ``int`` cuts 4.8 to 4, and a word that contains "yes" is a yes."""
    if not isinstance(said, Mapping):
        raise TypeError("no dictionary")
    mark = int(said["score"])
    if abs(mark) > LARGEST_MARK:
        raise OverflowError("no exact float")
    if not verdict:
        return Reading(mark)
    if not isinstance(said["pred"], str):
        raise TypeError("no text")
    return Reading(mark, next((word for word in VERDICTS if word in said["pred"].lower()), ""))
