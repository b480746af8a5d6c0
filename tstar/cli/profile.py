"""``tstar profile``: what a recipe or checkpoint costs when it answers, measured."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tstar.cli.parser import typed_command
from tstar.cli.profile_file import Wanted, read_preset
from tstar.cli.progress import say, warn
from tstar.cli.recipe import Recipe, RunConfig, read_recipe, stage_class
from tstar.errors import ConfigError, DataError, suggest

if TYPE_CHECKING:
    from tstar.reports.profile_cases import Case, Model

AUTO = "auto"
FRAMES = (8, 16, 32, 64, 128)
CALLS = {"cuda": (100, 10), "cpu": (5, 1)}
"""Samples and warm-ups; of a GPU as published."""
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
MOST_VIDEOS = 16
"""More are not taken of a folder; calls take them by turns."""


def run(arguments: argparse.Namespace, settings: list[tuple[str, str]]) -> int:
    """Measure, and write the page; the exit status is 1 where a case failed for no reason that is known."""
    title, wanted = _wanted(arguments, settings)
    _check(wanted)
    from tstar.evaluation.callbacks import stopping_at_once
    from tstar.reports.profile import RESULTS, ProfileStore, run_cases, where
    from tstar.reports.profile_cases import FAILED
    from tstar.reports.profile_report import results_of, write_profile

    device = _device(arguments.device)
    groups = {group.name: (group.title, cases_of(group, arguments, device)) for group in wanted}
    out = Path(arguments.out) if arguments.out else Path("runs", "profile", _name(arguments, wanted))
    if out.is_file():
        raise ConfigError(f"--out must be a folder, got the file {out}")
    here = where(device)
    if arguments.report_only and arguments.fresh:
        raise ConfigError("--report-only measures nothing, and --fresh everything; leave one of them out")
    store = ProfileStore(out / RESULTS, here, arguments.fresh)
    tell = (lambda text: None) if arguments.json else say
    left = 0
    if arguments.report_only:
        left = sum(store.get(case) is None for _, own in groups.values() for case in own)
        kept = {name: [case for case in own if store.written(case)] for name, (_, own) in groups.items()}
        groups = {name: (groups[name][0], own) for name, own in kept.items() if own}
        if not groups:
            raise ConfigError(
                f"--report-only: {store.path} has none of these cases, on this machine with these versions"
            )
    cases = [case for _, own in groups.values() for case in own]
    if arguments.report_only:
        found = [result for case in cases if (result := store.written(case))]
    else:
        again = "the same command without --fresh" if arguments.fresh else "the same command"
        with stopping_at_once(f"finished cases are kept, {again} goes on from them"):  # its child ends too
            found = run_cases(cases, store, tell)
    by_group, start = {}, 0
    for name, (_, own) in groups.items():
        by_group[name], start = found[start : start + len(own)], start + len(own)
    results = results_of(title, typed_command(without="--report-only"), here, groups, by_group, left)
    written = write_profile(results, out)
    if arguments.json:
        print(json.dumps(results, indent=1, ensure_ascii=False))
    else:
        say(f"written: {', '.join(map(str, written))}")
    failed = sum(result["status"] == FAILED for result in found)
    if failed:
        warn(f"{failed} of {len(cases)} cases failed; what they said is in {store.path}")
    return 1 if failed else 0


def _wanted(arguments: argparse.Namespace, settings: list[tuple[str, str]]) -> tuple[str, list[Wanted]]:
    """Title, and what is measured."""
    if arguments.preset:
        if arguments.random_weights:
            raise ConfigError("--random-weights: a preset says itself which weights its groups have")
        title, groups = read_preset(Path(arguments.preset), settings)
        known = [group.name for group in groups]
        for name in arguments.groups or ():
            if name not in known:
                raise ConfigError(f"--groups: {arguments.preset} has no group '{name}'{suggest(name, known)}")
        chosen = [group for group in groups if group.name in (arguments.groups or known)]
        return title, _with_compressors(chosen, arguments.compressors or ())
    if arguments.groups:
        raise ConfigError("--groups goes with --preset")
    if arguments.ckpt:
        for option in ("random_weights", "compressors"):
            if getattr(arguments, option):
                name = option.replace("_", "-")
                raise ConfigError(
                    f"--{name} goes with --config: a checkpoint has trained weights of its own compressor"
                )
        recipe, checkpoint = _recipe_of(arguments.ckpt, settings)
    else:
        checkpoint = None
        recipe = read_recipe([Path(path) for path in arguments.config], settings)
    title = f"What an answer costs: {recipe.name}"
    group = Wanted(
        name=recipe.name,
        title=f"{recipe.name}, stage {list(recipe.stages)[-1]}",
        recipe=recipe,
        compressors={name: {"name": name} for name in arguments.compressors or ()},
        random_weights=arguments.random_weights,
        checkpoint=checkpoint,
    )
    return title, [group]


def _with_compressors(groups: list[Wanted], asked: Sequence[str]) -> list[Wanted]:
    """A preset's groups with the compressors that are asked for where they name none themselves.

    Raises:
        ConfigError: a name that no group has.
    """
    known = {spec["name"] for group in groups for spec in group.compressors.values()}
    if all(group.compressors for group in groups):
        for name in asked:
            if name not in known:
                raise ConfigError(f"--compressors: no group has '{name}'{suggest(name, known)}")
    own = {name: {"name": name} for name in asked}
    return [group if group.compressors else replace(group, compressors=own) for group in groups]


def _recipe_of(ckpt: str, settings: list[tuple[str, str]]) -> tuple[Recipe, Path]:
    """The recipe of the one stage that a checkpoint is of, and the checkpoint."""
    from tstar.cli.recipe import apply_settings
    from tstar.cli.validate import find_checkpoint, find_moved, for_evaluation
    from tstar.stages.base import check_checkpoint
    from tstar.stages.checkpoint_io import load_checkpoint

    path = find_checkpoint(Path(ckpt))
    config = check_checkpoint(load_checkpoint(path, mmap=True))["recipe"]
    for warning in apply_settings(config, settings):
        warn(warning)
    find_moved(config)
    evaluation, name = config["evaluation"], config.get("name", path.stem)
    stage = {key: value for key, value in for_evaluation(config, path).items() if key in ("model", "trainer", "run")}
    return Recipe(name, {config.get("stage", "stage"): stage}, evaluation), path


def _check(wanted: Sequence[Wanted]) -> None:
    """The types of every recipe's settings."""
    from tstar.cli.plan import without_strategies
    from tstar.cli.stage_cli import check_types

    for group in wanted:
        check_types(without_strategies(group.recipe))
        for warning in group.recipe.warnings:
            warn(warning)


def cases_of(group: Wanted, arguments: argparse.Namespace, device: str) -> "list[Case]":
    """Every measurement of a group: few frames first, so that all compressors have some numbers early."""
    from tstar.evaluation.runner import EvaluationConfig
    from tstar.reports.profile_cases import ANSWER, FROM_VIDEO, Case, in_order

    config = list(group.recipe.stages.values())[-1]
    base = model_of(config, group.random_weights, group.checkpoint)
    folder = None if arguments.frames_only else arguments.videos or group.videos
    videos = _videos(folder, "--videos" if arguments.videos else f"videos of {group.name}")
    models = {base.compressor["name"]: base}
    if group.compressors:
        chosen = {
            label: spec
            for label, spec in group.compressors.items()
            if not arguments.compressors or spec["name"] in arguments.compressors
        }
        if not chosen:
            raise ConfigError(f"--compressors: {group.name} has none of {', '.join(arguments.compressors)}")
        models = {label: base.with_compressor(dict(spec)) for label, spec in chosen.items()}
    samples, warmup = CALLS["cuda" if device.startswith("cuda") else "cpu"]
    parts = in_order(_parts(arguments.parts or group.parts, bool(videos)))
    common = {
        "device": device,
        "precision": _precision(arguments.precision or group.precision, config, device),
        "matmul_precision": RunConfig(**(config.get("run") or {})).matmul_precision,
        "samples": samples if arguments.samples is None else arguments.samples,
        "warmup": warmup if arguments.warmup is None else arguments.warmup,
        "text_tokens": arguments.text_tokens,
        "seed": arguments.seed,
        "videos": videos,
        "decoder": EvaluationConfig(**group.recipe.evaluation).decoder,
        "group": group.name,
        "time_limit": arguments.time_limit,
        "memory_limit_gib": arguments.memory_limit_gib,
    }
    protocols = _protocols(arguments, group)
    cases = []
    for frames in sorted(set(arguments.frames or group.frames or FRAMES)):
        for label, model in models.items():
            for protocol in protocols:
                own = ANSWER if protocol == "paper" else parts or (*(FROM_VIDEO if videos else ()), *ANSWER)
                given: dict[str, Any] = {**common, "label": label, "frames": frames, "protocol": protocol, "parts": own}
                cases.append(Case(model=model, **given))
    return cases


def _parts(given: Sequence[str], videos: bool) -> Sequence[str]:
    if given:
        from tstar.reports.profile_cases import check_parts

        check_parts(given, videos)
    return given


def _protocols(arguments: argparse.Namespace, group: Wanted) -> tuple[str, ...]:
    parts = arguments.parts or group.parts
    asked = arguments.protocol or group.protocol or ("parts" if parts else "both")
    if parts and asked != "parts":
        raise ConfigError(
            f"the paper's protocol is about a whole answer from decoded frames; {group.name} is to measure {', '.join(parts)} "
            "alone, which goes with --protocol parts"
        )
    return ("paper", "parts") if asked == "both" else (asked,)


def model_of(config: dict[str, Any], random: bool, checkpoint: Path | None) -> "Model":
    """The model of a stage's settings."""
    from tstar.data.files import file_digest
    from tstar.reports.profile_cases import Model

    kind = stage_class(config["model"]["class_path"], "model.class_path")
    arguments = config["model"].get("init_args") or {}
    return Model(
        stage=f"{kind.__module__}.{kind.__qualname__}",
        vision=arguments["vision"],
        language=arguments["language"],
        compressor=kind.compressor_settings(arguments.get("compressor") or {}),
        resized=kind.resized,
        init_from=arguments.get("init_from") if checkpoint else None,
        checkpoint=str(checkpoint) if checkpoint else None,
        digest=file_digest(checkpoint)[:16] if checkpoint else None,
        random=random,
    )


def _precision(asked: str | None, config: dict[str, Any], device: str) -> str:
    """What is asked for; by itself the paper's on a GPU, else the recipe's, or for "auto" what this CPU multiplies fast."""
    if asked not in (None, AUTO):
        return asked
    if device.startswith("cuda"):
        return "fp16"
    if asked == AUTO:
        from tstar.nn.precision import cpu_multiplies_bfloat16

        return "bf16" if cpu_multiplies_bfloat16() else "fp32"
    from tstar.reports.plan_memory import get_precision

    half = get_precision((config.get("trainer") or {}).get("precision")).half
    return {"None": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}[str(half)]


def _device(asked: str) -> str:
    import torch

    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(asked).type
    except RuntimeError:
        kind = ""
    if kind not in CALLS:
        raise ConfigError(f"--device must be auto, cpu, cuda or cuda:N, got '{asked}'")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {asked}: PyTorch finds no CUDA device here; leave it out or give cpu")
    return "cuda:0" if asked == "cuda" else asked


def _videos(folder: str | None, what: str) -> tuple[str, ...]:
    """Files of a folder and of those in it, evenly chosen where there are many; ``what`` names the setting."""
    if folder is None:
        return ()
    if not Path(folder).is_dir():
        raise DataError(f"{what}: no such folder: {folder}")
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in VIDEOS and path.is_file())
    if not files:
        raise DataError(f"{what}: no videos in {folder} ({', '.join(VIDEOS)})")
    count = min(len(files), MOST_VIDEOS)
    return tuple(str(files[number * len(files) // count]) for number in range(count))


def _name(arguments: argparse.Namespace, wanted: Sequence[Wanted]) -> str:
    return Path(arguments.preset).stem if arguments.preset else wanted[0].recipe.name
