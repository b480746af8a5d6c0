"""Annotation files of a set to records to be used, and what was left out, row by row and counted.

Records are not kept: a million of them would take gigabytes. What is kept is where each lies in its file.
"""

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from tstar.data.annotation_rows import Rows, find_rows, parse_row
from tstar.data.annotations import Record, parse_record
from tstar.data.files import write_whole
from tstar.data.public_sets import BASE_SEED, RecordSet, SourceFile
from tstar.data.shard_set import shares
from tstar.errors import DataError

Progress = Callable[[int, int], None]
MALFORMED = "malformed"
LOOKED_FOR = 50
"""Media of a file that are looked for to know which folder its paths start from."""


class Dropped(NamedTuple):
    """A row that is not used."""

    file: str
    row: int
    kind: str
    """What it is counted under: "malformed", or why the set leaves it out."""
    reason: str


class Records(Sequence[Record]):
    """The records of one or more files, each parsed when it is asked for.

    Args:
        files: where they come from.
        rows: of each file.
        mend: as :func:`tstar.data.annotations.parse_record` takes it.
    """

    def __init__(self, files: Sequence[SourceFile], rows: Sequence[Rows], mend: bool = False) -> None:
        self.files, self.rows, self.mend = list(files), list(rows), mend
        self._file = array("L")
        self._place = array("L")
        self._group = array("L")
        """Number of the first record about the same medium, of each record."""

    def __len__(self) -> int:
        return len(self._file)

    @overload
    def __getitem__(self, number: int) -> Record: ...
    @overload
    def __getitem__(self, number: slice) -> list[Record]: ...
    def __getitem__(self, number: int | slice) -> Record | list[Record]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        return self.parse(self._file[number], self._place[number])

    def __iter__(self) -> Iterator[Record]:
        return (self.parse(file, place) for file, place in zip(self._file, self._place, strict=True))

    def parse(self, file: int, place: int) -> Record:
        """A row of a file as a record, its media path from the media folder on; :class:`DataError` if it is none."""
        rows, prefix = self.rows[file], self.files[file].prefix
        where = f"{rows.path} row {rows.numbers[place]}"
        record = parse_record(parse_row(rows[place], where), where, mend=self.mend)
        return replace(record, media=f"{prefix}/{record.media}") if prefix and record.media else record

    def add(self, file: int, place: int, group: int) -> None:
        """Use this row; records of one group have the same medium."""
        self._file.append(file)
        self._place.append(place)
        self._group.append(group)

    def origin(self, number: int) -> tuple[Path, int]:
        """File and row of a record."""
        rows = self.rows[self._file[number]]
        return rows.path, rows.numbers[self._place[number]]

    def strata(self) -> list[str]:
        """The stratum of every record."""
        return [self.files[file].stratum for file in self._file]

    def take(self, numbers: Sequence[int]) -> "Records":
        """Only these, in this order."""
        taken = Records(self.files, self.rows, self.mend)
        for number in numbers:
            taken.add(self._file[number], self._place[number], self._group[number])
        return taken

    def by_medium(self) -> "Records":
        """In the order of the first record about each medium, so that what is asked about one follows each other."""
        order = np.argsort(np.array(self._group), kind="stable")
        return self if (np.diff(order) == 1).all() else self.take(order.tolist())


@dataclass
class Reading:
    """What came of reading a set's files."""

    name: str
    records: Records
    rows: int = 0
    """In the files."""
    dropped: list[Dropped] = field(default_factory=list)
    not_drawn: int = 0
    """Records that could be used and are not in the sample that was drawn."""
    notes: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """In, out, and left out by reason, the most frequent first; in = out + the sum of the rest."""
        reasons = Counter(map(_counted_as, self.dropped)) + Counter({"not drawn": self.not_drawn})
        return {
            "set": self.name,
            "rows": self.rows,
            "records": len(self.records),
            "dropped": dict(reasons.most_common()),
        }

    def save(self, folder: Path) -> None:
        """``records.json`` with the counts, ``dropped.jsonl`` with a line a row, and ``drawn.jsonl`` if a sample was drawn."""
        _save_lines(folder / "dropped.jsonl", [d._asdict() for d in self.dropped])
        if self.not_drawn:
            origins = zip(self.records, map(self.records.origin, range(len(self.records))), strict=True)
            lines = [{"file": path.name, "row": row, "id": record.id} for record, (path, row) in origins]
            _save_lines(folder / "drawn.jsonl", lines)
        counts = json.dumps({**self.counts(), "notes": self.notes}, indent=1)
        write_whole(folder / "records.json", f"{counts}\n".encode())


def read_records(
    sources: Sequence[Path],
    record_set: RecordSet,
    *,
    media_root: Path | None = None,
    max_bad_fraction: float = 0.01,
    progress: Progress | None = None,
) -> Reading:
    """Read and check every row of a set's files, and choose those that are used.

    Args:
        sources: files, or for a set of many files its folder.
        record_set: which set they are.
        media_root: folder of the media; where a file's media lie in a folder of its own below it, its paths are made to say so.
        max_bad_fraction: malformed rows that are left out, as a share of all; more is an error.
        progress: called with (rows done, rows in all).

    Raises:
        DataError: a file is missing or not JSON, too many rows are malformed, or none can be used.
    """
    files = record_set.files(list(sources))
    rows = [find_rows(file.path) for file in files]
    files = [replace(f, prefix=_prefix(f, r, media_root)) for f, r in zip(files, rows, strict=True)]
    reading = Reading(record_set.name, Records(files, rows, record_set.mend), sum(map(len, rows)))
    media: dict[str, int] = {}
    for number, found in enumerate(rows):
        for place in range(len(found)):
            _sort_in(reading, record_set, number, place, media)
            done = len(reading.records) + len(reading.dropped)
            if progress and done % 4096 == 0:
                progress(done, reading.rows)
    _check(reading, sources, max_bad_fraction)
    if record_set.draw is not None:
        _draw(reading, record_set.draw)
    reading.records = reading.records.by_medium()
    _compare(reading, record_set)
    return reading


def _sort_in(reading: Reading, record_set: RecordSet, file: int, place: int, media: dict[str, int]) -> None:
    """Use one row, or say why not. ``media`` holds the first record about each."""
    records = reading.records
    rows = records.rows[file]
    try:
        record = records.parse(file, place)
    except DataError as error:
        reason = str(error).removeprefix(f"{rows.path} row {rows.numbers[place]}").lstrip(": ")
        reading.dropped.append(Dropped(str(rows.path), rows.numbers[place], MALFORMED, reason))
        return
    unwanted = record_set.drop(record) if record_set.drop else None
    if unwanted:
        reading.dropped.append(Dropped(str(rows.path), rows.numbers[place], unwanted, record.id))
    else:
        new = len(records)
        records.add(file, place, media.setdefault(record.media, new) if record.media else new)


def _check(reading: Reading, sources: Sequence[Path], max_bad_fraction: float) -> None:
    bad = [d for d in reading.dropped if d.kind == MALFORMED]
    first = f"; the first: {bad[0].file} row {bad[0].row}: {bad[0].reason}" if bad else ""
    if len(bad) > max_bad_fraction * reading.rows:
        raise DataError(
            f"{len(bad)} of {reading.rows} records are malformed, more than max_bad_fraction {max_bad_fraction}{first}; "
            "repair them, or raise --max-bad-fraction to leave them out"
        )
    if not len(reading.records):
        raise DataError(f"no records to use in {', '.join(map(str, sources))}{first}")


def _draw(reading: Reading, count: int) -> None:
    """Draw records from every folder and kind in proportion (methods: stratified, seed 2025), and keep their order."""
    strata = np.array(reading.records.strata())
    names = np.unique(strata)
    members = [np.flatnonzero(strata == name) for name in names]
    rng = np.random.default_rng(BASE_SEED)
    parts = shares([len(m) for m in members], count)
    chosen = np.concatenate([rng.choice(m, size, replace=False) for m, size in zip(members, parts, strict=True)])
    reading.not_drawn = len(strata) - len(chosen)
    reading.records = reading.records.take(np.sort(chosen).tolist())


def _compare(reading: Reading, record_set: RecordSet) -> None:
    """Say where the files are not the published ones, or the filter left something else than expected."""
    if record_set.published is not None and reading.rows != record_set.published:
        reading.notes.append(
            f"{record_set.name} was published with {record_set.published:,} records, these files hold {reading.rows:,}"
        )
    elif record_set.kept is not None and abs(len(reading.records) / record_set.kept - 1) > 0.02:
        reading.notes.append(f"{len(reading.records):,} records are used where about {record_set.kept:,} were expected")
    if record_set.draw is not None and len(reading.records) < record_set.draw:
        reading.notes.append(
            f"only {len(reading.records):,} records could be drawn from where {record_set.draw:,} are wanted"
        )


def _prefix(file: SourceFile, rows: Rows, media_root: Path | None) -> str:
    """A file's own folder below the media, if the first of some of its media that is anywhere lies there."""
    if not file.prefix or media_root is None:
        return ""
    for place in range(0, len(rows), max(1, len(rows) // LOOKED_FOR)):
        try:
            media = parse_record(parse_row(rows[place], ""), "").media
        except DataError:
            continue
        if (media_root / media).is_file():
            return ""
        if (media_root / file.prefix / media).is_file():
            return file.prefix
    return ""


def _counted_as(dropped: Dropped) -> str:
    """A reason without what differs from row to row."""
    if dropped.kind != MALFORMED:
        return dropped.kind
    return f"{MALFORMED}: " + re.sub(r"\bturn \d+", "a turn", re.split(r", found | \(", dropped.reason)[0])


def _save_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    write_whole(path, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode())
