"""What models answered: one value class over the response layouts that people have on disk.

The plain layout is JSON Lines, ``{"id": ..., "response": "..." | null}``: null is a failure, an absent line was never
asked, and the last line of an id wins. Lines of a tstar prediction store are read the same way, and so are tables (CSV, TSV,
xlsx) with columns ``id`` and ``response``, where an empty cell is a failure. The benchmarks add the layouts of their own
official scorers (:meth:`Benchmark.official_responses`), :mod:`tstar.evaluation.response_layouts` those of the harnesses.
"""

import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tstar.errors import DataError
from tstar.evaluation.files import SEPARATORS, as_record, field, identifier, read_table

XLSX = ".xlsx"
PLAIN = ("id", "response")


class ResponseLine(NamedTuple):
    """One answered line: ``response`` is None for a failure, ``judge`` a verdict some official files carry along,
    ``replies`` what a judge was heard to say about it, attempt by attempt."""

    id: str
    response: str | None
    judge: str | None = None
    replies: tuple[str, ...] = ()


class ResponseSet(Mapping[str, str | None]):
    """Responses by item id, the last line of an id winning, with every line still at hand.

    Args:
        lines: in file order.
        keep_repeats: the official rules see every line, as an official scorer that reads this layout would.
    """

    def __init__(self, lines: Iterable[ResponseLine], *, keep_repeats: bool = False) -> None:
        self._lines: dict[str, list[ResponseLine]] = {}
        for line in lines:
            self._lines.setdefault(line.id, []).append(line)
        self.keep_repeats = keep_repeats

    def __getitem__(self, item_id: str) -> str | None:
        return self._lines[item_id][-1].response

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def repeated(self) -> int:
        """Lines beyond the first of their id."""
        return sum(len(lines) - 1 for lines in self._lines.values())

    def lines(self, item_id: str) -> list[ResponseLine]:
        """Every line of one id in file order; empty if it was never asked."""
        return self._lines.get(item_id, [])


def joined_sets(sets: Sequence[ResponseSet]) -> ResponseSet:
    """The lines of all sets, one set after the other."""
    lines = (line for own in sets for item_id in own for line in own.lines(item_id))
    return ResponseSet(lines, keep_repeats=any(own.keep_repeats for own in sets))


def load_response_source(source: Any) -> tuple[Any, str]:
    """The parsed content of a path (anything else is taken as parsed already) and a name for messages."""
    if not isinstance(source, (str, Path)):
        return source, "responses"
    path = Path(source)
    rows = _xlsx(path) if path.suffix == XLSX else read_table(path)
    if path.suffix in (XLSX, *SEPARATORS):
        rows = [row | {name: cell_text(row[name]) for name in PLAIN if name in row} for row in rows]
    return rows, str(source)


def cell_text(value: Any) -> str | None:
    """A table's cell as text; None for an empty one, and for what tables write in its place."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _xlsx(path: Path) -> list[dict[str, Any]]:
    """Rows of the first sheet, whose first row has the columns' names."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        import openpyxl  # type: ignore[import-untyped]
    except ImportError:
        raise DataError(
            f"{path}: reading xlsx needs openpyxl: pip install openpyxl, or save the table as TSV or CSV"
        ) from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        names, *rows = book.worksheets[0].iter_rows(values_only=True)
        book.close()
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable xlsx table ({error})") from None
    filled = (row for row in rows if any(cell is not None for cell in row))
    return [{str(name): cell for name, cell in zip(names, row, strict=False) if name is not None} for row in filled]


def plain_responses(data: Any, where: str) -> ResponseSet:
    """Responses in the plain layout: rows with ``id`` and ``response``, or a mapping from id to response."""
    if isinstance(data, Mapping) and set(PLAIN) <= set(data):
        data = [data]  # a JSON Lines file of one line
    if isinstance(data, Mapping):
        return ResponseSet(ResponseLine(str(key), _text(value, f"{where}, id {key!r}")) for key, value in data.items())
    if isinstance(data, (bytes, str)) or not isinstance(data, Iterable):
        raise DataError(f"{where}: must hold lines with 'id' and 'response', got {type(data).__name__}")
    rows = [as_record(row, f"{where}, row {number}") for number, row in enumerate(data)]
    lines = []
    for number, row in _one_run(rows, where):
        place = f"{where}, row {number}"
        item_id = identifier(row, "id", place)
        response = _text(field(row, "response", (str, type(None)), place), place)
        lines.append(ResponseLine(item_id, None if row.get("error") else response))
    return ResponseSet(lines)


def _text(value: Any, place: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise DataError(f"{place}: 'response' must be a text or null, got {type(value).__name__}")
    return value


def _one_run(rows: list[Mapping[str, Any]], where: str) -> list[tuple[int, Mapping[str, Any]]]:
    """Rows of one mode of one checkpoint at one way of looking at the videos: a prediction store may hold several of each,
    and mixing them would go unseen."""
    modes = {str(row["mode"]) for row in rows if "mode" in row}
    mode = next(iter(modes)) if len(modes) == 1 else "full"
    kept = [(number, row) for number, row in enumerate(rows) if row.get("mode", mode) == mode]
    for name, what, remedy in (
        ("model", "checkpoints", ""),
        ("frames", "settings of frames", ", or choose by --frames"),
    ):
        found = sorted({str(row[name]) for _, row in kept if name in row})
        if len(found) > 1:
            raise DataError(
                f"{where}: holds predictions of {len(found)} {what} ({', '.join(found[:3])}); keep the lines of one{remedy}"
            )
    return kept
