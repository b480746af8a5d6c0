"""What is asked of a plan, and a stage of a recipe ready to be measured."""

from dataclasses import dataclass
from typing import Any

import torch

from tstar.errors import ConfigError, suggest
from tstar.language import LanguageConfig
from tstar.language.lora import LoraSettings, adapters_of
from tstar.reports.plan_memory import STRATEGIES, Precision, Spread, get_precision, get_strategy, strategy_name
from tstar.reports.plan_parts import Parts, Workshop
from tstar.stages import OptimizerConfig, Stage
from tstar.stages.optimizers import check_whole_matrices
from tstar.vision import VisionConfig

DEFAULT_BATCH = 8
"""data.batch_size where it is left out, as in :class:`tstar.data.datamodule.ClipDataModule`."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the plan is about, beside the recipe."""

    frames: tuple[int, ...] = ()
    """Frames of clips that are asked about; empty: 1 and the recipe's evaluation.max_frames."""
    training_frames: int | None = None
    """Frames of a training clip in place of what the shards or the published protocol say."""
    devices: int | None = None
    """In place of the recipe's."""
    strategy: str | None = None
    """Of :data:`tstar.reports.plan_memory.STRATEGIES`, in place of the recipe's."""
    device_memory_gib: float | None = None
    """Memory of one device."""
    tokens: int | None = None
    """Most visual tokens of a clip."""
    text_tokens: int = 256
    """Tokens of a prompt beside the visual ones."""
    answer_tokens: int = 32
    """Tokens of an answer."""
    samples: int | None = None
    """Of an epoch, where neither shards nor a published size say it."""

    def __post_init__(self) -> None:
        names = ("training_frames", "devices", "tokens", "text_tokens", "answer_tokens", "samples")
        for option, value in [("frames", n) for n in self.frames] + [(name, getattr(self, name)) for name in names]:
            if value is not None and value < 1:
                raise ConfigError(f"--{option.replace('_', '-')} must be at least 1, got {value}")
        if self.device_memory_gib is not None and not self.device_memory_gib > 0:
            raise ConfigError(f"--device-memory-gib must be above 0, got {self.device_memory_gib:g}")
        if self.strategy is not None and self.strategy not in STRATEGIES:
            raise ConfigError(f"--strategy: unknown strategy '{self.strategy}'{suggest(self.strategy, STRATEGIES)}")


@dataclass(frozen=True)
class Setup:
    """A stage of a recipe, ready to be measured."""

    name: str
    kind: type[Stage]
    config: dict[str, Any]
    spec: dict[str, Any]
    """Name, preset and options of the compressor."""
    parts: Parts
    precision: Precision
    strategy: str
    devices: int
    batch: int
    """Samples of a micro-batch of one device."""
    accumulate: int
    max_length: int
    optimizer: OptimizerConfig
    dtypes: dict[str, Any]
    vision: VisionConfig
    language: LanguageConfig
    lora: LoraSettings | None

    @property
    def global_batch(self) -> int:
        return self.batch * self.devices * self.accumulate

    @property
    def stored_features(self) -> bool:
        """Frames are encoded once, before the first step."""
        return bool((self.config.get("data") or {}).get("features"))

    @property
    def spread(self) -> Spread:
        """How a step is spread over devices."""
        return Spread.of(self.strategy, self.devices, self.config.get("trainer") or {})

    @property
    def devices_unknown(self) -> bool:
        """The recipe takes what devices there are."""
        return takes_all(self.config.get("trainer") or {})


def read_setup(name: str, kind: type[Stage], config: dict[str, Any], asked: Asked, workshop: Workshop) -> Setup:
    """A stage's settings and model.

    Args:
        name: of the stage in its recipe.
        kind: its class.
        config: its resolved settings.
        asked: options.
        workshop: what builds the model.

    Raises:
        ConfigError: settings that cannot be planned, or that training would refuse together.
    """
    arguments, trainer = config["model"].get("init_args") or {}, config.get("trainer") or {}
    lora = adapters_of(arguments["language"])
    language = {key: value for key, value in arguments["language"].items() if key != "lora"}
    precision, strategy = get_precision(trainer.get("precision")), get_strategy(asked.strategy, trainer)
    optimizer = OptimizerConfig(**(arguments.get("optimizer") or {}))
    if strategy != "ddp":
        check_whole_matrices(optimizer, asked.strategy or strategy_name(trainer))
    vision, spoken = VisionConfig(**arguments["vision"]), LanguageConfig(**language)
    spec = kind.compressor_settings(arguments.get("compressor") or {})
    cast = precision.cast(strategy)
    dtypes = {"encoder": cast, "compressor": cast, "language": cast or getattr(torch, spoken.dtype)}
    return Setup(
        name=name,
        kind=kind,
        config=config,
        spec=spec,
        parts=workshop.parts(vision, spoken, spec, lora, dtypes),
        precision=precision,
        strategy=strategy,
        devices=asked.devices or processes(trainer),
        batch=(config.get("data") or {}).get("batch_size", DEFAULT_BATCH),
        accumulate=trainer.get("accumulate_grad_batches") or 1,
        max_length=arguments.get("max_length", 4096),
        optimizer=optimizer,
        dtypes=dtypes,
        vision=vision,
        language=spoken,
        lora=lora,
    )


def processes(trainer: dict[str, Any], found: int = 1) -> int:
    """How many processes a trainer's settings ask for.

    Args:
        trainer: the settings.
        found: devices there are, for a trainer that takes all.
    """
    given = trainer.get("devices", 1)
    if isinstance(given, list):
        count = len(given)
    elif takes_all(trainer):
        count = found
    else:
        numbers = [number for number in str(given).split(",") if number.strip()]
        count = len(numbers) if "," in str(given) else int(given)
    return max(count, 1) * int(trainer.get("num_nodes") or 1)


def takes_all(trainer: dict[str, Any]) -> bool:
    """Whether a trainer takes what devices there are."""
    return trainer.get("devices") in ("auto", -1, "-1")


def weight_types(setup: Setup) -> dict[str, str]:
    """Types of weights, gradients and moments, for people."""
    half = str(setup.precision.half).removeprefix("torch.")
    if setup.strategy.startswith("zero"):
        kind = half if setup.precision.half is not None else "float32"
        return {"weights": kind, "gradients": kind, "optimizer": "float32: a copy of the weights and two moments"}
    names = {name: str(dtype or torch.float32).removeprefix("torch.") for name, dtype in setup.dtypes.items()}
    weights = ", ".join(f"{name} {kind}" for name, kind in names.items())
    cast = f"; operations in {half}" if setup.precision.autocast(setup.strategy) is not None else ""
    return {"weights": weights + cast, "gradients": "as their weights", "optimizer": "as their weights"}
