"""Selective scan, slow and obvious: what every other backend is checked against.

Letters: B batch, L positions, I inner channels, S states of a channel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def scan_reference(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    mask: Tensor | None,
    dt_softplus: bool,
    reverse: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One position after another; arguments and result as in :func:`tstar.ops.selective_scan`."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    A, B, C = A.to(dtype), B.to(dtype), C.to(dtype)
    x, step = u.to(dtype), dt.to(dtype)
    if dt_bias is not None:
        step = step + dt_bias.to(dtype)
    if dt_softplus:
        step = F.softplus(step)
    if mask is not None:
        step = step.masked_fill(~mask.unsqueeze(-1), 0.0)

    batch, length, inner = u.shape
    state = x.new_zeros(batch, inner, A.shape[1]) if initial_state is None else initial_state.to(dtype)
    outputs = [x.new_zeros(batch, inner)] * length
    for t in reversed(range(length)) if reverse else range(length):
        decay = torch.exp(step[:, t, :, None] * A)  # [B, I, S]
        state = decay * state + (step[:, t] * x[:, t])[:, :, None] * B[:, t, None, :]  # [B, I, S]
        outputs[t] = (state * C[:, t, None, :]).sum(-1)  # [B, I]
    y = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(x)  # [B, L, I]

    if D is not None:
        y = y + x * D.to(dtype)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    if mask is not None:
        y = y.masked_fill(~mask.unsqueeze(-1), 0.0)
    return y.to(u.dtype), state
