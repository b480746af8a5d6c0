"""``tstar miniature``: the generated world and its shards, ready for ``tstar fit``."""

import argparse
import json
import time
from pathlib import Path

from tstar.cli.progress import bar
from tstar.data.miniature import SCALES, WorldConfig, generate_world
from tstar.data.miniature.contact_sheet import contact_sheet

SHARDED = ("align", "image_sft", "video_sft", "video_val")


def run(arguments: argparse.Namespace) -> int:
    """Make what is missing; everything that is there already is kept."""
    out = Path(arguments.out)
    config = SCALES[arguments.scale]
    if arguments.seed is not None or arguments.haystack_dir is not None:
        haystack = Path(arguments.haystack_dir) if arguments.haystack_dir else None
        config = WorldConfig(**{**vars(config), "seed": arguments.seed or 0, "haystack_dir": haystack})
    begun = time.monotonic()
    with bar("world", "files", quiet=arguments.json) as update:
        manifest = generate_world(out, config, workers=arguments.workers, progress=update)
    contact_sheet(out, out / "contact_sheet.png")
    seconds = {"world": round(time.monotonic() - begun, 1)}
    begun = time.monotonic()
    make_shards(out, arguments)
    seconds["shards"] = round(time.monotonic() - begun, 1)
    if arguments.json:
        print(json.dumps({"out": str(out), "seconds": seconds, "world": manifest}, indent=1, default=str))
    else:
        spent = ", ".join(f"{what} {s:.0f} s" for what, s in seconds.items())
        print(f"miniature world in {out}: {spent}; a few of its videos: {out / 'contact_sheet.png'}", flush=True)
    return 0


def make_shards(out: Path, arguments: argparse.Namespace) -> None:
    """The training sets as shards: pictures and up to 42 frames of each video, 4 a second."""
    from tstar.cli.shard import describe
    from tstar.data.annotations import read_annotations
    from tstar.data.shard_plan import plan_shards
    from tstar.data.sharding import ShardWork, write_shards
    from tstar.data.sharding_settings import ShardSettings

    settings = ShardSettings(fps=4, max_frames=42, short_side=0, samples_per_shard=256)
    for name in SHARDED:
        records = read_annotations(out / "annotations" / f"{name}.json")
        with bar(f"shards of {name}", "samples", quiet=arguments.json) as update:
            plan = plan_shards(records, out, out / "shards" / name, settings)
            summary = write_shards(plan, ShardWork(workers=arguments.workers), progress=update)
        if not arguments.json:
            print(describe(summary), flush=True)
