"""Pooling of projected patch tokens: averages over a frame's grid, bilinear resizing of it, averages over time as well.

The projector comes first (order of LLaVA-NeXT's video models).

Letters: M frames of a clip, h rows and w columns of patch tokens, N = h * w, H width of the language model.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tstar.compressors.base import Compressor, CompressorConfig, ReadFrames, require
from tstar.compressors.projector import PROJECTOR, mlp2x_gelu


@dataclass(frozen=True, kw_only=True)
class AveragePoolingConfig(CompressorConfig):
    """Settings of :class:`AveragePooling`."""

    WEIGHTS: ClassVar[str] = PROJECTOR

    kernel: tuple[int, int] = (2, 2)
    """Rows and columns of patch tokens averaged into one visual token; a ragged edge of the grid is left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rows, columns = self.grid
        fits = 1 <= self.kernel[0] <= rows and 1 <= self.kernel[1] <= columns
        require(fits, "kernel", self.kernel, f"between (1, 1) and the grid, ({rows}, {columns})")

    def build(self) -> "AveragePooling":
        return AveragePooling(self)


@dataclass(frozen=True, kw_only=True)
class BilinearConfig(CompressorConfig):
    """Settings of :class:`Bilinear`."""

    WEIGHTS: ClassVar[str] = PROJECTOR

    size: tuple[int, int] | None = None
    """Rows and columns of the resized grid. Left out, half of the grid's, rounded up."""
    align_corners: bool = False
    """The corners of both grids are the centres of their corner tokens, instead of the outer corners."""
    antialias: bool = False
    """Widen the filter by the factor of shrinking, so that every patch token has a share."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rows, columns = self.resized
        require(rows > 0 and columns > 0, "size", self.size, "two positive whole numbers, rows and columns")

    @property
    def resized(self) -> tuple[int, int]:
        """Rows and columns of visual tokens of a frame."""
        return self.size or ((self.grid[0] + 1) // 2, (self.grid[1] + 1) // 2)

    def build(self) -> "Bilinear":
        return Bilinear(self)


@dataclass(frozen=True, kw_only=True)
class Pooling3DConfig(CompressorConfig):
    """Settings of :class:`Pooling3D`."""

    WEIGHTS: ClassVar[str] = PROJECTOR

    mode: Literal["grid3d", "st_mean"] = "grid3d"
    """Averages over blocks of time and grid, or Video-ChatGPT's: all N places averaged over time, then all M frames over places."""
    kernel: tuple[int, int, int] = (2, 2, 2)
    """Frames, rows and columns of a block, grid3d only. The last frames may be fewer; a ragged edge of the grid is left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rows, columns = self.grid
        fits = self.kernel[0] >= 1 and 1 <= self.kernel[1] <= rows and 1 <= self.kernel[2] <= columns
        require(fits, "kernel", self.kernel, f"from 1 up in time, and between (1, 1) and the grid, ({rows}, {columns})")

    @property
    def segment_step(self) -> int:
        return self.kernel[0] if self.mode == "grid3d" else 1

    def build(self) -> "Pooling3D":
        return Pooling3D(self)


class Pooling(Compressor):
    """The projector, then :meth:`pool`."""

    def __init__(self, config: CompressorConfig) -> None:
        super().__init__(config)
        self.projector = mlp2x_gelu(config.d_vision, config.d_language)

    def compress_clips(self, features: Tensor, frame_counts: list[int]) -> list[Tensor]:
        return self.pool(self.projector(features).mT.unflatten(2, self.config.grid), frame_counts)

    @abstractmethod
    def pool(self, places: Tensor, frame_counts: list[int]) -> list[Tensor]:
        """[sum(M), H, h, w] to the visual tokens of each clip, [T, H]."""


class AveragePooling(Pooling):
    """Windows of each frame's grid are averaged."""

    config: AveragePoolingConfig

    def num_tokens(self, num_frames: int) -> int:
        (rows, columns), (kernel_rows, kernel_columns) = self.config.grid, self.config.kernel
        return num_frames * (rows // kernel_rows) * (columns // kernel_columns)

    def pool(self, places: Tensor, frame_counts: list[int]) -> list[Tensor]:
        return _in_raster_order(F.avg_pool2d(places, self.config.kernel), frame_counts)


class Bilinear(Pooling):
    """Each frame's grid is resized; halving an even grid is the same as averaging windows of 2 x 2."""

    config: BilinearConfig

    def num_tokens(self, num_frames: int) -> int:
        rows, columns = self.config.resized
        return num_frames * rows * columns

    def pool(self, places: Tensor, frame_counts: list[int]) -> list[Tensor]:
        if not len(places):
            return _in_raster_order(places, frame_counts)
        resized = F.interpolate(
            places,
            self.config.resized,
            mode="bilinear",
            align_corners=self.config.align_corners,
            antialias=self.config.antialias,
        )
        return _in_raster_order(resized, frame_counts)


class Pooling3D(Pooling):
    """Blocks of time and grid, or time and grid apart (Video-ChatGPT, arXiv:2306.05424, section 3.1), are averaged."""

    config: Pooling3DConfig

    def num_tokens(self, num_frames: int) -> int:
        if self.config.mode == "st_mean":
            return self.config.num_patches + num_frames if num_frames else 0
        frames, rows, columns = self.config.kernel
        blocks = (num_frames + frames - 1) // frames
        return blocks * (self.config.grid[0] // rows) * (self.config.grid[1] // columns)

    def compress_segments(self, read: ReadFrames, num_frames: int) -> Tensor:
        if self.config.mode == "grid3d" or not num_frames:
            return super().compress_segments(read, num_frames)
        total, frames = None, []
        for first, last in self.spans(num_frames):
            clip = self.projector(read(first, last))  # [M, N, H]
            part = clip.sum(0, dtype=torch.float32)
            total = part if total is None else total + part
            frames.append(clip.mean(1))
        assert total is not None
        return torch.cat([(total / num_frames).to(frames[0].dtype), *frames])

    def pool(self, places: Tensor, frame_counts: list[int]) -> list[Tensor]:
        if self.config.mode == "st_mean":
            return [_means(clip.flatten(2).mT) for clip in places.split(frame_counts)]
        frames, *kernel = self.config.kernel
        pooled = F.avg_pool2d(places, kernel)
        clips = [clip.split(frames) if len(clip) else () for clip in pooled.split(frame_counts)]
        blocks = [block.mean(0) for clip in clips for block in clip]
        return _in_raster_order(torch.stack(blocks) if blocks else pooled[:0], [len(clip) for clip in clips])


def _means(clip: Tensor) -> Tensor:
    """[M, N, H] to [N + M, H]: places averaged over time, then frames averaged over places."""
    return torch.cat([clip.mean(0), clip.mean(1)]) if len(clip) else clip.flatten(0, 1)


def _in_raster_order(pooled: Tensor, frame_counts: list[int]) -> list[Tensor]:
    """[sum(M), H, rows, columns] to [M * rows * columns, H] of each clip."""
    return [clip.flatten(0, 1) for clip in pooled.flatten(2).mT.split(frame_counts)]
