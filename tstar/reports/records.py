"""What a report was made of, in one small archive beside it: settings, losses, answers and verdicts, but no weights."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tstar.reports.runs import Run

RECORDS = "records.tar.xz"
"""The archive's name."""
KEPT = (".csv", ".json", ".jsonl", ".yaml")
LEFT_OUT = ("checkpoints", "tb", "validation")
"""Folders of a run that a report does not read."""


def write_records(runs: Sequence[Run], path: Path) -> None:
    """Write a ``.tar.xz`` of the runs' records, the same bytes whenever and by whomever it is written.

    Unpacked, each run is a folder that :func:`tstar.reports.runs.read_run` reads. Runs of one name are told apart by a number.
    """
    names = [run.path.name for run in runs]
    unfinished = path.with_name(path.name + ".tmp")
    with tarfile.open(unfinished, "w:xz", format=tarfile.PAX_FORMAT) as archive:
        for number, (run, name) in enumerate(zip(runs, names, strict=True)):
            folder = name if names.count(name) == 1 else f"{name}.{number}"
            for file in sorted(run.path.rglob("*")):
                inside = file.relative_to(run.path)
                if not file.is_file() or file.suffix not in KEPT or set(inside.parts) & set(LEFT_OUT):
                    continue
                content = file.read_bytes()
                entry = tarfile.TarInfo(f"{folder}/{inside.as_posix()}")
                entry.size, entry.mode = len(content), 0o644
                archive.addfile(entry, io.BytesIO(content))
    unfinished.replace(path)
