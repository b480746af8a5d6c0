"""State-space dual scan, slow and obvious: what every other backend is checked against.

Letters: B batch, L positions, H heads, P channels of a head, G groups, S states of a channel.
"""

import torch
from torch import Tensor


def ssd_reference(
    x: Tensor,
    step: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    reverse: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One position after another; ``step`` [B, L, H] is final and in the state's type, the rest as in ``ssd_scan``."""
    dtype = step.dtype
    batch, length, heads, channels = x.shape
    groups, states = B.shape[2:]
    wide = x.to(dtype)
    B, C = (t.to(dtype).repeat_interleave(heads // groups, dim=2) for t in (B, C))  # [B, L, H, S]
    decay = torch.exp(step * A.to(dtype))  # [B, L, H]
    zero = wide.new_zeros(batch, heads, channels, states)
    state = zero if initial_state is None else initial_state.to(dtype)
    outputs = [zero[..., 0]] * length
    for t in reversed(range(length)) if reverse else range(length):
        added = (step[:, t, :, None] * wide[:, t])[..., None] * B[:, t, :, None, :]  # [B, H, P, S]
        state = decay[:, t, :, None, None] * state + added
        outputs[t] = (state * C[:, t, :, None, :]).sum(-1)  # [B, H, P]
    y = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(wide)  # [B, L, H, P]
    if D is not None:
        y = y + wide * D.to(dtype)[:, None]
    return y.to(x.dtype), state
