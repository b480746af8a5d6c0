"""C-Abstractor: convolutions over each frame's grid, pooled between two stages (Honeybee, arXiv:2312.06742).

Letters: M frames of a clip, N = h * w patch tokens per frame, C their width, W width of the stages, H of the language model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tstar.compressors.base import Compressor, CompressorConfig, require
from tstar.nn.regnet import regnet_stage
from tstar.nn.weight_decay import exempt_from_weight_decay, exempt_vectors


@dataclass(frozen=True, kw_only=True)
class CAbstractorConfig(CompressorConfig):
    """Settings of :class:`CAbstractor`."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"depth": 4, "width": 2048},
        "paper_30m": {"depth": 3, "width": 1024},
        "miniature": {"depth": 1, "width": 64},
        "tiny": {"depth": 1, "width": 16},
    }

    kernel: tuple[int, int] = (2, 2)
    """Rows and columns of patch tokens that become one visual token; must divide the grid's."""
    depth: int = 4
    """Blocks of each of the two stages."""
    width: int = 2048
    """Channels of the stages."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("depth", "width"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive whole number")
        fits = all(k > 0 and side % k == 0 for k, side in zip(self.kernel, self.grid, strict=True))
        rows, columns = (", ".join(str(k) for k in range(1, side + 1) if side % k == 0) for side in self.grid)
        require(fits, "kernel", self.kernel, f"divisors of the grid's rows ({rows}) and columns ({columns})")

    def build(self) -> "CAbstractor":
        return CAbstractor(self)


class CAbstractor(Compressor):
    """Learnt positions, RegNet blocks, average pooling, RegNet blocks, and a two-layer readout, frame by frame."""

    config: CAbstractorConfig

    def __init__(self, config: CAbstractorConfig) -> None:
        super().__init__(config)
        self.pos_emb = nn.Parameter(torch.empty(1, config.num_patches, config.d_vision))
        nn.init.trunc_normal_(self.pos_emb, std=0.02)
        self.net = nn.Sequential(
            regnet_stage(config.depth, config.d_vision, config.width),
            nn.AvgPool2d(config.kernel),
            regnet_stage(config.depth, config.width, config.width),
        )
        self.readout = nn.Sequential(
            nn.Linear(config.width, config.d_language), nn.SiLU(), nn.Linear(config.d_language, config.d_language)
        )
        exempt_vectors(self)
        exempt_from_weight_decay(self.pos_emb)

    def num_tokens(self, num_frames: int) -> int:
        (rows, columns), (kernel_rows, kernel_columns) = self.config.grid, self.config.kernel
        return num_frames * (rows // kernel_rows) * (columns // kernel_columns)

    def compress_clips(self, features: Tensor, frame_counts: list[int]) -> list[Tensor]:
        places = (features + self.pos_emb).mT.unflatten(2, self.config.grid)  # [sum(M), C, h, w]
        tokens = self.readout(self.net(places).flatten(2).mT)  # [sum(M), T / M, H]
        return [clip.flatten(0, 1) for clip in tokens.split(frame_counts)]
