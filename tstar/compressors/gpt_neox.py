"""GPT-NeoX and Bi-GPT-NeoX: attention over a clip's patches and queries, in TSTAR's shell (arXiv:2506.13564, section 3).

Letters: D width, H heads, P = D / H channels of a head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from tstar.compressors.base import require
from tstar.compressors.shell import SequenceCompressor, SequenceCompressorConfig
from tstar.nn.gpt_neox import GPTNeoXLayer


@dataclass(frozen=True, kw_only=True)
class GPTNeoXConfig(SequenceCompressorConfig):
    """Settings of :class:`GPTNeoX`."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"num_layers": 13, "d_model": 768},
        "miniature": {"num_layers": 2, "d_model": 96, "num_heads": 4},
        "tiny": {"num_layers": 2, "d_model": 64, "num_heads": 4},
    }

    num_heads: int = 12
    """Attention heads; a divisor of d_model."""
    rotary_fraction: float = 0.25
    """Share of a head's channels that carry the position; an even number of them."""
    rope_base: float = 10000.0
    """Of the geometric series of rotary wavelengths."""
    mlp_ratio: int = 4
    """Inner width of the feed-forward over d_model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.num_heads > 0 and self.d_model % self.num_heads == 0
        require(fits, "num_heads", self.num_heads, f"a divisor of d_model = {self.d_model}")
        even = self.rotary_channels >= 2 and self.rotary_channels % 2 == 0 and self.rotary_fraction <= 1
        legal = f"such that an even number of a head's {self.d_model // self.num_heads} channels, from 2 up, is rotated"
        require(even, "rotary_fraction", self.rotary_fraction, legal)
        require(self.rope_base > 1, "rope_base", self.rope_base, "a number above 1")
        require(self.mlp_ratio > 0, "mlp_ratio", self.mlp_ratio, "a positive whole number")

    @property
    def causal(self) -> bool:
        return True

    @property
    def needs_whole_clips(self) -> str | None:
        return None if self.causal or self.per_frame else "every position weighs all others of the clip"

    @property
    def rotary_channels(self) -> int:
        """Channels of a head that are rotated."""
        return int(self.rotary_fraction * (self.d_model // self.num_heads))

    def build(self) -> "GPTNeoX":
        return GPTNeoX(self)


@dataclass(frozen=True, kw_only=True)
class BiGPTNeoXConfig(GPTNeoXConfig):
    """Settings of :class:`GPTNeoX` in which every position sees all others."""

    @property
    def causal(self) -> bool:
        return False


class GPTNeoX(SequenceCompressor):
    """GPT-NeoX layers over a clip's patches and queries; positions count from 0 in each sequence."""

    config: GPTNeoXConfig

    def __init__(self, config: GPTNeoXConfig) -> None:
        width = config.d_model
        layers: list[nn.Module] = [
            GPTNeoXLayer(
                width,
                config.num_heads,
                config.mlp_ratio * width,
                config.rotary_channels,
                config.rope_base,
                config.causal,
            )
            for _ in range(config.num_layers)
        ]
        super().__init__(config, layers, nn.LayerNorm(width, eps=1e-5))
