"""Depthwise convolution over time whose window looks one way only.

    y_t = activation(bias + sum_j weight[K-1-j] x_{t-j}),  j = 0 .. K-1      (x_{t+j} when reversed)

Letters: B batch, L positions, I channels, K taps.
"""

from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: Literal[False] = False,
) -> Tensor: ...


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    reverse: bool = False,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve every channel with its own taps, each output seeing only positions up to its own.

    Args:
        x: input, [B, L, I].
        weight: taps, the last one for the present position, [I, K].
        bias: [I]; none when absent.
        activation: ``"silu"`` or None.
        reverse: the window looks at later positions instead, the same as flipping every sequence before and after.
        initial_state: inputs next to the sequence on the side the window looks to (before the first position, or with
            ``reverse`` after the last one), in order of position, [B, K-1, I]; zeros when absent.
        return_final_state: also return the ``initial_state`` of the sequence that continues this one.

    Returns:
        y [B, L, I] in ``x``'s type; with ``return_final_state`` also the state [B, K-1, I].

    Raises:
        ValueError: shapes do not fit together, or the activation is unknown.
    """
    _check(x, weight, bias, activation, initial_state)
    around = weight.shape[1] - 1
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], around, x.shape[2])
    state = initial_state.to(x.dtype)
    padded = torch.cat([x, state] if reverse else [state, x], dim=1)  # [B, L + K-1, I]

    dtype = torch.promote_types(x.dtype, weight.dtype)
    taps = (weight.flip(1) if reverse else weight).to(dtype).unsqueeze(1)  # [I, 1, K]
    with torch.autocast(x.device.type, enabled=False):
        shift = None if bias is None else bias.to(dtype)
        y = F.conv1d(padded.to(dtype).mT, taps, shift, groups=x.shape[2]).mT.contiguous()  # [B, L, I]
    if activation == "silu":
        y = F.silu(y)
    y = y.to(x.dtype)
    if not return_final_state:
        return y
    return y, padded[:, :around] if reverse else padded[:, padded.shape[1] - around :]


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, initial_state: Tensor | None
) -> None:
    if x.dim() != 3 or weight.dim() != 2 or weight.shape[0] != x.shape[2]:
        raise ValueError(
            f"causal_conv1d: x must be [B, L, I] and weight [I, K], got {list(x.shape)} and {list(weight.shape)}"
        )
    batch, _, channels = x.shape
    expected = {
        "bias": (bias, [channels]),
        "initial_state": (initial_state, [batch, weight.shape[1] - 1, channels]),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and list(tensor.shape) != shape:
            raise ValueError(
                f"causal_conv1d: {name} must be {shape} to fit x {list(x.shape)}, got {list(tensor.shape)}"
            )
    if activation not in (None, "silu"):
        raise ValueError(f"causal_conv1d: activation must be None or 'silu', got {activation!r}")
