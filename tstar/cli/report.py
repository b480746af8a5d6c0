"""``tstar report``: finished runs to one page with tables, curves and examples."""

import argparse
import json
from pathlib import Path

from tstar.cli.parser import typed_command
from tstar.errors import ConfigError


def run(arguments: argparse.Namespace) -> int:
    """Write the report; returns the exit status."""
    from tstar.reports.runs import group_runs, read_run
    from tstar.reports.seeds_report import write_seeds_report

    out = Path(arguments.out)
    if out.is_file():
        raise ConfigError(f"--out must be a folder, got the file {out}")
    groups = group_runs([read_run(Path(path)) for path in arguments.runs])
    command = typed_command()
    results = write_seeds_report(groups, out, arguments.title or "", command)
    if arguments.json:
        print(json.dumps(results, indent=1, ensure_ascii=False))
        return 0
    for label, group in groups.items():
        print(f"{label}: {', '.join(f'{run.path} (seed {run.seed})' for run in group)}")
    for line in results["missing"]:
        print(f"  missing: {line}")
    print(f"report: {out / 'README.md'}", flush=True)
    return 0
