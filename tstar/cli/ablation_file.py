"""Files that describe a table of the paper: which models are trained, and with how many frames each is evaluated.

A model's settings at the published scale and in the miniature are laid over a recipe and a scale file, so that each is an
ordinary recipe that ``tstar fit`` could be given.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tstar.cli.recipe import Recipe, read_recipe
from tstar.cli.yaml_files import Lines, check_mapping, check_value, is_count, is_number, is_texts, load_yaml
from tstar.errors import ConfigError, suggest

OF_PAPER = ("orderings", "margin", "equal", "average_of", "note")
"""What a file says of the published numbers."""
TOP = ("title", "recipe", "scale", "seeds", "paper_files", "miniature_files", "common", *OF_PAPER, "grid", "models")
MODEL = ("label", "category", "text", "recipe", "paper_files", "grid", "paper", "miniature", "rows")
SIDES = ("paper", "miniature")
TEXTS = ("label", "category", "text")
"""What a table prints of a model: one text, or one for each side."""
PUBLISHED = ("tokens", "published")
"""What a row that the paper has says of it."""
OWN = {
    "seed_everything": "seeds are given as --seeds 0,1",
    "data.seed": "seeds are given as --seeds 0,1",
    "evaluation.max_frames": "the table's file says at how many frames each of its rows is evaluated",
    "name": "every model's run is named after the model and its seed; --runs gives another folder",
}
"""Settings that a table gives its models itself."""
_NAME = re.compile(r"\w[\w.-]*")
"""Of a model: it is the name of a folder, and orderings call rows by it."""


@dataclass(frozen=True)
class Budget:
    """One row of a model."""

    frames: int
    """Most frames of a video when it is evaluated."""
    paper_frames: int
    """The same at the published scale, by which orderings name the row."""
    published_tokens: int | None = None
    """Visual tokens of the row in the paper, at its scale; None for a row that the paper lacks."""
    published: dict[str, float] = field(default_factory=dict)
    """The paper's numbers by column, as printed."""


@dataclass(frozen=True)
class AblationModel:
    """What is trained once for one or more rows."""

    name: str
    label: str
    category: str
    text: str
    recipe: Recipe
    """Resolved, with the command's settings."""
    budgets: tuple[Budget, ...]
    grid: tuple[int, int] | None = None
    """Its place in a table that is a grid of two settings."""


@dataclass(frozen=True)
class Ablation:
    """One table."""

    title: str
    scale: str
    seeds: tuple[int, ...]
    orderings: tuple[tuple[str, tuple[str, ...]], ...]
    """What the paper's rows say of one another: a sentence, and the comparisons it stands for."""
    grid: tuple[str, ...]
    """Names of the two settings of a grid; () for an ordinary table."""
    models: tuple[AblationModel, ...]
    margin: float = 1.0
    """Points within which rows count as alike."""
    equal: tuple[str, str] | None = None
    """Two rows whose models compute the same function, so that their gap is chance in training."""
    average_of: tuple[str, ...] = ()
    """Published columns that the published average is over."""
    note: str = ""
    """On the published numbers."""


def read_ablation(path: Path, scale: str = "miniature", settings: Sequence[tuple[str, str]] = ()) -> Ablation:
    """Read a table's file at one scale.

    Args:
        path: as configs/ablations/table1.yaml.
        scale: "miniature"; "paper", which is the file's own published scale; or a name in configs/scale, as "paper_7b".
        settings: ``--key value`` settings, laid over every model's recipe.

    Raises:
        ConfigError: a key or value that cannot be, or an unknown scale.
    """
    from tstar.reports.ablation_orderings import check_orderings

    check_settings(settings)
    data, lines = load_yaml(path)
    check_mapping(data, TOP, str(path), wanted=("title", "recipe", "scale", "models"))
    _check_top(data, path, lines)
    scale = data["scale"] if scale == "paper" else scale
    files = {file.stem: file for file in (path.parent.parent / "scale").glob("*.yaml")}
    if scale not in files:
        raise ConfigError(f"unknown scale '{scale}'{suggest(scale, ['paper', *files])}")
    side = "paper" if scale.startswith("paper") else "miniature"
    models = []
    for name, model in data["models"].items():
        place = lines.get(f"models.{name}", str(path))
        _check_model(name, model, place)
        extra = (*data.get(f"{side}_files", ()), *(model.get("paper_files", ()) if side == "paper" else ()))
        own = [path.parent / file for file in extra]
        recipe = read_recipe(
            [path.parent / model.get("recipe", data["recipe"]), files[scale], *own],
            list(settings),
            f"{path.stem}-{name}",
            over=[((data.get("common") or {}).get(side) or {}, place), (model[side] or {}, place)],
        )
        budgets = tuple(
            Budget(row[side], row["paper"], row.get("tokens"), row.get("published") or {}) for row in model["rows"]
        )
        place_in_grid = tuple(model["grid"]) if "grid" in model else None
        texts = {key: _sided(model.get(key, ""), side) for key in TEXTS}
        models.append(AblationModel(name=name, **texts, recipe=recipe, budgets=budgets, grid=place_in_grid))
    orderings = tuple((said, tuple(claims)) for said, claims in (data.get("orderings") or {}).items())
    names = [f"{model.name}@{budget.paper_frames}" for model in models for budget in model.budgets]
    equal = tuple(data["equal"]) if "equal" in data else None
    alike = [("equal", [" ~ ".join(equal)])] if equal else []
    check_orderings([*orderings, *alike], names)
    return Ablation(
        title=data["title"],
        scale=scale,
        seeds=tuple(data.get("seeds", (0,))),
        orderings=orderings,
        grid=tuple(data.get("grid", ())),
        models=tuple(models),
        margin=float(data.get("margin", 1.0)),
        equal=equal,
        average_of=tuple(data.get("average_of", ())),
        note=data.get("note", ""),
    )


def check_settings(settings: Sequence[tuple[str, str]]) -> None:
    """ConfigError for a setting that the table gives its models itself."""
    for key, _ in settings:
        parts = key.split(".")
        inner = ".".join(parts[2:] if parts[0] in ("stages", "per_stage") else parts)
        if inner in OWN:
            raise ConfigError(f"--{key} cannot be set for a table: {OWN[inner]}")


def check_seeds(seeds: Sequence[int], place: str) -> None:
    """ConfigError unless every seed is given once."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"{place}: seeds must be different numbers, at least one, got {list(seeds)}")


def _check_top(data: dict[str, Any], path: Path, lines: Lines) -> None:
    """Types of what a file says of the whole table."""

    def place(key: str) -> str:
        return lines.get(key, str(path))

    for key in ("title", "recipe", "scale", "note"):
        check_value(isinstance(data.get(key, ""), str), place(key), key, "text", data.get(key))
    for key in ("paper_files", "miniature_files", "average_of", "grid", "equal"):
        check_value(is_texts(data.get(key, [])), place(key), key, "a list of words", data.get(key))
    check_value(
        len(data.get("grid", [])) in (0, 2), place("grid"), "grid", "the names of two settings", data.get("grid")
    )
    check_value(len(data.get("equal", [1, 2])) == 2, place("equal"), "equal", "two rows", data.get("equal"))
    margin = data.get("margin", 1)
    check_value(is_number(margin) and margin >= 0, place("margin"), "margin", "a number of points, 0 or more", margin)
    seeds = data.get("seeds", [0])
    check_value(
        isinstance(seeds, list) and all(is_count(s, 0) for s in seeds), place("seeds"), "seeds", "a list", seeds
    )
    check_seeds(seeds, place("seeds"))
    check_mapping(data.get("common") or {}, SIDES, place("common"), wanted=())
    for key in ("models", "orderings"):
        value = data.get(key) or {}
        check_value(isinstance(value, dict), place(key), key, "a mapping", value)
    check_value(bool(data["models"]), place("models"), "models", "at least one", data["models"])
    for said, claims in (data.get("orderings") or {}).items():
        what = "a sentence and a list of comparisons"
        check_value(
            isinstance(said, str) and is_texts(claims) and bool(claims), place("orderings"), "orderings", what, claims
        )


def _check_model(name: Any, model: Any, place: str) -> None:
    """Types of what a file says of one model."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{place}: a model's name must be of letters, digits, '_', '-' and '.', and not begin with '.' or '-', got {name!r}"
        )
    check_mapping(model, MODEL, place, wanted=("label", "category", "paper", "miniature", "rows"))
    for key in TEXTS:
        value = model.get(key, "")
        if isinstance(value, dict):
            check_mapping(value, SIDES, f"{place}: {key}", wanted=SIDES)
        right = all(isinstance(_sided(value, side), str) for side in SIDES)
        check_value(right, place, key, "text, or {paper: text, miniature: text}", value)
    check_value(isinstance(model.get("recipe", ""), str), place, "recipe", "a file", model.get("recipe"))
    check_value(
        is_texts(model.get("paper_files", [])), place, "paper_files", "a list of files", model.get("paper_files")
    )
    for side in SIDES:
        check_value(isinstance(model[side] or {}, dict), place, side, "a mapping of settings", model[side])
    grid = model.get("grid", [1, 1])
    two = isinstance(grid, list) and len(grid) == 2 and all(is_count(value) for value in grid)
    check_value(two, place, "grid", "two numbers", grid)
    rows = model["rows"]
    check_value(isinstance(rows, list) and bool(rows), place, "rows", "a list of at least one row", rows)
    for row in rows:
        check_mapping(row, (*SIDES, *PUBLISHED), place, wanted=SIDES)
        for key in SIDES:
            check_value(is_count(row[key]), place, f"rows, {key}", "a number of frames, at least 1", row[key])
        check_value(is_count(row.get("tokens", 1)), place, "rows, tokens", "a number, at least 1", row.get("tokens"))
        numbers = row.get("published") or {}
        right = isinstance(numbers, dict) and all(is_number(value) for value in numbers.values())
        check_value(right, place, "rows, published", "numbers by column", numbers)
    for side in SIDES:
        frames = [row[side] for row in rows]
        check_value(len(set(frames)) == len(frames), place, f"rows, {side}", "different numbers of frames", frames)


def _sided(value: Any, side: str) -> Any:
    return value[side] if isinstance(value, dict) else value
