"""``tstar score``: stored responses to a benchmark's numbers."""

import argparse
from pathlib import Path

from tstar.evaluation import score


def run(arguments: argparse.Namespace) -> int:
    """Print the aggregates, or the whole report as JSON."""
    report = score(arguments.benchmark, Path(arguments.annotations), Path(arguments.responses), arguments.rules)
    if arguments.json:
        print(report.to_json())
        return 0
    counts = ", ".join(f"{name} {count}" for name, count in report.counts.items())
    print(f"{report.benchmark}, {report.rules} rules ({counts})")
    for name, value in report.aggregate.items():
        low_high = report.intervals.get(name)
        spread = f"  [{100 * low_high[0]:.1f}, {100 * low_high[1]:.1f}]" if low_high else ""
        print(f"  {name:<28} {100 * value:6.1f}{spread}")
    return 0
