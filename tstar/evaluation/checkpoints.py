"""A checkpoint as all that an evaluation needs: where it is, what it names that has moved, and the model in it.

Nothing heavy is imported before a model is wanted.
"""

import copy
import hashlib
import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tstar.errors import ConfigError, DataError, suggest

if TYPE_CHECKING:
    import torch

    from tstar.stages import Stage

HALVES = {"bf16-true": "bfloat16", "16-true": "float16"}
"""Precisions of Lightning's trainer in which the weights themselves are halves, with their types."""


def find_checkpoint(path: Path, option: str = "--ckpt") -> Path:
    """A checkpoint file, or that of a stage's folder, or that of the last finished stage of a run's folder; absolute.

    Args:
        path: of any of these.
        option: what it was given by, for messages.
    """
    if path.is_dir():
        found = list(path.glob("checkpoints/last.ckpt")) or list(path.glob("*/checkpoints/last.ckpt"))
        if not found:
            raise DataError(f"{option}: no finished stage in {path} (checkpoints/last.ckpt is missing)")
        path = max(found, key=lambda p: int(p.parts[-3].split("-")[0]) if p.parts[-3].split("-")[0].isdigit() else 0)
    if not path.is_file():
        raise DataError(f"{option}: no such checkpoint: {path}")
    return path.absolute()


def default_out(checkpoint: Path) -> Path:
    """The run's folder for the checkpoint of its last stage, that stage's for another, else where the checkpoint lies."""
    if checkpoint.parent.name != "checkpoints":
        return checkpoint.parent
    stage = checkpoint.parents[1]
    config = stage.parent / "config.yaml"
    names = list((yaml.safe_load(config.read_text()) or {}).get("stages", {})) if config.is_file() else []
    return stage.parent if names and stage.name == f"{len(names)}-{names[-1]}" else stage


def find_moved(recipe: dict[str, Any]) -> None:
    """Paths are as the run was given them: where they lead nowhere from here, from the folder it was started in, in place."""
    start = Path(recipe.get("cwd", "."))

    def found(path: str) -> str:
        return str(start / path) if not Path(path).exists() and (start / path).exists() else path

    arguments = recipe["model"].get("init_args") or {}
    for part, key in (("vision", "model"), ("language", "path")):
        if key in (arguments.get(part) or {}):
            arguments[part][key] = found(arguments[part][key])
    data = recipe.get("data") or {}
    data["val_shards"] = [found(folder) for folder in data.get("val_shards") or []]
    suites = (recipe.get("evaluation") or {}).get("benchmarks") or {}
    for name, place in suites.items():
        if isinstance(place, dict):
            suites[name] = {part: found(folder) for part, folder in place.items()}
        else:
            suites[name] = found(place)
    sources = arguments.get("init_from") or {}
    arguments["init_from"] = {part: found(source) for part, source in sources.items()}


def drop_held(model: dict[str, Any], checkpoint: Path) -> None:
    """Take the origin of weights that the checkpoint holds out of ``model``, in place.

    Weights files that moved together with the run are looked up beside the checkpoint.
    """
    trained = find_stage(model["class_path"], "model.class_path").trains
    arguments = model.setdefault("init_args", {})
    sources = {part: src for part, src in (arguments.get("init_from") or {}).items() if part not in trained}
    for part, source in sources.items():
        beside = checkpoint.parent / ".." / ".." / Path(source).parent.name / Path(source).name
        if not Path(source).is_file() and beside.is_file():
            sources[part] = str(beside)
    arguments["init_from"] = sources or None


def find_stage(class_path: Any, where: str) -> "type[Stage]":
    """The stage of that name, or of that dotted import path for a stage of one's own.

    Args:
        class_path: the name.
        where: what named it, for messages.
    """
    import tstar.stages as stages

    known = {n: k for n in stages.__all__ if isinstance(k := getattr(stages, n), type) and issubclass(k, stages.Stage)}
    name = str(class_path).removeprefix("tstar.stages.")
    if name in known:
        return known[name]
    module, _, attribute = str(class_path).rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        raise ConfigError(f"{where}: unknown stage '{class_path}'{suggest(str(class_path), known)}") from None
    if not (isinstance(found, type) and issubclass(found, stages.Stage)):
        raise ConfigError(f"{where}: {class_path} is not a Stage")
    return found


def model_key(checkpoint: Path, changed: dict[str, Any] | None = None) -> str:
    """What stored answers of a checkpoint are known by: its digest, and that of its settings where they were changed."""
    from tstar.data.files import file_digest

    key = file_digest(checkpoint)[:16]
    return key if changed is None else f"{key}-{settings_key(changed)}"  # its answers are not the checkpoint's as it is


def settings_key(settings: dict[str, Any]) -> str:
    """Settings as 8 hex digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def deciding(recipe: dict[str, Any]) -> dict[str, Any]:
    """What of a recipe decides how its checkpoint answers, beside how it looks at the videos."""
    return {
        "model": copy.deepcopy(recipe["model"]),
        "precision": precision_of(recipe),
        "matmul_precision": matmul_precision_of(recipe),
    }


def precision_of(recipe: dict[str, Any]) -> str:
    """The trainer's precision, as Lightning names it."""
    return str((recipe.get("trainer") or {}).get("precision") or "32-true")


def matmul_precision_of(recipe: dict[str, Any]) -> str:
    """How exactly float32 matrices are multiplied, see :func:`tstar.nn.precision.matmul_precision`."""
    return str((recipe.get("run") or {}).get("matmul_precision", "highest"))


@dataclass(frozen=True)
class Restored:
    """A model out of a checkpoint."""

    stage: "Stage"
    """On its device, in eval mode."""
    recipe: dict[str, Any]
    """What the checkpoint's recipe says, with paths that lead somewhere from here."""
    path: Path
    key: str
    """See :func:`model_key`."""

    @property
    def evaluation(self) -> dict[str, Any]:
        """Settings of the recipe's own evaluation."""
        return dict(self.recipe.get("evaluation") or {})

    @property
    def precision(self) -> str:
        """The trainer's, as Lightning names it."""
        return precision_of(self.recipe)

    @property
    def matmul_precision(self) -> str:
        """How exactly float32 matrices are multiplied, see :func:`tstar.nn.precision.matmul_precision`."""
        return matmul_precision_of(self.recipe)


def restore(path: Path, device: "torch.device | str" = "cpu", option: str = "--ckpt") -> Restored:
    """Build the model of a checkpoint and load it, as ``tstar validate`` does, without a trainer.

    Args:
        path: a checkpoint, or the folder of a stage or run.
        device: where the model answers.
        option: what the path was given by, for messages.

    Raises:
        DataError: the checkpoint is missing or damaged, or a part that it names is.
        ConfigError: the parts are not those that it was trained with.
    """
    import torch
    from jsonargparse import ArgumentError, ArgumentParser

    from tstar.stages import Stage
    from tstar.stages.base import check_checkpoint
    from tstar.stages.checkpoint_io import load_checkpoint

    path = find_checkpoint(path, option)
    checkpoint = load_checkpoint(path)
    theirs = check_checkpoint(checkpoint)
    recipe = copy.deepcopy(theirs["recipe"])
    find_moved(recipe)
    model = copy.deepcopy(recipe["model"])
    drop_held(model, path)
    name = model["class_path"]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Stage, "model")
    try:
        config = parser.parse_object(
            {"model": {**model, "class_path": name if "." in name else f"tstar.stages.{name}"}}
        )
    except ArgumentError as error:
        raise ConfigError(f"{path}: its recipe cannot be read ({' '.join(str(error).split())[:300]})") from error
    stage: Stage = parser.instantiate_classes(config).model
    stage.check_frozen(theirs["frozen"])
    stage.load_state_dict(checkpoint["state_dict"])
    stage.recipe = recipe
    restored = Restored(stage, recipe, path, model_key(path))
    if restored.precision in HALVES:
        stage.to(getattr(torch, HALVES[restored.precision]))
    stage.to(device).eval()
    return restored
