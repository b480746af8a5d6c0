"""What a report was made of, in one small archive beside it: settings, losses, answers and verdicts, but no weights."""

import io
import json
import lzma
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from tstar.data.files import written_beside
from tstar.errors import DataError
from tstar.reports.runs import Run

RECORDS = "records.tar.xz"
"""The archive's name."""
STEP_SECONDS = "step_seconds.json"
"""In a run's folder there: what the steps of its job took."""
KEPT = (".csv", ".json", ".jsonl", ".yaml")
LEFT_OUT = ("checkpoints", "tb", "validation")
"""Folders of a run that a report does not read."""
MOST_BYTES = 2 << 30
"""That an archive may unpack to; those of whole tables are a hundredth of it."""
MOST_FILES = 100_000
"""In an archive; that of a whole table with two seeds has 2,000."""
HEADER_BYTES = 1 << 20
"""Between two files: names, padding, and what is read ahead."""
MOST_MEMORY = 256 << 20
"""Bytes that decompression may need; the strongest preset needs 65 MiB."""
BLOCK = 1 << 16


def write_records(
    runs: Sequence[Run], path: Path, step_seconds: Mapping[str, Mapping[str, float]] | None = None
) -> None:
    """Write a ``.tar.xz`` of the runs' records, the same bytes whenever and by whomever it is written.

    Unpacked, each run is a folder that :func:`tstar.reports.runs.read_run` reads. Runs of one name are told apart by a number.

    Args:
        runs: whose folders are archived.
        path: of the archive; what is there is replaced.
        step_seconds: what the steps of a run's job took, by the run's name.
    """
    names = [run.path.name for run in runs]
    with (
        written_beside(path) as unfinished,
        tarfile.open(unfinished, "w:xz", format=tarfile.PAX_FORMAT) as archive,
    ):
        for number, (run, name) in enumerate(zip(runs, names, strict=True)):
            folder = name if names.count(name) == 1 else f"{name}.{number}"
            for file in sorted(run.path.rglob("*")):
                inside = file.relative_to(run.path)
                if file.is_file() and file.suffix in KEPT and not set(inside.parts) & set(LEFT_OUT):
                    _add(archive, f"{folder}/{inside.as_posix()}", file.read_bytes())
            if step_seconds and step_seconds.get(name):
                _add(archive, f"{folder}/{STEP_SECONDS}", json.dumps(step_seconds[name]).encode())


def unpack_records(path: Path, into: Path) -> None:
    """Unpack what :func:`write_records` has written; nothing but files of its kinds, and nowhere but in ``into``.

    Raises:
        DataError: the archive cannot be read, or holds what no records hold.
    """
    into.mkdir(parents=True, exist_ok=True)
    written = files = 0
    try:
        with path.open("rb") as packed:
            stream = _Unpacked(packed, path)
            stream.allow(HEADER_BYTES)  # TarFile's own first look
            with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as archive:  # which only calls read()
                while entry := archive.next():
                    name, files, written = PurePosixPath(entry.name), files + 1, written + entry.size
                    plain = entry.isreg() and entry.size >= 0
                    plain = plain and not entry.issparse()  # one with holes grows without bytes of the archive
                    if not plain or name.suffix not in KEPT or name.is_absolute() or ".." in name.parts:
                        raise DataError(f"{path}: '{entry.name}' does not belong into records, so none of them is used")
                    if files > MOST_FILES:
                        raise DataError(f"{path}: holds more than {MOST_FILES} files, so none of it is used")
                    if written > MOST_BYTES:
                        raise DataError(f"{path}: unpacks to more than {_gib(MOST_BYTES)}, so none of it is used")
                    stream.allow(entry.size + HEADER_BYTES)
                    _write(archive.extractfile(entry), into.joinpath(*name.parts))
                    stream.allow(HEADER_BYTES)
            while stream.read(BLOCK):  # to the checksum at the end
                pass
    except (tarfile.TarError, lzma.LZMAError, OSError, EOFError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as the records of a report ({error})") from None


class _Unpacked:
    """The archive's bytes unpacked, of which no more are read than was allowed: headers have no end of their own.

    Args:
        packed: the compressed file.
        path: for messages.
    """

    def __init__(self, packed: BinaryIO, path: Path) -> None:
        self.packed, self.path, self.read_bytes, self.allowed = packed, path, 0, 0
        self.decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY)

    def allow(self, size: int) -> None:
        """So many bytes may be read from here on."""
        self.allowed = self.read_bytes + size

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, b"" only at the end; DataError past what is allowed, EOFError where the file is cut."""
        block = b""
        while not block and not self.decompressor.eof:
            packed = self.packed.read(BLOCK) if self.decompressor.needs_input else b""
            if self.decompressor.needs_input and not packed:
                raise EOFError("it ends too early")
            block = self.decompressor.decompress(packed, size)
        self.read_bytes += len(block)
        if self.read_bytes > MOST_BYTES:
            raise DataError(f"{self.path}: unpacks to more than {_gib(MOST_BYTES)}, so none of it is used")
        if self.read_bytes > self.allowed:
            raise DataError(f"{self.path}: has a header of more than {HEADER_BYTES} bytes, so none of it is used")
        return block


def _write(content: IO[bytes] | None, file: Path) -> None:
    assert content is not None  # it is a regular file
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as stream:
        shutil.copyfileobj(content, stream, BLOCK)


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.3g} GiB"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))
