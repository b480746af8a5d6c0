"""Recipes: YAML files and command-line settings laid over one another, resolved to one config a stage.

A file has common sections (``model``, ``data``, ``trainer``, ``run``, ``seed_everything``), ``evaluation``, and stages in the
order they run. ``per_stage`` gives settings for stages by name if the recipe has them, without adding any: that is how one
scale file serves several recipes. ``include`` lists files that lie under this one. Later layers win as a whole: within a layer
common settings come first, then ``per_stage``, then ``stages``.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from tstar.cli.yaml_files import Lines, load_yaml, parse_value
from tstar.errors import ConfigError, suggest
from tstar.evaluation.checkpoints import find_stage as stage_class

COMMON = ("seed_everything", "model", "data", "trainer", "run")
MAPPINGS = ("model", "data", "trainer", "run", "evaluation", "per_stage", "stages")
TOP = ("name", "include", "evaluation", "per_stage", "stages", *COMMON)
OF_A_LANGUAGE_MODEL = ("dtype", "tokenizer", "pickled_weights", "lora")
"""Settings that go with ``language.path``. A layer that names another path and its template describes another model, and drops
what it does not repeat of these; a path alone is the same model in another place."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a run is watched and kept."""

    checkpoint_every_n_steps: int = 200
    """Steps between checkpoints to resume from."""
    progress_every_n_steps: int = 50
    """Steps between progress lines where there is no terminal."""
    max_bad_fraction: float = 0.01
    """Training stops when a larger share of the samples is damaged."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """How exactly float32 matrices are multiplied, in torch's names; lower is faster where the hardware can do it."""
    compile: bool = False
    """Compile the language model's layers (torch.compile) when they are first used; pays for long trainings on a GPU."""
    peak_tflops: float | None = None
    """What one device can do at most, 10^12 FLOP/s, for the share of it that is used; left out, what known GPUs can in bf16."""

    def __post_init__(self) -> None:
        if self.checkpoint_every_n_steps < 1:
            raise ConfigError(f"run.checkpoint_every_n_steps must be at least 1, got {self.checkpoint_every_n_steps}")
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            raise ConfigError(f"run.peak_tflops must be above 0, got {self.peak_tflops}")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ConfigError(f"run.max_bad_fraction must be 0 to 1, got {self.max_bad_fraction}")
        if self.matmul_precision not in (names := ("highest", "high", "medium")):
            raise ConfigError(f"run.matmul_precision must be one of {', '.join(names)}, got {self.matmul_precision}")


@dataclass
class Recipe:
    """What runs: one config a stage, in order."""

    name: str
    stages: dict[str, dict[str, Any]]
    evaluation: dict[str, Any]
    lines: Lines = field(default_factory=dict)
    """Where settings were given, by dotted key without the stage."""
    warnings: list[str] = field(default_factory=list)

    def where(self, key: str) -> str:
        """File and line of a setting, "command line", or "" if it was not given."""
        return next((self.lines[k] for k in (key, *_parents(key)) if k in self.lines), "")

    def as_yaml(self) -> dict[str, Any]:
        """The resolved recipe; running it repeats this one."""
        return {"name": self.name, "evaluation": self.evaluation, "stages": self.stages}


def read_recipe(
    files: list[Path],
    settings: list[tuple[str, str]],
    name: str | None = None,
    over: Sequence[tuple[dict[str, Any], str]] = (),
) -> Recipe:
    """Resolve files, left to right, and ``--key value`` settings, which win over all of them.

    Args:
        files: YAML files, the recipe first.
        settings: key and value as text.
        name: of the run; default the recipe's.
        over: what is laid over the files, in a file's form, and where it was read.

    Raises:
        ConfigError: a file or key that cannot be; the message names file and line.
    """
    layers = [layer for path in files for layer in _layers(path, ())]
    lines: Lines = {}
    for data, own in layers:
        for key, place in own.items():
            parts = key.split(".")
            lines[".".join(parts[2:]) if parts[0] in ("stages", "per_stage") and len(parts) > 2 else key] = place
        _check_top(data, own)
    for data, place in over:
        if "include" in data:
            raise ConfigError(f"{place}: 'include' belongs into a file of its own")
        _check_top(data, dict.fromkeys(data, place))
        layers.append((data, {}))
    names = list(dict.fromkeys(stage for data, _ in layers for stage in data.get("stages") or {}))
    if not names:
        raise ConfigError(
            f"no stages in {', '.join(map(str, files))}; start from a recipe such as stages/two_stage.yaml"
        )
    layers.append((_settings_layer(settings, names, lines), {}))
    warnings: list[str] = []
    stages: dict[str, dict[str, Any]] = {}
    evaluation: dict[str, Any] = {}
    for data, _ in layers:
        merge(evaluation, data.get("evaluation") or {}, "evaluation", warnings.append)
    for stage in names:
        config = stages.setdefault(stage, {})
        for data, _ in layers:
            merge(config, {key: data[key] for key in COMMON if key in data}, "", warnings.append)
            for section in ("per_stage", "stages"):
                merge(config, (data.get(section) or {}).get(stage) or {}, "", warnings.append)
    given = name or next((data["name"] for data, _ in reversed(layers) if "name" in data), files[0].stem)
    recipe = Recipe(str(given), stages, evaluation, lines, list(dict.fromkeys(warnings)))
    check_keys(recipe)
    return recipe


def apply_settings(config: dict[str, Any], settings: list[tuple[str, str]]) -> list[str]:
    """Lay ``--key value`` settings on the config of one stage, in place; returns the warnings."""
    warnings: list[str] = []
    for key, _ in settings:
        if key.split(".")[0] not in (*COMMON, "evaluation"):
            raise ConfigError(f"--{key}: a checkpoint's recipe has the sections {', '.join(COMMON)} and evaluation")
    layer = _settings_layer(settings, [], {})
    merge(config, layer, "", warnings.append)
    check_keys(Recipe("", {"": {k: config[k] for k in COMMON if k in config}}, config.get("evaluation") or {}))
    return warnings


def _layers(path: Path, above: tuple[Path, ...]) -> Iterator[tuple[dict[str, Any], Lines]]:
    if path in above:
        raise ConfigError(f"{path} includes itself ({' -> '.join(map(str, (*above, path)))})")
    data, lines = load_yaml(path)
    included = data.pop("include", None) or []
    if not isinstance(included, list):
        raise ConfigError(f"{lines['include']}: 'include' must be a list of files, got {included!r}")
    for other in included:
        yield from _layers(path.parent / other, (*above, path))
    yield data, lines


def _check_top(data: dict[str, Any], lines: Lines) -> None:
    for key, value in data.items():
        place = lines.get(key, "command line")
        if key not in TOP:
            raise ConfigError(f"{place}: unknown section '{key}'{suggest(key, TOP)}")
        if key in MAPPINGS:
            _check_mapping(value, key, place)
        if key in ("stages", "per_stage"):
            for stage, config in (value or {}).items():
                _check_mapping(config, f"{key}.{stage}", lines.get(f"{key}.{stage}", place))
                for section, inner in (config or {}).items():
                    spot = lines.get(f"{key}.{stage}.{section}", place)
                    if section not in COMMON:
                        raise ConfigError(f"{spot}: unknown section '{section}' of a stage{suggest(section, COMMON)}")
                    if section in MAPPINGS:
                        _check_mapping(inner, f"{key}.{stage}.{section}", spot)


def _check_mapping(value: Any, name: str, place: str) -> None:
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{place}: '{name}' must be a mapping of settings, got {value!r}")


def _settings_layer(settings: list[tuple[str, str]], stages: list[str], lines: Lines) -> dict[str, Any]:
    layer: dict[str, Any] = {}
    for key, text in settings:
        parts = key.split(".")
        if parts[0] not in TOP or parts[0] == "include":
            raise ConfigError(f"unknown option --{key}{suggest(parts[0], TOP)}")
        if parts[0] in ("stages", "per_stage") and len(parts) > 1 and parts[1] not in stages:
            raise ConfigError(f"--{key}: the recipe has no stage '{parts[1]}'{suggest(parts[1], stages)}")
        target = layer
        for part in parts[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--{key}: '{part}' was given a value already")
        target[parts[-1]] = parse_value(text)
        lines[".".join(parts[2:]) if parts[0] == "stages" else key] = "command line"
    _check_top(layer, {})
    return layer


def merge(base: dict[str, Any], over: dict[str, Any], path: str, warn: Callable[[str], None]) -> None:
    """Lay ``over`` on ``base`` in place. ``key+`` appends to a list, an empty mapping clears.

    Choosing another class, compressor or language model drops the settings that only the one before has, with a warning that
    names them.
    """
    _drop_foreign(base, over, path, warn)
    for key, value in over.items():
        where = f"{path}.{key}" if path else key
        if key.endswith("+"):
            name = key[:-1]
            if not isinstance(value, list) or not isinstance(base.get(name, []), list):
                raise ConfigError(f"{where} appends to a list, got {value!r}")
            base[name] = [*base.get(name, []), *copy.deepcopy(value)]
        elif isinstance(value, dict) and value and isinstance(base.get(key), dict):
            merge(base[key], value, where, warn)
        else:
            base[key] = copy.deepcopy(value)


def _drop_foreign(base: dict[str, Any], over: dict[str, Any], path: str, warn: Callable[[str], None]) -> None:
    if path.endswith("compressor") and _another(base, over, "name"):
        from tstar.compressors import shared_options

        kept = {"name", "preset", *shared_options(base["name"], over["name"]), *over}
        _drop(base, [key for key in base if key not in kept], f"{path}: with {over['name']} the settings", warn)
    if path.endswith("language") and _another(base, over, "path") and "template" in over:
        foreign = [key for key in OF_A_LANGUAGE_MODEL if key in base and key not in over]
        _drop(base, foreign, f"{path}: with {over['path']} the settings", warn)
    if _another(base, over, "class_path"):
        kind: Any = stage_class(over["class_path"], path) if path == "model" else None
        known = {name for name, _ in _parameters(kind)} if kind else set()
        dropped = [k for k in base.get("init_args") or {} if k not in known]
        for key in dropped:
            del base["init_args"][key]
        if dropped:
            warn(f"{path}: {over['class_path']} does not take {', '.join(dropped)}; dropped")


def _another(base: dict[str, Any], over: dict[str, Any], key: str) -> bool:
    return key in over and base.get(key) not in (None, over[key])


def _drop(base: dict[str, Any], keys: list[str], what: str, warn: Callable[[str], None]) -> None:
    for key in keys:
        del base[key]
    if keys:
        warn(f"{what} {', '.join(keys)} of the one before do not apply and were dropped")


def check_keys(recipe: Recipe) -> None:
    """Refuse every key that nothing reads, with its file, line and the nearest known one."""
    from lightning.pytorch import Trainer

    from tstar.data.datamodule import ClipDataModule
    from tstar.evaluation.settings import EvaluationConfig

    _check_fields(recipe.evaluation, EvaluationConfig, "evaluation", recipe)
    benchmarks = recipe.evaluation.get("benchmarks")
    _check_mapping(benchmarks, "evaluation.benchmarks", recipe.where("evaluation.benchmarks"))
    for config in recipe.stages.values():
        model = config.get("model") or {}
        for key in model:
            if key not in ("class_path", "init_args"):
                _unknown(key, ("class_path", "init_args"), "model", recipe)
        if "class_path" not in model:
            raise ConfigError("model.class_path is missing: name the stage, as in Align or VideoSFT")
        kind = stage_class(model["class_path"], recipe.where("model.class_path"))
        arguments = model.get("init_args") or {}
        _check_fields(arguments, kind, "model.init_args", recipe)
        for key in ("init_from", "compressor"):
            if key in arguments:
                _check_mapping(arguments[key], f"model.init_args.{key}", recipe.where(f"model.init_args.{key}"))
        _check_fields(config.get("data") or {}, ClipDataModule, "data", recipe)
        _check_fields(config.get("trainer") or {}, Trainer, "trainer", recipe)
        _check_fields(config.get("run") or {}, RunConfig, "run", recipe)
        if "processor" in (config.get("data") or {}):
            place = recipe.where("data.processor")
            raise ConfigError(f"{place}: data.processor comes from the model and cannot be set; remove it")


def _check_fields(values: Any, kind: type, path: str, recipe: Recipe) -> None:
    if not isinstance(values, dict):
        raise ConfigError(f"{recipe.where(path)}: {path} must be a mapping of settings, got {values!r}")
    known = dict(_parameters(kind))
    for key, value in values.items():
        if key not in known:
            _unknown(key, known, path, recipe)
        inner = known[key]
        if isinstance(inner, type) and is_dataclass(inner) and isinstance(value, dict):
            _check_fields(value, inner, f"{path}.{key}", recipe)


def _unknown(key: str, known: Any, path: str, recipe: Recipe) -> None:
    place = recipe.where(f"{path}.{key}")
    raise ConfigError(f"{place + ': ' if place else ''}unknown key '{path}.{key}'{suggest(key, known)}")


@functools.cache  # of a table's models every stage asks for the same few classes
def _parameters(kind: type) -> tuple[tuple[str, Any], ...]:
    """Settings a class takes, with their types."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return tuple((f.name, hints[f.name]) for f in fields(kind))
    hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    names = [n for n in inspect.signature(kind.__init__).parameters if n not in ("self", "kwargs", "args")]  # type: ignore[misc]
    return tuple((n, next((a for a in get_args(hints.get(n)) if is_dataclass(a)), hints.get(n))) for n in names)


def _parents(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:i]) for i in range(len(parts) - 1, 0, -1)]
