"""No compression: every patch token becomes a visual token, through the projector alone.

Letters: M frames of a clip, N patch tokens per frame.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tstar.compressors.base import Compressor, CompressorConfig
from tstar.compressors.projector import PROJECTOR, mlp2x_gelu


@dataclass(frozen=True, kw_only=True)
class UncompressedConfig(CompressorConfig):
    """Settings of :class:`Uncompressed`: none of its own."""

    WEIGHTS: ClassVar[str] = PROJECTOR

    def build(self) -> "Uncompressed":
        return Uncompressed(self)


class Uncompressed(Compressor):
    """Visual tokens are projected patch tokens, M * N of them."""

    def __init__(self, config: UncompressedConfig) -> None:
        super().__init__(config)
        self.projector = mlp2x_gelu(config.d_vision, config.d_language)

    def num_tokens(self, num_frames: int) -> int:
        return num_frames * self.config.num_patches

    def compress_clips(self, features: Tensor, frame_counts: list[int]) -> list[Tensor]:
        tokens = self.projector(features)  # [sum(M), N, d_language]
        return [clip.flatten(0, 1) for clip in tokens.split(frame_counts)]
