"""What a report was made of, in one small archive beside it: settings, losses, answers and verdicts, but no weights."""

import io
import json
import lzma
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

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
    unfinished = path.with_name(path.name + ".tmp")
    with tarfile.open(unfinished, "w:xz", format=tarfile.PAX_FORMAT) as archive:
        for number, (run, name) in enumerate(zip(runs, names, strict=True)):
            folder = name if names.count(name) == 1 else f"{name}.{number}"
            for file in sorted(run.path.rglob("*")):
                inside = file.relative_to(run.path)
                if file.is_file() and file.suffix in KEPT and not set(inside.parts) & set(LEFT_OUT):
                    _add(archive, f"{folder}/{inside.as_posix()}", file.read_bytes())
            if step_seconds and step_seconds.get(name):
                _add(archive, f"{folder}/{STEP_SECONDS}", json.dumps(step_seconds[name]).encode())
    unfinished.replace(path)


def unpack_records(path: Path, into: Path) -> None:
    """Unpack what :func:`write_records` has written; nothing but files of its kinds, and nowhere but in ``into``.

    Raises:
        DataError: the archive cannot be read, or holds what no records hold.
    """
    total = 0
    into.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(path, "r:xz") as archive:
            for entry in archive:
                name = PurePosixPath(entry.name)
                if not entry.isfile() or name.suffix not in KEPT or name.is_absolute() or ".." in name.parts:
                    raise DataError(f"{path}: '{entry.name}' does not belong into records, so none of them is used")
                total += entry.size
                if total > MOST_BYTES:
                    raise DataError(f"{path}: unpacks to more than {MOST_BYTES >> 30} GiB, so none of it is used")
                file = into.joinpath(*name.parts)
                file.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(entry)
                file.write_bytes(content.read() if content else b"")
    except (tarfile.TarError, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as the records of a report ({error})") from None


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))
