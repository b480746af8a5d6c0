"""Models of an earlier report taken as they are: so a table of many seeds is measured in pieces, on machines that share no disk."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tstar.cli.ablation_file import AblationModel
from tstar.cli.ablation_jobs import TAKEN, Training, changes, groups, told
from tstar.data.files import file_digest
from tstar.errors import ConfigError, DataError
from tstar.reports.claims import take
from tstar.reports.records import STEP_SECONDS, unpack_records
from tstar.stages.checkpoint_io import write_atomically


def take_records(archive: Path, models: Sequence[AblationModel], folder: Path) -> list[str]:
    """Put the finished models of a report's records where a table's runs are; what is there stays as it is.

    Args:
        archive: ``records.tar.xz`` of a report of the same table.
        models: of the table.
        folder: of the table's runs.

    Returns:
        Lines for the user: how many were taken, and which could not be used.

    Raises:
        ConfigError: a model was made with other settings.
        DataError: the archive cannot be read.
    """
    if not archive.is_file():
        raise DataError(f"--records: no such file: {archive}")
    folder.mkdir(parents=True, exist_ok=True)
    source = json.dumps({"records": str(archive), "sha256": file_digest(archive)})
    with tempfile.TemporaryDirectory(dir=folder, prefix=".records-") as place:
        unpack_records(archive, Path(place) / "models")
        there = {path.name for path in (Path(place) / "models").iterdir()}
        found = [
            Training(group, int(seed), Path(place))
            for group in groups(models)
            for name in sorted(there)
            if (seed := name.removeprefix(f"{group.name}-")) != name and seed.isdecimal() and str(int(seed)) == seed
        ]
        unusable = sorted(there - {training.name for training in found})
        whole, damaged = [], []
        for training in found:
            try:
                write_atomically(training.path / TAKEN, source)
                changed, finished = changes(training), training.job().finished()
            except (DataError, OSError):
                damaged.append(training.name)
                continue
            if changed:
                raise ConfigError(
                    f"--records: {training.name} in {archive} was made with other settings: {told(changed)}; restore them, or "
                    "leave --records out to train every model here"
                )
            if finished:
                whole.append(training)
            else:
                unusable.append(training.name)
        taken = [training.name for training in whole if _take(training, folder)]
    lines = [f"{len(taken)} models and seeds are taken from {archive}"]
    if len(taken) < len(whole):
        lines[0] += f"; {len(whole) - len(taken)} others are in {folder} already, or in work"
    if unusable:
        lines.append(f"not taken, since they are not of this table or not finished: {', '.join(unusable)}")
    if damaged:
        lines.append(f"not taken, since a file of them is damaged: {', '.join(damaged)}")
    return lines


def _take(training: Training, folder: Path) -> bool:
    """Move one to its place, if that is free and nobody is at it."""
    name = training.name
    home = folder / "models" / name
    claim = take(folder / "claims" / f"{name}.json")
    if claim is None:
        return False
    try:
        if home.exists():
            return False
        for place in ("models", "jobs"):
            (folder / place).mkdir(exist_ok=True)
        seconds = training.path / STEP_SECONDS
        if seconds.is_file():
            seconds.replace(folder / "jobs" / f"{name}.json")
        training.path.rename(home)
        (folder / "failed" / f"{name}.json").unlink(missing_ok=True)
        return True
    finally:
        claim.release()
