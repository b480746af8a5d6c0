"""YAML read strictly: a key given twice is an error, and every value knows the file and line it came from."""

import copy
import functools
import re
from pathlib import Path
from typing import Any

import yaml

from tstar.errors import ConfigError, suggest

Lines = dict[str, str]
"""Dotted key to "file:line"."""


class _Loader(yaml.SafeLoader):
    """Safe loading that also reads ``1e-4`` as a number, as everybody means it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def load_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """A YAML mapping and where each of its keys stands.

    Raises:
        ConfigError: missing file, bad YAML, a key given twice, or no mapping at the top; file and line are named.
    """
    if not path.is_file():
        raise ConfigError(f"no such config file: {path}")
    try:
        data, lines = _parsed(path, path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{place}: not valid YAML ({getattr(error, 'problem', None) or error})") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config must be a mapping of settings, found {type(data).__name__}")
    return copy.deepcopy(data), dict(lines)


@functools.lru_cache(maxsize=64)  # every model of a table lies over the same files
def _parsed(path: Path, text: str) -> tuple[Any, Lines]:
    """What a file with this text holds, and where its keys stand. Not to be changed: it is given out again."""
    loader = _Loader(text)
    node = loader.get_single_node()
    lines: Lines = {}
    if node is not None:
        _check(node, path, "", lines)
    return {} if node is None else loader.construct_document(node), lines


def parse_value(text: str) -> Any:
    """A value given on the command line, read as YAML reads it."""
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot read the value {text!r} ({getattr(error, 'problem', error)})") from error


def check_mapping(value: Any, known: tuple[str, ...], place: str, wanted: tuple[str, ...]) -> None:
    """Refuse what is no mapping, has other keys than the known ones, or lacks a wanted one; ``place`` is its file and line."""
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: expected a mapping of settings, got {value!r}")
    for key in value:
        if key not in known:
            raise ConfigError(f"{place}: unknown key '{key}'{suggest(str(key), known)}")
    for key in wanted:
        if key not in value:
            raise ConfigError(f"{place}: '{key}' is missing")


def check_value(right: bool, place: str, key: str, wanted: str, got: Any) -> None:
    """ConfigError unless a value is right; the message says where it stands, what is wanted, and what was found."""
    if not right:
        raise ConfigError(f"{place}: {key} must be {wanted}, got {got!r}")


def is_texts(value: Any) -> bool:
    """Whether it is a list of texts."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def is_count(value: Any, least: int = 1) -> bool:
    """Whether it is a whole number, at least so large."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """Whether it is a number, whole or not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check(node: yaml.Node, path: Path, prefix: str, lines: Lines) -> None:
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _check(item, path, f"{prefix}.{number}", lines)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        name = str(key.value)
        if name in seen:
            raise ConfigError(f"{path}:{line}: '{name}' is given twice (first in line {seen[name]}); keep one")
        seen[name] = line
        dotted = f"{prefix}.{name}" if prefix else name
        lines[dotted] = f"{path}:{line}"
        _check(value, path, dotted, lines)
