"""A picture of a few generated videos with their questions, to see at a glance what the miniature world is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tstar.data.miniature.config import FPS, SIZE
from tstar.data.miniature.mp4 import read_frames
from tstar.data.miniature.seeds import LETTERS
from tstar.errors import DataError

_FRAMES, _ZOOM, _GAP, _MARGIN = 8, 2, 8, 28
_INK, _FAINT, _RIGHT, _PAPER, _CARD = "#1c1e21", "#7a7f87", "#0b7a3b", "#f3f2ee", "#ffffff"
_VNBENCH_ROWS = ("ord_insert1", "cnt_edit2", "ret_edit1", "ord_edit1", "cnt_insert1")
Example = dict[str, Any]
"""suite, file, question, options (texts), answer (text), needles (start times in seconds)."""


def _load(path: Path) -> Any:
    if not path.exists():
        raise DataError(f"{path} is missing: generate the world first (tstar miniature --out {path.parents[2]})")
    return json.loads(path.read_text(encoding="utf-8"))


def _examples(world: Path) -> list[Example]:
    """One video of each suite, then further ones of mini-vnbench."""
    suites = world / "benchmarks"
    tries = {r["type"]: r for r in reversed(_load(suites / "mini-vnbench" / "VNBench-main-4try.json")) if r["try"] == 0}
    needles = [
        {
            "suite": f"mini-vnbench  {kind}",
            "file": suites / "mini-vnbench" / tries[kind]["video"],
            "question": tries[kind]["question"],
            "options": tries[kind]["options"],
            "answer": tries[kind]["gt"],
            "needles": tries[kind]["needle_time"],
        }
        for kind in _VNBENCH_ROWS
        if kind in tries
    ]
    others: list[Example] = []
    for name, questions in _load(suites / "mini-tempcompass" / "multi-choice.json").items():
        if name.endswith("_reverse") and "attribute_change" in questions:
            text, *options = questions["attribute_change"][0]["question"].split("\n")
            answer = questions["attribute_change"][0]["answer"]
            file = suites / "mini-tempcompass" / "videos" / f"{name}.mp4"
            others.append(
                _example("mini-tempcompass  attribute change", file, text, [o[3:] for o in options], answer[3:])
            )
            break
    for task in ("6_anomaly_reco", "7_topic_reasoning"):
        for record in _load(suites / "mini-mlvu" / "json" / f"{task}.json")[:1]:
            file = suites / "mini-mlvu" / "video" / task / record["video"]
            title = f"mini-mlvu  {record['question_type']}"
            others.append(_example(title, file, record["question"], record["candidates"], record["answer"]))
    return [*needles[:1], *others[:2], *needles[1:2], *others[2:], *needles[2:]]


def _example(suite: str, file: Path, question: str, options: list[str], answer: str) -> Example:
    return {"suite": suite, "file": file, "question": question, "options": options, "answer": answer, "needles": []}


def _moments(frames: int, needles: list[float]) -> list[int]:
    """Frame numbers to show: the middles of equal parts, moved to a needle's middle where one is near."""
    moments = [int((k + 0.5) * frames / _FRAMES) for k in range(_FRAMES)]
    for needle in needles:
        middle = int(needle * FPS) + FPS // 2
        moments[min(range(_FRAMES), key=lambda k: abs(moments[k] - middle))] = middle
    return sorted(moments)


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _draw_row(sheet: Image.Image, top: int, example: Example) -> None:
    """One card: suite and question, the frames with their times, the options with the right one marked."""
    draw = ImageDraw.Draw(sheet)
    tile = SIZE * _ZOOM
    width = _FRAMES * (tile + _GAP) - _GAP
    draw.rounded_rectangle((_MARGIN - 14, top - 12, _MARGIN + width + 14, top + _row_height() - 26), 12, fill=_CARD)
    draw.text((_MARGIN, top), example["question"], font=_font(22), fill=_INK)
    draw.text((_MARGIN + width, top + 4), example["suite"], font=_font(16), fill=_FAINT, anchor="ra")
    frames = read_frames(example["file"])
    for column, moment in enumerate(_moments(len(frames), example["needles"])):
        left = _MARGIN + column * (tile + _GAP)
        image = Image.fromarray(np.asarray(frames[moment])).resize((tile, tile), Image.Resampling.NEAREST)
        sheet.paste(image, (left, top + 36))
        draw.text((left + 2, top + 40 + tile), f"{moment / FPS:.1f} s", font=_font(14), fill=_FAINT)
    for number, option in enumerate(example["options"]):
        left, line = _MARGIN + number % 4 * (width // 4), top + 66 + tile
        right = option == example["answer"]
        text = f"{LETTERS[number]}.  {option}"
        if right:
            box = draw.textbbox((left, line), text, font=_font(18))
            draw.rounded_rectangle((box[0] - 8, box[1] - 6, box[2] + 8, box[3] + 6), 8, fill="#d9f2e3")
        draw.text((left, line), text, font=_font(18), fill=_RIGHT if right else _INK)


def _row_height() -> int:
    return SIZE * _ZOOM + 142


def contact_sheet(world: Path, out: Path, count: int = 4) -> None:
    """Write a PNG with ``count`` videos of the world, one a row, with question, options and right answer.

    Raises:
        DataError: there is no finished world in the folder.
    """
    examples = _examples(Path(world))[:count]
    width = 2 * _MARGIN + _FRAMES * (SIZE * _ZOOM + _GAP) - _GAP
    sheet = Image.new("RGB", (width, 96 + len(examples) * _row_height()), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, 20), "miniature world", font=_font(38), fill=_INK)
    note = "generated videos, 96 x 96 pixels, 8 frames a second; the right answer is green"
    draw.text((width - _MARGIN, 40), note, font=_font(16), fill=_FAINT, anchor="ra")
    for row, example in enumerate(examples):
        _draw_row(sheet, 92 + row * _row_height(), example)
    part = Path(out).with_name(Path(out).name + ".part")
    sheet.save(part, format="PNG")
    part.replace(out)
