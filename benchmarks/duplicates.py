"""How many copies does `tstar audit duplicates` find, and how often does it see one where there is none?

    python benchmarks/duplicates.py --world data_shards/miniature

Videos of the world's benchmarks are drawn, copied in several ways (encoded anew, scaled, cut, put into a longer film), stored as
training shards, and searched for: what is not found is missed. Then the world's own training shards, which share no video with
its benchmarks, are searched: every pair is false. The last line printed is JSON.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from tstar.data.annotations import Record
from tstar.data.miniature.config import FPS
from tstar.data.miniature.mp4 import read_frames
from tstar.data.shard_plan import plan_shards
from tstar.data.sharding import ShardWork, write_shards
from tstar.data.sharding_settings import ShardSettings
from tstar.errors import TstarError
from tstar.evaluation.duplicates import DuplicateSettings, find_duplicates, find_videos

SIDE = 96
Frames = np.ndarray
"""uint8, [M, H, W, 3]."""


def encode(path: Path, frames: Frames, side: int = SIDE, crf: int = 28) -> None:
    """Write frames as H.264 squares."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        for pixels in frames:
            picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
        container.mux(stream.encode(None))


def cut(frames: Frames, share: float, draw: random.Random) -> Frames:
    """A piece of that share, from a random place."""
    length = max(FPS, int(len(frames) * share))
    start = draw.randrange(max(1, len(frames) - length))
    return frames[start : start + length]


def surround(frames: Frames, others: Sequence[Frames]) -> Frames:
    """The video between pieces of others that are as long."""
    before, after = (other[: len(frames)] for other in others)
    return np.concatenate([before, frames, after])


COPIES: dict[str, Callable[[Path, Frames, Sequence[Frames], random.Random], None]] = {
    "encoded anew, crf 20": lambda path, own, others, draw: encode(path, own, crf=20),
    "encoded anew, crf 35": lambda path, own, others, draw: encode(path, own, crf=35),
    "two thirds of the size": lambda path, own, others, draw: encode(path, own, 64),
    "larger by two thirds": lambda path, own, others, draw: encode(path, own, 160),
    "half of it": lambda path, own, others, draw: encode(path, cut(own, 0.5, draw), 72),
    "a quarter of it": lambda path, own, others, draw: encode(path, cut(own, 0.25, draw), 72),
    "within a film three times as long": lambda path, own, others, draw: encode(path, surround(own, others), 72),
}


def missed(videos: Path, count: int, seed: int, settings: DuplicateSettings, cache: Path) -> dict[str, float]:
    """Share of copies that are not found, by kind."""
    draw = random.Random(seed)
    chosen = draw.sample(find_videos(videos), count)
    turns = ({"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "It is."})
    shares = {}
    for kind, make in COPIES.items():
        with tempfile.TemporaryDirectory() as place:
            root, records = Path(place), []
            (root / "media").mkdir()
            for path in chosen:
                name = f"{len(records):06d}.mp4"
                others = [read_frames(other) for other in draw.sample([p for p in chosen if p != path], 2)]
                make(root / "media" / name, read_frames(path), others, draw)
                records.append(Record(str(path.relative_to(videos)), "video", name, turns))
            plan = plan_shards(records, root / "media", root / "shards", ShardSettings(fps=4, max_frames=42))
            write_shards(plan, ShardWork(workers=1))
            pairs = find_duplicates([root / "shards"], videos, settings, cache).pairs
        found = {pair.sample for pair in pairs if pair.sample == pair.video}
        shares[kind] = 1 - len(found) / len(chosen)
        print(f"{kind:<36} missed {shares[kind]:6.1%}", flush=True)
    return shares


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--world", type=Path, default=Path("data_shards/miniature"), help="folder of the miniature world"
    )
    parser.add_argument("--videos", type=int, default=60, help="how many are copied (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    settings = DuplicateSettings()
    try:
        with tempfile.TemporaryDirectory() as cache:
            shares = missed(args.world / "benchmarks", args.videos, args.seed, settings, Path(cache))
        result: dict[str, Any] = {"missed": shares}
        begun = time.perf_counter()
        shards = [args.world / "shards" / name for name in ("video_sft", "video_val")]
        report = find_duplicates(shards, args.world / "benchmarks", settings)
    except TstarError as error:
        print(f"duplicates: error: {error}", file=sys.stderr)
        return 2
    seconds = time.perf_counter() - begun
    compared = report.clips * report.videos
    result |= {"false_pairs": len(report.pairs), "pairs_compared": compared, "clips": report.clips}
    result |= {"videos": report.videos, "seconds": round(seconds, 1), "videos_copied": args.videos, "seed": args.seed}
    print(f"{len(report.pairs)} false pairs among {compared:,} ({len(report.pairs) / compared:.1e}), {seconds:.0f} s")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
