"""A run's folder: what is in it, what is finished, and where to go on.

``runs/<name>/<k>-<stage>/`` holds checkpoints, metrics and the exported weights of each stage; predictions, reports and the run
card lie beside them.
"""

import copy
import hashlib
import json
import os
import platform
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from tstar.cli.parser import typed_command
from tstar.cli.recipe import Recipe
from tstar.data.files import file_digest
from tstar.errors import ConfigError, DataError
from tstar.reports.plan_setup import DEFAULT_BATCH, processes
from tstar.stages.checkpoint_io import newest_verified, write_atomically

PACKAGES = (
    "tstar",
    "torch",
    "lightning",
    "transformers",
    "open_clip_torch",
    "jsonargparse",
    "webdataset",
    "decord",
    "av",
)
TRAINED_BY = ("seed_everything", "model", "data", "trainer")
"""Sections that decide what a stage trains; the others may change on a resume."""
UNDECIDED = (
    *(f"data.{name}" for name in ("features", "features_dtype", "cache_dir", "cache_gb")),
    *(f"data.{name}" for name in ("batch_size", "num_workers", "prefetch")),
    *(f"trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy", "accumulate_grad_batches")),
    *(f"model.init_args.{part}.gradient_checkpointing" for part in ("language", "compressor")),
)
"""Settings in these sections that decide where things are kept and how the work is spread, and not what is trained; they may change
too, as long as the samples of a step stay."""


@dataclass(frozen=True)
class StageFolder:
    """One stage's part of a run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The checkpoint written when the stage is complete."""
        return self.checkpoints / "last.ckpt"

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    def done(self) -> dict[str, Any] | None:
        """The completion record, if the stage is complete and its weights are what the record says."""
        path = self.path / "done.json"
        if not path.is_file():
            return None
        record = json.loads(path.read_text())
        if not self.weights.is_file() or file_digest(self.weights) != record["weights_sha256"]:
            raise DataError(
                f"{self.weights} is not what {path} says it should be; delete {path} to train the stage again"
            )
        return record

    def finish(self, config: dict[str, Any], **more: Any) -> None:
        """Mark the stage as complete."""
        record = {"config_sha256": config_digest(config), "global_batch": global_batch(config), **more}
        write_atomically(self.path / "done.json", json.dumps(record, indent=1))


class RunFolder:
    """The folder of one run of a recipe."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self.recipe = path, recipe
        self.stages = {name: StageFolder(path / f"{k}-{name}") for k, name in enumerate(recipe.stages, 1)}

    def open(self, *, resume: bool, overwrite: bool, wanted: Path | None = None) -> None:
        """Prepare for a start; refuses to touch an existing run unless told what to do with it, and before touching it."""
        if resume:
            self._check_resume(wanted)
        elif self.path.exists() and any(not path.match("config.*") for path in self.path.iterdir()):
            if not overwrite:
                raise ConfigError(
                    f"{self.path} holds a run already; go on with it by --ckpt, start over by --overwrite, "
                    "or choose another --name"
                )
            if not (self.path / "config.yaml").is_file():
                raise ConfigError(
                    f"--overwrite: {self.path} does not look like a run (no config.yaml); delete it yourself"
                )
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._record_start()

    def _check_resume(self, wanted: Path | None) -> None:
        config = self.path / "config.yaml"
        if not config.is_file():
            raise ConfigError(f"--ckpt: there is no run in {self.path} to go on with; leave --ckpt out to start one")
        theirs = list(yaml.safe_load(config.read_text())["stages"])
        if theirs != list(self.stages):
            raise ConfigError(
                f"--ckpt: the run in {self.path} has the stages {', '.join(theirs)}, this recipe {', '.join(self.stages)}; "
                "give the recipe it was started with"
            )
        for name, stage in self.stages.items():
            done = self.check_done(name)
            if wanted is not None and wanted.resolve().parent == stage.checkpoints.resolve() and done:
                raise ConfigError(f"--ckpt: stage {name} is finished, there is nothing to go on with from {wanted}")
        if wanted is not None and not any(
            wanted.resolve().parent == s.checkpoints.resolve() for s in self.stages.values()
        ):
            raise ConfigError(
                f"--ckpt: {wanted} belongs to no stage of this recipe ({', '.join(self.stages)}); "
                "to start from another run's weights use model.init_args.init_from"
            )

    def _record_start(self) -> None:
        text = yaml.safe_dump(self.recipe.as_yaml(), sort_keys=False)
        starts = len(list(self.path.glob("config.*.yaml")))
        write_atomically(self.path / "config.yaml", text)  # first: by it a run is known, and gone on with
        write_atomically(self.path / f"config.{starts + 1}.yaml", text)
        self.event("start", command=typed_command(), pid=os.getpid())

    def event(self, what: str, **more: Any) -> None:
        """Append a line to ``events.jsonl``: starts, stops, and why."""
        with (self.path / "events.jsonl").open("a") as stream:
            stream.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": what, **more}) + "\n")

    def check_done(self, name: str) -> dict[str, Any] | None:
        """The completion record of a stage; refuses one that was trained under other settings."""
        record = self.stages[name].done()
        if record and record["config_sha256"] != config_digest(self.recipe.stages[name]):
            raise ConfigError(
                f"stage {name} of {self.path} was finished with other settings (see config.1.yaml there); "
                "restore them, choose another --name, or start over by --overwrite"
            )
        if record and record["global_batch"] != (samples := global_batch(self.recipe.stages[name])):
            raise ConfigError(
                f"stage {name} of {self.path} was finished with {record['global_batch']} samples a step, here it has {samples}; "
                "keep data.batch_size x trainer.devices x trainer.accumulate_grad_batches, or choose another --name"
            )
        if record and record["init_from"] != self.origins(name):
            raise ConfigError(
                f"stage {name} of {self.path} started from other weights than its init_from now holds; "
                f"delete {self.stages[name].path / 'done.json'} and its checkpoints to train it again"
            )
        return record

    def origins(self, name: str) -> dict[str, str]:
        """Hash of the weights file that each part of a stage starts from."""
        config = self.resolve_init(self.recipe.stages[name])
        sources = config["model"]["init_args"]["init_from"] or {}
        return {part: file_digest(Path(source)) for part, source in sources.items() if Path(source).is_file()}

    def resume_from(self, name: str, wanted: Path | None) -> tuple[Path | None, list[str]]:
        """The checkpoint an unfinished stage goes on from, and sentences about newer ones that cannot be used."""
        folder = self.stages[name].checkpoints
        if wanted is not None and wanted.resolve().parent == folder.resolve():
            return wanted, []
        of_others = next((path for path in folder.glob("*.ckpt") if path.is_dir()), None)
        if of_others is not None:
            raise ConfigError(
                f"{of_others} is a folder that DeepSpeed wrote, from which stage {name} cannot go on; "
                f"delete {self.stages[name].path} to train the stage again"
            )
        return newest_verified(folder)

    def resolve_init(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config with stage names in ``init_from`` replaced by the weights files they left."""
        arguments = config["model"].get("init_args") or {}
        sources = dict(arguments.get("init_from") or {})
        for part, source in sources.items():
            if source in self.stages:
                sources[part] = str(self.stages[source].weights)
        return {**config, "model": {**config["model"], "init_args": {**arguments, "init_from": sources or None}}}

    def write_card(self, facts: dict[str, Any]) -> None:
        """``run_card.json``: what ran, with which versions, from and to which files."""
        card = {
            "name": self.recipe.name,
            "stages": {name: folder.done() for name, folder in self.stages.items()},
            "packages": package_versions(),
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            **facts,
        }
        write_atomically(self.path / "run_card.json", json.dumps(card, indent=1))


def locate_run(ckpt: Path) -> tuple[Path, Path | None]:
    """What ``--ckpt PATH`` means: a run's folder, and the checkpoint file if it names one."""
    if ckpt.is_file():
        return ckpt.resolve().parent.parent.parent, ckpt
    if (ckpt / "checkpoints").is_dir():
        return ckpt.resolve().parent, None
    if (ckpt / "config.yaml").is_file():
        return ckpt, None
    raise DataError(f"--ckpt: {ckpt} is neither a checkpoint nor a run's folder")


def decisive(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide a stage's training, but for the samples of a step."""
    found = copy.deepcopy({key: config.get(key) for key in TRAINED_BY})
    for setting in UNDECIDED:
        *sections, name = setting.split(".")
        inner: Any = found
        for section in sections:
            inner = (inner or {}).get(section)
        if inner:
            inner.pop(name, None)
    return found


def config_digest(config: dict[str, Any]) -> str:
    """Hash of what decides a stage's training, but for the samples of a step."""
    return hashlib.sha256(json.dumps(decisive(config), sort_keys=True).encode()).hexdigest()


def global_batch(config: dict[str, Any]) -> int:
    """Samples of an optimizer step of a stage; where it takes all devices, with those of this machine."""
    trainer = {"devices": "auto", **(config.get("trainer") or {})}
    on_gpus = (trainer.get("accelerator") or "auto") in ("auto", "gpu", "cuda")
    count = processes(trainer, torch.cuda.device_count() if on_gpus else 1)
    batch: int = (config.get("data") or {}).get("batch_size", DEFAULT_BATCH)
    return batch * count * (trainer.get("accumulate_grad_batches") or 1)


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide numbers."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
