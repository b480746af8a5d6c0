"""Mamba-1 mixers: causal, and bidirectional with shared outer projections.

Gu & Dao, "Mamba", arXiv:2312.00752 (block of figure 3, initialisation of section 3.6); both directions in one mixer
after Zhu et al., "Vision Mamba", arXiv:2401.09417, algorithm 1, and Li et al., "VideoMamba", arXiv:2403.06977.
Parameters have the names of the published checkpoints of each, the backward direction's with ``_b``.

Letters: B batch, L positions, D width outside, I = expand * D width inside, S states of a channel, K taps, R rank of
the step projection.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from tstar.nn.weight_decay import exempt_from_weight_decay
from tstar.ops import causal_conv1d, selective_scan

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 0.1, 1e-4
"""At init a channel's step is drawn log-uniformly between the first two, and is never below the third."""


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
        self.d_inner, self.d_state, self.backend = d_inner, d_state, backend
        self.dt_rank = -(-d_model // 16) if dt_rank == "auto" else dt_rank
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D = _direction(d_inner, d_state, d_conv, self.dt_rank)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        _shrink(self.out_proj, n_layers)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix along L.

        Args:
            x: [B, L, D].
            mask: False at padding, [B, L]; padding may lie on the right only. It changes no valid position here, it
                only makes padded outputs zero.

        Returns:
            [B, L, D].
        """
        x, z = self.in_proj(_zero_padding(x, mask)).chunk(2, dim=-1)  # [B, L, I] each
        y = _scan_direction(
            x,
            z,
            self.conv1d,
            self.x_proj,
            self.dt_proj,
            self.A_log,
            self.D,
            mask=mask,
            reverse=False,
            backend=self.backend,
        )
        return self.out_proj(y)


class BidirectionalMambaMixer(nn.Module):
    """Mamba-1 from both ends: a forward and a backward scan of one projection, added up.

    ``in_proj`` and ``out_proj`` are shared; the convolution, ``x_proj``, ``dt_proj``, ``A_log`` and ``D`` are each
    direction's own, the backward ones named ``conv1d_b``, ``x_proj_b``, ``dt_proj_b``, ``A_b_log`` and ``D_b``.

    Args:
        d_model, d_state, d_conv, expand, dt_rank, n_layers, backend: as in :class:`MambaMixer`.
        merge: add the directions, or average them.
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
        merge: Literal["sum", "mean"] = "sum",
        backward_dt_init: Literal["same", "reference"] = "same",
        n_layers: int = 1,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if merge not in ("sum", "mean"):
            raise ValueError(f"BidirectionalMambaMixer: merge must be 'sum' or 'mean', got {merge!r}")
        if backward_dt_init not in ("same", "reference"):
            raise ValueError(
                f"BidirectionalMambaMixer: backward_dt_init must be 'same' or 'reference', got {backward_dt_init!r}"
            )
        d_inner = expand * d_model
        self.d_inner, self.d_state, self.backend = d_inner, d_state, backend
        self.dt_rank = -(-d_model // 16) if dt_rank == "auto" else dt_rank
        self.scale = 1.0 if merge == "sum" else 0.5
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        sizes = (d_inner, d_state, d_conv, self.dt_rank)
        self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D = _direction(*sizes)
        self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b = _direction(*sizes)
        if backward_dt_init == "reference":
            nn.init.zeros_(self.dt_proj_b.bias)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        _shrink(self.out_proj, n_layers)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix along L, both ways.

        Args:
            x: [B, L, D].
            mask: False at padding, [B, L]; padding may lie on the right only. Valid outputs are those of the unpadded
                sequence, padded ones are zero.

        Returns:
            [B, L, D].
        """
        x, z = self.in_proj(_zero_padding(x, mask)).chunk(2, dim=-1)  # [B, L, I] each
        ahead = _scan_direction(
            x,
            z,
            self.conv1d,
            self.x_proj,
            self.dt_proj,
            self.A_log,
            self.D,
            mask=mask,
            reverse=False,
            backend=self.backend,
        )
        back = _scan_direction(
            x,
            z,
            self.conv1d_b,
            self.x_proj_b,
            self.dt_proj_b,
            self.A_b_log,
            self.D_b,
            mask=mask,
            reverse=True,
            backend=self.backend,
        )
        return self.out_proj((ahead + back) * self.scale)


def _direction(
    d_inner: int, d_state: int, d_conv: int, dt_rank: int
) -> tuple[nn.Conv1d, nn.Linear, nn.Linear, nn.Parameter, nn.Parameter]:
    """Fresh parameters of one scan direction: (conv1d, x_proj, dt_proj, A_log, D)."""
    conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner)  # only holds weight [I, 1, K] and bias [I]
    x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
    dt_proj = nn.Linear(dt_rank, d_inner)
    nn.init.uniform_(dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
    with torch.no_grad():
        low, high = math.log(DT_MIN), math.log(DT_MAX)
        step = torch.empty_like(dt_proj.bias).uniform_(low, high).exp().clamp(min=DT_FLOOR)
        dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus of this is the step
    A_log = nn.Parameter(torch.arange(1, d_state + 1, dtype=torch.float32).log().repeat(d_inner, 1))  # [I, S]
    D = nn.Parameter(torch.ones(d_inner))
    exempt_from_weight_decay(conv1d.bias, dt_proj.bias, A_log, D)
    return conv1d, x_proj, dt_proj, A_log, D


def _shrink(out_proj: nn.Linear, n_layers: int) -> None:
    with torch.no_grad():
        out_proj.weight /= math.sqrt(n_layers)


def _zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0.0)


def _scan_direction(
    x: Tensor,
    z: Tensor,
    conv1d: nn.Conv1d,
    x_proj: nn.Linear,
    dt_proj: nn.Linear,
    A_log: Tensor,
    D: Tensor,
    *,
    mask: Tensor | None,
    reverse: bool,
    backend: str,
) -> Tensor:
    """Convolution, read-out of step and B and C, scan, gate: x, z [B, L, I] (zero at padding) to [B, L, I]."""
    x = causal_conv1d(x, conv1d.weight.squeeze(1), conv1d.bias, activation="silu", reverse=reverse)
    x = _zero_padding(x, mask)  # the convolution's bias has made padding non-zero again; a scan would carry it along
    d_state = A_log.shape[1]
    step, B, C = x_proj(x).split([dt_proj.in_features, d_state, d_state], dim=-1)  # [B, L, R], [B, L, S], [B, L, S]
    step = nn.functional.linear(step, dt_proj.weight)  # [B, L, I]; its bias is added in fp32 by the scan
    A = -torch.exp(A_log.float())
    return selective_scan(x, step, A, B, C, D.float(), z, dt_proj.bias.float(), reverse=reverse, backend=backend)
