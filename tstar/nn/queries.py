"""Query tokens among patch tokens: putting them in, taking them out, and keeping those of every r-th frame.

TSTAR's two samplings (arXiv:2506.13564, section 3): a query after each k patches, then the queries of a share s = 1/r
of the frames. Counts are integer arithmetic throughout.

Letters: M frames of a clip, N patch tokens per frame, k patches per query, Q = N / k queries per frame, G runs of
patches, D width, r stride.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Keep = Literal["first", "last"]


def insert_queries(patches: Tensor, query: Tensor, interval: int) -> Tensor:
    """Append a query after each run of ``interval`` patches: [..., N, D] to [..., N + Q, D].

    ``query`` is one vector for all, [D], or one for each run, [..., Q, D]. A query comes after the patches it stands for, so that a
    causal mixer lets it see them.
    """
    *lead, count, width = patches.shape
    if count % interval:
        raise ValueError(f"insert_queries: interval {interval} does not divide {count} patches")
    runs = patches.reshape(*lead, count // interval, interval, width)
    slots = query.to(patches.dtype).expand(*lead, count // interval, width)
    return torch.cat([runs, slots.unsqueeze(-2)], dim=-2).flatten(-3, -2)  # [..., N + Q, D]


def pool_queries(patches: Tensor, interval: int, frame_counts: Sequence[int], stride: int) -> Tensor:
    """A query for every run of patches: its mean over the ``stride`` frames of its group, [sum(M), N, D] to [sum(M), Q, D].

    The last group of a clip may be shorter. Queries by 3D average pooling are BIMBA's (arXiv:2503.09590).
    """
    runs = patches.unflatten(1, (-1, interval)).mean(2)  # [sum(M), Q, D]
    groups = [group for clip in runs.split(list(frame_counts)) if len(clip) for group in clip.split(stride)]
    return torch.cat([group.mean(0, keepdim=True).expand_as(group) for group in groups]) if groups else runs


def take_queries(tokens: Tensor, interval: int) -> Tensor:
    """The tokens at query positions: [..., G * (k + 1), D] to [..., G, D]."""
    if tokens.shape[-2] % (interval + 1):
        raise ValueError(f"take_queries: {tokens.shape[-2]} tokens are no multiple of interval + 1 = {interval + 1}")
    return tokens[..., interval :: interval + 1, :]


def count_kept_frames(num_frames: int, stride: int) -> int:
    """Frames that survive secondary sampling, M / r rounded up."""
    return (num_frames + stride - 1) // stride


def kept_frames(num_frames: int, stride: int, keep: Keep = "first") -> list[int]:
    """Frames that survive secondary sampling: first or last of each group of ``stride``, a short group included."""
    if keep == "first":
        return list(range(0, num_frames, stride))
    return [min(first + stride - 1, num_frames - 1) for first in range(0, num_frames, stride)]
