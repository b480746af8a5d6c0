"""Files that say what is profiled together: groups of recipes, compressors and frames, as configs/profiles/figure4.yaml."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tstar.cli.profile_options import PRECISIONS, PROTOCOLS
from tstar.cli.recipe import Recipe, read_recipe
from tstar.cli.yaml_files import Lines, check_mapping, check_value, is_count, is_texts, load_yaml
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
    _check_top(data, path, lines)
    groups = []
    for name, group in data["groups"].items():
        place = lines.get(f"groups.{name}", str(path))
        check_mapping(group, GROUP, place, wanted=("title", "config"))
        _check_group(name, group, place)
        recipe = read_recipe(
            [path.parent / file for file in group["config"]], settings, over=[(group.get("over") or {}, place)]
        )
        videos = group.get("videos")
        groups.append(
            Wanted(
                name=name,
                title=group["title"],
                recipe=recipe,
                compressors=group.get("compressors", data.get("compressors")) or {},
                frames=tuple(group.get("frames", data.get("frames", ()))),
                protocol=group.get("protocol"),
                parts=tuple(group.get("parts", ())),
                precision=group.get("precision"),
                random_weights=group.get("random_weights", False),
                videos=None if videos is None else os.path.normpath(path.parent / videos),
            )
        )
    return data["title"], groups


def _check_top(data: dict[str, Any], path: Path, lines: Lines) -> None:
    """Types of what a file says of all groups."""

    def place(key: str) -> str:
        return lines.get(key, str(path))

    groups = data["groups"]
    check_value(isinstance(data["title"], str), place("title"), "title", "text", data["title"])
    check_value(isinstance(groups, dict) and bool(groups), place("groups"), "groups", "a mapping, at least one", groups)
    for key in ("frames", "compressors"):
        _check_shared(key, data, place(key))


def _check_group(name: Any, group: dict[str, Any], place: str) -> None:
    """Types of what a file says of one group."""
    check_value(isinstance(name, str), place, "a group's name", "text", name)
    check_value(isinstance(group["title"], str), place, "title", "text", group["title"])
    config = group["config"]
    check_value(is_texts(config) and bool(config), place, "config", "a list of files, at least one", config)
    check_value(isinstance(group.get("over") or {}, dict), place, "over", "a mapping of settings", group.get("over"))
    check_value(is_texts(group.get("parts", [])), place, "parts", "a list of words", group.get("parts"))
    for key, known in (("protocol", PROTOCOLS), ("precision", PRECISIONS)):
        value = group.get(key, known[0])
        if value not in known:
            raise ConfigError(f"{place}: unknown {key} '{value}'{suggest(str(value), known)}")
    random = group.get("random_weights", False)
    check_value(isinstance(random, bool), place, "random_weights", "true or false", random)
    check_value(isinstance(group.get("videos") or "", str), place, "videos", "a folder", group.get("videos"))
    for key in ("frames", "compressors"):
        _check_shared(key, group, place)


def _check_shared(key: str, given: Mapping[str, Any], place: str) -> None:
    """The type of what a group has for itself or from the top of its file."""
    value = given.get(key)
    if key == "frames":
        right = key not in given or (isinstance(value, list) and bool(value) and all(is_count(n) for n in value))
        check_value(right, place, key, "a list of numbers, each at least 1", value)
        return
    check_value(isinstance(value or {}, dict), place, key, "a mapping of a name and options to each label", value)
    for label, spec in (value or {}).items():
        if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
            raise ConfigError(f"{place}: compressor '{label}' must be a mapping with a name, got {spec!r}")
