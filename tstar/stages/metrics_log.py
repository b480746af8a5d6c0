"""Metrics as append-only JSON Lines, the truth that survives restarts, and a CSV copy of them."""

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from tstar.stages.checkpoint_io import append_line, write_atomically


class MetricsLog(Logger):
    """Appends every logged value to ``metrics.jsonl`` at once; ``metrics.csv`` is made from it at the end of a run.

    Steps that a killed run logged after its last checkpoint are logged again after the resume; the later line counts.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> int:
        return 0

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The recipe lies in ``config.yaml`` already."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One line: the step and all values; non-finite ones as text, since JSON has none."""
        row: dict[str, Any] = {"step": 0 if step is None else int(step)}
        for name, value in metrics.items():
            number = value if isinstance(value, int) else float(value)
            row[name] = number if math.isfinite(number) else str(number)
        append_line(self.folder / "metrics.jsonl", json.dumps(row))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the CSV."""
        write_csv(self.folder)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl`` by rising step, values of one step joined, the last writing of a value winning."""
    path = folder / "metrics.jsonl"
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:  # the line a killed run was writing
            continue
        rows.setdefault(row["step"], {}).update(row)
    return [rows[step] for step in sorted(rows)]


def write_csv(folder: Path) -> None:
    """``metrics.csv``: one row a step, one column a metric."""
    rows = read_metrics(folder)
    if not rows:
        return
    columns = ["step", *sorted({name for row in rows for name in row} - {"step"})]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / "metrics.csv", text.getvalue())
