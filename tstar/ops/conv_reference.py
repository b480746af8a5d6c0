"""Causal convolution, slow and obvious: what every other backend is checked against.

Letters: B batch, L positions, I channels, K taps.
"""

import torch
from torch import Tensor


def conv_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    activation: str | None,
    reverse: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One position after another; arguments and result as in :func:`tstar.ops.causal_conv1d`."""
    batch, length, inner = x.shape
    taps = weight.shape[1]
    dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    if mask is not None:
        x = torch.where(mask[:, :, None], x, torch.zeros_like(x))
    state = x.new_zeros(batch, taps - 1, inner) if initial_state is None else initial_state.to(x.dtype)
    before, along = list(state.unbind(1)), list(x.unbind(1))  # [B, I] each
    if reverse:
        before, along = before[::-1], along[::-1]
    seen = before + along

    outputs = []
    for t in range(length):
        y = x.new_zeros(batch, inner, dtype=dtype) if bias is None else bias.to(dtype).expand(batch, inner)
        for k in range(taps):
            y = y + weight[:, k].to(dtype) * seen[t + k].to(dtype)
        outputs.append(y * torch.sigmoid(y) if activation == "silu" else y)
    after = seen[length:]
    if reverse:
        outputs, after = outputs[::-1], after[::-1]
    y = torch.stack(outputs, dim=1).to(x.dtype) if outputs else torch.zeros_like(x)  # [B, L, I]
    if mask is not None:
        y = torch.where(mask[:, :, None], y, torch.zeros_like(y))
    return y, torch.stack(after, dim=1) if after else state
