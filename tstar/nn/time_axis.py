"""Time-axis aggregation: a causal Mamba-2 over frames whose own step sizes say which frames bring something new.

The later version of MambaMia (AAAI-26, "State-Space Hierarchical Compression with Gated Attention and Learnable Sampling").
It gives no widths; reducing each query before the block, and reading a frame's step as the mean over heads, are choices made here.

Letters: M frames of a clip, Q queries of a frame, D their width, E width of a reduced query.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tstar.nn.mamba2 import Mamba2Mixer
from tstar.nn.mamba_parts import at_least_single
from tstar.nn.norms import RMSNorm


class TimeAxisAggregator(nn.Module):
    """f + expand(mixer(norm(reduce(f)))) over frames, the queries of a frame side by side.

    Args:
        d_model: D.
        num_queries: Q.
        d_reduced: E; 2 Q E must be a multiple of ``head_dim``.
        d_state: states of a channel of the mixer.
        head_dim: channels of a head of the mixer.
    """

    def __init__(self, d_model: int, num_queries: int, d_reduced: int, d_state: int = 128, head_dim: int = 64) -> None:
        super().__init__()
        self.reduce = nn.Linear(d_model, d_reduced)
        self.norm = RMSNorm(num_queries * d_reduced)
        self.mixer = Mamba2Mixer(num_queries * d_reduced, d_state, head_dim=head_dim)
        self.expand = nn.Linear(d_reduced, d_model)
        for linear in (self.reduce, self.expand):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Queries of a clip [M, Q, D] to new ones, and the step of each frame, [M] in fp32."""
        reduced = self.norm(self.reduce(queries).flatten(1)).unsqueeze(0)  # [1, M, Q * E]
        mixed = self.mixer(reduced).squeeze(0).unflatten(1, (queries.shape[1], -1))  # [M, Q, E]
        with torch.no_grad():
            dt = at_least_single(self.mixer.project(reduced, None)[2].squeeze(0))  # [M, heads]
            steps = F.softplus(dt + at_least_single(self.mixer.dt_bias)).mean(-1)
        return queries + self.expand(mixed), steps


def frames_over_threshold(steps: Tensor, threshold: float) -> list[int]:
    """Frames at which the steps since the last kept one add up to ``threshold``; if there is none, that of the largest step."""
    kept, total = [], 0.0
    for frame, step in enumerate(steps.tolist()):
        total += step
        if total >= threshold:
            kept.append(frame)
            total = 0.0
    return kept or [int(steps.argmax())]


def frames_within_budget(steps: Tensor, count: int) -> list[int]:
    """``count`` different frames, rising, at even distances in the sum of the steps as far as frames allow."""
    total = steps.double().cumsum(0)  # [M]
    marks = (torch.arange(count, dtype=torch.float64, device=steps.device) + 0.5) * total[-1] / count
    frames = torch.searchsorted(total, marks).tolist()
    for i in range(count):  # one large step may hold several marks
        frames[i] = max(frames[i], frames[i - 1] + 1 if i else 0)
    for i in reversed(range(count)):
        frames[i] = min(frames[i], len(steps) - count + i)
    return frames


def calibrate_threshold(steps: Sequence[Tensor], keep_rate: float) -> float:
    """The threshold at which :func:`frames_over_threshold` keeps about ``keep_rate`` of all frames of these clips.

    Args:
        steps: of each clip, [M], from videos that are not evaluated.
        keep_rate: wanted share, above 0, at most 1.

    Returns:
        The largest threshold found that keeps at least so many; the share falls in jumps, so it may be more.

    Raises:
        ValueError: no frames, or a rate that is no share.
    """
    frames = sum(len(clip) for clip in steps)
    if not frames or not 0 < keep_rate <= 1:
        raise ValueError(f"calibrate_threshold: needs frames and a rate in (0, 1], got {frames} frames and {keep_rate}")

    def share(threshold: float) -> float:
        return sum(len(frames_over_threshold(clip, threshold)) for clip in steps if len(clip)) / frames

    low, high = 0.0, max(float(clip.sum()) for clip in steps if len(clip)) + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) >= keep_rate else (low, middle)
    return low
