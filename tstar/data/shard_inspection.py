"""Looking at a finished set: whether every byte is what was written, what is in it, and a picture of some of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tstar.data.files import file_digest
from tstar.data.images import decode_image
from tstar.data.shard_index import MODALITIES, build_index, load_index, read_manifest
from tstar.data.shard_set import ShardSet
from tstar.errors import DataError

Progress = Callable[[int, int], None]
THUMB, CAPTION, FRAMES_SHOWN = 112, 28, 8


@dataclass(frozen=True)
class Verification:
    """What came of checking a set."""

    folder: str
    shards: int
    samples: int
    bytes: int
    problems: tuple[str, ...]
    """A line for every shard and sample that is not what was written."""


def verify_shards(folder: Path, *, decode: bool = False, progress: Progress | None = None) -> Verification:
    """Read every byte of a set and compare it with manifest and index.

    Args:
        folder: of the set.
        decode: decode every picture as well.
        progress: called with (bytes done, bytes in all).

    Raises:
        DataError: there is no set, or its manifest is damaged.
    """
    entries = read_manifest(folder)["shards"]
    total, done, samples = sum(e["bytes"] for e in entries), 0, 0
    problems: list[str] = []
    for entry in entries:
        shard = folder / entry["file"]
        found = _problems(shard, entry)
        if found or decode:
            found += _damaged_samples(folder, entry["file"])
        problems += found
        samples += entry["samples"]
        done += entry["bytes"]
        if progress:
            progress(done, total)
    return Verification(str(folder), len(entries), samples, total, tuple(problems))


def _problems(shard: Path, entry: dict[str, Any]) -> list[str]:
    """What is wrong with a shard as a whole."""
    if not shard.is_file():
        return [f"{shard.name} is missing"]
    if file_digest(shard) != entry["sha256"]:
        return [f"{shard.name} is not what was written (sha256 differs)"]
    try:
        if not all(np.array_equal(a, b) for a, b in zip(load_index(shard), build_index(shard), strict=True)):
            return [f"the index of {shard.name} is not that of the tar"]
    except (DataError, OSError) as error:
        return [str(error)]
    return []


def _damaged_samples(folder: Path, name: str) -> list[str]:
    """Samples of a shard that cannot be read, or whose pictures cannot be decoded."""
    try:
        shards = ShardSet([folder], only=name)
    except DataError:  # its index is gone or damaged, which is said already
        return []
    found = []
    for number in range(len(shards)):
        try:
            for place, data in enumerate(shards.read(number).frames):
                decode_image(data, f"frame {place}")
        except (DataError, OSError, ValueError, LookupError, TypeError) as error:
            found.append(f"{name}: {shards.locate(number)[1]}: {error}")
    shards.close()
    return found


def describe_shards(folder: Path) -> dict[str, Any]:
    """Counts and sizes of a set, from its manifest and index: samples by modality, frames, words, bytes, and its settings."""
    manifest, shards = read_manifest(folder), ShardSet([folder])
    modality, frames, words = (shards.column(name) for name in ("modality", "frames", "words"))
    total = sum(entry["bytes"] for entry in manifest["shards"])
    kinds = {}
    for number, name in enumerate(MODALITIES):
        mine = frames[modality == number]
        if len(mine):
            kinds[name] = {"samples": len(mine), "frames": int(mine.sum(dtype=np.int64)), "frames_each": _spread(mine)}
    return {
        "folder": str(folder),
        "shards": len(manifest["shards"]),
        "samples": len(shards),
        "bytes": total,
        "bytes_per_frame": round(total / max(1, int(frames.sum(dtype=np.int64)))),
        "modalities": kinds,
        "words_each": _spread(words),
        "settings": manifest.get("settings", {}),
        "records": manifest.get("records", {}),
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(values, [0, 50, 100])
    return {"least": float(low), "median": float(median), "most": float(high)}


def contact_sheet(folder: Path, path: Path, rows: int = 12) -> None:
    """A PNG of samples spread over the set: a row each, up to eight of its frames in order of time, and its first question."""
    shards = ShardSet([folder])
    rows = min(rows, len(shards))
    width, height = FRAMES_SHOWN * THUMB, THUMB + CAPTION
    sheet = Image.new("RGB", (width, rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    for row in range(rows):
        number, top = row * len(shards) // rows, row * height
        try:
            raw = shards.read(number)
            places = np.linspace(0, len(raw.frames) - 1, min(FRAMES_SHOWN, len(raw.frames))).round().astype(int)
            for column, place in enumerate(places):
                picture = Image.fromarray(decode_image(raw.frames[place], f"frame {place}"))
                picture.thumbnail((THUMB - 2, THUMB - 2))
                sheet.paste(picture, (column * THUMB + 1, top + CAPTION))
            question, answer = (turn["value"] for turn in raw.meta["conversations"][:2])
            text = f"{raw.meta['id']}  ({raw.meta['modality']}, {len(raw.frames)} frames)  {question}  >  {answer}"
        except (DataError, OSError, ValueError) as error:
            text = f"{shards.locate(number)[1]}: {error}"
        pen.text((3, top + 8), _fitting(" ".join(text.split()), pen, width - 6), fill="black")
    shards.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _fitting(text: str, pen: ImageDraw.ImageDraw, width: int) -> str:
    """The text, cut where a line ends; characters that the built-in font lacks become question marks."""
    text = text.encode("latin-1", "replace").decode("latin-1")
    while text and pen.textlength(text) > width:
        text = text[: min(len(text) - 1, int(len(text) * width / pen.textlength(text)) + 1)]
    return text
