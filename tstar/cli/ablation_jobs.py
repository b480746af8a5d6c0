"""What a table's models are on disk: who is trained together, the commands of each, and whether what is there is still wanted."""

import copy
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tstar.cli.ablation_file import AblationModel
from tstar.cli.recipe import Recipe
from tstar.data.files import damage_named, json_object
from tstar.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tstar.reports.job_queue import Job

SHOWN = 4
"""Changed settings that a message names."""
TAKEN = "taken_from.json"
"""In a run's folder: the report whose records it is, without its weights."""


@dataclass(frozen=True)
class Group:
    """Models that are one and the same at this scale, and so are trained once, under the name of the first."""

    models: tuple[AblationModel, ...]

    @property
    def name(self) -> str:
        return self.models[0].name

    @property
    def frames(self) -> list[int]:
        """At which the model is evaluated; the first by the recipe's own evaluation."""
        return list(dict.fromkeys(budget.frames for model in self.models for budget in model.budgets))

    def recipe(self, seed: int) -> Recipe:
        """The recipe of one seed."""
        recipe = copy.deepcopy(self.models[0].recipe)
        for config in recipe.stages.values():
            config["seed_everything"] = seed
            config["data"] = {**(config.get("data") or {}), "seed": seed}
        recipe.evaluation["max_frames"] = self.frames[0]
        return recipe


@dataclass(frozen=True)
class Training:
    """One seed of a group, in a run's folder of its own."""

    group: Group
    seed: int
    folder: Path
    """Of the table."""

    @property
    def name(self) -> str:
        return f"{self.group.name}-{self.seed}"

    @property
    def path(self) -> Path:
        return self.folder / "models" / self.name

    @property
    def taken(self) -> bool:
        """Whether these are a report's records, finished when they were taken, without checkpoints."""
        return (self.path / TAKEN).is_file()

    def job(self) -> "Job":
        """Training and the first row's evaluation, then one evaluation for each other row."""
        from tstar.reports.job_queue import Job, Step

        first, *others = self.group.frames
        steps = [Step("fit", self._fit, partial(self.finished, first))]
        steps += [
            Step(f"{count} frames", partial(self._again, count), partial(self.finished, count)) for count in others
        ]
        return Job(self.name, tuple(steps))

    def _fit(self) -> list[str]:
        check_unchanged(self)  # another call may have begun it meanwhile
        self._check_weights(self.group.frames[0])
        recipe = write_recipe(self.group, self.folder)
        words = ["fit", "--config", str(recipe), "--runs", str(self.path.parent), "--name", self.name]
        words += ["--seed_everything", str(self.seed), "--data.seed", str(self.seed)]
        words += ["--evaluation.max_frames", str(self.group.frames[0])]
        return [*_tstar(), *words, *(["--ckpt"] if (self.path / "config.yaml").is_file() else [])]

    def _again(self, frames: int) -> list[str]:
        from tstar.cli.validate import NOT_IN_TAGS

        self._check_weights(frames)
        evaluation = self.group.recipe(self.seed).evaluation
        moved = [
            (key, json.dumps(evaluation[key])) for key in NOT_IN_TAGS if key in evaluation
        ]  # not as when it was trained
        settings = [word for key, value in moved for word in (f"--evaluation.{key}", value)]
        words = ["validate", "--ckpt", str(self.path), "--max-frames", str(frames), "--no-baselines", *settings]
        return [*_tstar(), *words]

    def _check_weights(self, frames: int) -> None:
        """ConfigError for records, which cannot answer what they lack."""
        if self.taken:
            raise ConfigError(
                f"{self.path} was taken from a report's records, which bring no weights, and has no answers at {frames} frames; "
                "delete it to train the model here"
            )

    def finished(self, frames: int) -> bool:
        """Whether the finished model has answered everything with so many frames; DataError if a file of it is damaged."""
        with damage_named(self.path):
            return self._finished(frames)

    def _finished(self, frames: int) -> bool:
        from tstar.cli.validate import evaluation_tag
        from tstar.evaluation.settings import EvaluationConfig
        from tstar.stages.checkpoint_io import read_manifest

        recipe = self.group.recipe(self.seed)
        standard = wanted = EvaluationConfig(**recipe.evaluation)
        if frames != standard.max_frames:
            wanted = replace(standard, max_frames=frames, baselines=False)
        place = self.path / "eval" / evaluation_tag(standard, wanted, None)
        record = _if_whole(place / "evaluation.json")
        last = self.path / f"{len(recipe.stages)}-{list(recipe.stages)[-1]}"
        trained = (read_manifest(last / "checkpoints").get("last.ckpt") or {}).get("sha256", "")[:16]
        if self.taken:  # without checkpoints: all answers must be of the model that answered at the first row's frames
            trained = _if_whole(self.path / "eval" / "evaluation.json").get("model", "")
        return (
            (last / "done.json").is_file()
            and bool(wanted.benchmarks)
            and record.get("model") == trained
            and not _differences(_asked(record.get("settings") or {}), _asked(asdict(wanted)))
            and all((place / f"{suite}.{mode}.json").is_file() for suite in wanted.benchmarks for mode in wanted.modes)
        )


def groups(models: Sequence[AblationModel]) -> list[Group]:
    """The models, those of equal settings together, in the order of the table."""
    from tstar.cli.run_folder import config_digest, global_batch

    found: dict[str, list[AblationModel]] = {}
    for model in models:
        recipe = model.recipe
        stages = [[name, config_digest(config), global_batch(config)] for name, config in recipe.stages.items()]
        text = json.dumps([stages, _asked({**recipe.evaluation, "max_frames": 1})], sort_keys=True)
        found.setdefault(hashlib.sha256(text.encode()).hexdigest(), []).append(model)
    return [Group(tuple(own)) for own in found.values()]


def write_recipe(group: Group, folder: Path) -> Path:
    """The resolved recipe as a file that ``tstar fit`` can be given too."""
    from tstar.stages.checkpoint_io import write_atomically

    path = folder / "recipes" / f"{group.name}.yaml"
    text = yaml.safe_dump(group.models[0].recipe.as_yaml(), sort_keys=False)
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    return path


def check_unchanged(training: Training) -> None:
    """ConfigError if what there is of a model was trained, or asked, with other settings than are wanted now."""
    found = changes(training)
    if found:
        raise ConfigError(
            f"{training.path} was made with other settings: {told(found)}; restore them, choose another --runs, "
            "or delete that folder to train the model again"
        )


def changes(training: Training) -> list[str]:
    """What is no longer as it was for the stages that have begun, and for a finished model's answers: a phrase a setting.

    Raises:
        DataError: a file of the run is damaged.
    """
    with damage_named(training.path):
        return _changes(training)


def _changes(training: Training) -> list[str]:
    from tstar.cli.run_folder import config_digest, decisive, global_batch

    path = training.path / "config.yaml"
    if not path.is_file():
        return []
    try:
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
        stages = dict(before["stages"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return [f"{path} is no resolved recipe"]
    recipe, found = training.group.recipe(training.seed), []
    for number, (name, config) in enumerate(recipe.stages.items(), 1):
        folder = training.path / f"{number}-{name}"
        done = _if_whole(folder / "done.json")
        if not done and not list(folder.glob("checkpoints/*.ckpt")):
            continue
        own = _differences(decisive(stages.get(name) or {}), decisive(config))
        samples = done.get("global_batch") or global_batch(stages.get(name) or {})
        if samples != global_batch(config):
            own.append(f"samples a step {samples}, now {global_batch(config)}")
        if not own and "global_batch" in done and done.get("config_sha256") != config_digest(config):
            own.append("done.json is of others")
        found += [f"stage {name}, {phrase}" for phrase in own]
    last = training.path / f"{len(recipe.stages)}-{list(recipe.stages)[-1]}"
    if training.taken or (last / "checkpoints" / "last.ckpt").is_file():
        asked = _differences(_asked(before.get("evaluation") or {}), _asked(recipe.evaluation))
        found += [f"evaluation.{phrase}" for phrase in asked]
    return found


def told(found: Sequence[str]) -> str:
    """The first few phrases."""
    more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


def _asked(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the answers of an evaluation, settings that are not given by their defaults."""
    from tstar.cli.validate import NOT_IN_TAGS
    from tstar.evaluation.settings import EvaluationConfig

    standard = asdict(EvaluationConfig())
    values = {key: evaluation.get(key, value) for key, value in standard.items()}
    for key in (*NOT_IN_TAGS, "validation_items"):
        values.pop(key)
    return {**values, "suites": sorted(evaluation.get("benchmarks") or {})}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    one, other = _flat(before), _flat(now)
    keys = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
    return [f"{key} {_word(one, key)}, now {_word(other, key)}" for key in keys]


def _flat(settings: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        where = f"{path}.{key}" if path else str(key)
        found |= _flat(value, where) if isinstance(value, dict) and value else {where: value}
    return found


def _word(settings: Mapping[str, Any], key: str) -> str:
    return str(settings[key]) if key in settings else "not set"


def _if_whole(path: Path) -> dict[str, Any]:
    """A JSON object; {} also where it is damaged, for then what it would say is not finished."""
    try:
        return json_object(path)
    except DataError:
        return {}


def _tstar() -> list[str]:
    return [sys.executable, "-m", "tstar.cli.main"]
