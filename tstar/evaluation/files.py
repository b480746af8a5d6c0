"""Reading annotation and response files so that a broken one is named by file, row and field."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import DataError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def read_text(path: Path) -> str:
    """Text of a UTF-8 file (a byte order mark is dropped); DataError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; give the annotation or response file, or the folder it lies in"
        ) from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, a file is needed here") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); is it a JSON file?") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def read_json(path: Path) -> Any:
    """One JSON document; DataError with line and column if it is broken."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: broken JSON at line {error.lineno}, column {error.colno} ({error.msg}); fetch or write it again"
        ) from None


def read_json_lines(path: Path) -> list[Any]:
    """One JSON value a line, blank lines skipped; DataError naming the first broken line."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}: line {number} is not valid JSON ({error.msg}, column {error.colno}); "
                "each line must be one complete JSON object"
            ) from None
    return rows


def read_json_or_lines(path: Path) -> Any:
    """A JSON document or JSON Lines, whichever the file holds; ``.jsonl`` is always read line by line."""
    if path.suffix == ".jsonl":
        return read_json_lines(path)
    text = read_text(path).strip()
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        first = text.split("\n", 1)[0]
    try:
        lines = isinstance(json.loads(first), dict)
    except json.JSONDecodeError:
        lines = False
    return read_json_lines(path) if lines else read_json(path)  # each raises with the place of the fault


def as_record(value: Any, where: str) -> Mapping[str, Any]:
    """``value`` if it is a JSON object, else DataError."""
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: must be an object with named fields, got {type(value).__name__}")
    return value


def field(record: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Field ``name`` of ``record``; DataError if it is absent or not of ``kind`` (a bool is never a number here)."""
    if name not in record:
        raise DataError(f"{where}: field '{name}' is missing (found: {', '.join(sorted(map(str, record))) or 'none'})")
    value = record[name]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        raise DataError(f"{where}: field '{name}' must be {wanted}, got {type(value).__name__}")
    return value


def text_list(record: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    """Field ``name`` as a tuple of 1 to 26 strings (parquet readers hand out arrays: anything iterable but text)."""
    if name not in record:
        field(record, name, list, where)
    value = record[name]
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(text, str) for text in value):
        raise DataError(f"{where}: field '{name}' must be a list of texts, got {type(value).__name__}")
    if not 1 <= len(value) <= len(LETTERS):
        raise DataError(f"{where}: field '{name}' must hold 1 to {len(LETTERS)} texts, got {len(value)}")
    return tuple(value)


def letter_of(record: Mapping[str, Any], name: str, count: int, where: str) -> str:
    """Field ``name`` as a capital letter of the first ``count``."""
    letter = str(field(record, name, str, where))
    if len(letter) != 1 or letter not in LETTERS[:count]:
        raise DataError(f"{where}: field '{name}' must be one of {', '.join(LETTERS[:count])}, got {letter!r}")
    return letter
