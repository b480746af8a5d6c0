"""Subtitles in SubRip's format (``.srt``): what is said in a video, and what of it is shown at given times."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tstar.errors import DataError
from tstar.evaluation.files import read_text

_TIME = r"(\d{1,4}):(\d\d?):(\d\d?)(?:[,.](\d{1,3}))?"
_SPAN = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
"""Tags such as ``<font color="white">`` and positions such as ``{\\an8}``."""


@dataclass(frozen=True)
class Subtitle:
    """What is shown from ``start`` until ``end``, in seconds; its lines are joined by a space."""

    start: float
    end: float
    text: str


def read_subtitles(path: Path) -> list[Subtitle]:
    """Subtitles of an ``.srt`` file; DataError naming file and line if it is none."""
    return parse_subtitles(read_text(path), str(path))


def parse_subtitles(text: str, where: str) -> list[Subtitle]:
    """Subtitles in the order of the file, their markup removed.

    Args:
        text: content of the file; the numbers of the subtitles may be missing.
        where: name for messages.

    Raises:
        DataError: a line with ``-->`` has no two times, or text stands before the first of them.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    begins = [number for number, line in enumerate(lines) if "-->" in line]
    ahead = lines[: begins[0]] if begins else lines
    stray = next((n for n, line in enumerate(ahead) if line.strip() and not line.strip().isdecimal()), None)
    if stray is not None:
        raise DataError(
            f"{where}, line {stray + 1}: not an .srt file, expected a number or a time, got {lines[stray]!r}"
        )
    numbered = any(line.strip() for line in ahead)
    found = []
    for begin, end in zip(begins, [*begins[1:], len(lines)], strict=False):
        number_follows = numbered and end < len(lines)
        found.append(_subtitle(lines[begin], lines[begin + 1 : end], f"{where}, line {begin + 1}", number_follows))
    return found


def shown_at(subtitles: Iterable[Subtitle], timestamps: Sequence[float]) -> list[str]:
    """Texts that are shown at one of ``timestamps`` (seconds) or more, each once, in the order of the subtitles."""
    times = sorted(timestamps)
    texts = []
    for subtitle in subtitles:
        place = bisect_left(times, subtitle.start)
        if subtitle.text and place < len(times) and times[place] < subtitle.end:
            texts.append(subtitle.text)
    return texts


def _subtitle(span: str, lines: list[str], where: str, number_follows: bool) -> Subtitle:
    found = _SPAN.fullmatch(span)
    if not found:
        raise DataError(f"{where}: two times such as 00:01:02,500 --> 00:01:04,000 are expected, got {span!r}")
    texts = [line.strip() for line in lines]
    while texts and not texts[-1]:
        texts.pop()
    if number_follows and texts and texts[-1].isdecimal() and (len(texts) == 1 or not texts[-2]):
        texts.pop()  # it is the next one's
    parts = found.groups()
    said = " ".join(_MARKUP.sub("", " ".join(texts)).split())
    return Subtitle(_seconds(*parts[:4]), _seconds(*parts[4:]), said)


def _seconds(hours: str, minutes: str, seconds: str, thousandths: str | None) -> float:
    fraction = int((thousandths or "0").ljust(3, "0"))
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + fraction / 1000
