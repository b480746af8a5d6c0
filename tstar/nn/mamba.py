"""Mamba-1 mixers: causal, and bidirectional with shared outer projections.

Gu & Dao, "Mamba", arXiv:2312.00752 (block of figure 3, initialisation of section 3.6); both directions in one mixer
after Zhu et al., "Vision Mamba", arXiv:2401.09417, algorithm 1, and Li et al., "VideoMamba", arXiv:2403.06977.
Parameters have the names of the published checkpoints of each, the backward direction's with ``_b``.

Letters: B batch, L positions, D width outside, I = expand * D width inside, S states of a channel, K taps, R rank of
the step projection.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tstar.nn.mamba_parts import (
    BackwardDtInit,
    Merge,
    MixerState,
    at_least_single,
    check_choice,
    check_stream,
    convolve,
    depthwise_conv1d,
    initial_dt_bias,
    merge_directions,
    merged_width,
    output_projection,
    zero_padding,
)
from tstar.nn.weight_decay import exempt_from_weight_decay
from tstar.ops import selective_scan
from tstar.ops.steps import selective_scan_step


class MambaMixer(nn.Module):
    """Causal Mamba-1: every position sees itself and what came before.

    Args:
        d_model: D.
        d_state: S.
        d_conv: K.
        expand: I / D.
        dt_rank: R; ``"auto"`` is D / 16, rounded up.
        n_layers: layers of the stack this mixer sits in; ``out_proj`` starts sqrt(n_layers) times smaller, so that the
            residual stream's variance does not grow with depth.
        backend: of :func:`tstar.ops.selective_scan`.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        *,
        n_layers: int = 1,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        d_inner = expand * d_model
        self.d_inner, self.d_state, self.d_conv, self.backend = d_inner, d_state, d_conv, backend
        self.dt_rank = -(-d_model // 16) if dt_rank == "auto" else dt_rank
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D = _fresh(d_inner, d_state, d_conv, self.dt_rank)
        self.out_proj = output_projection(d_inner, d_model, n_layers)

    def empty_state(self, batch: int) -> MixerState:
        """The state before the first position of ``batch`` sequences: conv [B, K-1, I], ssm [B, I, S]."""
        return _empty_state(self.in_proj.weight, batch, self.d_conv, self.d_inner, self.d_state)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, state: MixerState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, MixerState]:
        """Mix along L.

        Args:
            x: [B, L, D]; any stretch of a sequence, down to one position, where ``state`` is handed on.
            mask: False at padding, [B, L]; padding may lie at either end, not in the middle. On the right it changes
                no valid position here, it only makes padded outputs zero.
            state: what an earlier call returned for the positions before these; absent at the start of a sequence.
            return_state: also return the state after the last position.

        Returns:
            [B, L, D], and with ``return_state`` the state for the positions that follow.
        """
        check_stream(type(self).__name__, mask, return_state or state is not None)
        if return_state and state is None:
            state = self.empty_state(x.shape[0])
        x, z = self.in_proj(zero_padding(x, mask)).chunk(2, dim=-1)  # [B, L, I] each
        ahead = _Direction(self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
        y, state = ahead.run(x, z, mask=mask, state=state, backend=self.backend)
        y = self.out_proj(y)
        return (y, state) if return_state and state is not None else y


class BidirectionalMambaMixer(nn.Module):
    """Mamba-1 from both ends: a forward and a backward scan of one projection, merged.

    ``in_proj`` and ``out_proj`` are shared; the convolution, ``x_proj``, ``dt_proj``, ``A_log`` and ``D`` are each
    direction's own, the backward ones named ``conv1d_b``, ``x_proj_b``, ``dt_proj_b``, ``A_b_log`` and ``D_b``.

    Args:
        d_model, d_state, d_conv, expand, dt_rank, n_layers, backend: as in :class:`MambaMixer`.
        merge: add the directions, average them, or put them side by side; see :data:`tstar.nn.mamba_parts.Merge`.
        backward_dt_init: ``"same"`` draws both directions' steps alike; ``"reference"`` leaves the backward bias at
            zero, as the published code does, which gives that direction a memory of about two positions at the start.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        *,
        merge: Merge = "sum",
        backward_dt_init: BackwardDtInit = "same",
        n_layers: int = 1,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_choice(type(self).__name__, "merge", merge, Merge)
        check_choice(type(self).__name__, "backward_dt_init", backward_dt_init, BackwardDtInit)
        d_inner = expand * d_model
        self.d_inner, self.d_state, self.d_conv, self.merge, self.backend = d_inner, d_state, d_conv, merge, backend
        self.dt_rank = -(-d_model // 16) if dt_rank == "auto" else dt_rank
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        sizes = (d_inner, d_state, d_conv, self.dt_rank)
        self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D = _fresh(*sizes)
        self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b = _fresh(*sizes)
        if backward_dt_init == "reference":
            nn.init.zeros_(self.dt_proj_b.bias)
        self.out_proj = output_projection(merged_width(d_inner, merge), d_model, n_layers)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix along L, both ways.

        Args:
            x: [B, L, D].
            mask: False at padding, [B, L]; padding may lie at either end, not in the middle. Valid outputs are those
                of the unpadded sequence, padded ones are zero.

        Returns:
            [B, L, D].
        """
        x, z = self.in_proj(zero_padding(x, mask)).chunk(2, dim=-1)  # [B, L, I] each
        ahead, back = self._directions()
        y, _ = ahead.run(x, z, mask=mask, backend=self.backend)
        y_b, _ = back.run(x, z, mask=mask, reverse=True, backend=self.backend)
        return self.out_proj(merge_directions(y, y_b, self.merge))

    def empty_state(self, batch: int) -> MixerState:
        """The state of either direction before its first position; as of :class:`MambaMixer`."""
        return _empty_state(self.in_proj.weight, batch, self.d_conv, self.d_inner, self.d_state)

    def look_back(self, x: Tensor, behind: MixerState | None) -> MixerState:
        """The backward direction's state at the first position of x [B, L, D], from that behind its last (None: the end)."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        start = self.empty_state(len(x)) if behind is None else behind
        state = self._directions()[1].run(x, z, reverse=True, state=start, backend=self.backend)[1]
        assert state is not None
        return state

    def mix_stretch(self, x: Tensor, before: MixerState | None, behind: MixerState | None) -> tuple[Tensor, MixerState]:
        """Mix a stretch [B, L, D] of a sequence between the forward direction's state before it and the backward one's behind it.

        Returns:
            Its outputs [B, L, D], and the forward direction's state after it.
        """
        x, z = self.in_proj(x).chunk(2, dim=-1)
        ahead, back = self._directions()
        states = [self.empty_state(len(x)) if state is None else state for state in (before, behind)]
        y, after = ahead.run(x, z, state=states[0], backend=self.backend)
        y_b, _ = back.run(x, z, reverse=True, state=states[1], backend=self.backend)
        assert after is not None
        return self.out_proj(merge_directions(y, y_b, self.merge)), after

    def _directions(self) -> tuple["_Direction", "_Direction"]:
        ahead = _Direction(self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
        return ahead, _Direction(self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b)


class _Direction(NamedTuple):
    """Parameters of one scan direction."""

    conv1d: nn.Conv1d
    x_proj: nn.Linear
    dt_proj: nn.Linear
    A_log: nn.Parameter
    D: nn.Parameter

    def run(
        self,
        x: Tensor,
        z: Tensor,
        *,
        mask: Tensor | None = None,
        reverse: bool = False,
        state: MixerState | None = None,
        backend: str,
    ) -> tuple[Tensor, MixerState | None]:
        """Convolution, read-out of step and B and C, scan, gate: x, z [B, L, I] (zero at padding) to [B, L, I].

        Where a state comes in, the next one comes out.
        """
        x, conv = convolve(x, self.conv1d, mask=mask, reverse=reverse, state=state)
        d_state = self.A_log.shape[1]
        step, B, C = self.x_proj(x).split([self.dt_proj.in_features, d_state, d_state], dim=-1)  # R, S and S wide
        step = F.linear(step, self.dt_proj.weight)  # [B, L, I]; its bias is added in fp32 by the scan
        A = -torch.exp(at_least_single(self.A_log))
        D, dt_bias = at_least_single(self.D), at_least_single(self.dt_proj.bias)
        if state is None or conv is None:
            return selective_scan(x, step, A, B, C, D, z, dt_bias, reverse=reverse, backend=backend), None
        if x.shape[1] == 1 and not reverse:
            x, step, B, C, z = (t.squeeze(1) for t in (x, step, B, C, z))
            y, ssm = selective_scan_step(x, step, A, B, C, D, z, dt_bias, state=state.ssm)
            return y.unsqueeze(1), MixerState(conv, ssm)
        y, ssm = selective_scan(
            *(x, step, A, B, C, D, z, dt_bias),
            reverse=reverse,
            initial_state=state.ssm,
            return_final_state=True,
            backend=backend,
        )
        return y, MixerState(conv, ssm)


def _empty_state(weight: Tensor, batch: int, d_conv: int, d_inner: int, d_state: int) -> MixerState:
    conv = weight.new_zeros(batch, d_conv - 1, d_inner)
    return MixerState(conv, at_least_single(weight.new_zeros(batch, d_inner, d_state)))


def _fresh(d_inner: int, d_state: int, d_conv: int, dt_rank: int) -> _Direction:
    conv1d = depthwise_conv1d(d_inner, d_conv)
    x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
    dt_proj = nn.Linear(dt_rank, d_inner)
    nn.init.uniform_(dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
    with torch.no_grad():
        dt_proj.bias.copy_(initial_dt_bias(d_inner))
    A_log = nn.Parameter(torch.arange(1, d_state + 1, dtype=torch.float32).log().repeat(d_inner, 1))  # [I, S]
    D = nn.Parameter(torch.ones(d_inner))
    exempt_from_weight_decay(conv1d.bias, dt_proj.bias, A_log, D)
    return _Direction(conv1d, x_proj, dt_proj, A_log, D)
