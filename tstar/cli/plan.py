"""``tstar plan``: what a recipe will take, before anyone rents a machine."""

import argparse
import copy
import dataclasses
import gc
import json
import logging
from pathlib import Path
from typing import Any

from tstar.cli.progress import bar, say, warn
from tstar.cli.recipe import Recipe, read_recipe, stage_class

GIB, MIB = 2**30, 2**20
CONVENTIONS = (
    "FLOPs: a multiply-add is 2; matrix products, convolutions, attention (all pairs of positions, masked ones too) and the "
    "recurrences of scans are counted, elementwise operations are not. GiB are 2^30 bytes."
)


def run(arguments: argparse.Namespace, settings: list[tuple[str, str]]) -> int:
    """Print the plan; returns the exit status."""
    from tstar.reports.plan import Asked

    asked = Asked(
        frames=tuple(arguments.frames or ()),
        training_frames=arguments.training_frames,
        devices=arguments.devices,
        strategy=arguments.strategy,
        device_memory_gib=arguments.device_memory_gib,
        tokens=arguments.tokens,
        text_tokens=arguments.text_tokens,
        answer_tokens=arguments.answer_tokens,
        samples=arguments.samples,
    )
    recipe = read_recipe([Path(p) for p in arguments.config], settings)
    from tstar.cli.stage_cli import check_types

    check_types(without_strategies(recipe))
    for warning in recipe.warnings:
        warn(warning)
    logging.getLogger().setLevel(logging.ERROR)  # open_clip says that nothing is loaded, which is what is wanted
    gc.disable()  # fake tensors are many and free themselves: looking for cycles among them takes a third of the time
    try:
        data = measure(recipe, asked, quiet=arguments.json)
    finally:
        gc.enable()
    if arguments.json:
        print(json.dumps(data, indent=1))
    else:
        show(data)
    return 0


def without_strategies(recipe: Recipe) -> Recipe:
    """The recipe as far as a machine without its strategies' packages can check it; a strategy is only planned for."""
    stages = copy.deepcopy(recipe.stages)
    for config in stages.values():
        (config.get("trainer") or {}).pop("strategy", None)
    return dataclasses.replace(recipe, stages=stages)


def measure(recipe: Recipe, asked: Any, quiet: bool) -> dict[str, Any]:
    """The plan as plain data."""
    from tstar.evaluation.settings import EvaluationConfig
    from tstar.reports.plan import Planner
    from tstar.reports.plan_settings import fitting

    planner = Planner(asked, EvaluationConfig(**recipe.evaluation).max_frames)
    wants_settings = asked.tokens is not None or asked.device_memory_gib is not None
    count, stages = len(recipe.stages) + 1 + wants_settings, []
    with bar("measuring on fake tensors", "parts", quiet=quiet) as update:
        for done, (name, config) in enumerate(recipe.stages.items(), 1):
            setup = planner.setup(name, stage_class(config["model"]["class_path"], "model.class_path"), config)
            stages.append(planner.stage(setup))
            update(done, count)
        inference = planner.inference(setup)
        update(len(stages) + 1, count)
        choices, why = fitting(planner, setup) if wants_settings else ([], "")
        update(count, count)
    data: dict[str, Any] = {
        "recipe": recipe.name,
        "conventions": CONVENTIONS,
        "text_tokens": asked.text_tokens,
        "answer_tokens": asked.answer_tokens,
        "stages": stages,
        "inference": inference,
    }
    if wants_settings:
        data["settings"] = {
            "tokens": asked.tokens,
            "device_memory_gib": asked.device_memory_gib,
            "fit": [choice.as_data() for choice in choices],
            "why_none": why or None,
        }
    return data


def show(data: dict[str, Any]) -> None:
    """Print the plan for people."""
    for stage in data["stages"]:
        show_stage(stage, data)
    show_inference(data)
    if "settings" in data:
        show_settings(data["settings"])
    say(f"\n{data['conventions']}")


def show_stage(stage: dict[str, Any], data: dict[str, Any]) -> None:
    """One stage: what learns, from how much, and what a step takes."""
    training = stage["training"]
    parameters = ", ".join(
        f"{name} {_count(number)}{' (all frozen)' if not stage['trained'][name] else _some(stage['trained'][name], number)}"
        for name, number in stage["parameters"].items()
    )
    say(f"\n{stage['stage']}: {stage['class']}, compressor {stage['compressor']}")
    say(f"  parameters   {parameters}; {_count(sum(stage['trained'].values()))} learn")
    row = next(row for row in stage["tokens"] if row["frames"] == training["frames"])
    say(f"  a sample     {_sample(row, data)}")
    steps = "steps not known: give --samples" if training["steps"] is None else f"{training['steps']:,} steps"
    samples = "samples not known" if training["samples"] is None else f"{training['samples']:,} samples"
    source = f" ({training['samples_source']})" if training["samples"] is not None else ""
    say(
        f"  data         {samples}{source}, {_frames(training)}; a step takes {training['batch']} x {training['devices']} devices "
        f"x {training['accumulate']} accumulated = {training['global_batch']}; {steps}"
    )
    flops = training["flops_per_step"]
    split = ", ".join(f"{name.replace('_', ' ')} {_flops(n)}" for name, n in flops.items() if name != "total")
    say(f"  a step       {_flops(flops['total'])}: {split}")
    if training["flops"] is not None:
        say(f"  the stage    {_flops(training['flops'])}")
    memory = training["memory"]
    say(
        f"  one device   {_bytes(memory['peak'])} at most ({training['strategy']}, {training['precision']}): weights "
        f"{_bytes(memory['weights'])}, gradients {_bytes(memory['gradients'])}, optimizer {_bytes(memory['optimizer'])}, "
        f"activations {_bytes(memory['activations'])}, communication {_bytes(memory['communication'])}"
    )
    types = training["dtypes"]
    say(f"  types        weights: {types['weights']}; gradients: {types['gradients']}; optimizer: {types['optimizer']}")
    for note in stage["notes"]:
        say(f"  note         {note}")


def show_inference(data: dict[str, Any]) -> None:
    """What an answer takes, by frames."""
    last = data["stages"][-1]
    say(
        f"\nanswering with the model of {last['stage']}, one clip on one device: {data['text_tokens']} prompt tokens, "
        f"{data['answer_tokens']} answer tokens"
    )
    rows: list[tuple[str, ...]] = [
        (
            "frames",
            "visual",
            "inside",
            "length",
            "encode",
            "compress",
            "prefill",
            "decode",
            "a token",
            "weights",
            "KV",
            "other",
            "peak",
        )
    ]
    for row in data["inference"]:
        flops, memory = row["flops"], row["memory"]
        rows.append(
            (
                f"{row['frames']}",
                f"{'<=' if row['at_most'] else ''}{row['visual']:,}",
                "-" if row["inside"] is None else f"{row['inside']:,}",
                f"{row['length']:,}{'' if row['fits'] else ' !'}",
                *(_flops(flops[name]) for name in ("encode", "compress", "prefill", "decode", "decode_token")),
                *(_bytes(memory[name]) for name in ("weights", "cache", "activations", "peak")),
            )
        )
    _table(rows)
    row = data["inference"][-1]
    say(f"  length: positions in the language model; max_length {row['max_length']:,} in training, {_context(row)}")


def show_settings(settings: dict[str, Any]) -> None:
    """The settings that fit."""
    asked = [f"--tokens {settings['tokens']}"] if settings["tokens"] is not None else []
    asked += [f"--device-memory-gib {settings['device_memory_gib']:g}"] if settings["device_memory_gib"] else []
    say(f"\nsettings of the last stage within {' and '.join(asked)}")
    if settings["why_none"]:
        say(f"  {settings['why_none']}")
        return
    both = settings["device_memory_gib"] is not None
    fit = settings["fit"]
    strides = sorted({row["temporal_stride"] or 0 for row in fit})
    rows = [("query_interval", *(f"temporal_stride {stride}" if stride else "frames" for stride in strides))]
    for interval in sorted({row["query_interval"] or 0 for row in fit}):
        mine = [row for row in fit if (row["query_interval"] or 0) == interval]
        cells = [_most([row for row in mine if (row["temporal_stride"] or 0) == stride], both) for stride in strides]
        rows.append((str(interval or "-"), *cells))
    _table(rows)
    training = " for training, / for answering" if both else ""
    say(f"  most frames of the candidates{training}, and their visual tokens; --json lists all with their memory")


def _most(rows: list[dict[str, Any]], both: bool) -> str:
    """The most frames of some settings, and their tokens; those that fit in training first."""

    def best(some: list[dict[str, Any]]) -> str:
        row = max(some, key=lambda row: row["frames"], default=None)
        return "-" if row is None else f"{row['frames']} ({row['visual']:,})"

    return f"{best([row for row in rows if row['trains']])} / {best(rows)}" if both else best(rows)


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        say("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _sample(row: dict[str, Any], data: dict[str, Any]) -> str:
    inside = "" if row["inside"] is None else f" (from {row['inside']:,} positions inside the compressor)"
    at_most = "up to " if row["at_most"] else ""
    return (
        f"{row['frames']} frame{'s' * (row['frames'] > 1)}: {at_most}{row['visual']:,} visual{inside} + {data['text_tokens']} text "
        f"+ {data['answer_tokens']} answer tokens = {row['length']:,}; max_length {row['max_length']:,}, {_context(row)}"
    )


def _context(row: dict[str, Any]) -> str:
    context = row["native_context"]
    return "a model without positions" if context is None else f"made for {context:,}"


def _frames(training: dict[str, Any]) -> str:
    if training["frames"] == training["mean_frames"]:
        return f"{training['frames']} frame{'s' * (training['frames'] > 1)} each ({training['frames_source']})"
    return (
        f"up to {training['frames']} frames each, {training['mean_frames']:g} on average ({training['frames_source']})"
    )


def _some(trained: int, number: int) -> str:
    return "" if trained == number else f" ({_count(trained)} learn)"


def _count(number: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return str(number)


def _flops(number: int) -> str:
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}FLOP"
    return f"{number} FLOP"


def _bytes(number: int) -> str:
    return f"{number / GIB:.2f} GiB" if number >= GIB / 10 else f"{number / MIB:.1f} MiB"
