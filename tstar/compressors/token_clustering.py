"""Compressors without weights beside the projector: patch tokens of some frames are clustered, and each cluster averaged.

They need no training of their own: a projector trained without compression (``none``) fits as it is.

Letters: M frames of a clip, N patch tokens per frame, g frames of a group, n tokens of a group, H width of the language model.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tstar.compressors.base import Compressor, CompressorConfig, clips_by_length, require
from tstar.compressors.projector import PROJECTOR, mlp2x_gelu
from tstar.nn.token_clustering import cluster_means, density_peaks, kmeans, merge_tokens

PAIRS = 1 << 24
"""Pairs of tokens looked at together, at most, but for those of one group: tables of them take 8 bytes for each."""


@dataclass(frozen=True, kw_only=True)
class TokenClusteringConfig(CompressorConfig):
    """Settings of :class:`TokenClustering`."""

    WEIGHTS: ClassVar[str] = PROJECTOR

    frames_per_group: int = 3
    """Successive frames whose patch tokens are clustered together; a clip's last group may have fewer."""
    tokens_per_group: int | None = None
    """Visual tokens of a group, at most the patches of a frame. Left out, one for each row of the grid."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.frames_per_group > 0, "frames_per_group", self.frames_per_group, "a positive whole number")
        legal = f"from 1 to the {self.num_patches} patches of a frame"
        require(1 <= self.tokens <= self.num_patches, "tokens_per_group", self.tokens, legal)

    @property
    def segment_step(self) -> int:
        return self.frames_per_group

    @property
    def tokens(self) -> int:
        """n."""
        return self.grid[0] if self.tokens_per_group is None else self.tokens_per_group

    @abstractmethod
    def cluster(self, tokens: Tensor) -> Tensor:
        """Cluster numbers [B, K] of tokens [B, K, C], n of them."""

    def build(self) -> "TokenClustering":
        return TokenClustering(self)


@dataclass(frozen=True, kw_only=True)
class TokenMergingConfig(TokenClusteringConfig):
    """Settings of :class:`TokenClustering` by token merging (ToMe, arXiv:2210.09461), on the patch tokens themselves."""

    def cluster(self, tokens: Tensor) -> Tensor:
        return merge_tokens(tokens, self.tokens)


@dataclass(frozen=True, kw_only=True)
class KMeansConfig(TokenClusteringConfig):
    """Settings of :class:`TokenClustering` by k-means."""

    iterations: int = 10
    """Rounds of assignment and averaging, at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.iterations >= 0, "iterations", self.iterations, "a whole number from 0 up")

    def cluster(self, tokens: Tensor) -> Tensor:
        return kmeans(tokens, self.tokens, self.iterations)


@dataclass(frozen=True, kw_only=True)
class DensityPeaksConfig(TokenClusteringConfig):
    """Settings of :class:`TokenClustering` round density peaks, as in Chat-UniVi (arXiv:2311.08046)."""

    neighbours: int = 5
    """Nearest tokens that a token's density is measured by."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.neighbours > 0, "neighbours", self.neighbours, "a positive whole number")

    def cluster(self, tokens: Tensor) -> Tensor:
        return density_peaks(tokens, self.tokens, self.neighbours)


class TokenClustering(Compressor):
    """Means of clusters of patch tokens, in order of their mean position, then the projector."""

    config: TokenClusteringConfig

    def __init__(self, config: TokenClusteringConfig) -> None:
        super().__init__(config)
        self.projector = mlp2x_gelu(config.d_vision, config.d_language)

    def num_tokens(self, num_frames: int) -> int:
        groups = (num_frames + self.config.frames_per_group - 1) // self.config.frames_per_group
        return groups * self.config.tokens

    def compress_clips(self, features: Tensor, frame_counts: list[int]) -> list[Tensor]:
        step = self.config.frames_per_group
        lengths = [min(step, count - start) for count in frame_counts for start in range(0, count, step)]
        groups = features.split(lengths) if lengths else ()
        means = [features[:0, 0]] * len(groups)  # replaced below
        for length, members in clips_by_length(lengths).items():
            at_once = max(PAIRS // (length * self.config.num_patches) ** 2, 1)
            for first in range(0, len(members), at_once):
                some = members[first : first + at_once]
                tokens = torch.stack([groups[i].flatten(0, 1) for i in some])  # [B, g * N, C]
                with torch.autocast(features.device.type, enabled=False):
                    found = cluster_means(tokens, self.config.cluster(tokens), self.config.tokens)  # [B, n, C]
                for i, group in zip(some, found, strict=True):
                    means[i] = group
        visual = self.projector(torch.cat([features[:0, 0], *means]))
        return list(visual.split([self.num_tokens(count) for count in frame_counts]))
