"""Sizes of the operator benchmark, and what its sections share. Letters: L positions, I inner channels, S states."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from timing import Timing
from torch import Tensor

from tstar.reports.measured_cost import Work

Say = Callable[[str], None]
"""Prints a line for a reader."""
POSITIONS_PER_FRAME = 110  # 100 patch tokens, and a query after every 10


@dataclass(frozen=True)
class Settings:
    """Sizes and budgets; the values given here are those of the published 24-layer model on 128 frames."""

    threads: int
    seed: int = 0
    seconds: float = 3.0
    """Of each measurement, about."""
    quick: bool = False
    length: int = 128 * POSITIONS_PER_FRAME
    d_model: int = 768
    d_inner: int = 1536
    scan_states: int = 16
    head_dim: int = 64
    dual_states: int = 128
    taps: int = 4
    chunk: int = 256
    """Of transformers' Mamba-2; its default."""
    matmul: int = 2048
    compressor: dict[str, Any] = field(
        default_factory=lambda: (
            {"d_vision": 1536, "d_language": 3072, "grid": [10, 10], "query_interval": 10} | {"preset": "paper"}
        )
    )
    frames: int = 128
    train_frames: int = 64
    length_layers: int = 4
    """Layers that are timed against length: all of them would take an hour, and they are alike."""
    frame_counts: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    curve: tuple[int, ...] = tuple(2**n for n in range(8, 15))

    @classmethod
    def small(cls, threads: int, seed: int) -> "Settings":
        """Seconds in all, and no number of it means anything."""
        compressor = {"d_vision": 24, "d_language": 24, "grid": [10, 10], "query_interval": 10, "preset": "tiny"}
        return cls(
            threads, seed, 0.002, True, length=110, d_model=32, d_inner=64, scan_states=4, head_dim=16, dual_states=8,
            chunk=32, matmul=64, compressor=compressor, frames=1, train_frames=1, length_layers=1,
            frame_counts=(1, 2), curve=(16, 32),
        )  # fmt: skip

    @property
    def heads(self) -> int:
        return self.d_inner // self.head_dim

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Settings":
        arguments: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**arguments)


def generator(settings: Settings) -> torch.Generator:
    return torch.Generator().manual_seed(settings.seed)


def scan_inputs(settings: Settings, length: int, dtype: torch.dtype, fused: bool) -> dict[str, Any]:
    """Arguments of a selective scan: bare, or with skip, gate, bias and softplus."""
    g, inner, states = generator(settings), settings.d_inner, settings.scan_states
    wide = [torch.randn(1, length, inner, generator=g).to(dtype) for _ in range(3 if fused else 2)]
    inputs: dict[str, Any] = {
        "u": wide[0],
        "dt": wide[1] if fused else wide[1].float().abs().mul(0.05).add(1e-3).to(dtype),  # positive: no softplus
        "A": -torch.arange(1.0, states + 1).repeat(inner, 1),
        "B": torch.randn(1, length, states, generator=g).to(dtype),
        "C": torch.randn(1, length, states, generator=g).to(dtype),
        "dt_softplus": fused,
    }
    if fused:
        inputs |= {"z": wide[2], "D": torch.ones(inner), "dt_bias": torch.full((inner,), -4.0)}
    return inputs


def forward_work(operator: Callable[..., Any], inputs: Mapping[str, Any]) -> Work:
    """A call without gradients."""

    def work() -> object:
        with torch.no_grad():
            return operator(**inputs)

    return work


def both_work(operator: Callable[..., Any], inputs: Mapping[str, Any], seed: int) -> Work:
    """A call and the gradients of all its tensors."""
    leaves = {name: v.detach().requires_grad_() if isinstance(v, Tensor) else v for name, v in inputs.items()}
    wanted = [v for v in leaves.values() if isinstance(v, Tensor)]
    with torch.no_grad():
        like = next(v for v in inputs.values() if isinstance(v, Tensor))  # the main input has the output's shape
        weight = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.dtype)

    def work() -> object:
        return torch.autograd.grad(operator(**leaves), wanted, weight)

    return work


def copy_works(settings: Settings, dtype: torch.dtype, arrays: int = 3) -> dict[str, Work]:
    """Copying ``arrays`` of [L, I], into arrays that are there and into new ones, as an operator's result is."""
    shape = (settings.length, settings.d_inner)
    sources = [torch.randn(shape, generator=generator(settings)).to(dtype) for _ in range(arrays)]
    targets = [torch.zeros_like(source).fill_(1) for source in sources]

    def existing() -> object:
        return [target.copy_(source) for target, source in zip(targets, sources, strict=True)]

    return {"copy into existing": existing, "copy into new": lambda: [source.clone() for source in sources]}


def show(say: Say, title: str, times: Mapping[str, Timing]) -> None:
    for name, timing in times.items():
        say(f"  {title:<22} {name:<34} {timing}")
