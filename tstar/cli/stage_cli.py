"""One resolved stage config to live objects, through Lightning's own command-line machinery."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tstar.cli.quiet import quiet_libraries
from tstar.cli.recipe import Recipe, RunConfig
from tstar.compressors import compressor_options
from tstar.data.datamodule import ClipDataModule
from tstar.errors import ConfigError, TstarError
from tstar.evaluation.settings import EvaluationConfig
from tstar.reports.plan_memory import PRECISIONS, precision_name
from tstar.stages import FullySharded, Stage
from tstar.stages.checkpoint_io import VerifiedCheckpointIO

MODEL_TO_DATA = ("model", "data.processor")
"""The one link between rooms: the stage knows its tokenizer, template and image size, the data need them."""


class StageCLI(LightningCLI):
    """Types are checked and objects built by jsonargparse; files and the command line were merged before."""

    datamodule: ClipDataModule | None

    def __init__(
        self,
        config: dict[str, Any],
        *,
        loggers: Sequence[Logger] = (),
        callbacks: Sequence[Callback] = (),
        bar: bool = False,
        types_only: bool = False,
    ) -> None:
        self._loggers, self._bar, self._has_data, self._types_only = list(loggers), bar, "data" in config, types_only
        with lightning_mistakes():
            super().__init__(
                model_class=Stage,
                datamodule_class=ClipDataModule if self._has_data else None,
                subclass_mode_model=True,
                args=config,
                run=False,
                save_config_callback=None,
                seed_everything_default=0,
                trainer_defaults={"callbacks": list(callbacks)},
                parser_kwargs={"exit_on_error": False},
                auto_configure_optimizers=False,
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The sections that are ours, for their types; and the processor from model to data once both exist."""
        parser.add_class_arguments(RunConfig, "run", instantiate=False)
        parser.add_class_arguments(EvaluationConfig, "evaluation", instantiate=False)
        if self._has_data:
            source, target = MODEL_TO_DATA
            parser.link_arguments(source, target, compute_fn=lambda stage: stage.processor(), apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Nothing, where only the types are wanted."""
        if not self._types_only:
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer with our loggers and safe checkpoints beside what the config asks for."""
        own = self._get(self.config_init, "trainer")
        asked = own.get("logger")
        extra = asked if isinstance(asked, list) else [] if asked in (None, True, False) else [asked]
        if own.get("enable_progress_bar") is not None:
            self._bar = own["enable_progress_bar"]
        plugins = own.get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if isinstance(own.get("strategy"), FullySharded) and precision_name(own.get("precision")) == "16-mixed":
            # Lightning refuses these two by their names; torch's scaler has processes agree on what overflows in their slices
            plugins, kwargs = [*plugins, MixedPrecision("16-mixed", "cuda")], {**kwargs, "precision": None}
        return super().instantiate_trainer(
            logger=[*self._loggers, *extra],
            plugins=[*plugins, VerifiedCheckpointIO()],
            enable_progress_bar=self._bar,
            enable_model_summary=bool(own.get("enable_model_summary")),
            **kwargs,
        )


@contextmanager
def lightning_mistakes() -> Iterator[None]:
    """A user's mistake that jsonargparse or Lightning find, as one of our errors; what is none of these passes."""
    try:
        yield
    except (ArgumentError, MisconfigurationException, ValueError, TypeError) as error:
        own = _own_error(error)
        if own is not None:
            raise own from None
        if isinstance(error, (ArgumentError, MisconfigurationException)) or "val_check_interval" in str(error):
            raise ConfigError(_reason(error)) from error
        raise


def check_types(recipe: Recipe) -> None:
    """Every stage's settings against the types of what they set, and our own sections against their limits."""
    quiet_libraries()
    for config in recipe.stages.values():
        try:
            StageCLI(_sections({**config, "evaluation": recipe.evaluation}), types_only=True)
        except ConfigError as error:
            key = re.match(r"([\w.]+):", str(error))
            place = recipe.where(key[1]) if key else ""
            raise ConfigError(f"{place}: {error}" if place else str(error)) from error
        RunConfig(**(config.get("run") or {}))
        check_strategy(config)
        spec = (config["model"].get("init_args") or {}).get("compressor") or {}
        if "name" in spec:
            compressor_options(spec["name"], spec.get("preset", "paper"))
        if (config.get("trainer") or {}).get("fast_dev_run"):
            raise ConfigError(
                "trainer.fast_dev_run would mark stages as complete that are not; use data.limit for a trial"
            )
    EvaluationConfig(**recipe.evaluation)


def check_strategy(config: dict[str, Any]) -> None:
    """Refuse a strategy whose package is not there, or that cannot work in the precision, before anything is built."""
    trainer = config.get("trainer") or {}
    strategy = trainer.get("strategy")
    name = str(strategy.get("class_path") if isinstance(strategy, dict) else strategy)
    if "deepspeed" in name.lower() and find_spec("deepspeed") is None:
        raise ConfigError(
            f"trainer.strategy {name.rpartition('.')[2]} needs the package deepspeed, which is not installed: "
            "pip install 'tstar[cuda]', or use configs/trainer/fsdp.yaml, which needs none"
        )
    if name.rpartition(".")[2] == FullySharded.__name__:
        _check_sliced(trainer)


def _check_sliced(trainer: dict[str, Any]) -> None:
    """Refuse a precision that slices cannot have."""
    precision, accelerator = precision_name(trainer.get("precision")), trainer.get("accelerator") or "auto"
    if precision not in PRECISIONS:
        raise ConfigError(
            f"trainer.precision {precision} cannot be had with trainer.strategy FullySharded; "
            f"choose one of {', '.join(PRECISIONS)}"
        )
    on_gpu = torch.cuda.is_available() if accelerator == "auto" else accelerator in ("gpu", "cuda")
    if precision == "16-mixed" and not on_gpu:
        raise ConfigError(
            "trainer.precision 16-mixed with trainer.strategy FullySharded wants GPUs; set trainer.precision to bf16-mixed "
            "where there are none"
        )


def _sections(config: dict[str, Any]) -> dict[str, Any]:
    """What the parser of a stage knows, the stage's class under its full name."""
    known = ("model", "data", "trainer", "seed_everything", "run", "evaluation")
    sections = {key: config[key] for key in known if config.get(key) is not None}
    if "data" in sections:
        sections["data"] = {"seed": sections.get("seed_everything", 0), **sections["data"]}
    name = sections["model"]["class_path"]
    sections["model"] = {**sections["model"], "class_path": name if "." in name else f"tstar.stages.{name}"}
    return sections


def _own_error(error: BaseException | None) -> TstarError | None:
    """What one of our classes said when it was built, under what jsonargparse wrapped round it."""
    while error is not None and not isinstance(error, TstarError):
        error = error.__cause__
    return error


def _reason(error: Exception) -> str:
    """jsonargparse's or Lightning's message in one line: the key, what was expected, what was given."""
    text = " ".join(str(error).split())
    key = re.match(r'(?:Parser key )?"([\w.]+)":', text)
    expected = dict.fromkeys(re.findall(r"Expected a <class '([\w.]+)'>", text))
    given = re.search(r"(?:Given value|Got value): (.*)$", text)
    if key and expected and given:
        kinds = " or ".join("null" if kind == "NoneType" else kind for kind in expected)
        return f"{key[1]}: expected {kinds}, got {given[1]:.100}"
    return re.sub(r'^(?:Parser key )?"([\w.]+)":', r"\1:", text)[:400]


def build_stage(
    config: dict[str, Any],
    folder: Path,
    *,
    loggers: Sequence[Logger] = (),
    callbacks: Sequence[Callback] = (),
    bar: bool = False,
) -> StageCLI:
    """Model, data and trainer of a stage; they are ``.model``, ``.datamodule`` and ``.trainer`` of what is returned."""
    quiet_libraries()
    sections = _sections(config)
    sections["trainer"] = {"default_root_dir": str(folder), **sections.get("trainer", {})}
    return StageCLI(sections, loggers=loggers, callbacks=callbacks, bar=bar)
