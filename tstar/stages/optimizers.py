"""Adam, or Muon for matrices, with linear warm-up and a cosine down to zero, and which tensors decay (paper section 4)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from tstar.errors import ConfigError
from tstar.nn.muon import MuonAdam, hidden_matrices


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam, or Muon and Adam, and the schedule of both."""

    matrices: Literal["adam", "muon"] = "adam"
    """What trains the matrices inside the layers; muon needs fewer steps where little has been learnt before."""
    lr: float = 2e-5
    """Peak learning rate."""
    compressor_lr: float | None = None
    """Peak learning rate of the compressor where it differs."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of Adam's two moment averages."""
    eps: float = 1e-8
    """Adam's; use 1e-6 with fp16."""
    weight_decay: float = 0.0
    """Decoupled; never on biases, norms, queries and the state-space parameters. With 0, AdamW is plain Adam."""
    warmup_fraction: float = 0.03
    """Share of the steps over which the rate rises linearly."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(f"optimizer.warmup_fraction must be in [0, 1), got {self.warmup_fraction}")
        for name in ("lr", "compressor_lr"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"optimizer.{name} must be above 0, got {value}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optimizer.betas must be two numbers in [0, 1), got {list(self.betas)}")
        for name in ("eps", "weight_decay"):
            if getattr(self, name) < 0:
                raise ConfigError(f"optimizer.{name} must not be negative, got {getattr(self, name)}")


def check_whole_matrices(config: OptimizerConfig, strategy: str) -> None:
    """Refuse muon where processes keep slices of the matrices.

    Args:
        config: of the optimizer.
        strategy: name of one that keeps slices, for the message.
    """
    if config.matrices == "muon":
        raise ConfigError(
            f"model.init_args.optimizer.matrices: muon needs whole matrices, of which trainer.strategy {strategy} keeps slices; "
            "set it to adam, or trainer.strategy to ddp"
        )


def warmup_cosine(step: int, total: int, warmup_fraction: float) -> float:
    """Share of the peak rate at ``step`` (from 0) of ``total``: up linearly, then a half cosine to 0 at ``total``."""
    warmup = math.ceil(total * warmup_fraction - 1e-9)  # 100 steps x 0.07 are 7, not 7.000000000000001 rounded up
    if step < warmup:
        return (step + 1) / warmup
    if step >= total:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: matrices only, and none that its module marks as exempt.

    Loading a published Mamba loses its marks, so the state matrix is known by its name too.
    """
    exempt = getattr(parameter, "_no_weight_decay", False) or name.endswith(("bias", "A_log", "A_b_log"))
    return parameter.ndim > 1 and not exempt


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict]:
    """Trained parameters in groups {compressor, language} x {decay, no decay}, and those of Muon; empty groups are left out."""
    groups: dict[tuple[str, bool, bool], dict] = {}
    chosen = hidden_matrices(model) if config.matrices == "muon" else set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "compressor" if ".compressor." in f".{name}" else "language"
        decay, muon = decays(name, parameter), id(parameter) in chosen
        lr = config.compressor_lr if part == "compressor" and config.compressor_lr else config.lr
        group = groups.setdefault(
            (part, decay, muon),
            {
                **({"muon": True} if muon else {}),
                "params": [],
                "lr": lr,
                "weight_decay": config.weight_decay if decay else 0.0,
                "name": f"{part}{'' if decay else ', no decay'}{', muon' if muon else ''}",
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, total_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimizer and a schedule that is stepped once a training step."""
    groups = parameter_groups(model, config)
    adam = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    muon = config.matrices == "muon"
    optimizer: torch.optim.Optimizer = MuonAdam(groups, **adam) if muon else torch.optim.AdamW(groups, **adam)  # type: ignore[arg-type]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, total_steps, config.warmup_fraction)
    )
    return optimizer, schedule
