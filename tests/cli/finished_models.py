"""Trained and evaluated models of a table, written by hand as ``tstar fit`` leaves them. Not a test."""

import json
from dataclasses import asdict
from pathlib import Path

import yaml

from tstar.cli.ablation_file import read_ablation
from tstar.cli.ablation_jobs import Training, groups
from tstar.cli.run_folder import config_digest, global_batch
from tstar.evaluation.settings import EvaluationConfig

TABLE5 = Path("configs/ablations/table5.yaml")


def training(folder, *settings, path=TABLE5, seed=3):
    return Training(groups(read_ablation(path, "miniature", settings).models)[0], seed, folder)


def leave_finished(own):
    """As `tstar fit` leaves a model that is trained and evaluated."""
    recipe = own.group.recipe(own.seed)
    (own.path / "eval").mkdir(parents=True)
    (own.path / "config.yaml").write_text(yaml.safe_dump(recipe.as_yaml()))
    for number, (name, config) in enumerate(recipe.stages.items(), 1):
        stage = own.path / f"{number}-{name}"
        (stage / "checkpoints").mkdir(parents=True)
        (stage / "checkpoints" / "last.ckpt").write_text("x")
        entry = {"last.ckpt": {"bytes": 1, "sha256": "0123456789abcdef" * 4, "step": 1}}
        (stage / "checkpoints" / "manifest.json").write_text(json.dumps(entry))
        done = {"config_sha256": config_digest(config), "global_batch": global_batch(config)}
        (stage / "done.json").write_text(json.dumps(done))
    leave_answers(own.path / "eval", EvaluationConfig(**recipe.evaluation))


def leave_answers(place, config, model="0123456789abcdef"):
    place.mkdir(exist_ok=True)
    (place / "evaluation.json").write_text(json.dumps({"model": model, "settings": asdict(config)}))
    for suite in config.benchmarks:
        for mode in config.modes:
            (place / f"{suite}.{mode}.json").write_text("{}")
