"""``tstar shard``: annotation files and their media to tar shards."""

import argparse
import dataclasses
import json
from pathlib import Path

from tstar.cli.progress import bar
from tstar.data.annotations import read_annotations
from tstar.data.sharding import ShardSettings, ShardSummary, write_shards


def run(arguments: argparse.Namespace) -> int:
    """Write the shards and say what came of it."""
    settings = ShardSettings(**{f.name: getattr(arguments, f.name) for f in dataclasses.fields(ShardSettings)})
    sources = [Path(s) for s in arguments.source]
    records = [record for source in sources for record in read_annotations(source)]
    root = Path(arguments.media_root) if arguments.media_root else sources[0].parent
    with bar("sharding", "samples", quiet=arguments.json) as update:
        summary = write_shards(records, root, Path(arguments.out), settings, workers=arguments.workers, progress=update)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(summary), indent=1))
    else:
        print(describe(summary), flush=True)
    return 0


def describe(summary: ShardSummary, most: int = 5) -> str:
    """What was written and what was left out, for people."""
    kept = f" ({summary.kept} were there already)" if summary.kept else ""
    lines = [
        f"{summary.samples} of {summary.records} records in {summary.shards} shards{kept}, "
        f"{summary.bytes / 1e6:.1f} MB: {summary.out}"
    ]
    if summary.skipped:
        lines.append(f"{len(summary.skipped)} records were left out:")
        lines += [f"  {skip['id']}: {skip['reason']}" for skip in summary.skipped[:most]]
        if len(summary.skipped) > most:
            lines.append(f"  and {len(summary.skipped) - most} more; all are in {summary.out}/*.skipped.json")
    return "\n".join(lines)
