"""The strict rule: one way to read a letter out of an answer, the same for every benchmark.

Nothing is guessed: what no step below can read stays unread and counts as wrong. :attr:`Extraction.how` names the step:

- ``3a`` the whole text is the letter (in brackets, bold, quotes, or with ``.``, ``)``, ``:`` behind it);
- ``3b`` the text starts with such a letter and a separator, so that "A dog is running" is no answer, nor is a list of options;
- ``3c`` a letter right behind "answer is", "answer:", "best option:" and the like, the last of them; where nothing of that kind
  is said, one behind "option", if it is the only one that is named so;
- ``3d`` the only bracketed letter of the text;
- ``4`` the text equals one option's text, or contains just one.

Behind "option", in 3d, and where an option is only contained, words of denial ("not", "cannot", "sorry", ...) leave the text
unread. Letters are capitals of the options that the item has; a small one is read only where it is the whole text.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from tstar.evaluation.files import LETTERS, marked_options

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
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"))
_DENIAL = re.compile(
    r"\b(?:no|not|never|nor|neither|none|nothing|cannot|\w*n['’]t|unable|unclear|unsure|unlikely|uncertain|unknown|impossible|"
    r"sorry|wrong|incorrect|false|whether|fail(?:s|ed)?|(?:hard|difficult)\s+to)\b"
)
"""What says that something is not so, or is not known; in small letters."""


class Extraction(NamedTuple):
    """Letter read from a response, or None, and the step that read it: 3a, 3b, 3c, 3d, 4 or ``unparsed``."""

    letter: str | None
    how: str


def clean_response(response: str) -> str:
    """Without thoughts (up to the last ``</think>``, and from a ``<think>`` that is not closed), characters of no width,
    outer white space and trailing end-of-sequence texts; letters of other widths (NFKC) as the usual ones."""
    text = response
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_INVISIBLE)
    text = text.rsplit("</think>", 1)[-1].partition("<think>")[0].strip()
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
    letters = LETTERS[: len(options)]
    if len(response) <= _SHORT and (alone := _short_letter(response, letters)):
        return alone
    text, patterns = clean_response(response), _patterns(letters)
    if alone := _letter_alone(text, letters):
        return alone
    begun = patterns.start.match(text)
    listed = begun is not None and _lists_options(text, begun, options)
    if begun and not listed:
        return _one_letter(begun, "3b")
    if stated := list(patterns.stated.finditer(text)):
        return _one_letter(stated[-1], "3c")
    mentioned = [(_one_letter(found, "3c"), found) for found in patterns.option.finditer(text)]
    if mentioned and not listed and len({one for one, _ in mentioned}) == 1:
        return _undenied(mentioned[0][0], text, options)
    if mentioned or listed:
        return _UNREAD
    bracketed = patterns.bracketed.findall(text)
    if len(bracketed) == 1:
        return _undenied(Extraction(bracketed[0], "3d"), text, options)
    index = match_option(text, options) if len({*bracketed}) < 2 else None
    return _UNREAD if index is None else Extraction(LETTERS[index], "4")


def _letter_alone(text: str, letters: str) -> Extraction | None:
    """Step 3a, which knows no options' texts, on a cleaned text."""
    if len(text) == 1 and text.upper() in letters:
        return Extraction(text.upper(), "3a")
    found = _patterns(letters).whole.fullmatch(text)
    return Extraction(_only_letter(found[0]), "3a") if found else None


@functools.lru_cache(maxsize=4096)
def _short_letter(response: str, letters: str) -> Extraction | None:
    """Step 3a on what a model wrote. Most answers are short, and there are few of them: each is read once."""
    return _letter_alone(clean_response(response), letters)


_SHORT = 8
_UNREAD = Extraction(None, UNPARSED)
_MARKS = r"[*_\"'`“”‘’$]{0,4}"
"""Bold, code and quotes."""
_NO_NOUN = (
    r"(?:because|since|as|so|if|when|based|due|given|considering|for|from|in|on|at|by|to|of|with|which|that|this|these|those|the|"
    r"it|its|he|she|they|there|here|we|you|my|i|is|was|and|or|but|not)"
)
"""Words that no article stands before: "A because" is the letter, "A man" is not."""


def _letter(letters: str) -> str:
    """Pattern of a letter, bare or in a pair of brackets, marks allowed outside and inside of them."""
    one = f"[{letters}]"
    return rf"{_MARKS}(?:\({_MARKS}{one}{_MARKS}\)|\[{_MARKS}{one}{_MARKS}\]|{one}){_MARKS}"


def _only_letter(matched: str) -> str:
    return next(character for character in matched if character in LETTERS)


class _Patterns(NamedTuple):
    """The steps' patterns for one set of letters. A group ``more`` is a second letter, joined to the first."""

    whole: re.Pattern[str]
    start: re.Pattern[str]
    stated: re.Pattern[str]
    option: re.Pattern[str]
    bracketed: re.Pattern[str]
    next_line: re.Pattern[str]
    """The letter of an option that the second line starts with, empty ones left out."""


@functools.cache
def _patterns(letters: str) -> _Patterns:
    one = _letter(letters)
    # a pair of brackets closes with a separator itself: "(B) very fast"
    bracketed = rf"{_MARKS}\({_MARKS}[{letters}]{_MARKS}\)"
    article = rf"(?<=[AI])[ \t]+(?!{_NO_NOUN}(?![\w-]))[a-z]"
    rejected = r"[\s)\]]*(?:is|are|was)(?:n['’]t|\s+(?:not|wrong|incorrect|false))\b"
    # no word, abbreviation or name goes on; the Korean ending is that of a statement
    free = rf"(?!(?!입니다)[^\W_]|['’-]\w|\.\w\.|{article}|{rejected})"
    joined = r"(?:\s*[,;/&+-]\s*(?:(?i:or|and)\s+)?|\s+(?i:or|and)\s+)(?:(?i:option|choice)\s+)?"
    more = rf"(?:{joined}(?P<more>{one}){free})?"
    phrases = (
        rf"\b(?i:(?:answer|option|choice){_MARKS}\s+is|answer{_MARKS}\s*:|best\s+option{_MARKS}\s*:)",
        r"(?:答案|正解|答え|정답|답)\s*(?:是|为|為|は|은|:)",
        r"<answer>",
        r"\\boxed\{(?:\\\w+\{)?",
    )
    stated = rf"(?:{'|'.join(phrases)})\s*{_MARKS}\s*:?\s*(?:(?i:option|choice)\s+)?"
    return _Patterns(
        whole=re.compile(rf"{one}[.):]?{_MARKS}"),
        start=re.compile(rf"(?!\w\.\w\.)(?P<said>{one}[ \t]*(?:[.):]|\r?\n)|{bracketed})(?!{rejected}){more}"),
        stated=re.compile(rf"{stated}(?P<said>{one}){free}{more}"),
        option=re.compile(rf"\b(?i:option)\s*:?\s*(?P<said>{one}){free}{more}"),
        bracketed=re.compile(rf"\(([{letters}])\)"),
        next_line=re.compile(rf"[^\n]*\n\s*{_MARKS}\(?([{letters}])[.):]"),
    )


def _one_letter(found: re.Match[str], how: str) -> Extraction:
    """The letter of a statement, unread where it goes on with another one."""
    letter, more = _only_letter(found["said"]), found["more"]
    return Extraction(letter, how) if more is None or _only_letter(more) == letter else _UNREAD


def _lists_options(text: str, begun: re.Match[str], options: Sequence[str]) -> bool:
    """Whether a text that starts with an option goes on with another on the next line, or with the texts of all in order."""
    letter = _only_letter(begun["said"])
    following = _patterns(LETTERS[: len(options)]).next_line.match(text) if "\n" in text else None
    if following and following[1] != letter:
        return True
    if letter != LETTERS[0] or len(options) < 2:
        return False
    said = [normalise(one) for one in marked_options(text, r"\(?{}[.):]")[1]]
    return len(said) >= len(options) and all(map(str.startswith, said, map(normalise, options)))


def _undenied(found: Extraction, text: str, options: Sequence[str]) -> Extraction:
    """``found``, unread where words of denial stand beside its option's own."""
    if found.letter is None or _denied(normalise(text), normalise(options[LETTERS.index(found.letter)])):
        return _UNREAD
    return found


def _denied(said: str, option: str) -> bool:
    return _DENIAL.search(said.replace(option, " ") if option else said) is not None


def normalise(text: str) -> str:
    """Case-folded, NFKC, spaces collapsed, one final full stop dropped."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded[:-1].rstrip() if folded.endswith(".") else folded


def match_option(text: str, options: Sequence[str]) -> int | None:
    """Index of the one option that ``text`` equals, or else of the one it contains.

    An option found only within a longer one that is found too does not count, and an option is not "contained" where it
    would cut a word or number ("4" in "14" or "4.5", "man" in "woman"). "Yes" and "no" count only as what is answered. None
    when no option, or more than one, is left; when the text denies something besides, unless it starts with the option and a
    separator; and when all options are numbers and the text has another one.
    """
    said, wanted = normalise(text), [normalise(option) for option in options]
    equal = [index for index, option in enumerate(wanted) if option and option == said]
    if equal:
        return equal[0] if len(equal) == 1 else None
    inside = [
        index
        for index, option in enumerate(wanted)
        if option and (answered_word(text) == option if option in _YES_NO else _contains(said, option))
    ]
    outermost = [
        index
        for index in inside
        if not any(wanted[index] in wanted[other] and wanted[index] != wanted[other] for other in inside)
    ]
    if len(outermost) != 1:
        return None
    option = wanted[outermost[0]]
    if option in _YES_NO:
        return outermost[0]
    starts = said.startswith(option) and said[len(option) : len(option) + 1] in _SEPARATORS
    numbers = {*_NUMBER.findall(said)} if all(map(_NUMBER.fullmatch, wanted)) else {option}
    return outermost[0] if numbers == {option} and (starts or not _denied(said, option)) else None


_YES_NO = ("yes", "no")
_SEPARATORS = tuple(".,;:!")
_NUMBER = re.compile(r"-?\d+(?:[.,:/-]\d+)*")
_WORD = re.compile(
    r"(?:\A|\b(?:answer\W*\bis\b|answer\W*:)|<answer>|\\boxed\{)\W*(yes|no)(?![\w-]|\W*(?:yes|no)\b)"
    r"(?=[^\w\s]|\s*(?:\Z|\n|[.,;:!*(]|(?:it|he|she|they|there|this|that|the|because|since|as|i|we)\b))",
    re.IGNORECASE,
)


def answered_word(text: str) -> str | None:
    """``yes`` or ``no`` where ``text`` starts with it, or else says that it is the answer, the last time; "no idea" is neither."""
    found = list(_WORD.finditer(text))
    if not found:
        return None
    return (found[0] if found[0].start() == 0 else found[-1])[1].lower()


def _contains(text: str, part: str) -> bool:
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        before, after = text[max(0, start - 2) : start], text[end : end + 2]
        number = (part[0].isdigit() and _NUMBER_BEFORE.search(before)) or (
            part[-1].isdigit() and _NUMBER_AFTER.match(after)
        )
        if not number and not _joined(before[-1:], part[0]) and not _joined(part[-1], after[:1]):
            return True
        start = text.find(part, start + 1)
    return False


_NUMBER_BEFORE = re.compile(r"(?:-|\d[.,:/])$")
_NUMBER_AFTER = re.compile(r"[.,:/-]\d")
"""What makes digits the end or the beginning of a longer number: -2, 3.5, 1,000, 12:30, 2-3."""


def _joined(left: str, right: str) -> bool:
    """Whether a word or number goes on across two neighbours; scripts without capitals write no word spaces."""

    def wordish(character: str) -> bool:
        return character.isdigit() or character.lower() != character.upper()

    return wordish(left) and wordish(right)
