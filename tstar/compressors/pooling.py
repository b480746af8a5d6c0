"""Average pooling of each frame's grid of projected patch tokens.

Letters: M frames of a clip, h rows and w columns of patch tokens, H width of the language model.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tstar.compressors.base import Compressor, CompressorConfig, require
from tstar.compressors.projector import mlp2x_gelu


@dataclass(frozen=True, kw_only=True)
class AveragePoolingConfig(CompressorConfig):
    """Settings of :class:`AveragePooling`."""

    kernel: tuple[int, int] = (2, 2)
    """Rows and columns of patch tokens averaged into one visual token; a ragged edge of the grid is left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rows, columns = self.grid
        fits = 1 <= self.kernel[0] <= rows and 1 <= self.kernel[1] <= columns
        require(fits, "kernel", self.kernel, f"between (1, 1) and the grid, ({rows}, {columns})")

    def build(self) -> "AveragePooling":
        return AveragePooling(self)


class AveragePooling(Compressor):
    """Projector first, then windows of the grid are averaged (order of LLaVA-NeXT's video models)."""

    config: AveragePoolingConfig

    def __init__(self, config: AveragePoolingConfig) -> None:
        super().__init__(config)
        self.projector = mlp2x_gelu(config.d_vision, config.d_language)

    def num_tokens(self, num_frames: int) -> int:
        (rows, columns), (kernel_rows, kernel_columns) = self.config.grid, self.config.kernel
        return num_frames * (rows // kernel_rows) * (columns // kernel_columns)

    def forward(self, features: Tensor, frame_counts: list[int]) -> list[Tensor]:
        self.check_input(features, frame_counts)
        tokens = self.projector(features).mT.unflatten(2, self.config.grid)  # [sum(M), H, h, w]
        pooled = F.avg_pool2d(tokens, self.config.kernel).flatten(2).mT  # [sum(M), T / M, H]
        return [clip.flatten(0, 1) for clip in pooled.split(frame_counts)]
