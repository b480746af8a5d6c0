"""Reading annotation and response files so that a broken one is named by file, row and field.

Tables are read from whatever they are published as: parquet, TSV, CSV, JSON or JSON Lines. Of pictures that lie inside a
table only a hash is kept, which tells the questions about one picture.
"""

import csv
import functools
import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import DataError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SEPARATORS = {".csv": ",", ".tsv": "\t"}
FIELD_LIMIT = 2**31 - 1
"""Longest text in a cell of a CSV or TSV table; the csv module's own limit is shorter than a picture."""
PICTURE_COLUMN = "image"
LONGEST_PATH = 255
"""A longer text in the picture column is the picture itself."""
LONGEST_REFERENCE = 64
"""A text in that column that is no longer, and no path, is the index of the row that has the picture."""
DIGEST = "sha256:"
"""What the hash of a picture begins with."""
PARQUET = ("*.parquet", "*/*.parquet")
UNREADABLE = (ValueError, RecursionError)
"""What the parser of JSON raises: beside faults, for what is nested too deeply and for numbers of thousands of digits."""


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
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); convert it, or give another file") from None
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
    except UNREADABLE as error:
        raise DataError(f"{path}: {_unreadable(error)}") from None


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
        except UNREADABLE as error:
            raise DataError(f"{path}: line {number}: {_unreadable(error)}") from None
    return rows


def read_json_or_lines(path: Path) -> Any:
    """A JSON document or JSON Lines, whichever the file holds; ``.jsonl`` is always read line by line."""
    if path.suffix == ".jsonl":
        return read_json_lines(path)
    text = read_text(path).strip()
    try:
        return json.loads(text)
    except UNREADABLE:
        first = text.split("\n", 1)[0]
    try:
        lines = isinstance(json.loads(first), dict)
    except UNREADABLE:
        lines = False
    return read_json_lines(path) if lines else read_json(path)  # each raises with the place of the fault


def _unreadable(error: Exception) -> str:
    what = "is nested too deeply" if isinstance(error, RecursionError) else "holds a number of too many digits"
    return f"its JSON {what}; fetch or write it again"


def table_rows(
    annotations: Any, names: Sequence[str], parquet: Sequence[str] = PARQUET, within: str = ""
) -> tuple[list[Any], str]:
    """Rows of a published table, and its name for messages.

    Args:
        annotations: a table's path, a folder that holds it, or rows that were parsed already.
        names: what the table may be called in a folder; the first that is there is read.
        parquet: patterns of parquet tables, for a folder without any of those: all that fit the first that fits one.
        within: field of a JSON object that may hold the rows.
    """
    where = str(annotations) if isinstance(annotations, Path) else "annotations"
    if isinstance(annotations, Path) and annotations.is_dir():
        named = [[annotations / name] for name in names if (annotations / name).is_file()]
        found = named + [parts for pattern in parquet if (parts := sorted(annotations.glob(pattern)))]
        if not found:
            raise DataError(f"{annotations}: holds neither {', '.join(names)} nor a .parquet table")
        if len(found[0]) > 1:
            return [row for part in found[0] for row in read_table(part)], where
        annotations, where = found[0][0], str(found[0][0])
    rows = read_table(annotations) if isinstance(annotations, Path) else annotations
    if within and isinstance(rows, Mapping):
        rows = field(rows, within, list, where)
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        raise DataError(f"{where}: must be a table of questions, got {type(rows).__name__}")
    return list(rows), where


def read_table(path: Path) -> Any:
    """Content of one file; its ending says what it is, and one that is no table's is read as JSON or JSON Lines."""
    if path.suffix == ".parquet":
        return _parquet(path)
    return _separated(path) if path.suffix in SEPARATORS else read_json_or_lines(path)


def _separated(path: Path) -> list[dict[str, str]]:
    text = io.StringIO(read_text(path), newline="")
    limit = csv.field_size_limit(FIELD_LIMIT)
    rows: list[dict[str, str]] = []
    try:
        for row in csv.DictReader(text, delimiter=SEPARATORS[path.suffix], strict=True):
            if None in row or None in row.values():
                more = "more" if None in row else "fewer"
                raise DataError(f"{path}, row {len(rows)}: has {more} cells than the header; is the file cut off?")
            if len(row.get(PICTURE_COLUMN, "")) > LONGEST_PATH:
                row[PICTURE_COLUMN] = _digest(row[PICTURE_COLUMN].encode())
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}, row {len(rows)}: broken table ({error}); fetch or write it again") from None
    finally:
        csv.field_size_limit(limit)
    return rows


def _parquet(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path}: reading parquet needs pyarrow: pip install pyarrow, or write the table as JSON Lines"
        ) from None
    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=64)  # pictures make rows large
        return [_light(row) for batch in batches for row in batch.to_pylist()]
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise DataError(f"{path}: not a readable parquet table ({error})") from None


def _light(value: Any) -> Any:
    """``value`` with a hash in the place of all that is bytes."""
    if isinstance(value, dict):
        return {name: _light(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_light(part) for part in value]
    return _digest(value) if isinstance(value, bytes) else value


def _digest(picture: bytes) -> str:
    return f"{DIGEST}{hashlib.sha256(picture).hexdigest()[:16]}"


def picture_of(record: Mapping[str, Any], item_id: str) -> tuple[str, str]:
    """Path of a question's picture below the benchmark's folder, and a name that other questions about it share.

    A path in the field ``image`` is both. A picture inside the table is expected as ``images/<item_id>``, without its
    ending.
    """
    image = record.get(PICTURE_COLUMN)
    if isinstance(image, Mapping):  # as the datasets library stores one
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str) and image.startswith(DIGEST):
        return f"images/{item_id}", image
    return (image, image) if isinstance(image, str) and _has_ending(image) else (f"images/{item_id}", item_id)


def with_pictures(rows: Sequence[Any], where: str) -> list[Any]:
    """Rows with pictures in the place of references: in VLMEvalKit's tables a short cell is the index of the row that has it.

    DataError for a reference to a row that is not there or has no picture of its own.
    """
    held = {
        str(row["index"]): row[PICTURE_COLUMN]
        for row in rows
        if isinstance(row, Mapping) and "index" in row and isinstance(row.get(PICTURE_COLUMN), str)
    }
    resolved = []
    for number, row in enumerate(rows):
        image = row.get(PICTURE_COLUMN) if isinstance(row, Mapping) and "index" in row else None
        if isinstance(image, str) and _is_reference(image):
            if image not in held or _is_reference(held[image]):
                raise DataError(
                    f"{where}, row {number}: field '{PICTURE_COLUMN}' is {image!r}, neither a path with an ending nor the index "
                    "of a row that has a picture"
                )
            row = {**row, PICTURE_COLUMN: held[image]}
        resolved.append(row)
    return resolved


def _is_reference(image: str) -> bool:
    inside = image.startswith(DIGEST) or len(image) > LONGEST_REFERENCE or "/" in image
    return bool(image) and not inside and not _has_ending(image)


def _has_ending(path: str) -> bool:
    name = path.rstrip("/").rpartition("/")[2]
    return 0 < name.rfind(".") < len(name) - 1


def lettered_columns(record: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Option texts of a table that has a column for each, named A, B and so on; () if this one has not.

    DataError for a question with a single option, or with an empty one before another.
    """
    cells = list(itertools.takewhile(lambda letter: letter in record, LETTERS))
    filled = [letter for letter in cells if isinstance(record[letter], str) and record[letter]]
    if filled and (len(filled) == 1 or filled != cells[: len(filled)]):
        raise DataError(
            f"{where}: columns {', '.join(cells)} must hold two or more options without a gap, "
            f"got texts in {', '.join(filled)} only"
        )
    return tuple(record[letter] for letter in filled)


def media_root(annotations: Any, media: Path | None = None) -> Path | None:
    """The folder that media lie in, that of the annotations where nothing is said; None if there is none."""
    if media is not None or not isinstance(annotations, Path):
        return media
    return annotations if annotations.is_dir() else annotations.parent


def as_record(value: Any, where: str) -> Mapping[str, Any]:
    """``value`` if it is a JSON object, else DataError."""
    if type(value) is dict:
        return value
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: must be an object with named fields, got {type(value).__name__}")
    return value


def field(record: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Field ``name`` of ``record``; DataError if it is absent or not of ``kind`` (a bool is never a number here)."""
    if type(found := record.get(name)) is kind:  # as nearly always
        return found
    if name not in record:
        raise DataError(f"{where}: field '{name}' is missing (found: {', '.join(sorted(map(str, record))) or 'none'})")
    value = record[name]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        raise DataError(f"{where}: field '{name}' must be {wanted}, got {type(value).__name__}")
    return value


def identifier(record: Mapping[str, Any], name: str, where: str) -> str:
    """Field ``name``, a text or a whole number, as a text that is not empty."""
    value = str(field(record, name, (str, int), where))
    if not value:
        raise DataError(f"{where}: field '{name}' is empty")
    return value


def number_in(record: Mapping[str, Any], name: str, numbers: range, where: str) -> int:
    """Field ``name``, one of ``numbers`` or its digits."""
    value = field(record, name, (str, int), where)
    if str(value) not in map(str, numbers):
        raise DataError(
            f"{where}: field '{name}' must be a whole number from {numbers[0]} to {numbers[-1]}, got {value!r}"
        )
    return int(value)


def text_list(record: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    """Field ``name`` as a tuple of 1 to 26 strings (parquet readers hand out arrays: anything iterable but text)."""
    if name not in record:
        field(record, name, list, where)
    value = record[name]
    if hasattr(value, "tolist"):
        value = value.tolist()
    listed = type(value) in (list, tuple) or (isinstance(value, Sequence) and not isinstance(value, str))
    if not listed or not ({*map(type, value)} <= {str} or all(isinstance(text, str) for text in value)):
        raise DataError(f"{where}: field '{name}' must be a list of texts, got {type(value).__name__}")
    if not 1 <= len(value) <= len(LETTERS):
        raise DataError(f"{where}: field '{name}' must hold 1 to {len(LETTERS)} texts, got {len(value)}")
    return tuple(value)


def marked_options(text: str, mark: str) -> tuple[str, tuple[str, ...]]:
    """A question and its options, apart, where both are one text.

    Args:
        text: the question, then the options one behind the other.
        mark: pattern of what stands before an option, ``{}`` its letter; it counts at the start, after a space or comma.

    Returns:
        What stands before the first mark, and the texts behind the marks of A, B and so on; no mark gives no options.
    """
    marks: list[re.Match[str]] = []
    for letter in LETTERS:
        found = _mark_of(mark, letter).search(text, marks[-1].end() if marks else 0)
        if not found:
            break
        marks.append(found)
    ends = [found.start() for found in marks[1:]] + [len(text)]
    options = tuple(text[found.end() : end].strip() for found, end in zip(marks, ends, strict=True)) if marks else ()
    return text[: marks[0].start()].rstrip() if marks else text.rstrip(), options


@functools.cache
def _mark_of(mark: str, letter: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\s,]){mark.format(letter)}")


def letter_of(record: Mapping[str, Any], name: str, count: int, where: str) -> str:
    """Field ``name`` as a capital letter of the first ``count``."""
    letter = str(field(record, name, str, where))
    if len(letter) != 1 or letter not in LETTERS[:count]:
        raise DataError(f"{where}: field '{name}' must be one of {', '.join(LETTERS[:count])}, got {letter!r}")
    return letter
