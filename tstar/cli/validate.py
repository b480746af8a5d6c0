"""``tstar validate``: a checkpoint alone is enough, since it knows its recipe."""

import argparse
import copy
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from tstar.cli.fit import say
from tstar.cli.recipe import apply_settings, stage_class
from tstar.errors import ConfigError, DataError, suggest


def run(arguments: argparse.Namespace, settings: list[tuple[str, str]]) -> int:
    """Evaluate; returns the exit status."""
    path = find_checkpoint(Path(arguments.ckpt))
    out = (
        Path(arguments.out) if arguments.out else path.parents[2] if path.parent.name == "checkpoints" else path.parent
    )
    changes: dict[str, Any] = {"max_frames": arguments.max_frames, "rules": arguments.rules}
    if arguments.no_baselines:
        changes["baselines"] = False
    names = [n.strip() for n in arguments.benchmarks.split(",")] if arguments.benchmarks else None
    changes = {k: v for k, v in changes.items() if v is not None}
    table = evaluate_checkpoint(
        path, out=out, benchmarks=names, changes=changes, settings=settings, limit=arguments.limit, quiet=arguments.json
    )
    if arguments.json:
        print(json.dumps(table, indent=1))
    return 0


def find_checkpoint(path: Path) -> Path:
    """A checkpoint file, or the last one of a stage's or run's folder."""
    if path.is_dir():
        found = sorted(path.glob("checkpoints/last.ckpt")) or sorted(path.glob("*/checkpoints/last.ckpt"))
        if not found:
            raise DataError(f"--ckpt: no finished stage in {path} (checkpoints/last.ckpt is missing)")
        return found[-1]
    if not path.is_file():
        raise DataError(f"--ckpt: no such checkpoint: {path}")
    return path


def evaluate_checkpoint(
    path: Path,
    *,
    out: Path,
    benchmarks: list[str] | None = None,
    changes: dict[str, Any] | None = None,
    settings: list[tuple[str, str]] | None = None,
    limit: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run the suites of a checkpoint's recipe with their baselines, print the table, and write ``report.md`` below ``out``.

    An evaluation that is not the recipe's whole one is named apart, as in ``report.mini-mlvu-32f.md``. Stored answers of the
    same checkpoint, question and frames are used again.

    Args:
        path: the checkpoint.
        out: folder for predictions, reports and the table.
        benchmarks: names of the suites wanted; default all of the recipe.
        changes: evaluation settings that differ from the recipe's.
        settings: ``--key value`` settings laid over the recipe, e.g. where parts have moved to.
        limit: at most about so many questions of each suite.
        quiet: print nothing.

    Returns:
        The table as plain data.
    """
    from tstar.evaluation.runner import EvaluationConfig
    from tstar.reports.run_report import write_report
    from tstar.stages.base import check_checkpoint
    from tstar.stages.checkpoint_io import load_checkpoint

    recipe = check_checkpoint(checkpoint := load_checkpoint(path))["recipe"]
    for warning in apply_settings(recipe, settings or []):
        say(f"warning: {warning}")
    wanted = {**recipe["evaluation"], **(changes or {})}
    suites = wanted.get("benchmarks") or {}
    for name in benchmarks or ():
        if name not in suites:
            raise ConfigError(f"--benchmarks: the checkpoint's recipe has no suite '{name}'{suggest(name, suites)}")
    config = EvaluationConfig(
        **{**wanted, "benchmarks": {n: f for n, f in suites.items() if n in (benchmarks or suites)}}
    )
    if not config.benchmarks:
        raise ConfigError("no suites to run: the recipe has none; name one by --evaluation.benchmarks.NAME FOLDER")
    if not quiet:
        say(f"evaluating {path} on {', '.join(config.benchmarks)}")
    tag = evaluation_tag(benchmarks, changes or {}, limit)
    callback = _evaluate(recipe, checkpoint, path, config, out, tag, limit, quiet)
    sampling = f"{config.max_frames} frames at most, {config.fps:g} a second"
    report, table = write_report(out, tag, callback.reports, checkpoint=str(path), sampling=sampling)
    if not quiet:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 140).print(table.to_rich())
        say(f"report: {report}")
    return dataclasses.asdict(table)


def evaluation_tag(benchmarks: list[str] | None, changes: dict[str, Any], limit: int | None) -> str:
    """What sets an evaluation apart from the recipe's own; "" if nothing does."""
    parts = list(benchmarks or ())
    parts += [f"{changes['max_frames']}f"] if "max_frames" in changes else []
    parts += [changes["rules"]] if "rules" in changes else []
    parts += ["model-only"] if changes.get("baselines") is False else []
    return "-".join([*parts, *([f"limit{limit}"] if limit else [])])


def _evaluate(
    recipe: dict[str, Any],
    checkpoint: dict[str, Any],
    path: Path,
    config: Any,
    out: Path,
    tag: str,
    limit: int | None,
    quiet: bool,
) -> Any:
    from lightning.pytorch.loggers import TensorBoardLogger
    from torch.utils.data import DataLoader

    from tstar.cli.stage_cli import build_stage
    from tstar.evaluation.callbacks import BenchmarkEvaluation
    from tstar.stages.metrics_log import MetricsLog
    from tstar.stages.weights import file_digest

    progress = None if quiet else QuestionProgress()
    callback = BenchmarkEvaluation(
        config, out, model=file_digest(path)[:16], complete=True, limit=limit, tag=tag, progress=progress
    )
    folder = out / "eval" / tag
    loggers = [MetricsLog(folder), TensorBoardLogger(folder, name="tb", version="")]
    cli = build_stage(for_evaluation(recipe, path), folder, loggers=loggers, callbacks=[callback])
    stage = cli.model
    stage.check_frozen(checkpoint["tstar"]["frozen"])
    stage.load_state_dict(checkpoint["state_dict"])
    stage.recipe = recipe
    # one empty batch where there is no held-out loss
    nothing = DataLoader([None], batch_size=None) if cli.datamodule is None else None  # type: ignore[arg-type, var-annotated]
    cli.trainer.validate(stage, datamodule=cli.datamodule, dataloaders=nothing, verbose=False)
    return callback


def for_evaluation(recipe: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """The recipe without what evaluation does not need: training shards, and the origin of weights the checkpoint holds.

    Weights files that moved together with the run are looked up beside the checkpoint.
    """
    recipe = copy.deepcopy(recipe)
    trained = stage_class(recipe["model"]["class_path"], "model.class_path").trains  # type: ignore[attr-defined]
    arguments = recipe["model"].setdefault("init_args", {})
    sources = {part: src for part, src in (arguments.get("init_from") or {}).items() if part not in trained}
    for part, source in sources.items():
        beside = checkpoint.resolve().parents[2] / Path(source).parent.name / Path(source).name
        if not Path(source).is_file() and beside.is_file():
            sources[part] = str(beside)
    arguments["init_from"] = sources or None
    held_out = recipe.get("data", {}).get("val_shards")
    if held_out and all(Path(folder).is_dir() for folder in held_out):
        recipe["data"] = {**recipe["data"], "shards": held_out}
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
