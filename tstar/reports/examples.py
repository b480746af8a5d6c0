"""Sheets of right and wrong answers with the frames that were looked at, chosen by a rule and not by an eye."""

import hashlib
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tstar.data.decoding import Taken
from tstar.data.frame_sampling import FrameSampling
from tstar.errors import DataError
from tstar.evaluation import Item, ItemScore, Report, get_benchmark
from tstar.evaluation.clips import take
from tstar.evaluation.files import LETTERS
from tstar.evaluation.media import SuiteMedia
from tstar.evaluation.settings import Place, place_of
from tstar.evaluation.suites import Clip
from tstar.reports.runs import Run

RULE = (
    "the first right and the first wrong answers by the SHA-256 of suite and question id, each of another video; "
    "the frames are the sampled ones, evenly thinned out to {shown} where there are more"
)
SHOWN = 16
_TILE, _GAP, _MARGIN, _LINE = 96, 6, 26, 24
_WIDTH = 2 * _MARGIN + SHOWN * (_TILE + _GAP) - _GAP
_INK, _FAINT, _PAPER, _CARD = "#1c1e21", "#7a7f87", "#f3f2ee", "#ffffff"
_TINTS = {True: ("#0b7a3b", "#d9f2e3"), False: ("#b3261e", "#fbe1de")}
_COLUMNS = 168
"""Letters of a line of text that certainly fit the width."""


def example_sheet(run: Run, suite: str, path: Path, count: int) -> list[str]:
    """Write the PNG of a suite's examples; returns the ids shown.

    Args:
        run: whose answers to the suite are shown.
        suite: its name.
        path: of the PNG.
        count: at most so many right answers, and as many wrong ones.

    Raises:
        DataError: the suite's folder, questions or videos are not there (any more), or the suite was not answered.
    """
    report = run.own.reports.get(suite, {}).get("full")
    if report is None:
        raise DataError(f"{run.path} has no answers to {suite}")
    place = suite_place(run, suite)
    items = {item.id: item for item in get_benchmark(suite).load(place.annotations, place.media)}
    media = SuiteMedia(place.media)
    evaluation = run.config["evaluation"]
    names = {key: evaluation[key] for key in ("fps", "max_frames") if key in evaluation}
    sampling, decoder = FrameSampling(**names), evaluation.get("decoder", "auto")
    cards = []
    for score in chosen(report, count):
        if score.id not in items:
            raise DataError(
                f"{place.annotations} does not hold question {score.id} of {run.path}: the suite was made anew"
            )
        item = items[score.id]
        found = media.find(item)
        if found is None:
            raise DataError(f"no {item.media} in {place.media}")
        wanted = Clip((item,)).wanted(found)
        cards.append(_card(item, score, take(wanted, sampling, decoder, lambda frame: frame)))
    sheet = Image.new("RGB", (_WIDTH, 70 + sum(card.height + 14 for card in cards)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 18), f"{suite}, {run.recipe}, seed {run.seed}", font=_font(28), fill=_INK)
    top = 66
    for card in cards:
        sheet.paste(card, (0, top))
        top += card.height + 14
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)
    return [score.id for score in chosen(report, count)]


def chosen(report: Report, count: int) -> list[ItemScore]:
    """``count`` right answers, then as many wrong ones, as far as there are: first by hash of the id, no video twice."""

    def draw(item: ItemScore) -> str:
        return hashlib.sha256(f"{report.benchmark}:{item.id}".encode()).hexdigest()

    taken: list[ItemScore] = []
    for verdict in (True, False):
        own: list[ItemScore] = []
        for item in sorted((i for i in report.items if bool(i.correct) is verdict), key=draw):
            if len(own) < count and item.cluster not in {i.cluster for i in (*taken, *own)}:
                own.append(item)
        taken += own
    return taken


def suite_place(run: Run, suite: str) -> Place:
    """Where the run's suite lies: as the recipe says, from here or from the folder that the run was started in."""
    said = place_of(suite, run.config["evaluation"]["benchmarks"][suite])
    start = run.path.absolute().parents[1]
    for place in (said, Place(start / said.annotations, start / said.media)):
        if place.annotations.exists():
            return place
    raise DataError(f"{suite} is not in {said.annotations}, seen from here or from {start}")


def _card(item: Item, score: ItemScore, clip: Taken[np.ndarray]) -> Image.Image:
    """Frames with their times, the prompt as the model was asked it, and the verdict."""
    texts = [line for line in item.prompt.splitlines() if line.strip() and _option_of(line, item) is None]
    lines = [part for text in texts for part in textwrap.wrap(text, _COLUMNS)]
    options = [f"{LETTERS[k]}.  {text}" for k, text in enumerate(item.options)]
    wide = max(len(text) for text in options) > _COLUMNS // 4 - 4
    each = 1 if wide else 4
    rows = -(-len(options) // each)
    strip = _TILE + 24
    height = 16 + strip + (len(lines) + rows) * _LINE + 12 + 2 * _LINE
    card = Image.new("RGB", (_WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(card)
    draw.rounded_rectangle((_MARGIN - 14, 0, _WIDTH - _MARGIN + 14, height - 1), 10, fill=_CARD)
    _strip(card, draw, clip)
    top = 16 + strip
    for line in lines:
        draw.text((_MARGIN, top), line, font=_font(16), fill=_INK)
        top += _LINE
    top += 8
    for number, text in enumerate(options):
        left = _MARGIN + 8 + number % each * ((_WIDTH - 2 * _MARGIN) // each)
        right, said = LETTERS[number] == item.answer, LETTERS[number] == score.extracted
        ink = _INK
        if right or said:
            ink, tint = _TINTS[right]
            box = draw.textbbox((left, top), text, font=_font(16))
            draw.rounded_rectangle((box[0] - 8, box[1] - 4, box[2] + 8, box[3] + 4), 6, fill=tint)
        draw.text((left, top), textwrap.shorten(text, _COLUMNS, placeholder=" …"), font=_font(16), fill=ink)
        if number % each == each - 1 or number == len(options) - 1:
            top += _LINE
    answer = textwrap.shorten(repr(score.response), 60, placeholder=" …")
    verdict = f"{'right' if score.correct else 'wrong'}: the model said {answer}; the right answer is {item.answer}"
    draw.text((_MARGIN, top + 10), verdict, font=_font(16), fill=_TINTS[bool(score.correct)][0])
    draw.text((_WIDTH - _MARGIN, top + 12), score.id, font=_font(13), fill=_FAINT, anchor="ra")
    return card


def _strip(card: Image.Image, draw: ImageDraw.ImageDraw, clip: Taken[np.ndarray]) -> None:
    total = len(clip.items)
    places = range(total) if total <= SHOWN else np.linspace(0, total - 1, SHOWN).round().astype(int)
    for column, place in enumerate(places):
        left = _MARGIN + column * (_TILE + _GAP)
        frame = Image.fromarray(np.ascontiguousarray(clip.items[place]))
        frame.thumbnail((_TILE, _TILE))
        card.paste(frame, (left, 14))
        if clip.timestamps:
            draw.text((left + 2, 16 + _TILE), f"{clip.timestamps[place]:.1f} s", font=_font(12), fill=_FAINT)


def _option_of(line: str, item: Item) -> int | None:
    """Number of the option that a line of the prompt spells out; None for any other line."""
    for number, text in enumerate(item.options):
        letter = LETTERS[number]
        if line.strip() in (f"{letter}. {text}", f"({letter}) {text}", f"{letter}) {text}", f"{letter}: {text}"):
            return number
    return None


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
