"""The strict rule: one way to read a letter out of an answer, the same for every benchmark.

Nothing is guessed: what no step below can read stays unread and counts as wrong. :attr:`Extraction.how` names the step:

- ``3a`` the whole text is the letter (in brackets, bold, or with ``.``, ``)``, ``:`` behind it);
- ``3b`` the text starts with such a letter and a separator, so that "A dog is running" is no answer;
- ``3c`` a letter right behind "answer is", "answer:", "best option:" or "option"; the last such statement;
- ``3d`` the only bracketed letter of the text;
- ``4`` the text equals one option's text, or contains just one.

Letters are capitals of the options that the item has; a small one is read only where it is the whole text.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from tstar.evaluation.files import LETTERS

END_OF_SEQUENCE = (
    "</s>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<end_of_turn>",
    "<eos>",
)
UNPARSED = "unparsed"


class Extraction(NamedTuple):
    """Letter read from a response, or None, and the step that read it: 3a, 3b, 3c, 3d, 4 or ``unparsed``."""

    letter: str | None
    how: str


def clean_response(response: str) -> str:
    """Without thoughts (up to the last ``</think>``), outer white space and trailing end-of-sequence texts."""
    text = response.rsplit("</think>", 1)[-1].strip()
    while text.endswith(END_OF_SEQUENCE):
        ending = next(end for end in END_OF_SEQUENCE if text.endswith(end))
        text = text[: -len(ending)].rstrip()
    return text


def extract_letter(response: str, options: Sequence[str]) -> Extraction:
    """Read one of the ``len(options)`` letters from ``response``.

    Args:
        response: what the model wrote, as it came.
        options: option texts without letters, 1 to 26 of them.
    """
    text = clean_response(response)
    letters = LETTERS[: len(options)]
    if len(text) == 1 and text.upper() in letters:
        return Extraction(text.upper(), "3a")
    for how, step in _STEPS:
        letter = step(text, letters)
        if letter is not None:
            return Extraction(letter, how)
    index = match_option(text, options)
    if index is not None:
        return Extraction(LETTERS[index], "4")
    return Extraction(None, UNPARSED)


_BOLD = r"(?:\*\*|__|\*|_)?"


def _letter(letters: str) -> str:
    """Pattern of a letter, bare or in a pair of brackets, bold allowed outside and inside of them."""
    one = f"[{letters}]"
    return rf"{_BOLD}(?:\({_BOLD}{one}{_BOLD}\)|\[{_BOLD}{one}{_BOLD}\]|{one}){_BOLD}"


def _only_letter(matched: str) -> str:
    return next(character for character in matched if character in LETTERS)


class _Patterns(NamedTuple):
    """The steps' patterns for one set of letters."""

    whole: re.Pattern[str]
    start: re.Pattern[str]
    stated: re.Pattern[str]
    bracketed: re.Pattern[str]


@functools.cache
def _patterns(letters: str) -> _Patterns:
    one = _letter(letters)
    # a pair of brackets closes with a separator itself: "(B) very fast"
    bracketed = rf"{_BOLD}\({_BOLD}[{letters}]{_BOLD}\)"
    phrase = r"\b(?i:answer\s+is|answer\s*:|best\s+option\s*:|option)"
    return _Patterns(
        whole=re.compile(rf"{one}[.):]?{_BOLD}"),
        start=re.compile(rf"(?:{one}[ \t]*(?:[.):]|\r?\n)|{bracketed})"),
        stated=re.compile(rf"{phrase}\s*{_BOLD}\s*:?\s*({one})(?![^\W_]|['’]\w)"),
        bracketed=re.compile(rf"\(([{letters}])\)"),
    )


def _whole(text: str, letters: str) -> str | None:
    found = _patterns(letters).whole.fullmatch(text)
    return _only_letter(found[0]) if found else None


def _start(text: str, letters: str) -> str | None:
    found = _patterns(letters).start.match(text)
    return _only_letter(found[0]) if found else None


def _stated(text: str, letters: str) -> str | None:
    found = _patterns(letters).stated.findall(text)
    return _only_letter(found[-1]) if found else None


def _bracketed(text: str, letters: str) -> str | None:
    found = _patterns(letters).bracketed.findall(text)
    return found[0] if len(found) == 1 else None


_STEPS = (("3a", _whole), ("3b", _start), ("3c", _stated), ("3d", _bracketed))


def normalise(text: str) -> str:
    """Case-folded, NFKC, spaces collapsed, one final full stop dropped."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded[:-1].rstrip() if folded.endswith(".") else folded


def match_option(text: str, options: Sequence[str]) -> int | None:
    """Index of the one option that ``text`` equals, or else of the one it contains.

    An option found only within a longer one that is found too does not count, and an option is not "contained" where it
    would cut a word or number ("4" in "14", "man" in "woman"). None when no option, or more than one, is left.
    """
    said, wanted = normalise(text), [normalise(option) for option in options]
    equal = [index for index, option in enumerate(wanted) if option and option == said]
    if equal:
        return equal[0] if len(equal) == 1 else None
    inside = [index for index, option in enumerate(wanted) if option and _contains(said, option)]
    outermost = [
        index
        for index in inside
        if not any(wanted[index] in wanted[other] and wanted[index] != wanted[other] for other in inside)
    ]
    return outermost[0] if len(outermost) == 1 else None


def _contains(text: str, part: str) -> bool:
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        if not _joined(text[start - 1 : start], part[0]) and not _joined(part[-1], text[end : end + 1]):
            return True
        start = text.find(part, start + 1)
    return False


def _joined(left: str, right: str) -> bool:
    """Whether a word or number goes on across two neighbours; scripts without capitals write no word spaces."""

    def wordish(character: str) -> bool:
        return character.isdigit() or character.lower() != character.upper()

    return wordish(left) and wordish(right)
