"""``tstar export``: a run's answers in another tool's layout."""

import argparse
import json
from pathlib import Path

from tstar.cli.progress import warn


def run(arguments: argparse.Namespace) -> int:
    """Write the files and say which; returns 0."""
    from tstar.integrations.exports import export_run

    names = [name.strip() for name in arguments.benchmarks.split(",")] if arguments.benchmarks else None
    exported = export_run(
        Path(arguments.run),
        arguments.layout,
        Path(arguments.out),
        benchmarks=names,
        annotations={name: Path(path) for name, path in arguments.annotations},
        mode=arguments.mode,
        frames=arguments.frames,
        replies={name: Path(path) for name, path in arguments.judge_replies},
        file_format=arguments.format,
    )
    for note in exported.notes:
        warn(note)
    files = [str(path) for path in exported.files]
    print(json.dumps({"files": files, "notes": exported.notes}, indent=1) if arguments.json else "\n".join(files))
    return 0
