"""Where the rows of an annotation file lie, so that none of a million has to be kept: each is parsed when it is wanted."""

import json
import mmap
import re
from array import array
from pathlib import Path
from typing import Any

import msgspec

from tstar.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_BETWEEN = re.compile(rb"[\s,]*")


class Rows:
    """Rows of one file: bytes by place, cut out of the mapped file. Pickles as path and places.

    Args:
        path: a JSON list (``.json`` or any other ending) or JSON Lines (``.jsonl``).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.numbers = array("L")
        """Number of each row in the file, from 0: its place in a list, its line in JSON Lines."""
        self._starts = array("Q")
        self._ends = array("Q")
        self._mapped: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> bytes:
        return self._bytes()[self._starts[place] : self._ends[place]]

    def add(self, number: int, start: int, end: int) -> None:
        """A row between two byte positions."""
        self.numbers.append(number)
        self._starts.append(start)
        self._ends.append(end)

    def _bytes(self) -> mmap.mmap:
        if self._mapped is None:
            with self.path.open("rb") as stream:
                self._mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return self._mapped

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": None}


def find_rows(path: Path) -> Rows:
    """Find the rows of a file without building anything from them.

    Raises:
        DataError: the file is missing, or not JSON; that a row of JSON Lines, or a text in a row, is not is found by
            :func:`parse_row`.
    """
    if not path.is_file():
        raise DataError(f"no such annotation file: {path}")
    rows = Rows(path)
    try:
        whole = rows._bytes()
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise DataError(f"{path} cannot be read as JSON ({error}); repair it or make it anew") from error
    first = len(BYTE_ORDER_MARK) if whole[: len(BYTE_ORDER_MARK)] == BYTE_ORDER_MARK else 0
    if path.suffix == ".jsonl":
        _find_lines(whole, first, rows)
    else:
        _find_items(whole, first, rows)
    return rows


def _find_lines(whole: mmap.mmap, start: int, rows: Rows) -> None:
    number = 0
    while start < len(whole):
        end = whole.find(b"\n", start)
        end = len(whole) if end < 0 else end
        if whole[start:end].strip():
            rows.add(number, start, end)
        start, number = end + 1, number + 1


def _find_items(whole: mmap.mmap, start: int, rows: Rows) -> None:
    """The items of a JSON list follow each other with nothing but blanks and commas between them."""
    try:
        with memoryview(whole) as view, view[start:] as text:
            lengths = [memoryview(item).nbytes for item in msgspec.json.decode(text, type=list[msgspec.Raw])]
    except msgspec.ValidationError as error:
        found = re.sub(r".*got `(\w+)`.*", r"\1", str(error))
        raise DataError(f"{rows.path} must hold a JSON list of records, found {found}") from error
    except NOT_JSON as error:
        small = len(whole) < 1 << 24  # the standard library takes eight times the file's memory
        reason = _reason(whole[start:], error) if small else error
        raise DataError(f"{rows.path} cannot be read as JSON ({reason}); repair it or make it anew") from error
    place = whole.find(b"[", start) + 1
    for number, length in enumerate(lengths):
        place = _BETWEEN.match(whole, place).end()  # type: ignore[union-attr]  # it always matches
        rows.add(number, place, place + length)
        place += length


def parse_row(data: bytes, where: str) -> Any:
    """A row as JSON gives it; :class:`DataError`, which calls it ``where``, if it is not JSON."""
    try:
        return msgspec.json.decode(data)
    except NOT_JSON as error:
        raise DataError(f"{where} is not valid JSON ({_reason(data, error)}); repair it or make it anew") from error


def _reason(data: bytes, error: Exception) -> str:
    """Why JSON cannot be read, in the words of the standard library, which says where; it lets half a character pass."""
    try:
        json.loads(data)
    except (ValueError, RecursionError) as theirs:
        return str(theirs)
    half = re.search(rb"(?:\\u[dD][89a-fA-F][0-9a-fA-F]{2})", data)
    return f"half a character ({half.group().decode()})" if half else str(error)
