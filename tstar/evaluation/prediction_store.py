"""Predictions of one benchmark on disk: append-only JSON Lines, one line an item, written the moment it is answered.

A killed run loses at most the line it was writing: a damaged line is skipped and counted, its item is asked again. An
answer is found again only under the same question, checkpoint, mode and frames; the last line of such a key wins.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tstar.data.files import write_whole
from tstar.errors import DataError
from tstar.evaluation.items import Item, Report

MODE_LABELS = {
    "full": "model",
    "shuffled": "shuffled frames",
    "single_frame": "single frame",
    "blind": "blind (question only)",
}
"""What tables call the modes, from the one that is given most to the one that is given least."""
MODES = tuple(MODE_LABELS)
"""All frames; the same frames in a random order; one frame; the question without any."""
BASELINES = MODES[1:]
KEY = ("id", "prompt_sha", "model", "mode", "frames")
_VERDICT = ("response", "extracted", "how", "correct", "category")
FIELDS = ("id", "prompt_sha", *_VERDICT, "frames", "visual_tokens", "seconds", "error", "model", "mode")


def prompt_sha(item: Item) -> str:
    """Hash over all text the model is given for ``item``: system text, prompt and prefill; 16 hex digits."""
    texts = json.dumps([item.system, item.prompt, item.prefill])
    return hashlib.sha256(texts.encode()).hexdigest()[:16]


class PredictionStore:
    """Rows of one file, indexed by :data:`KEY`.

    Args:
        path: the file; it and its folder are made with the first row.

    Raises:
        DataError: the path exists but cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.damaged = 0
        """Lines that are no JSON object with the key's fields: what a killed writer left."""
        self.repeated = 0
        """Lines that a later one of the same key replaced."""
        self._rows: dict[str, dict[str, Any]] = {}
        for line in self._read().split(b"\n"):
            if line.strip():
                self._take(line)

    def get(self, item_id: str, *, prompt_sha: str, model: str, mode: str, frames: Any) -> dict[str, Any] | None:
        """The stored row of this question under these conditions, None if it was not asked yet.

        A row with an ``error`` is returned like any other: asking again is the caller's choice.
        """
        key = {"id": item_id, "prompt_sha": prompt_sha, "model": model, "mode": mode, "frames": frames}
        row = self._rows.get(_key(key))
        return None if row is None else dict(row)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row and flush it; fields of :data:`FIELDS` that it lacks become null."""
        assert all(name in row for name in KEY), f"a prediction needs {', '.join(KEY)}, got {', '.join(row)}"
        assert row["mode"] in MODES, f"mode must be one of {', '.join(MODES)}, got {row['mode']!r}"
        line = _line({name: row.get(name) for name in FIELDS} | dict(row))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # a killed writer's line must not swallow this one
                    line = b"\n" + line
            file.write(line)
        self._take(line)

    def rows(self) -> list[dict[str, Any]]:
        """One row a key, the last that was written, in the order the keys came up first."""
        return [dict(row) for row in self._rows.values()]

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise DataError(f"{self.path}: predictions cannot be read ({error.strerror})") from None

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            key = _key(row)
        except (ValueError, TypeError, KeyError):  # cut mid-line or mid-character, or not a row at all
            self.damaged += 1
            return
        self.repeated += key in self._rows
        self._rows[key] = row


def write_scored(path: str | Path, report: Report, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``rows`` anew as ``path``, with the verdicts of ``report`` filled in; whole or not at all.

    A verdict belongs to an item and a response, so rows whose response is another one (of another mode or checkpoint)
    stay as they are: the reports of all modes can be written one after the other into the same file.
    """
    verdicts = {(item.id, item.response): item for item in report.items}
    lines = []
    for row in rows:
        filled, item = dict(row), verdicts.get((row["id"], row["response"]))
        if item is not None:
            correct = bool(item.correct)
            filled |= {"extracted": item.extracted, "how": item.how, "correct": correct, "category": item.categories}
        lines.append(_line(filled))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, b"".join(lines))


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps([row[name] for name in KEY], sort_keys=True)


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
