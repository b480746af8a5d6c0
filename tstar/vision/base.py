"""What every frozen vision encoder offers the rest of the model."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class VisionEncoder(nn.Module, ABC):
    """Frozen: never trained, always in eval mode, runs without gradients."""

    image_size: int
    """Side of the square input, pixels."""
    grid: tuple[int, int]
    """Patch grid (h, w) of one frame."""
    d_vision: int
    """Width of a patch token."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """Normalised float pixels [B, 3, S, S] to patch tokens in raster order, [B, N, d_vision]."""

    def freeze(self) -> "VisionEncoder":
        """Fix all parameters; returns itself."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> "VisionEncoder":
        """Stays in eval mode whatever the model around it does."""
        super().train(False)
        return self

    @property
    def num_patches(self) -> int:
        """N = h * w."""
        return self.grid[0] * self.grid[1]

    def forward(self, frames: Tensor, slice_size: int = 32) -> Tensor:
        """Frames to patch tokens, a slice at a time so that memory does not grow with the clip.

        Args:
            frames: uint8, [M, 3, S, S].
            slice_size: frames encoded at once.

        Returns:
            [M, N, d_vision]
        """
        if not len(frames):
            reference = next(self.parameters())
            return torch.zeros(0, self.num_patches, self.d_vision, dtype=reference.dtype, device=reference.device)
        with torch.no_grad():
            return torch.cat([self.encode(self.normalise(part)) for part in frames.split(slice_size)])

    mean: Tensor
    std: Tensor

    def normalise(self, frames: Tensor) -> Tensor:
        """uint8 [M, 3, S, S] to floats with the encoder's mean and deviation."""
        dtype = next(self.parameters()).dtype
        pixels = frames.to(torch.float32, copy=True, memory_format=torch.contiguous_format)  # they come pixel by pixel
        return pixels.sub_(255 * self.mean.float()).div_(255 * self.std.float()).to(dtype)
