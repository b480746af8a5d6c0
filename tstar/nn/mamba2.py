"""Mamba-2 mixers: causal, and bidirectional with shared outer projections.

Dao & Gu, "Transformers are SSMs", arXiv:2405.21060, section 7; both directions in one mixer as in
:mod:`tstar.nn.mamba`. Parameters have the names of the published checkpoints, the backward direction's with ``_b``.

Letters: B batch, L positions, D width outside, I = expand * D width inside, H = I / P heads of P channels, G groups of
heads that share B and C, S states of a channel, K taps.
"""

from typing import NamedTuple

import torch
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
from tstar.nn.norms import RMSNorm
from tstar.nn.weight_decay import exempt_from_weight_decay
from tstar.ops.ssd import ssd_scan
from tstar.ops.steps import ssd_step


class _Mamba2(nn.Module):
    """Sizes and shared projections of both mixers."""

    def __init__(
        self,
        d_model: int,
        d_state: int,
        d_conv: int,
        expand: int,
        head_dim: int,
        n_groups: int,
        norm_before_gate: bool,
        backend: str,
    ) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.d_conv = expand * d_model, d_state, d_conv
        name = type(self).__name__
        if self.d_inner % head_dim:
            raise ValueError(f"{name}: head_dim must divide the inner width {self.d_inner}, got {head_dim}")
        self.head_dim, self.num_heads, self.n_groups = head_dim, self.d_inner // head_dim, n_groups
        if self.num_heads % n_groups:
            raise ValueError(f"{name}: n_groups must divide the {self.num_heads} heads, got {n_groups}")
        self.norm_before_gate, self.backend = norm_before_gate, backend
        self.d_mixed = self.d_inner + 2 * n_groups * d_state  # x, B and C, which go through the convolution together
        self.in_proj = nn.Linear(d_model, self.d_inner + self.d_mixed + self.num_heads, bias=False)

    def fresh(self) -> "_Direction":
        """Parameters of one direction."""
        conv1d = depthwise_conv1d(self.d_mixed, self.d_conv)
        dt_bias = nn.Parameter(initial_dt_bias(self.num_heads))
        A_log = nn.Parameter(torch.arange(1, self.num_heads + 1, dtype=torch.float32).log())
        D = nn.Parameter(torch.ones(self.num_heads))
        exempt_from_weight_decay(conv1d.bias, dt_bias, A_log, D)
        return _Direction(conv1d, dt_bias, A_log, D, RMSNorm(self.d_inner, groups=self.n_groups))

    def empty_state(self, batch: int) -> MixerState:
        """The state before the first position of ``batch`` sequences: conv [B, K-1, I + 2GS], ssm [B, H, P, S]."""
        weight = self.in_proj.weight
        conv = weight.new_zeros(batch, self.d_conv - 1, self.d_mixed)
        ssm = weight.new_zeros(batch, self.num_heads, self.head_dim, self.d_state)
        return MixerState(conv, at_least_single(ssm))

    def project(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """[B, L, D] to gate [B, L, I], x with B and C [B, L, I + 2GS], and steps [B, L, H]."""
        z, mixed, dt = self.in_proj(zero_padding(x, mask)).split([self.d_inner, self.d_mixed, self.num_heads], dim=-1)
        return z, mixed, dt

    def run(
        self,
        direction: "_Direction",
        z: Tensor,
        mixed: Tensor,
        dt: Tensor,
        *,
        mask: Tensor | None = None,
        reverse: bool = False,
        state: MixerState | None = None,
    ) -> tuple[Tensor, MixerState | None]:
        """Convolution, scan, norm and gate of what :meth:`project` made (zero at padding), [B, L, I].

        Where a state comes in, the next one comes out.
        """
        mixed, conv = convolve(mixed, direction.conv1d, mask=mask, reverse=reverse, state=state)
        shared = self.n_groups * self.d_state
        x, B, C = mixed.split([self.d_inner, shared, shared], dim=-1)
        if x.dtype == torch.float16:
            x = x.float()  # a scan's outputs may pass fp16's largest number; the norm brings them back
        x = x.unflatten(-1, (self.num_heads, self.head_dim))  # [B, L, H, P]
        B, C = (t.unflatten(-1, (self.n_groups, self.d_state)) for t in (B, C))  # [B, L, G, S]
        A = -torch.exp(at_least_single(direction.A_log))
        D, dt_bias = at_least_single(direction.D), at_least_single(direction.dt_bias)
        after = None
        if state is None or conv is None:
            y = ssd_scan(x, dt, A, B, C, D, dt_bias, reverse=reverse, backend=self.backend)
        elif x.shape[1] == 1 and not reverse:
            x, dt, B, C = (t.squeeze(1) for t in (x, dt, B, C))
            y, ssm = ssd_step(x, dt, A, B, C, D, dt_bias, state=state.ssm)
            y, after = y.unsqueeze(1), MixerState(conv, ssm)
        else:
            y, ssm = ssd_scan(
                *(x, dt, A, B, C, D, dt_bias),
                reverse=reverse,
                initial_state=state.ssm,
                return_final_state=True,
                backend=self.backend,
            )
            after = MixerState(conv, ssm)
        y = direction.norm(y.flatten(2), z=z, norm_before_gate=self.norm_before_gate, dtype=z.dtype)
        return y, after


class Mamba2Mixer(_Mamba2):
    """Causal Mamba-2: every position sees itself and what came before.

    Args:
        d_model: D.
        d_state: S.
        d_conv: K.
        expand: I / D.
        head_dim: P; must divide I.
        n_groups: G; must divide the number of heads. Each group is normed alone.
        norm_before_gate: norm(y) * SiLU(z); False is norm(y * SiLU(z)), which published language models use.
        n_layers: as in :class:`tstar.nn.MambaMixer`.
        backend: of :func:`tstar.ops.ssd.ssd_scan`.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        head_dim: int = 64,
        *,
        n_groups: int = 1,
        norm_before_gate: bool = True,
        n_layers: int = 1,
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model, d_state, d_conv, expand, head_dim, n_groups, norm_before_gate, backend)
        self.conv1d, self.dt_bias, self.A_log, self.D, self.norm = self.fresh()
        self.out_proj = output_projection(self.d_inner, d_model, n_layers)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, state: MixerState | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, MixerState]:
        """Mix along L; arguments and result as in :meth:`tstar.nn.MambaMixer.forward`."""
        check_stream(type(self).__name__, mask, return_state or state is not None)
        if return_state and state is None:
            state = self.empty_state(x.shape[0])
        ahead = _Direction(self.conv1d, self.dt_bias, self.A_log, self.D, self.norm)
        y, state = self.run(ahead, *self.project(x, mask), mask=mask, state=state)
        y = self.out_proj(y)
        return (y, state) if return_state and state is not None else y


class BidirectionalMamba2Mixer(_Mamba2):
    """Mamba-2 from both ends: a forward and a backward scan of one projection, merged.

    ``in_proj`` and ``out_proj`` are shared; the convolution, ``dt_bias``, ``A_log``, ``D`` and the norm are each
    direction's own, the backward ones named ``conv1d_b``, ``dt_bias_b``, ``A_b_log``, ``D_b`` and ``norm_b``.

    Args:
        d_model, d_state, d_conv, expand, head_dim, n_groups, norm_before_gate, n_layers, backend: as in
            :class:`Mamba2Mixer`.
        merge: add the directions, average them, or put them side by side; see :data:`tstar.nn.mamba_parts.Merge`.
        backward_dt_init: ``"same"`` draws both directions' steps alike; ``"reference"`` leaves the backward bias at
            one, as published code does, which gives that direction a memory of about a position at the start.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        head_dim: int = 64,
        *,
        n_groups: int = 1,
        norm_before_gate: bool = True,
        merge: Merge = "sum",
        backward_dt_init: BackwardDtInit = "same",
        n_layers: int = 1,
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model, d_state, d_conv, expand, head_dim, n_groups, norm_before_gate, backend)
        check_choice(type(self).__name__, "merge", merge, Merge)
        check_choice(type(self).__name__, "backward_dt_init", backward_dt_init, BackwardDtInit)
        self.merge = merge
        self.conv1d, self.dt_bias, self.A_log, self.D, self.norm = self.fresh()
        self.conv1d_b, self.dt_bias_b, self.A_b_log, self.D_b, self.norm_b = self.fresh()
        if backward_dt_init == "reference":
            nn.init.ones_(self.dt_bias_b)
        self.out_proj = output_projection(merged_width(self.d_inner, merge), d_model, n_layers)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix along L, both ways; arguments and result as in :meth:`tstar.nn.BidirectionalMambaMixer.forward`."""
        projected = self.project(x, mask)
        ahead, back = self._directions()
        y, _ = self.run(ahead, *projected, mask=mask)
        y_b, _ = self.run(back, *projected, mask=mask, reverse=True)
        return self.out_proj(merge_directions(y, y_b, self.merge))

    def look_back(self, x: Tensor, behind: MixerState | None) -> MixerState:
        """As :meth:`tstar.nn.BidirectionalMambaMixer.look_back`."""
        start = self.empty_state(len(x)) if behind is None else behind
        state = self.run(self._directions()[1], *self.project(x, None), reverse=True, state=start)[1]
        assert state is not None
        return state

    def mix_stretch(self, x: Tensor, before: MixerState | None, behind: MixerState | None) -> tuple[Tensor, MixerState]:
        """As :meth:`tstar.nn.BidirectionalMambaMixer.mix_stretch`."""
        projected = self.project(x, None)
        ahead, back = self._directions()
        states = [self.empty_state(len(x)) if state is None else state for state in (before, behind)]
        y, after = self.run(ahead, *projected, state=states[0])
        y_b, _ = self.run(back, *projected, reverse=True, state=states[1])
        assert after is not None
        return self.out_proj(merge_directions(y, y_b, self.merge)), after

    def _directions(self) -> tuple["_Direction", "_Direction"]:
        ahead = _Direction(self.conv1d, self.dt_bias, self.A_log, self.D, self.norm)
        return ahead, _Direction(self.conv1d_b, self.dt_bias_b, self.A_b_log, self.D_b, self.norm_b)


class _Direction(NamedTuple):
    """Parameters of one scan direction."""

    conv1d: nn.Conv1d
    dt_bias: nn.Parameter
    A_log: nn.Parameter
    D: nn.Parameter
    norm: RMSNorm
