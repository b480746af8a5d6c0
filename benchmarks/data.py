"""Does data keep up? Streaming and sharding against bare decoding, reading annotations of a million records, and memory.

    python benchmarks/data.py --report reports

makes its own pictures, videos and annotations in a temporary folder and compares, within one run on an otherwise idle machine,
what tstar does with a bare loop that does nothing else. Finished parts are kept in ``--out``, so that a run that was stopped goes
on where it was. The last line printed is JSON with every number. ``--quick`` runs every line of this at toy sizes. Each part has a
process of its own.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_report import summary, write_report
from store import Store

from tstar.errors import ConfigError
from tstar.reports.measured_cost import machine, run_child

CASES = Path(__file__).with_name("data_cases.py")


def settings_of(quick: bool, workers: int, seed: int) -> dict[str, Any]:
    """What is measured, at full or toy size."""
    return {
        "quick": quick,
        "seed": seed,
        "workers": workers,
        "rounds": 1 if quick else 5,
        "clips": 6 if quick else 96,
        "frames": 4 if quick else 32,
        "side": 48 if quick else 336,
        "videos": 2 if quick else 128,
        "video_seconds": 3 if quick else 20,
        "video_size": [96, 64] if quick else [640, 360],
        "long_seconds": [4, 8] if quick else [120, 3600],
        "records": 3000 if quick else 1_300_000,
        "decodes": 40 if quick else 10_000,
        "fit_steps": 6 if quick else 150,
    }


PARTS = ("stream", "shard", "memory", "decodes", "annotations", "fit")


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    workers = args.workers or len(
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    settings = settings_of(args.quick, workers, args.seed)
    try:
        path = args.out or (None if args.quick else Path("runs/data.json"))
        store = Store(path, settings, machine(1), args.fresh)
    except ConfigError as error:
        print(f"data: error: {error}", file=sys.stderr)
        return 2
    for number, part in enumerate(PARTS, 1):
        print(f"[{number}/{len(PARTS)}] {part}", flush=True)
        if part in store.content["sections"]:
            print("  measured before; --fresh measures it again")
            continue
        store.add(part, run_child(CASES, part, settings, {"OMP_NUM_THREADS": "1"}))
        for line in summary(part, store.content["sections"][part]):
            print(f"  {line}", flush=True)
    if args.report is not None:
        for written in write_report(args.report, store.content):
            print(f"wrote {written}")
    print(json.dumps(store.content))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--workers", type=int, help="processes that decode (default: all cores)")
    parser.add_argument("--seed", type=int, default=0, help="of pictures and texts (default: 0)")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that everything runs")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="default: runs/data.json; none with --quick")
    parser.add_argument("--fresh", action="store_true", help="measure again what --out holds")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write data.md and data.json there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
