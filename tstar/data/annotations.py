"""Annotation files in the LLaVA form to checked records.

A file is a JSON list or JSON Lines of ``{"id", "image" | "video", "conversations": [{"from": "human"|"gpt", "value"}, ...]}``.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from tstar.data.annotation_rows import find_rows, parse_row
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
    """Every record of a file, checked; for what may hold bad ones see :func:`tstar.data.records.read_records`.

    Raises:
        DataError: file missing, not JSON, or a record malformed; the message names file, row (from 0) and reason. Rows of
            JSON Lines are lines, so that an editor finds them; empty ones count and hold nothing.
    """
    rows = find_rows(Path(path))
    records = []
    for place, number in enumerate(rows.numbers):
        where = f"{path} row {number}"
        records.append(parse_record(parse_row(rows[place], where), where))
    if not records:
        raise DataError(f"annotation file {path} holds no records")
    return records


def parse_record(row: Any, where: str, *, mend: bool = False) -> Record:
    """One row of an annotation file as a record.

    Args:
        row: as JSON gives it.
        where: what an error calls it.
        mend: leave out an answer before the first question and a question after the last answer, as LLaVA's training does
            with conversations that were cut into pieces.

    Raises:
        DataError: the row is not a record.
    """
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
        check_path(media, f"{where}: '{modality}'")
    turns = row.get("conversations")
    if turns is None and "blip_caption" in row:
        raise DataError(
            f"{where}: 'blip_caption' in place of 'conversations': this is the *_meta.json of LLaVA-Pretrain, not its training file"
        )
    return Record(str(name), modality, media, check_turns(_mended(turns) if mend else turns, where))


def _mended(turns: Any) -> Any:
    if not isinstance(turns, list):
        return turns
    first = 1 if turns and isinstance(turns[0], dict) and turns[0].get("from") == "gpt" else 0
    return turns[first : len(turns) - (len(turns) - first) % 2]


def check_path(media: Any, what: str) -> None:
    """DataError unless ``media`` is a path below a folder; ``what`` is what the error calls it."""
    if not isinstance(media, str) or not media or "\0" in media:
        raise DataError(f"{what} must be a path, found {_shown(media)}")
    if PurePosixPath(media).is_absolute() or ".." in PurePosixPath(media).parts:
        raise DataError(f"{what} must lie inside the media folder, found {_shown(media)}")


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
