"""Files that say what is profiled together: groups of recipes, compressors and frames, as configs/profiles/figure4.yaml."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tstar.cli.recipe import Recipe, read_recipe
from tstar.cli.yaml_files import check_mapping, load_yaml
from tstar.errors import ConfigError, suggest

TOP = ("title", "frames", "compressors", "groups")
GROUP = (
    "title",
    "config",
    "over",
    "frames",
    "compressors",
    "protocol",
    "parts",
    "precision",
    "random_weights",
    "videos",
)
PROTOCOLS = ("paper", "parts", "both")


@dataclass(frozen=True)
class Wanted:
    """A group: one recipe with one or several compressors."""

    name: str
    title: str
    recipe: Recipe
    compressors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name and options of each by its label; none: the recipe's own."""
    frames: tuple[int, ...] = ()
    protocol: str | None = None
    parts: tuple[str, ...] = ()
    precision: str | None = None
    random_weights: bool = False
    videos: str | None = None
    """Folder of videos that are decoded within the clock."""
    checkpoint: Path | None = None
    """Trained weights of the recipe's last stage."""


def read_preset(path: Path, settings: list[tuple[str, str]]) -> tuple[str, list[Wanted]]:
    """Title and groups of a file.

    Args:
        path: of the file; recipes and videos are looked for from its folder.
        settings: ``--key value`` settings, laid over every recipe.

    Raises:
        ConfigError: a key or value that cannot be.
    """
    data, lines = load_yaml(path)
    check_mapping(data, TOP, str(path), wanted=("title", "groups"))
    groups = []
    for name, group in data["groups"].items():
        place = lines.get(f"groups.{name}", str(path))
        check_mapping(group, GROUP, place, wanted=("title", "config"))
        recipe = read_recipe(
            [path.parent / file for file in group["config"]], settings, over=[(group.get("over") or {}, place)]
        )
        if group.get("protocol", "both") not in PROTOCOLS:
            raise ConfigError(f"{place}: unknown protocol '{group['protocol']}'{suggest(group['protocol'], PROTOCOLS)}")
        compressors = group.get("compressors", data.get("compressors")) or {}
        for label, spec in compressors.items():
            if not isinstance(spec, dict) or "name" not in spec:
                raise ConfigError(f"{place}: compressor '{label}' must be a mapping with a name, got {spec!r}")
        frames = group.get("frames", data.get("frames", ()))
        if not all(isinstance(count, int) for count in frames):
            raise ConfigError(f"{place}: frames must be whole numbers, got {frames!r}")
        videos = group.get("videos")
        if videos is not None and not isinstance(videos, str):
            raise ConfigError(f"{place}: videos must be a folder, got {videos!r}")
        groups.append(
            Wanted(
                name=name,
                title=group["title"],
                recipe=recipe,
                compressors=compressors,
                frames=tuple(frames),
                protocol=group.get("protocol"),
                parts=tuple(group.get("parts", ())),
                precision=group.get("precision"),
                random_weights=bool(group.get("random_weights", False)),
                videos=None if videos is None else os.path.normpath(path.parent / videos),
            )
        )
    return data["title"], groups
