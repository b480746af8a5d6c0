"""``tstar shard``: annotation files and their media to tar shards; checking and looking at finished ones."""

import argparse
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from tstar.cli.progress import bar, warn
from tstar.cli.yaml_files import load_yaml
from tstar.data.cores import usable_cores
from tstar.data.public_sets import get_set
from tstar.data.sharding_settings import ShardSettings
from tstar.errors import ConfigError, DataError, suggest

DEFAULTS: dict[str, Any] = {
    "set": "plain",
    "source": [],
    "media_root": None,
    "out": None,
    "time_limit": 300.0,
    "max_bad_fraction": 0.01,
    "quarantine": None,
    **{setting.name: setting.default for setting in dataclasses.fields(ShardSettings)},
}
"""What ``--config`` and options may set; options are given on the command line with dashes."""
WORTH_ESTIMATING = 200
"""Fewer records are made almost as soon as their size is known."""


def run(arguments: argparse.Namespace) -> int:
    """Write shards, check them, or look at them; 1 if a check found damage."""
    chosen = _settings(arguments)
    if not chosen["out"]:
        raise ConfigError("--out is missing; name the folder of the shards")
    if arguments.verify or arguments.inspect:
        from tstar.data.remote_shards import is_remote

        if is_remote(chosen["out"]):
            raise ConfigError(f"--verify and --inspect read local folders, and {chosen['out']} is a URL")
        return (_verify if arguments.verify else _inspect)(Path(chosen["out"]), arguments)
    if not chosen["source"]:
        raise ConfigError("no annotation files are given; name them, or `source` in --config")
    if arguments.encode:
        return _encode(chosen, arguments)
    return _write(chosen, arguments)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Defaults, under ``--config``, under what was typed."""
    chosen = dict(DEFAULTS)
    if arguments.config:
        path = Path(arguments.config)
        values, lines = load_yaml(path)
        for name, value in values.items():
            if name not in DEFAULTS:
                raise ConfigError(f"{lines[name]}: unknown setting '{name}'{suggest(name, DEFAULTS)}")
            chosen[name] = _checked(name, value, lines[name])
    typed = {name: getattr(arguments, name) for name in DEFAULTS}
    return chosen | {name: value for name, value in typed.items() if value not in (None, [])}


def _checked(name: str, value: Any, where: str) -> Any:
    """A value of the right type out of a file."""
    if name == "source":
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise ConfigError(f"{where}: source must be a path or a list of paths, got {value!r}")
        return value
    default = DEFAULTS[name]
    kind = str if default is None else type(default)
    if kind is bool and isinstance(value, bool):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise ConfigError(f"{where}: {name} must be {kind.__name__}, got {value!r}")
    return kind(value)


def _write(chosen: dict[str, Any], arguments: argparse.Namespace) -> int:
    from tstar.data.quarantine import read_quarantine
    from tstar.data.records import read_records
    from tstar.data.shard_estimate import estimate_shards
    from tstar.data.shard_plan import plan_shards
    from tstar.data.sharding import ShardWork, write_shards

    settings = ShardSettings(**{f.name: chosen[f.name] for f in dataclasses.fields(ShardSettings)})
    limit = chosen["time_limit"] or None
    budget = chosen["max_bad_fraction"]
    work = ShardWork(workers=arguments.workers, time_limit=limit, part=arguments.part, max_bad_fraction=budget)
    sources, (out, url) = [Path(s) for s in chosen["source"]], _place(chosen["out"], arguments)
    root = Path(chosen["media_root"]) if chosen["media_root"] else _folder_of(sources[0])
    quarantine = read_quarantine(Path(chosen["quarantine"])) if chosen["quarantine"] else {}
    with bar("reading", "records", quiet=arguments.json) as update:
        reading = read_records(
            sources,
            get_set(chosen["set"]),
            media_root=root,
            max_bad_fraction=budget,
            progress=update,
        )
    _tell(arguments, _describe_reading(reading))
    for note in reading.notes:
        warn(note)
    plan = plan_shards(reading.records, root, out, settings, quarantine)
    if arguments.dry_run or len(plan.records) >= WORTH_ESTIMATING:
        estimate = estimate_shards(plan, time_limit=limit)
        _tell(arguments, _describe_estimate(estimate, work, plan))
        if estimate.bytes > estimate.free:
            warn(f"about {_size(estimate.bytes)} are expected in {out}, where {_size(estimate.free)} are free")
        if arguments.dry_run:
            if arguments.json:
                print(json.dumps({**reading.counts(), "estimate": dataclasses.asdict(estimate)}, indent=1))
            return 0
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out must be a folder, got the file {out}")
    with bar("sharding", "samples", quiet=arguments.json) as update:
        summary = write_shards(plan, work, progress=update, about=reading.counts())
    reading.save(out)
    _send(out, url, arguments)
    if arguments.json:
        print(json.dumps({**dataclasses.asdict(summary), "reading": reading.counts()}, indent=1))
    else:
        print(describe(summary), flush=True)
    return 0


def _place(out: str, arguments: argparse.Namespace) -> tuple[Path, str | None]:
    """The folder that shards are made in, and the URL they go to when they are whole."""
    from tstar.data.remote_shards import is_remote

    if not is_remote(out):
        return Path(out), None
    if arguments.part != (1, 1):
        raise ConfigError(f"--part cannot write to the URL {out}; bring the parts together in a folder and upload that")
    return Path("data_shards") / re.sub(r"\W+", "_", out).strip("_"), out


def _folder_of(source: Path) -> Path:
    return source if source.is_dir() else source.parent


def _tell(arguments: argparse.Namespace, text: str) -> None:
    if not arguments.json:
        print(text, flush=True)


def _describe_reading(reading: Any) -> str:
    counts = reading.counts()
    lines = [f"{counts['set']}: {counts['records']:,} of {counts['rows']:,} records are used"]
    lines += [f"  {count:,} left out: {reason}" for reason, count in counts["dropped"].items()]
    if reading.dropped:
        first = next((d for d in reading.dropped if d.kind == "malformed"), None)
        if first is not None:
            lines.append(f"  the first malformed one: {first.file} row {first.row}: {first.reason}")
    return "\n".join(lines)


def _describe_estimate(estimate: Any, work: Any, plan: Any) -> str:
    workers = work.workers or usable_cores()
    minutes = estimate.seconds / min(workers, len(plan.names)) / work.part[1] / 60
    unusable = f", {estimate.unusable} of them unusable" if estimate.unusable else ""
    share = f", of which part {work.part[0]} of {work.part[1]} here" if work.part[1] > 1 else ""
    return (
        f"expected: {len(plan.names)} shards, {_size(estimate.bytes)}{share}, about {minutes:.1f} min with {workers} processes "
        f"(from {estimate.tried} records{unusable}); {_size(estimate.free)} are free"
    )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def describe(summary: Any, most: int = 5) -> str:
    """What was written and what was left out, for people."""
    kept = f" ({summary.kept} were there already)" if summary.kept else ""
    lines = [
        f"{summary.samples} of {summary.records} records in {summary.shards} shards{kept}, "
        f"{summary.bytes / 1e6:.1f} MB: {summary.out}"
    ]
    if summary.missing:
        lines.append(
            f"{summary.missing} shards are for other parts to make; the last part to end in this folder completes the set, or, "
            "where parts have folders of their own, the same command without --part over all of them in one"
        )
    if summary.skipped:
        lines.append(f"{len(summary.skipped)} records were left out:")
        lines += [f"  {skip['id']}: {skip['reason']}" for skip in summary.skipped[:most]]
        if len(summary.skipped) > most:
            lines.append(f"  and {len(summary.skipped) - most} more; all are in {summary.out}/*.skipped.json")
        if not summary.missing and any(skip["kind"] in ("unusable", "quarantine") for skip in summary.skipped):
            lines.append(f"unusable media: {summary.out}/quarantine.jsonl; other sets leave them out with --quarantine")
    return "\n".join(lines)


def _encode(chosen: dict[str, Any], arguments: argparse.Namespace) -> int:
    """A set of frames to a set of features, with the encoder of a recipe."""
    import numpy as np
    import torch

    from tstar.cli.recipe import RunConfig, read_recipe
    from tstar.data.feature_shards import encode_shards
    from tstar.data.frame_tensors import encoder_input
    from tstar.nn.precision import matmul_precision
    from tstar.stages import Stage
    from tstar.vision import VisionConfig
    from tstar.vision.feature_cache import features_key, stored_features

    if len(chosen["source"]) != 1 or not Path(chosen["source"][0]).is_dir():
        raise ConfigError("--encode takes the folder of one finished set of shards as SOURCE")
    if arguments.part != (1, 1):
        raise ConfigError("--part does not go with --encode: give each machine sets of its own")
    out, url = _place(chosen["out"], arguments)
    config = next(iter(read_recipe([Path(arguments.encode)], [], None).stages.values()))
    vision = (config["model"].get("init_args") or {}).get("vision")
    if not vision:
        raise ConfigError(f"{arguments.encode} says nothing of the encoder; model.init_args.vision must")
    encoder = VisionConfig(**vision).build().to("cuda" if torch.cuda.is_available() else "cpu")
    dtype = (config.get("data") or {}).get("features_dtype", "float16")
    with (
        bar("encoding", "samples", quiet=arguments.json) as update,
        matmul_precision(RunConfig(**(config.get("run") or {})).matmul_precision),
    ):
        about = {
            "encoder": features_key(encoder, Stage.resized, dtype),
            "dtype": dtype,
            "model": str(vision.get("model")),
        }
        summary = encode_shards(
            Path(chosen["source"][0]),
            out,
            lambda raw: stored_features(
                encoder, encoder_input(raw, encoder.image_size, Stage.resized), np.dtype(dtype)
            ),
            about,
            progress=update,
        )
    _send(out, url, arguments)
    print(json.dumps(dataclasses.asdict(summary), indent=1) if arguments.json else describe(summary), flush=True)
    return 0


def _send(out: Path, url: str | None, arguments: argparse.Namespace) -> None:
    from tstar.data.sharding import upload_shards

    if url:
        with bar("uploading", "files", quiet=arguments.json) as update:
            upload_shards(out, url, update)
        _tell(arguments, f"copied to {url}")


def _verify(folder: Path, arguments: argparse.Namespace) -> int:
    from tstar.data.shard_inspection import verify_shards

    with bar("verifying", "bytes", quiet=arguments.json) as update:
        found = verify_shards(folder, decode=arguments.decode, progress=update)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(found), indent=1))
    else:
        what = "every byte is what was written" if not found.problems else f"{len(found.problems)} problems"
        print(f"{found.samples} samples in {found.shards} shards, {_size(found.bytes)}: {what}")
        print("".join(f"  {line}\n" for line in found.problems), end="")
        if found.problems:
            print("the same `tstar shard` command that made them mends them")
    return 1 if found.problems else 0


def _inspect(folder: Path, arguments: argparse.Namespace) -> int:
    from tstar.data.shard_inspection import contact_sheet, describe_shards

    facts = describe_shards(folder)
    sheet = Path(arguments.sheet) if arguments.sheet else folder / "contact_sheet.png"
    try:
        contact_sheet(folder, sheet)
    except (OSError, ValueError) as error:  # a name whose ending is no picture's
        raise DataError(f"cannot write {sheet} ({error}); choose another --sheet") from error
    if arguments.json:
        print(json.dumps({**facts, "sheet": str(sheet)}, indent=1))
        return 0
    print(f"{facts['folder']}: {facts['samples']} samples in {facts['shards']} shards, {_size(facts['bytes'])}")
    for name, kind in facts["modalities"].items():
        each = kind["frames_each"]
        spread = f", {each['least']:g} to {each['most']:g} each (median {each['median']:g})" if name == "video" else ""
        print(f"  {name:<6} {kind['samples']:>9,} samples {kind['frames']:>12,} frames{spread}")
    words = facts["words_each"]
    print(f"  words of a conversation: {words['least']:g} to {words['most']:g}, median {words['median']:g}")
    print(f"  {_size(facts['bytes_per_frame'])} a frame, everything counted")
    print(f"  settings: {', '.join(f'{k} {v}' for k, v in facts['settings'].items())}")
    if facts["records"]:
        dropped = ", ".join(f"{n} {reason}" for reason, n in facts["records"]["dropped"].items()) or "none"
        print(f"  set {facts['records']['set']}: {facts['records']['rows']} rows read, left out: {dropped}")
    print(f"  some of it: {sheet}")
    return 0
