"""``tstar validate``: a checkpoint is enough beside the frozen parts it names, since it knows its recipe."""

import argparse
import copy
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tstar.cli.parser import typed_command
from tstar.cli.progress import is_first_process, say, warn
from tstar.cli.recipe import Recipe, RunConfig, apply_settings
from tstar.errors import ConfigError, suggest
from tstar.evaluation.checkpoints import (
    deciding,
    default_out,
    drop_held,
    find_checkpoint,
    find_moved,
    model_key,
    settings_key,
)

if TYPE_CHECKING:
    from tstar.evaluation.settings import EvaluationConfig


NOT_IN_TAGS = ("benchmarks", "batch_size", "workers", "time_limit")
"""Settings of an evaluation that change nothing in what is measured; suites are named by themselves."""


def run(arguments: argparse.Namespace, settings: list[tuple[str, str]]) -> int:
    """Evaluate; returns the exit status."""
    if arguments.limit is not None and arguments.limit < 1:
        raise ConfigError(f"--limit must be at least 1, got {arguments.limit}")
    if arguments.devices < 1:
        raise ConfigError(f"--devices must be at least 1, got {arguments.devices}")
    path = find_checkpoint(Path(arguments.ckpt))
    changes = {"max_frames": arguments.max_frames, "rules": arguments.rules}
    changes |= {"baselines": False} if arguments.no_baselines else {}
    table = evaluate_checkpoint(
        path,
        out=Path(arguments.out) if arguments.out else default_out(path),
        benchmarks=[n.strip() for n in arguments.benchmarks.split(",")] if arguments.benchmarks else None,
        changes={name: value for name, value in changes.items() if value is not None},
        settings=settings,
        limit=arguments.limit,
        quiet=arguments.json,
        layout={"devices": arguments.devices} if arguments.devices > 1 else {},
    )
    if arguments.json and is_first_process():
        print(json.dumps(table, indent=1))
    return 0


def evaluate_checkpoint(
    path: Path,
    *,
    out: Path,
    evaluation: dict[str, Any] | None = None,
    benchmarks: list[str] | None = None,
    changes: dict[str, Any] | None = None,
    settings: list[tuple[str, str]] | None = None,
    limit: int | None = None,
    quiet: bool = False,
    layout: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Run the suites of a checkpoint's recipe with their baselines, print the table, and write ``report.md`` below ``out``.

    An evaluation that is not the recipe's whole one is named apart, as in ``report.mini-mlvu-max_frames=32.md``, and so is one
    with another model or precision. Stored answers of the same checkpoint, prompt and frames are used again.

    Args:
        path: the checkpoint.
        out: folder for predictions, reports and the table.
        evaluation: what the recipe says now, where it is at hand; default what the checkpoint's recipe said.
        benchmarks: names of the suites wanted; default all of the recipe.
        changes: evaluation settings that differ from the recipe's.
        settings: ``--key value`` settings laid over the recipe, e.g. where parts have moved to.
        limit: at most about so many questions of each suite.
        quiet: print nothing.
        layout: ``devices`` and ``num_nodes`` of Lightning's trainer, where several processes ask their shares; each calls this.

    Returns:
        The table as plain data, with ``unanswered``: reasons by suite and question; {} in all processes but the first.
    """
    from tstar.cli.stage_cli import check_types
    from tstar.evaluation.contrasts import suite_parts
    from tstar.evaluation.settings import EvaluationConfig
    from tstar.evaluation.table import not_answered, not_answered_lines
    from tstar.nn.precision import matmul_precision
    from tstar.reports.run_report import write_report
    from tstar.stages.base import check_checkpoint
    from tstar.stages.checkpoint_io import load_checkpoint

    recipe = check_checkpoint(checkpoint := load_checkpoint(path))["recipe"]
    if evaluation is not None:
        recipe["evaluation"] = copy.deepcopy(evaluation)
    standard = EvaluationConfig(**recipe["evaluation"])
    recipe = copy.deepcopy(recipe)
    own = deciding(recipe)
    for warning in apply_settings(recipe, settings or []):
        warn(warning)
    decides = deciding(recipe)
    changed = decides if decides != own else None
    find_moved(recipe)
    wanted = {**recipe["evaluation"], **(changes or {})}
    suites = wanted.get("benchmarks") or {}
    for name in benchmarks or ():
        if name not in suites:
            raise ConfigError(f"--benchmarks: the checkpoint's recipe has no suite '{name}'{suggest(name, suites)}")
    wanted["benchmarks"] = {name: folder for name, folder in suites.items() if name in (benchmarks or suites)}
    check_types(Recipe("", {"": for_evaluation(recipe, path, layout)}, wanted))
    config = EvaluationConfig(**wanted)
    if not config.benchmarks:
        raise ConfigError("no suites to run: the recipe has none; name one by --evaluation.benchmarks.NAME FOLDER")
    if not quiet:
        say(f"evaluating {path} on {', '.join(config.benchmarks)}")
    tag = evaluation_tag(standard, config, limit, changed)
    begun = time.monotonic()
    with matmul_precision(RunConfig(**(recipe.get("run") or {})).matmul_precision):
        callback = _evaluate(recipe, checkpoint, path, config, out, tag, limit, quiet, changed, layout)
    if not is_first_process():
        return {}
    seconds = None if callback.resumed else time.monotonic() - begun
    record_evaluation(out / "eval" / tag / "evaluation.json", callback.model, config, seconds)
    sampling = sampling_text(config, decides["precision"])
    report, table = write_report(out, tag, callback.reports, checkpoint=str(path), sampling=sampling)
    if not quiet:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 140).print(table.to_rich())
        for line in not_answered_lines(callback.reports):
            warn(f"{line}, listed in {report}")
        say(f"report: {report}")
    parts = [dataclasses.asdict(part) for by_mode in callback.reports.values() for part in suite_parts(by_mode)]
    return dataclasses.asdict(table) | {"categories": parts, "unanswered": not_answered(callback.reports)}


def evaluation_tag(
    standard: "EvaluationConfig", wanted: "EvaluationConfig", limit: int | None, changed: dict[str, Any] | None = None
) -> str:
    """What sets an evaluation apart from the recipe's own; "" if nothing does.

    Args:
        standard: the recipe's own.
        wanted: what is evaluated.
        limit: most questions of each suite, if not all.
        changed: what decides how the model answers (:func:`~tstar.evaluation.checkpoints.deciding`), where the recipe has it
            otherwise.
    """
    parts = [] if list(wanted.benchmarks) == list(standard.benchmarks) else list(wanted.benchmarks)
    for setting in dataclasses.fields(wanted):
        value = getattr(wanted, setting.name)
        if setting.name not in NOT_IN_TAGS and value != getattr(standard, setting.name):
            parts.append(f"{setting.name}={'+'.join(value) if isinstance(value, list) else value}")
    parts += [f"settings={settings_key(changed)}"] if changed is not None else []
    return "-".join([*parts, *([f"limit={limit}"] if limit else [])])


def sampling_text(config: "EvaluationConfig", precision: str) -> str:
    """How videos are looked at, and in which precision, in words."""
    frames = f"{config.max_frames} frames at most, {config.fps:g} a second"
    if config.frame_choice == "segments":
        frames = f"{config.max_frames} frames, the middles of equal parts"
    return frames if precision == "32-true" else f"{frames}; {precision}"


def record_evaluation(path: Path, model: str, config: "EvaluationConfig", seconds: float | None) -> None:
    """What was measured and what it took. One that asks the same again finds its answers stored: the first record stays.

    Args:
        path: of the record.
        model: what the stored answers are known by.
        config: how they were asked for.
        seconds: what that took; None where answers of an earlier start were used, whose time is not known.
    """
    from tstar.cli.fit import peak_memory_mib
    from tstar.stages.checkpoint_io import write_atomically

    what = {"model": model, "settings": dataclasses.asdict(config)}
    before = json.loads(path.read_text()) if path.is_file() else {}
    if {key: before.get(key) for key in what} == what:
        return
    cost = {"seconds": None if seconds is None else round(seconds, 1), "resumed": seconds is None}
    cost["peak_memory_mib"] = peak_memory_mib()
    record = {**what, **cost, "command": typed_command()}
    write_atomically(path, json.dumps(record, indent=1))


def _evaluate(
    recipe: dict[str, Any],
    checkpoint: dict[str, Any],
    path: Path,
    config: Any,
    out: Path,
    tag: str,
    limit: int | None,
    quiet: bool,
    changed: dict[str, Any] | None,
    layout: dict[str, Any] | None,
) -> Any:
    from lightning.pytorch.loggers import TensorBoardLogger
    from torch.utils.data import DataLoader

    from tstar.cli.stage_cli import build_stage
    from tstar.evaluation.callbacks import BenchmarkEvaluation
    from tstar.stages.metrics_log import MetricsLog

    progress = None if quiet or not is_first_process() else QuestionProgress()
    model = model_key(path, changed)
    callback = BenchmarkEvaluation(config, out, model=model, complete=True, limit=limit, tag=tag, progress=progress)
    folder = out / "eval" / tag
    loggers = [MetricsLog(folder), TensorBoardLogger(folder, name="tb", version="")]
    cli = build_stage(for_evaluation(recipe, path, layout), folder, loggers=loggers, callbacks=[callback])
    stage = cli.model
    stage.check_frozen(checkpoint["tstar"]["frozen"])
    stage.load_state_dict(checkpoint["state_dict"])
    stage.recipe = recipe
    # one empty batch where there is no held-out loss
    nothing = DataLoader([None], batch_size=None) if cli.datamodule is None else None  # type: ignore[arg-type, var-annotated]
    cli.trainer.validate(stage, datamodule=cli.datamodule, dataloaders=nothing, verbose=False)
    return callback


def for_evaluation(recipe: dict[str, Any], checkpoint: Path, layout: dict[str, Any] | None = None) -> dict[str, Any]:
    """The recipe without what evaluation does not need: training shards, and the origin of weights the checkpoint holds.

    Every process of ``layout`` has the whole model, however it was trained.
    """
    recipe = copy.deepcopy(recipe)
    drop_held(recipe["model"], checkpoint)
    asked = recipe.get("trainer") or {}
    together = {**layout, "strategy": "ddp"} if layout else {"devices": 1}
    recipe["trainer"] = together | {key: asked[key] for key in ("accelerator", "precision") if key in asked}
    held_out = recipe.get("data", {}).get("val_shards")
    if held_out and all(Path(folder).is_dir() for folder in held_out):
        of_training = ("weights", "sizes")  # one for each folder of shards
        kept = {key: value for key, value in recipe["data"].items() if key not in of_training}
        recipe["data"] = {**kept, "shards": held_out}
    else:
        recipe.pop("data", None)
    return recipe


class QuestionProgress:
    """Progress over questions: a bar on a terminal, a line a suite and mode elsewhere."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.task: Any = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            if done == total:
                say(f"  {what}: {done} questions")
            return
        from rich.progress import Progress

        if self.bar is None:
            self.bar = Progress(transient=True)
            self.bar.start()
        if self.task is None or self.bar.tasks[-1].description != what:
            self.task = self.bar.add_task(what, total=total)
        self.bar.update(self.task, completed=done)
        if done == total:
            self.bar.stop()
            self.bar = self.task = None
