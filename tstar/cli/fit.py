"""``tstar fit``: the stages of a recipe one after the other in one process, each resumable, then the benchmarks."""

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

from tstar.cli.progress import bar, is_first_process, say, warn
from tstar.cli.recipe import Recipe, RunConfig, read_recipe, stage_class
from tstar.cli.run_folder import RunFolder, StageFolder, locate_run
from tstar.errors import ConfigError, suggest


def run(arguments: argparse.Namespace, settings: list[tuple[str, str]]) -> int:
    """Train; returns the exit status: 0, or 128 + signal after a stop on request."""
    recipe = read_recipe([Path(p) for p in arguments.config], settings, arguments.name)
    from tstar.cli.stage_cli import check_types

    if arguments.print_config:
        import yaml

        print(yaml.safe_dump(recipe.as_yaml(), sort_keys=False), end="")
        return 0
    if arguments.ckpt is not None and arguments.overwrite:
        raise ConfigError("--ckpt goes on with a run and --overwrite deletes it; give one of them")
    default = Path(arguments.runs) / recipe.name
    place, wanted = locate_run(Path(arguments.ckpt)) if arguments.ckpt else (default, None)
    folder = RunFolder(place, recipe)
    check_types(recipe)
    for warning in recipe.warnings:
        warn(warning)
    check_files(recipe)
    if is_first_process():
        folder.open(resume=arguments.ckpt is not None, wanted=wanted, overwrite=arguments.overwrite)
    begun = time.monotonic()
    for name in recipe.stages:
        status = run_stage(folder, name, wanted)
        if status:
            return status
    last = list(folder.stages.values())[-1]
    if is_first_process():
        facts = {"seconds": round(time.monotonic() - begun, 1), "peak_memory_mib": peak_memory_mib()}
        folder.write_card(facts)
        folder.event("trained", **facts)
    evaluate(folder, last.last)
    leave_ranks()
    if is_first_process():
        say_written(folder, time.monotonic() - begun)
    return 0


def evaluate(folder: RunFolder, checkpoint: Path) -> None:
    """Run the benchmarks in all processes that trained together; after DeepSpeed, which keeps its own, in the first alone."""
    if not folder.recipe.evaluation.get("benchmarks"):
        return
    from torch import distributed

    from tstar.cli.validate import evaluate_checkpoint

    trainer = list(folder.recipe.stages.values())[-1].get("trainer") or {}
    together = distributed.is_available() and distributed.is_initialized()
    layout = {"devices": trainer.get("devices", "auto"), "num_nodes": trainer.get("num_nodes", 1)}
    if not together or "deepspeed" in str(trainer.get("strategy")).lower():
        leave_ranks()
        layout = {}
        if not is_first_process():
            return
    evaluate_checkpoint(checkpoint, out=folder.path, evaluation=folder.recipe.evaluation, layout=layout)


def leave_ranks() -> None:
    """End the group of processes that trained together, where there is one."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def check_files(recipe: Recipe) -> None:
    """Find out now, not after an hour, that a later stage's shards, or a suite or its media, are missing."""
    from tstar.data.datamodule import CACHE_DIR, shard_cache
    from tstar.data.shard_set import ShardSet
    from tstar.evaluation.settings import EvaluationConfig
    from tstar.evaluation.suites import open_suite

    for name, config in recipe.stages.items():
        data = config.get("data") or {}
        if not data.get("shards"):
            raise ConfigError(f"stage {name} has no data.shards; name the folders that `tstar shard` wrote")
        for key in ("shards", "val_shards"):
            if data.get(key):
                cache = shard_cache(data.get("cache_dir", CACHE_DIR), data.get("cache_gb"))
                ShardSet(data[key], skip_damaged=data.get("damaged_shards") == "skip", cache=cache)
        if data.get("features") and Path(data["features"]).is_file():
            raise ConfigError(f"data.features must be a folder, got the file {data['features']}; choose another place")
        check_origins(recipe, name)
    evaluation = EvaluationConfig(**recipe.evaluation)
    for suite in evaluation.benchmarks:
        open_suite(suite, evaluation)


def check_origins(recipe: Recipe, name: str) -> None:
    """``init_from`` must name an earlier stage that trains the part, or a file that is there."""
    model = recipe.stages[name]["model"]
    earlier = list(recipe.stages)[: list(recipe.stages).index(name)]
    for part, source in ((model.get("init_args") or {}).get("init_from") or {}).items():
        key = f"stage {name}, model.init_args.init_from.{part}"
        if source in earlier:
            kind = stage_class(recipe.stages[source]["model"]["class_path"], key)
            if part not in kind.trains:
                raise ConfigError(f"{key}: stage {source} ({kind.__name__}) does not train the {part}")
        elif not Path(source).is_file():
            raise ConfigError(
                f"{key}: '{source}' is neither an earlier stage nor a weights file{suggest(source, earlier)}"
            )


def run_stage(folder: RunFolder, name: str, wanted: Path | None) -> int:
    """Train one stage to its end, or go on with it; 0, or the exit status after a stop on request."""
    from tstar.nn.precision import matmul_precision

    record = folder.check_done(name)
    number = f"[{list(folder.stages).index(name) + 1}/{len(folder.stages)}]"
    if record:
        say(f"{number} {name}: finished before ({record['steps']} steps)")
        return 0
    config = folder.resolve_init(folder.recipe.stages[name])
    own = folder.stages[name]
    own.path.mkdir(parents=True, exist_ok=True)
    checkpoint, passed_over = folder.resume_from(name, wanted)
    for sentence in passed_over:
        warn(f"{sentence}; an older checkpoint is used")
    start = f", going on from {checkpoint}" if checkpoint else ""
    say(f"{number} {name}: {config['model']['class_path']}{start}")
    with matmul_precision(RunConfig(**(config.get("run") or {})).matmul_precision):
        return train_stage(folder, name, config, checkpoint)


def train_stage(folder: RunFolder, name: str, config: dict[str, Any], checkpoint: Path | None) -> int:
    """Build a stage, fit it, export its weights and mark it as complete."""
    from lightning.pytorch.loggers import TensorBoardLogger

    from tstar.cli.stage_cli import build_stage, lightning_mistakes
    from tstar.evaluation.callbacks import BenchmarkEvaluation
    from tstar.evaluation.settings import EvaluationConfig
    from tstar.stages.callbacks import (
        GracefulStop,
        ResumeNotes,
        SkippedSamples,
        progress,
        resume_checkpoints,
        skipped_summary,
    )
    from tstar.stages.metrics_log import MetricsLog
    from tstar.stages.throughput import Throughput

    own, settings = folder.stages[name], RunConfig(**(config.get("run") or {}))
    stop = GracefulStop(own.checkpoints)
    skipped = own.path / "skipped.jsonl"
    callbacks = [
        ResumeNotes(lambda note: say(f"note: {note}")),
        SkippedSamples(skipped, settings.max_bad_fraction),
        Throughput(settings.peak_tflops),
        progress(name, settings.progress_every_n_steps),
        stop,
        resume_checkpoints(own.checkpoints, settings.checkpoint_every_n_steps),
    ]
    if folder.recipe.evaluation.get("benchmarks"):
        callbacks.insert(0, BenchmarkEvaluation(EvaluationConfig(**folder.recipe.evaluation), own.path))
    loggers = [MetricsLog(own.path), TensorBoardLogger(own.path, name="tb", version="")]
    begun = time.monotonic()
    cli = build_stage(config, own.path, loggers=loggers, callbacks=callbacks, bar=sys.stderr.isatty())
    stage, trainer, data = cli.model, cli.trainer, cli.datamodule
    assert data is not None
    stage.recipe = {**config, "evaluation": folder.recipe.evaluation, "name": folder.recipe.name, "stage": name}
    stage.recipe["cwd"] = str(Path.cwd())
    stage.compiled = settings.compile
    describe(stage, data)
    if data.features:
        data.cache = feature_cache(stage, Path(data.features), data.features_dtype)
    with lightning_mistakes():
        trainer.fit(stage, datamodule=data, ckpt_path=str(checkpoint) if checkpoint else None)
    for line in [*data.damaged, *skipped_summary(skipped)]:
        warn(line)
    truncated, dropped = stage.cut_samples()
    if truncated:
        warn(f"{truncated} sequences were longer than model.init_args.max_length and were cut")
    if dropped:
        warn(f"{dropped} of them had no answer left to learn from and were dropped")
    if stop.received is not None:
        return stopped(folder, name, stop, trainer)
    whole = stage.whole_weights()
    save_complete(trainer, whole, own.last)
    if trainer.is_global_zero:
        complete(folder, name, cli, whole, time.monotonic() - begun)
    trainer.strategy.barrier("stage complete")
    return 0


def save_complete(trainer: Any, whole: dict[str, Any], path: Path) -> None:
    """The checkpoint of a complete stage. DeepSpeed would write a folder of its own; it gets one file without optimizer state."""
    from lightning.pytorch.strategies import DeepSpeedStrategy

    if isinstance(trainer.strategy, DeepSpeedStrategy):
        save_weights_only(trainer, whole, path)
    else:
        trainer.save_checkpoint(path)


def save_weights_only(trainer: Any, whole: dict[str, Any], path: Path) -> None:
    """What was trained, from which a stage can be evaluated but not gone on with."""
    from tstar.stages.checkpoint_io import VerifiedCheckpointIO

    checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=True)
    checkpoint["state_dict"] = {f"lmm.{name}": tensor for name, tensor in whole.items()}
    if trainer.is_global_zero:
        VerifiedCheckpointIO().save_checkpoint(checkpoint, path)
    trainer.strategy.barrier("complete checkpoint")


def feature_cache(stage: Any, folder: Path, dtype: str) -> Any:
    """Where the features of a stage's encoder are kept; filled before the first step."""
    from tstar.vision.feature_cache import FeatureCache

    return FeatureCache(folder, stage.lmm.encoder, stage.resized, dtype, tell=say, bar=bar)


def complete(folder: RunFolder, name: str, cli: Any, whole: dict[str, Any], seconds: float) -> None:
    """Export a trained stage's weights and mark it as complete."""
    from tstar.stages.freezing import count
    from tstar.stages.weights import export_weights

    own, stage, trainer = folder.stages[name], cli.model, cli.trainer
    digest = export_weights(stage.lmm, own.weights, stage.descriptions, whole)
    own.finish(
        folder.recipe.stages[name],
        init_from=folder.origins(name),
        steps=trainer.global_step,
        seconds=round(seconds, 1),
        weights_sha256=digest,
        shards=cli.datamodule.train_source.shards.digest,
        seed=folder.recipe.stages[name].get("seed_everything", 0),
        parameters_trained=count(p for p in stage.parameters() if p.requires_grad),
    )
    folder.event("stage finished", stage=name, steps=trainer.global_step)


def stopped(folder: RunFolder, name: str, stop: Any, trainer: Any) -> int:
    """Say how to go on after a signal."""
    say(
        f"stopped by {stop.received.name} in stage {name} at step {trainer.global_step}, saved as {stop.saved}; "
        f"the same command with --ckpt {folder.path} goes on"
    )
    folder.event("stopped", stage=name, signal=stop.received.name, step=trainer.global_step)
    return 128 + int(stop.received)


def describe(stage: Any, data: Any) -> None:
    """One line: what learns, from how much, at what visual cost."""
    from tstar.stages.freezing import count

    trained = count(p for p in stage.parameters() if p.requires_grad)
    frozen = count(stage.parameters()) - trained
    mixer = stage.lmm.compressor
    native = stage.lmm.language.native_length
    if native is not None and stage.lmm.max_length > native:
        warn(
            f"model.init_args.max_length is {stage.lmm.max_length}, the language model was made for {native} positions; "
            "longer sequences are beyond what it has learnt"
        )
    say(
        f"      {trained / 1e6:.2f}M parameters learn ({', '.join(sorted(stage.trains))}), {frozen / 1e6:.2f}M frozen; "
        f"{len(data.train_source)} samples; {stage.compressor_name}: {mixer.num_tokens(1)} visual tokens a picture, "
        f"{'up to ' if mixer.may_give_fewer else ''}{mixer.num_tokens(16)} for 16 frames"
    )


def say_written(folder: RunFolder, seconds: float) -> None:
    """Where everything is."""
    last: StageFolder = list(folder.stages.values())[-1]
    say(f"\ndone in {seconds / 60:.1f} min, peak memory {peak_memory_mib() / 1024:.1f} GiB; written:")
    for label, path in (
        ("report", folder.path / "report.md"),
        ("predictions", folder.path / "predictions"),
        ("checkpoint", last.last),
        ("weights", last.weights),
        ("metrics", last.path / "metrics.csv"),
        ("TensorBoard", folder.path),
        ("run card", folder.path / "run_card.json"),
    ):
        if path.exists():
            say(f"  {label:<12} {path}")
    say(f"evaluate it again: tstar validate --ckpt {last.last}")


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
