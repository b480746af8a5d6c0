"""Attention resamplers: learnt queries look at a frame (2D) or at a whole clip (3D).

2D after Honeybee (arXiv:2312.06742); 3D with as much capacity, in the manner of VideoChat2's queries over all frames
(arXiv:2311.17005).

Letters: M frames of a clip, N patch tokens per frame, C their width, Q queries, D width inside, H of the language model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tstar.compressors.base import Compressor, CompressorConfig, clips_by_length, require
from tstar.nn.resampler import STD, ResamplerLayer, ResamplerResidual
from tstar.nn.weight_decay import exempt_from_weight_decay, exempt_vectors


@dataclass(frozen=True, kw_only=True)
class Resampler2DConfig(CompressorConfig):
    """Settings of :class:`Resampler2D`."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "miniature": {"num_queries": 6, "num_layers": 2, "d_model": 96, "num_heads": 4},
        "tiny": {"num_queries": 3, "num_layers": 2, "d_model": 32, "num_heads": 4},
    }

    num_queries: int = 10
    """Visual tokens of a frame."""
    num_layers: int = 6
    """Layers of cross-attention and feed-forward."""
    d_model: int = 1024
    """Width of the layers."""
    num_heads: int = 16
    """Attention heads; a divisor of d_model."""
    mlp_ratio: int = 4
    """Inner width of the feed-forward over d_model."""
    dropout: float = 0.1
    """Of attention weights, in training."""
    residual: ResamplerResidual = "normed"
    """What attention is added to: queries after their norm, as published, or before it."""
    patch_positions: bool = True
    """A learnt vector for each place of the grid is added to its patch token."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_queries", "num_layers", "d_model", "mlp_ratio"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive whole number")
        fits = self.num_heads > 0 and self.d_model % self.num_heads == 0
        require(fits, "num_heads", self.num_heads, f"a divisor of d_model = {self.d_model}")
        require(0.0 <= self.dropout < 1.0, "dropout", self.dropout, "at least 0 and below 1")

    def build(self) -> "Compressor":
        return Resampler2D(self)


@dataclass(frozen=True, kw_only=True)
class Resampler3DConfig(Resampler2DConfig):
    """Settings of :class:`Resampler3D`."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {**Resampler2DConfig.PRESETS[name], **queries}
        for name, queries in {"paper": {}, "miniature": {"num_queries": 36}, "tiny": {"num_queries": 5}}.items()
    }

    num_queries: int = 256
    """Visual tokens of a clip, whatever its length; of an image too."""

    @property
    def needs_whole_clips(self) -> str | None:
        return "its queries weigh all frames of a clip against one another"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.d_model % 2 == 0, "d_model", self.d_model, "even, for the frame positions")

    def build(self) -> "Compressor":
        return Resampler3D(self)


class Resampler2D(Compressor):
    """The same learnt queries look at each frame."""

    config: Resampler2DConfig

    def __init__(self, config: Resampler2DConfig) -> None:
        super().__init__(config)
        width = config.d_model
        if config.patch_positions:
            self.pos_emb = nn.Parameter(torch.empty(1, config.num_patches, config.d_vision))
            nn.init.trunc_normal_(self.pos_emb, std=STD)
            exempt_from_weight_decay(self.pos_emb)
        self.queries = nn.Parameter(STD * torch.randn(config.num_queries, width))
        self.in_proj, self.out_proj = nn.Linear(config.d_vision, width), nn.Linear(width, config.d_language)
        for linear in (self.in_proj, self.out_proj):
            nn.init.normal_(linear.weight, std=STD)
            nn.init.zeros_(linear.bias)
        self.layers = nn.ModuleList(
            ResamplerLayer(width, config.num_heads, config.mlp_ratio * width, config.dropout, config.residual)
            for _ in range(config.num_layers)
        )
        exempt_vectors(self)
        exempt_from_weight_decay(self.queries)

    def num_tokens(self, num_frames: int) -> int:
        return num_frames * self.config.num_queries

    def compress_clips(self, features: Tensor, frame_counts: list[int]) -> list[Tensor]:
        tokens = self._resample(self._keys(features))  # [sum(M), Q, H]
        return [clip.flatten(0, 1) for clip in tokens.split(frame_counts)]

    def _keys(self, features: Tensor) -> Tensor:
        """Patch tokens [M, N, C] to keys [M, N, D]."""
        return self.in_proj(features + self.pos_emb if self.config.patch_positions else features)

    def _resample(self, keys: Tensor) -> Tensor:
        """Keys [B, K, D] to visual tokens [B, Q, H]."""
        queries = self.queries.expand(len(keys), -1, -1)
        for layer in self.layers:
            queries = layer(queries, keys)
        return self.out_proj(queries)


class Resampler3D(Resampler2D):
    """Learnt queries look at all frames of a clip at once; a fixed wave of its number is added to each frame."""

    config: Resampler3DConfig

    def num_tokens(self, num_frames: int) -> int:
        return self.config.num_queries if num_frames else 0

    def compress_clips(self, features: Tensor, frame_counts: list[int]) -> list[Tensor]:
        clips = list(self._keys(features).split(frame_counts))
        tokens = [features.new_empty(0, self.config.d_language) for _ in clips]
        for count, members in clips_by_length(frame_counts).items():
            wave = frame_positions(count, self.config.d_model, features.device)[:, None]  # [M, 1, D]
            keys = torch.stack([(clips[i] + wave.to(clips[i].dtype)).flatten(0, 1) for i in members])  # [B, M * N, D]
            for i, found in zip(members, self._resample(keys), strict=True):
                tokens[i] = found
        return tokens


def frame_positions(num_frames: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of the frame's number, [M, D] (Vaswani et al., arXiv:1706.03762, section 3.5)."""
    even = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    angles = torch.arange(num_frames, device=device, dtype=torch.float32)[:, None] * torch.exp(
        -math.log(10000.0) / width * even
    )
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
