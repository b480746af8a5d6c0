"""``tstar audit``: whether a score means what it says."""

import argparse
import json
import time
from pathlib import Path

from tstar.cli.progress import SECONDS_BETWEEN_LINES, say, warn
from tstar.errors import ConfigError

SHOWN = 40
"""Pairs that are printed."""
BASELINES = ["single_frame", "blind"]


def run(arguments: argparse.Namespace, settings: list[tuple[str, str]]) -> int:
    """Run the audit that was named; returns the exit status."""
    if arguments.audit == "duplicates":
        if settings:
            raise ConfigError(f"unknown argument --{settings[0][0]}; see tstar audit duplicates --help")
        return _duplicates(arguments)
    return _baselines(arguments, settings)


def _baselines(arguments: argparse.Namespace, settings: list[tuple[str, str]]) -> int:
    from tstar.cli.validate import evaluate_checkpoint
    from tstar.evaluation.checkpoints import default_out, find_checkpoint

    if arguments.limit is not None and arguments.limit < 1:
        raise ConfigError(f"--limit must be at least 1, got {arguments.limit}")
    path = find_checkpoint(Path(arguments.ckpt))
    table = evaluate_checkpoint(
        path,
        out=Path(arguments.out) if arguments.out else default_out(path),
        benchmarks=[name.strip() for name in arguments.benchmarks.split(",")] if arguments.benchmarks else None,
        changes={"baselines": BASELINES},
        settings=settings,
        limit=arguments.limit,
        quiet=arguments.json,
    )
    if arguments.json:
        print(json.dumps(table, indent=1))
    return 0


def _duplicates(arguments: argparse.Namespace) -> int:
    from tstar.data.files import write_whole
    from tstar.evaluation.duplicates import DuplicateSettings, find_duplicates

    settings = DuplicateSettings(
        threshold=arguments.threshold,
        clip_frames=arguments.clip_frames,
        fps=arguments.fps,
        max_frames=arguments.max_frames,
    )
    out = Path(arguments.out) if arguments.out else None
    if out is not None and out.is_dir():
        raise ConfigError(f"--out must be a file, got the folder {out}")
    said = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal said
        if not arguments.json and (done == total or time.monotonic() - said >= SECONDS_BETWEEN_LINES):
            said = time.monotonic()
            say(f"  {what}: {done}/{total}")

    report = find_duplicates(arguments.shards, Path(arguments.videos), settings, Path(arguments.cache), tell)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, report.to_json().encode("utf-8", "backslashreplace"))
    if arguments.json:
        print(report.to_json())
        return 0
    for pair in report.pairs[:SHOWN]:
        frames = f"{pair.matches} frames match, of {pair.clip_frames} and {pair.video_frames}"
        say(f"{pair.score:.2f}  {pair.sample} ({pair.shard}: {pair.key})  {pair.video}  {frames}")
    if len(report.pairs) > SHOWN:
        say(f"… and {len(report.pairs) - SHOWN} more" + (f", in {out}" if out else "; --out FILE keeps all"))
    say(
        f"{len(report.pairs)} pairs among {report.clips} training clips and {report.videos} videos; too plain to tell: "
        f"{report.plain_clips} clips, {len(report.plain_videos)} videos"
    )
    if report.unreadable:
        name, reason = next(iter(report.unreadable.items()))
        warn(f"{len(report.unreadable)} could not be read and were passed over, the first: {name} ({reason})")
    if report.passed_over:
        warn(
            f"{len(report.passed_over)} tars and folders of pictures in {arguments.videos} were not compared, the first: "
            f"{report.passed_over[0]}; only video files are, so unpack tars"
        )
    return 0
