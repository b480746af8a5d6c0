"""Files that describe a table of the paper: which models are trained, and with how many frames each is evaluated.

A model's settings at the published scale and in the miniature are laid over a recipe and a scale file, so that each is an
ordinary recipe that ``tstar fit`` could be given.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tstar.cli.recipe import Recipe, read_recipe
from tstar.cli.yaml_files import load_yaml
from tstar.errors import ConfigError, suggest

TOP = ("title", "recipe", "scale", "seeds", "paper_files", "common", "models")
MODEL = ("label", "category", "text", "recipe", "paper_files", "paper", "miniature", "rows")
ROW = ("paper", "miniature", "tokens")


@dataclass(frozen=True)
class Budget:
    """One row of a model."""

    frames: int
    """Most frames of a video when it is evaluated."""
    published_tokens: int
    """Visual tokens of the row in the paper, at its scale."""


@dataclass(frozen=True)
class AblationModel:
    """What is trained once for one or more rows."""

    name: str
    label: str
    category: str
    text: str
    recipe: Recipe
    budgets: tuple[Budget, ...]


@dataclass(frozen=True)
class Ablation:
    """One table."""

    title: str
    scale: str
    seeds: tuple[int, ...]
    models: tuple[AblationModel, ...]


def read_ablation(path: Path, scale: str = "miniature") -> Ablation:
    """Read a table's file at one scale.

    Args:
        path: as configs/ablations/table1.yaml.
        scale: "miniature"; "paper", which is the file's own published scale; or a name in configs/scale, as "paper_7b".

    Raises:
        ConfigError: a key or value that cannot be, or an unknown scale.
    """
    data, lines = load_yaml(path)
    _check(data, TOP, str(path), wanted=("title", "recipe", "scale", "models"))
    scale = data["scale"] if scale == "paper" else scale
    files = {file.stem: file for file in (path.parent.parent / "scale").glob("*.yaml")}
    if scale not in files:
        raise ConfigError(f"unknown scale '{scale}'{suggest(scale, ['paper', *files])}")
    side = "paper" if scale.startswith("paper") else "miniature"
    models = []
    for name, model in data["models"].items():
        place = lines.get(f"models.{name}", str(path))
        _check(model, MODEL, place, wanted=("label", "category", "paper", "miniature", "rows"))
        for row in model["rows"]:
            _check(row, ROW, place, wanted=ROW)
        own = [path.parent / file for file in (*data.get("paper_files", ()), *model.get("paper_files", ()))]
        recipe = read_recipe(
            [path.parent / model.get("recipe", data["recipe"]), files[scale], *(own if side == "paper" else ())],
            [],
            f"{path.stem}-{name}",
            over=[((data.get("common") or {}).get(side) or {}, place), (model[side] or {}, place)],
        )
        budgets = tuple(Budget(row[side], row["tokens"]) for row in model["rows"])
        models.append(AblationModel(name, model["label"], model["category"], model.get("text", ""), recipe, budgets))
    return Ablation(data["title"], scale, tuple(data.get("seeds", (0,))), tuple(models))


def _check(value: Any, known: tuple[str, ...], place: str, wanted: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: expected a mapping of settings, got {value!r}")
    for key in value:
        if key not in known:
            raise ConfigError(f"{place}: unknown key '{key}'{suggest(str(key), known)}")
    for key in wanted:
        if key not in value:
            raise ConfigError(f"{place}: '{key}' is missing")
