"""The report of one run: its comparison table and the break-down by category as a page."""

from collections.abc import Mapping
from pathlib import Path

from tstar.evaluation import Report
from tstar.evaluation.contrasts import suite_parts
from tstar.evaluation.table import (
    ComparisonTable,
    by_reason,
    category_rows,
    comparison_table,
    markdown_table,
    not_answered,
)
from tstar.stages.checkpoint_io import write_atomically


def write_report(
    folder: Path, tag: str, reports: Mapping[str, Mapping[str, Report]], *, checkpoint: str, sampling: str
) -> tuple[Path, ComparisonTable]:
    """Write the report into ``folder``; returns its path and its table.

    Args:
        folder: of the run.
        tag: goes into the file's name where the evaluation is not the recipe's own.
        reports: by suite and mode.
        checkpoint: what was evaluated.
        sampling: how its videos were looked at, in words.
    """
    table = comparison_table(reports)
    head = f"# {checkpoint}\n\n{sampling}; greedy answers.\n\n"
    path = folder / (f"report.{tag}.md" if tag else "report.md")
    folder.mkdir(parents=True, exist_ok=True)
    parts = [part for by_mode in reports.values() for part in suite_parts(by_mode)]
    apart = f"\n**By category, accuracy in percent**\n\n{markdown_table(*category_rows(parts))}" if parts else ""
    write_atomically(path, head + table.to_markdown() + apart + _not_answered(reports))
    return path, table


def _not_answered(reports: Mapping[str, Mapping[str, Report]]) -> str:
    """Every question without an answer, and why; "" if there is none."""
    lines = []
    for suite, unanswered in not_answered(reports).items():
        lines += [f"- {suite}: {reason}: {', '.join(ids)}" for reason, ids in by_reason(unanswered).items()]
    return "\n**Not answered**\n\n" + "\n".join(lines) + "\n" if lines else ""
