"""Predictions of one benchmark on disk: append-only JSON Lines, one line an item, written and synced the moment it is answered.

A killed run loses at most the line it was writing: a damaged line is skipped and counted, its item is asked again. An
answer is found again only under the same question, checkpoint, mode and frames; the last line of such a key wins, but a
failure never takes the place of an answer. Processes that ask together write a file each, and all read all. Evaluations that
run at the same time lose nothing of each other's: what came since a store was read stays when its file is written anew.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.data.files import alone_in, append_lines, sync_folder, write_whole
from tstar.errors import DataError
from tstar.evaluation.base import Benchmark
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
OF_FRAMES = ("shuffled", "single_frame")
"""Modes that say nothing about single pictures."""
KEY = ("id", "prompt_sha", "model", "mode", "frames")
_VERDICT = ("response", "rules", "extracted", "how", "correct", "counted", "rating", "category")
FIELDS = ("id", "prompt_sha", *_VERDICT, "frames", "visual_tokens", "seconds", "error", "model", "mode")


def prompt_sha(item: Item, prompt: str | None = None) -> str:
    """Hash over all text the model is given for ``item``: system text, prompt and prefill; 16 hex digits.

    Args:
        item: the question.
        prompt: what the model was asked, where that is not the item's own prompt.
    """
    texts = json.dumps([item.system, item.prompt if prompt is None else prompt, item.prefill])
    return hashlib.sha256(texts.encode()).hexdigest()[:16]


def modes_of(benchmark: Benchmark, modes: Iterable[str]) -> list[str]:
    """Those of ``modes`` that say something about a benchmark."""
    return [mode for mode in modes if not (benchmark.pictures_only and mode in OF_FRAMES)]


class PredictionStore:
    """Rows of one file, indexed by :data:`KEY`.

    Args:
        path: the file; it and its folder are made with the first row.
        process: number of this process where several ask: its rows go into a file of its own beside ``path``, and
            :meth:`rewrite` joins them.

    Raises:
        DataError: the path exists but cannot be read.
    """

    def __init__(self, path: str | Path, process: int | None = None) -> None:
        self.path = Path(path)
        self._own = self.path if process is None else self.path.with_suffix(f".rank{process}.jsonl")
        self.damaged = 0
        """Lines that are no JSON object with the key's fields: what a killed writer left."""
        self.repeated = 0
        """Lines that another one of the same key replaced."""
        self._rows: dict[str, dict[str, Any]] = {}
        self._of_item: dict[str, list[str]] = {}
        # parts are read first: whoever joins them meanwhile writes the whole before they are gone
        texts = [_read(path) for path in (*self._parts(), self.path)]
        for line in b"\n".join((texts.pop(), *texts)).split(b"\n"):
            if line.strip():
                self._take(line)

    def get(self, item_id: str, *, prompt_sha: str, model: str, mode: str, frames: Any) -> dict[str, Any] | None:
        """The stored row of this question under these conditions, None if it was not asked yet.

        A row with an ``error`` is returned like any other: asking again is the caller's choice.
        """
        key = {"id": item_id, "prompt_sha": prompt_sha, "model": model, "mode": mode, "frames": frames}
        row = self._rows.get(row_key(key))
        return None if row is None else dict(row)

    def of_item(self, item_id: str) -> list[dict[str, Any]]:
        """All rows of a question, whatever the conditions."""
        return [dict(self._rows[key]) for key in self._of_item.get(item_id, ())]

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; see :meth:`extend`."""
        self.extend([row])

    def extend(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows, all at once, and sync them; fields of :data:`FIELDS` that one lacks become null."""
        for row in rows:
            assert all(name in row for name in KEY), f"a prediction needs {', '.join(KEY)}, got {', '.join(row)}"
            assert row["mode"] in MODES, f"mode must be one of {', '.join(MODES)}, got {row['mode']!r}"
        lines = [_line({name: row.get(name) for name in FIELDS} | dict(row)) for row in rows]
        with alone_in(self.path.parent):
            append_lines(self._own, b"".join(lines), durable=True)
        for line in lines:
            self._take(line)

    def rows(self) -> list[dict[str, Any]]:
        """One row a key, the one that counts, in the order the keys came up first."""
        return [dict(row) for row in self._rows.values()]

    def rewrite(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the file, whole or not at all, and delete those of single processes.

        Args:
            rows: what stays of the rows that this store knows. Those that others wrote since stay too.
        """
        with alone_in(self.path.parent):
            parts, now = self._parts(), PredictionStore(self.path)
            kept = {row_key(row): row for row in rows}
            for key, row in now._rows.items():
                if self._rows.get(key) != row and (
                    key not in kept or (kept[key].get("error") and not row.get("error"))
                ):
                    kept[key] = row
            write_whole(self.path, b"".join(map(_line, kept.values())))
            sync_folder(self.path.parent)
            for part in parts:
                part.unlink(missing_ok=True)

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}.rank*.jsonl"))

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            key, item_id = row_key(row), str(row["id"])
        except (ValueError, TypeError, KeyError, RecursionError):  # cut mid-line or mid-character, or not a row at all
            self.damaged += 1
            return
        before = self._rows.get(key)
        if before is None:
            self._of_item.setdefault(item_id, []).append(key)
        else:
            self.repeated += 1
            if row.get("error") and not before.get("error"):
                return
        self._rows[key] = row


def with_verdicts(report: Report, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``rows`` with the verdicts of ``report`` filled in, and by whose rules they are.

    A verdict belongs to an item and a response; rows whose response is another one stay as they are.

    Args:
        report: of answers to the questions as they are asked now.
        rows: that the report was made of. Those of other prompts, modes or frames have verdicts of their own.
    """
    verdicts = {(item.id, item.response): item for item in report.items}
    done = []
    for row in rows:
        filled, item = dict(row), verdicts.get((row["id"], row["response"]))
        if item is not None:
            told = ("extracted", "how", "correct", "counted", "rating")
            filled |= {name: getattr(item, name) for name in told}
            filled |= {"rules": report.rules, "category": item.categories}
        done.append(filled)
    return done


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise DataError(f"{path}: predictions cannot be read ({error.strerror})") from None


def row_key(row: Mapping[str, Any]) -> str:
    """What an answer is found by, as one text."""
    return json.dumps([row[name] for name in KEY], sort_keys=True)


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
