"""Annotation files in the LLaVA form to checked records.

A file is a JSON list or JSON Lines of ``{"id", "image" | "video", "conversations": [{"from": "human"|"gpt", "value"}, ...]}``.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from tstar.errors import DataError

Modality = Literal["image", "video", "text"]
Turn = dict[str, str]


@dataclass(frozen=True)
class Record:
    """One conversation about at most one picture or video."""

    id: str
    modality: Modality
    media: str
    """Path of the picture or video relative to the media folder; empty for text."""
    conversations: tuple[Turn, ...]


def read_annotations(path: str | Path) -> list[Record]:
    """Every record of a file, checked.

    Raises:
        DataError: file missing, not JSON, or a record malformed; the message names file, row (from 0) and reason. Rows of
            JSON Lines are lines, so that an editor finds them; empty ones count and hold nothing.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no such annotation file: {path}")
    records = [_record(row, f"{path} row {number}") for number, row in _rows(path)]
    if not records:
        raise DataError(f"annotation file {path} holds no records")
    return records


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a byte order mark first
        if path.suffix != ".jsonl":
            rows = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); repair it or make it anew") from error
    if path.suffix == ".jsonl":
        yield from _lines(text, path)
    elif isinstance(rows, list):
        yield from enumerate(rows)
    else:
        raise DataError(f"{path} must hold a JSON list of records, found {type(rows).__name__}")


def _lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n")):  # splitlines() would also cut at U+2028, which JSON may hold
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path} row {number} is not valid JSON ({error}); repair it or make it anew"
                ) from error


def _record(row: Any, where: str) -> Record:
    if not isinstance(row, dict):
        raise DataError(f"{where}: a record must be an object, found {type(row).__name__}")
    name = row.get("id")
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise DataError(f"{where}: 'id' must be a text or a whole number, found {_shown(name)}")
    kinds: list[Modality] = [kind for kind in ("image", "video") if row.get(kind) is not None]
    if len(kinds) > 1:
        raise DataError(f"{where}: a record has one picture or one video, found both")
    modality: Modality = kinds[0] if kinds else "text"
    media = row[modality] if kinds else ""
    if kinds:
        _check_path(media, f"{where}: '{modality}'")
    record = Record(str(name), modality, media, check_turns(row.get("conversations"), where))
    try:
        _texts(record).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: half a character (\\u{ord(error.object[error.start]):x}); repair the text"
        ) from error
    return record


def _check_path(media: Any, what: str) -> None:
    if not isinstance(media, str) or not media or "\0" in media:
        raise DataError(f"{what} must be a path, found {_shown(media)}")
    if PurePosixPath(media).is_absolute() or ".." in PurePosixPath(media).parts:
        raise DataError(f"{what} must lie inside the media folder, found {_shown(media)}")


def _texts(record: Record) -> str:
    return "".join((record.id, record.media, *(turn["value"] for turn in record.conversations)))


def _shown(value: Any) -> str:
    """A value in few enough characters for one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_turns(turns: Any, where: str) -> tuple[Turn, ...]:
    """The turns of a conversation: non-empty, human and gpt by turns, human first, an answer at the end."""
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where}: 'conversations' must be a non-empty list")
    if len(turns) % 2:
        raise DataError(f"{where}: 'conversations' must pair every human turn with an answer, found {len(turns)} turns")
    for number, turn in enumerate(turns):
        speaker = ("human", "gpt")[number % 2]
        if not isinstance(turn, dict) or turn.get("from") != speaker or not isinstance(turn.get("value"), str):
            raise DataError(
                f"{where}: turn {number} must be {{'from': '{speaker}', 'value': text}}, found {_shown(turn)}"
            )
    return tuple({"from": t["from"], "value": t["value"]} for t in turns)
