"""Causal convolution as PyTorch operations, on any device.

Letters: B batch, L positions, I channels, K taps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def conv_torch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    activation: str | None,
    reverse: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """A grouped convolution; arguments and result as in :func:`tstar.ops.causal_conv1d`."""
    x = hide(x, mask)
    around = weight.shape[1] - 1
    state = x.new_zeros(x.shape[0], around, x.shape[2]) if initial_state is None else initial_state.to(x.dtype)
    padded = torch.cat([x, state] if reverse else [state, x], dim=1)  # [B, L + K-1, I]

    dtype = torch.promote_types(x.dtype, weight.dtype)
    taps = (weight.flip(1) if reverse else weight).to(dtype).unsqueeze(1)  # [I, 1, K]
    shift = None if bias is None else bias.to(dtype)
    if x.shape[1]:
        y = F.conv1d(padded.to(dtype).mT, taps, shift, groups=x.shape[2]).mT.contiguous()  # [B, L, I]
    else:
        y = x.to(dtype)
    if activation == "silu":
        y = F.silu(y)
    y = hide(y.to(x.dtype), mask)
    return y, padded[:, :around] if reverse else padded[:, padded.shape[1] - around :]


def hide(x: Tensor, mask: Tensor | None) -> Tensor:
    """x [B, L, I] with zeros where ``mask`` [B, L] is False."""
    return x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0.0)


def next_state(x: Tensor, taps: int, mask: Tensor | None, reverse: bool, state: Tensor | None) -> Tensor:
    """The ``initial_state`` [B, K-1, I] of what comes after x [B, L, I], as a tensor of its own."""
    batch, length, inner = x.shape
    around, near = taps - 1, max(0, length - (taps - 1))
    edge = slice(0, length - near) if reverse else slice(near, length)
    x = hide(x[:, edge], None if mask is None else mask[:, edge])
    state = x.new_zeros(batch, around, inner) if state is None else state.to(x.dtype)
    far = x.shape[1]  # positions that push the old state out
    return torch.cat([x, state[:, : around - far]] if reverse else [state[:, far:], x], dim=1)
