"""How lmms-eval reads an answer, for the ``lmms-eval`` rules of several benchmarks: its guesses and accidents are kept.

A reader here is compared with published numbers, so it does what version 0.7.2 of that harness does also where that is
odd: the end of "NASA " is an A, and behind "the answer is" the letter farthest from it wins.
"""

from tstar.evaluation.extraction import UNPARSED
from tstar.evaluation.items import Item, Verdict

_CLOSED = ("answer", "correct answer", "best answer", "correct option", "best option", "choice", "correct choice")
ANSWER_PHRASES = (
    *(f"{start}{what} is" for what in _CLOSED for start in ("", "the ")),
    *(f"i {verb}" for verb in ("choose", "select", "pick")),
    *(f"my {what} is" for what in ("answer", "choice")),
    *("옵션", "정답은", "답은", "답:"),
    *("答案是", "答案为", "选", "答えは"),
)
"""What announces an answer, in small letters; behind each, its first occurrence only is looked at."""
_STRIPPED = (",", ".", "!", "?", ";", ":", "'", '"')
_MARKS = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))
"""Spellings of a letter anywhere in the text, with their priorities; the last occurrence of each counts."""
_START, _END, _PHRASE, _ANYWHERE = 10, 9, 7, 0

_THOUGHTS = (("<think>", "</think>"), ("<analysis>", "</analysis>"))


def scored_text(response: str) -> str:
    """What lmms-eval's scorers are given: without thoughts, also one whose beginning the prompt wrote, and stripped."""
    for begin, end in _THOUGHTS:
        before, mark, behind = response.partition(begin)
        while mark and end in behind:
            response = before + behind.partition(end)[2]
            before, mark, behind = response.partition(begin)
        if not mark:
            response = response.rpartition(end)[2]
    return response.strip()


def mcq_verdict(item: Item, text: str) -> Verdict:
    """Verdict of the tasks that read letters by :func:`extract_mcq_answer`: A to D, however many options there are."""
    letter = extract_mcq_answer(text, "ABCD")
    return Verdict(letter or None, "harness" if letter else UNPARSED, letter == item.answer)


def extract_mcq_answer(text: str, letters: str) -> str:
    """The letter that lmms-eval reads out of ``text``, "" where it reads none.

    Args:
        text: what the model wrote, thoughts removed.
        letters: the capital letters that may be read, e.g. ``"ABCD"``.
    """
    text = text.strip()
    for mark in _STRIPPED:
        text = text.strip(mark)  # one kind after the other: of a final "!." the full stop is left
    text = f" {text} "
    found = [  # (priority, place, letter): the highest priority wins, of equal ones the later place
        (priority, text.rfind(spelling.format(letter)), letter)
        for spelling, priority in _MARKS
        for letter in letters
        if spelling.format(letter) in text
    ]
    found += _behind_phrases(text, letters)
    found += _at_the_ends(text, letters)
    found = found or [(_ANYWHERE, text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found, default=(0, 0, ""))[2]


def _behind_phrases(text: str, letters: str) -> list[tuple[int, int, str]]:
    """The first place of every letter behind every phrase that occurs, inside of words too."""
    small = text.lower()
    ends = [small.find(phrase) + len(phrase) for phrase in ANSWER_PHRASES if phrase in small]
    places = [(text.find(letter, end), letter) for end in ends for letter in letters]
    return [(_PHRASE, place, letter) for place, letter in places if place >= 0]


def _at_the_ends(text: str, letters: str) -> list[tuple[int, int, str]]:
    """A first or last letter that no other letter stands beside."""
    core = text.strip()
    found = []
    if core[:1] and core[0] in letters and not core[1:2].isalpha():
        found.append((_START, 0, core[0]))
    if core[-1:] and core[-1] in letters and not core[-2:-1].isalpha():
        found.append((_END, len(text) - 1, core[-1]))
    return found
