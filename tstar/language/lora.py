"""Low-rank adapters (Hu et al., "LoRA", arXiv:2106.09685) in a language model, by the library peft."""

from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from tstar.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Two small matrices beside each chosen one: W x + (alpha / rank) B A x, of which A and B learn."""

    rank: int = 16
    """Rows of A."""
    alpha: float = 32.0
    """Weight of the adapters, times rank."""
    dropout: float = 0.05
    """On what A reads, in training."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that get one, as q_proj; all but the output's, if none is named."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"language.lora.rank must be at least 1, got {self.rank}")
        if self.alpha <= 0:
            raise ConfigError(f"language.lora.alpha must be above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"language.lora.dropout must be in [0, 1), got {self.dropout}")


def adapters_of(language: dict[str, Any]) -> LoraSettings | None:
    """The adapters among a language model's settings, as a recipe gives them."""
    given = language.get("lora")
    return LoraSettings(**{**given, "targets": tuple(given.get("targets", ()))}) if given else None


def add_adapters(model: Any, settings: LoraSettings) -> None:
    """Put adapters into a transformers model, in place; it gives the same as before until they learn.

    Raises:
        ConfigError: peft is not installed, or no layer has such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError("language.lora needs the package peft: pip install 'tstar[lora]'") from error
    names = _linear_layers(model)
    kinds = sorted({name.rpartition(".")[2] for name in names})
    unknown = [target for target in settings.targets if target not in kinds]
    if unknown:
        raise ConfigError(
            f"language.lora.targets: no linear layer that may have one is called {unknown[0]}; there are {', '.join(kinds)}"
        )
    chosen = [n for n in names if not settings.targets or n.rpartition(".")[2] in settings.targets]
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=cast(int, settings.alpha),  # any number does
        lora_dropout=settings.dropout,
        target_modules=chosen,
        bias="none",
    )
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if is_adapter(name):  # steps too small for the digits of bfloat16 would be lost
            parameter.data = parameter.data.float()


def _linear_layers(model: Any) -> list[str]:
    """Names of the linear layers that may have an adapter: all but the output's, and of Mamba's the first of each block, for its
    kernels read the matrices of the others past any adapter."""
    head, mamba = model.get_output_embeddings(), model.config.model_type in ("mamba", "mamba2")
    linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    return [name for name in linear if not mamba or name.endswith(".in_proj")]


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is an adapter's."""
    return ".lora_" in name
