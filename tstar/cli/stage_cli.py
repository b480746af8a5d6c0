"""One resolved stage config to live objects, through Lightning's own command-line machinery."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from tstar.cli.quiet import quiet_libraries
from tstar.data.datamodule import ClipDataModule
from tstar.errors import ConfigError, TstarError
from tstar.stages import Stage
from tstar.stages.checkpoint_io import VerifiedCheckpointIO

MODEL_TO_DATA = ("model", "data.processor")
"""The one link between rooms: the stage knows its tokenizer, template and image size, the data need them."""


class StageCLI(LightningCLI):
    """Types are checked and objects built by jsonargparse; files and the command line were merged before."""

    datamodule: ClipDataModule | None

    def __init__(self, config: dict[str, Any], *, loggers: Sequence[Logger], callbacks: Sequence[Callback], bar: bool):
        self._loggers, self._bar, self._has_data = list(loggers), bar, "data" in config
        try:
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
        except (ArgumentError, ValueError, TypeError) as error:
            own = _own_error(error)
            if own is not None:
                raise own from None
            if isinstance(error, ArgumentError):
                raise ConfigError(_reason(error)) from error
            raise

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Carry the processor from model to data once both exist."""
        if self._has_data:
            source, target = MODEL_TO_DATA
            parser.link_arguments(source, target, compute_fn=lambda stage: stage.processor(), apply_on="instantiate")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer with our loggers and safe checkpoints beside what the config asks for."""
        own = self._get(self.config_init, "trainer")
        asked = own.get("logger")
        extra = asked if isinstance(asked, list) else [] if asked in (None, True, False) else [asked]
        plugins = own.get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        return super().instantiate_trainer(
            logger=[*self._loggers, *extra],
            plugins=[*plugins, VerifiedCheckpointIO()],
            enable_progress_bar=self._bar,
            enable_model_summary=False,
            **kwargs,
        )


def _own_error(error: BaseException | None) -> TstarError | None:
    """What one of our classes said when it was built, under what jsonargparse wrapped round it."""
    while error is not None and not isinstance(error, TstarError):
        error = error.__cause__
    return error


def _reason(error: Exception) -> str:
    """jsonargparse's message in one line."""
    text = " ".join(str(error).split())
    return text.removeprefix("Parser key ").removeprefix("error: ")[:600]


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
    sections: dict[str, Any] = {
        key: config[key] for key in ("model", "data", "trainer", "seed_everything") if key in config
    }
    model = {**sections["model"]}
    if not model["class_path"].count("."):
        model["class_path"] = f"tstar.stages.{model['class_path']}"
    trainer = {"default_root_dir": str(folder), **(sections.get("trainer") or {})}
    return StageCLI({**sections, "model": model, "trainer": trainer}, loggers=loggers, callbacks=callbacks, bar=bar)
