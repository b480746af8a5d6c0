"""Bytes of weights, gradients and optimiser states on one device, and what a training step needs at most.

What is held, by strategy on n devices:

- ``ddp``: everything on every device. Gradients and Adam's two moments have their weight's type; mixed precision keeps fp32 weights
  and casts as it goes. With n > 1, DistributedDataParallel's buckets are a second copy of the gradients, unless they view them.
- ``fsdp`` (FSDP2, a layer of the language model a unit, the compressor another): weights, gradients and moments as with ddp, each
  device an n-th, but the encoder whole; and gathered, in the weights' own types, what is in no layer, and the compressor or, if
  that is more, two layers and a layer's gradients. With ``reshard_after_forward: false`` the compressor and all layers are, until
  their gradients are there, and a layer's gradients.
- ``zero2`` (DeepSpeed): in half precision, mixed or not, all weights are half, and so are gradients; the optimiser holds an fp32
  copy and two fp32 moments of what is trained, 12 bytes a number. Gradients and optimiser are shared out, weights are not.
- ``zero3`` (DeepSpeed): as zero2, weights shared out too, and two whole layers.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tstar.errors import ConfigError, suggest
from tstar.nn.muon import hidden_matrices
from tstar.reports.plan_parts import Parts
from tstar.reports.plan_phases import Answering, Cost, Learning
from tstar.stages.fully_sharded import other_slices
from tstar.stages.optimizers import OptimizerConfig

STRATEGIES = ("ddp", "fsdp", "zero2", "zero3")
PRECISIONS = {
    "32-true": None,
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
    "bf16-true": torch.bfloat16,
    "16-true": torch.float16,
}
"""trainer.precision, and the half-precision type in use."""
_ALIASES = {"None": "32-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
REDUCE_BUCKET = 200_000_000
"""Numbers of one of Lightning's two default buckets for DeepSpeed's gradients."""


@dataclass(frozen=True)
class Precision:
    """Which types a training step works in."""

    name: str

    @property
    def half(self) -> torch.dtype | None:
        """The half-precision type, if there is one."""
        return PRECISIONS[self.name]

    def autocast(self, strategy: str) -> torch.dtype | None:
        """Type that operations cast to."""
        return self.half if "mixed" in self.name and not strategy.startswith("zero") else None

    def cast(self, strategy: str) -> torch.dtype | None:
        """Type that all weights are brought to."""
        return self.half if "true" in self.name or strategy.startswith("zero") else None


def precision_name(given: Any) -> str:
    """trainer.precision under its full name."""
    return _ALIASES.get(str(given), str(given))


def get_precision(given: Any) -> Precision:
    """trainer.precision as it is used."""
    name = precision_name(given)
    if name not in PRECISIONS:
        raise ConfigError(f"trainer.precision '{given}' cannot be planned{suggest(name, PRECISIONS)}")
    return Precision(name)


def strategy_name(trainer: dict[str, Any]) -> str:
    """The recipe's strategy as a user knows it: a class without its module, or one of Lightning's words."""
    asked = trainer.get("strategy") or "auto"
    return str(asked.get("class_path", "") if isinstance(asked, dict) else asked).rpartition(".")[2]


def get_strategy(given: str | None, trainer: dict[str, Any]) -> str:
    """The strategy that is asked for, or the recipe's."""
    if given is not None:
        return given
    asked, name = trainer.get("strategy") or "auto", strategy_name(trainer).lower()
    stage = (asked.get("init_args") or {}).get("stage", 2) if isinstance(asked, dict) else name.rpartition("_")[2]
    if name == "fullysharded":
        return "fsdp"
    if "fsdp" in name or "modelparallel" in name:
        raise other_slices(strategy_name(trainer))
    if name.startswith("deepspeed"):
        if str(stage) in ("1", "offload"):
            raise ConfigError(
                f"trainer.strategy '{asked}' cannot be planned; give --strategy ({', '.join(STRATEGIES)})"
            )
        return "zero3" if str(stage) == "3" else "zero2"
    if name == "auto" or name.startswith(("ddp", "single")):
        return "ddp"
    raise ConfigError(f"trainer.strategy '{asked}' cannot be planned; give --strategy ({', '.join(STRATEGIES)})")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a training step is spread over devices."""

    strategy: str
    """Of :data:`STRATEGIES`."""
    devices: int
    accumulate: int = 1
    """Micro-batches of a step."""
    on_cpu: bool = False
    """The optimizer goes through tensors one by one; elsewhere it makes a copy the size of a moment on its way."""
    compute: torch.dtype | None = None
    """Half-precision type of the step, if any."""
    bucket_view: bool = False
    """DistributedDataParallel's gradients are views of its buckets."""
    reshard: bool = True
    """With fsdp, layers are let go after the forward pass and gathered again for the backward pass."""

    @classmethod
    def of(cls, strategy: str, devices: int, trainer: dict[str, Any]) -> "Spread":
        """As a trainer's settings say, but for strategy and devices."""
        asked = trainer.get("strategy")
        options = (asked.get("init_args") or {}) if isinstance(asked, dict) else {}
        return cls(
            strategy=strategy,
            devices=devices,
            accumulate=trainer.get("accumulate_grad_batches") or 1,
            on_cpu=trainer.get("accelerator") == "cpu",
            compute=get_precision(trainer.get("precision")).half,
            bucket_view=bool(options.get("gradient_as_bucket_view", False)),
            reshard=bool(options.get("reshard_after_forward", True)),
        )


@dataclass(frozen=True)
class Held:
    """Bytes of a part on one device."""

    weights: int
    gradients: int
    optimizer: int


@dataclass(frozen=True)
class Device:
    """How much of a device a training step fills, in bytes."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Most that a step needs beside the others: frames, features, what the backward pass needs, and what is made on the way."""
    communication: int
    """Buckets, and layers gathered from other devices."""
    peak: int
    """Of the whole step. On one device without accumulation gradients are counted as they come, else all of them all the time."""

    def as_data(self) -> dict[str, int]:
        return asdict(self)


def held(parts: Parts, strategy: str, devices: int, optimizer: OptimizerConfig) -> dict[str, Held]:
    """What each part takes on one device, as its parameters learn or not and in their types."""
    muon = hidden_matrices(nn.ModuleDict(parts.named())) if optimizer.matrices == "muon" else set()
    share = devices if strategy in ("fsdp", "zero3") else 1
    learning_share = devices if strategy != "ddp" else 1
    found = {}
    for name, part in parts.named().items():
        weights = sum(t.nbytes for t in (*part.parameters(), *part.buffers()))
        trained = [p for p in part.parameters() if p.requires_grad]
        gradients = sum(p.nbytes for p in trained)
        if strategy.startswith("zero"):
            states = sum(12 * p.numel() for p in trained)
        else:
            states = sum((1 if id(p) in muon else 2) * p.nbytes for p in trained)
        whole = strategy == "fsdp" and name == "encoder"
        found[name] = Held(
            weights if whole else _part(weights, share), _part(gradients, learning_share), _part(states, learning_share)
        )
    return found


def training_device(parts: Parts, pieces: dict[str, Held], activations: "Activations", spread: Spread) -> Device:
    """One device's memory in a training step.

    Args:
        parts: the model.
        pieces: of :func:`held`.
        activations: of the step's phases.
        spread: over devices.
    """
    strategy, devices = spread.strategy, spread.devices
    weights, gradients, states = (
        sum(getattr(p, kind) for p in pieces.values()) for kind in ("weights", "gradients", "optimizer")
    )
    communication = 0
    if devices > 1:
        communication = gradients if strategy == "ddp" and not spread.bucket_view else 0
        if strategy.startswith("zero"):
            trained = [p for part in parts.named().values() for p in part.parameters() if p.requires_grad]
            size = max((p.element_size() for p in trained), default=0)
            communication += 2 * size * min(REDUCE_BUCKET, sum(p.numel() for p in trained))
        if strategy == "zero3":
            communication += 2 * largest_layer(parts, spread.compute)
        if strategy == "fsdp":
            communication += gathered_units(parts, spread.reshard)
    alone = devices == 1 and spread.accumulate == 1
    passes = activations.with_gradients if alone else gradients + communication + activations.peak
    trained_sizes = [p.nbytes for part in parts.named().values() for p in part.parameters() if p.requires_grad]
    copies = _part(sum(trained_sizes), devices if strategy != "ddp" else 1)
    extra = 2 * max(trained_sizes, default=0) if spread.on_cpu else copies
    peak = weights + states + max(passes, gradients + communication + extra)
    return Device(weights, gradients, states, activations.peak, communication, peak)


@dataclass(frozen=True)
class Activations:
    """What the phases of a training step need together, in bytes."""

    peak: int
    """Without gradients of parameters."""
    with_gradients: int
    """With those gradients from where they are finished."""

    @classmethod
    def of(cls, encode: Cost, compress: Learning, learn: Learning) -> "Activations":
        """Put phases together: each stands on what those before it left."""
        base = encode.kept
        before = base + compress.forward.kept
        forward = max(encode.peak, base + compress.forward.peak, before + learn.forward.peak)
        peak = max(forward, before + learn.backward.peak, base + compress.backward.peak)
        both = (before + learn.peak_with_gradients, base + learn.gradients + compress.peak_with_gradients)
        return cls(peak, max(forward, *both))


def answering_device(pieces: dict[str, Held], encode: Cost, compress: Learning, answer: Answering) -> dict[str, int]:
    """One device's memory while one clip is answered about, all weights on it."""
    weights = sum(p.weights for p in pieces.values())
    phases = (encode.peak, encode.kept + compress.forward.peak, compress.forward.kept + answer.peak)
    activations = max(phases[0], phases[1], phases[2] - answer.cache)
    return {
        "weights": weights,
        "activations": activations,
        "cache": answer.cache,
        "peak": weights + max(phases),
    }


def gathered_units(parts: Parts, reshard: bool = True) -> int:
    """Bytes of units that are whole at once with fsdp; see :class:`Spread` for ``reshard``."""
    lists: list[list[nn.Module]] = [list(m) for m in parts.language.modules() if isinstance(m, nn.ModuleList)]
    layers = max(lists, key=len, default=[])
    sizes = [_bytes_of(layer.parameters()) for layer in layers]
    gradients = [_bytes_of(p for p in layer.parameters() if p.requires_grad) for layer in layers]
    root = _bytes_of(parts.language.parameters()) - sum(sizes)
    compressor, of_a_layer = _bytes_of(parts.compressor.parameters()), max(gradients, default=0)
    if not reshard:
        return root + compressor + sum(sizes) + of_a_layer
    return root + max(compressor, 2 * max(sizes, default=0) + of_a_layer)


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(t.nbytes for t in tensors)


def largest_layer(parts: Parts, compute: torch.dtype | None) -> int:
    """Bytes of the largest layer or single module that is gathered as one."""
    sizes = []
    for part in parts.named().values():
        for module in part.modules():
            units = list(module) if isinstance(module, nn.ModuleList) else []
            units += [module] if isinstance(module, nn.Embedding | nn.Linear) else []
            for unit in units:
                width = compute.itemsize if compute is not None else None
                sizes.append(sum(p.numel() * (width or p.element_size()) for p in unit.parameters()))
    return max(sizes, default=0)


def _part(total: int, share: int) -> int:
    """An n-th of ``total``, rounded up."""
    return -(-total // share)
