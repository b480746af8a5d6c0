"""Files that describe a table of the paper: which models are trained, and with how many frames each is evaluated.

A model's settings at the published scale and in the miniature are laid over a recipe and a scale file, so that each is an
ordinary recipe that ``tstar fit`` could be given.
"""

from dataclasses import dataclass, field
from pathlib import Path

from tstar.cli.recipe import Recipe, read_recipe
from tstar.cli.yaml_files import check_mapping, load_yaml
from tstar.errors import ConfigError, suggest

TOP = ("title", "recipe", "scale", "seeds", "paper_files", "miniature_files", "common", "orderings", "grid", "models")
MODEL = ("label", "category", "text", "recipe", "paper_files", "grid", "paper", "miniature", "rows")
ROW = ("paper", "miniature")
PUBLISHED = ("tokens", "published")
"""What a row that the paper has says of it."""


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


def read_ablation(path: Path, scale: str = "miniature") -> Ablation:
    """Read a table's file at one scale.

    Args:
        path: as configs/ablations/table1.yaml.
        scale: "miniature"; "paper", which is the file's own published scale; or a name in configs/scale, as "paper_7b".

    Raises:
        ConfigError: a key or value that cannot be, or an unknown scale.
    """
    data, lines = load_yaml(path)
    check_mapping(data, TOP, str(path), wanted=("title", "recipe", "scale", "models"))
    scale = data["scale"] if scale == "paper" else scale
    files = {file.stem: file for file in (path.parent.parent / "scale").glob("*.yaml")}
    if scale not in files:
        raise ConfigError(f"unknown scale '{scale}'{suggest(scale, ['paper', *files])}")
    side = "paper" if scale.startswith("paper") else "miniature"
    models = []
    for name, model in data["models"].items():
        place = lines.get(f"models.{name}", str(path))
        check_mapping(model, MODEL, place, wanted=("label", "category", "paper", "miniature", "rows"))
        for row in model["rows"]:
            check_mapping(row, (*ROW, *PUBLISHED), place, wanted=ROW)
        extra = (*data.get(f"{side}_files", ()), *(model.get("paper_files", ()) if side == "paper" else ()))
        own = [path.parent / file for file in extra]
        recipe = read_recipe(
            [path.parent / model.get("recipe", data["recipe"]), files[scale], *own],
            [],
            f"{path.stem}-{name}",
            over=[((data.get("common") or {}).get(side) or {}, place), (model[side] or {}, place)],
        )
        budgets = tuple(
            Budget(row[side], row["paper"], row.get("tokens"), row.get("published") or {}) for row in model["rows"]
        )
        place_in_grid = tuple(model["grid"]) if "grid" in model else None
        named = (name, model["label"], model["category"], model.get("text", ""))
        models.append(AblationModel(*named, recipe, budgets, place_in_grid))
    orderings = tuple((said, tuple(claims)) for said, claims in (data.get("orderings") or {}).items())
    return Ablation(
        data["title"], scale, tuple(data.get("seeds", (0,))), orderings, tuple(data.get("grid", ())), tuple(models)
    )
