"""MambaMia and its parents: Mamba-1 stacks in TSTAR's shell.

MambaMia (arXiv:2506.13564) is a bidirectional Mamba over patch and query tokens whose queries take in their patches
before each layer; without that step it is the paper's Bi-Mamba row, and with a causal mixer its Mamba row.

Letters: B clips of one length, L positions of a clip (patches and queries), D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from tstar.compressors.base import require
from tstar.compressors.shell import SequenceCompressor, SequenceCompressorConfig
from tstar.errors import ConfigError
from tstar.nn import BidirectionalMambaMixer, GatedPatchAggregation, MambaMixer, RMSNorm

Residual = Literal["mixer_only", "write_back"]


@dataclass(frozen=True, kw_only=True)
class MambaMiaConfig(SequenceCompressorConfig):
    """Settings of :class:`MambaMia`."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"num_layers": 24, "d_model": 768, "d_state": 16},
        "miniature": {"num_layers": 2, "d_model": 96, "d_state": 8},
        "tiny": {"num_layers": 2, "d_model": 64, "d_state": 8},
    }

    ssm: Literal["mamba1", "mamba2"] = "mamba1"
    """State-space model of the mixers."""
    d_state: int = 16
    """States of each inner channel."""
    d_conv: int = 4
    """Taps of the convolution before the scan."""
    expand: int = 2
    """Inner width of a mixer over d_model."""
    gpa: bool = True
    """Gated patch aggregation before each mixer; without it this is bimamba."""
    gpa_residual: Residual = "mixer_only"
    """Where aggregated queries go: into the mixer only, or also onto the residual stream."""
    dropout: float = 0.1
    """On the inputs of the aggregation's two heads."""
    bidirectional: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("d_state", "d_conv", "expand"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive whole number")
        require(0.0 <= self.dropout < 1.0, "dropout", self.dropout, "at least 0 and below 1")
        if self.ssm == "mamba2":
            raise ConfigError("compressor.ssm: 'mamba2' is not available yet; use 'mamba1'")

    def build(self) -> "MambaMia":
        return MambaMia(self)


@dataclass(frozen=True, kw_only=True)
class BiMambaConfig(MambaMiaConfig):
    """Settings of :class:`MambaMia` without gated patch aggregation."""

    gpa: bool = field(default=False, init=False)
    gpa_residual: Residual = field(default="mixer_only", init=False)
    dropout: float = field(default=0.0, init=False)


@dataclass(frozen=True, kw_only=True)
class MambaConfig(BiMambaConfig):
    """Settings of :class:`MambaMia` without aggregation and without the backward direction."""

    bidirectional: bool = field(default=False, init=False)


class MambaMia(SequenceCompressor):
    """Mamba layers over a clip's patches and queries."""

    config: MambaMiaConfig

    def __init__(self, config: MambaMiaConfig) -> None:
        layers: list[nn.Module] = [MambaMiaLayer(config) for _ in range(config.num_layers)]
        super().__init__(config, layers, RMSNorm(config.d_model))


class MambaMiaLayer(nn.Module):
    """x + mixer(aggregate(norm(x))): aggregated queries reach the residual through the mixer, unless written back."""

    def __init__(self, config: MambaMiaConfig) -> None:
        super().__init__()
        self.write_back = config.gpa and config.gpa_residual == "write_back"
        self.norm = RMSNorm(config.d_model)
        self.gpa = (
            GatedPatchAggregation(config.d_model, config.interval, config.dropout) if config.gpa else nn.Identity()
        )
        mixer = BidirectionalMambaMixer if config.bidirectional else MambaMixer
        self.mixer = mixer(config.d_model, config.d_state, config.d_conv, config.expand, n_layers=config.num_layers)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, L, D] to [B, L, D]."""
        normed = self.norm(x)
        aggregated = self.gpa(normed)
        residual = x + (aggregated - normed) if self.write_back else x  # patches are not changed by the aggregation
        return residual + self.mixer(aggregated)
