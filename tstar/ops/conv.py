"""Depthwise convolution over time whose window looks one way only.

    y_t = activation(bias + sum_j weight[K-1-j] x_{t-j}),  j = 0 .. K-1      (x_{t+j} when reversed)

Letters: B batch, L positions, I channels, K taps.
"""

from typing import Literal, overload

import torch
from torch import Tensor

from tstar.ops.backends import Backend, choose, not_for_cpu_kernel, numba_missing
from tstar.ops.conv_cpu import conv_cpu
from tstar.ops.conv_cuda import conv_cuda, not_for_vendor, vendor_missing
from tstar.ops.conv_reference import conv_reference
from tstar.ops.conv_torch import conv_torch

CONVS: dict[str, Backend] = {
    "reference": Backend(conv_reference),
    "torch": Backend(conv_torch),
    "cpu": Backend(conv_cpu, missing=numba_missing, unfit=not_for_cpu_kernel),
    "cuda": Backend(conv_cuda, missing=vendor_missing, unfit=not_for_vendor),
}
"""Backends of :func:`causal_conv1d`: (x, weight, bias, mask, activation, reverse, initial_state) to (y [B, L, I], the
next initial state [B, K-1, I]). What speaks against one depends on the taps, not on a state: ``unfit`` gets the weight
in its place."""


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    reverse: bool = False,
    mask: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_final_state: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    reverse: bool = False,
    mask: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_final_state: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    reverse: bool = False,
    mask: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve every channel with its own taps, each output seeing only positions up to its own.

    Args:
        x: input, [B, L, I].
        weight: taps, the last one for the present position, [I, K].
        bias: [I]; none when absent.
        activation: ``"silu"`` or None.
        reverse: the window looks at later positions instead, the same as flipping every sequence before and after.
        mask: False at padding, which may lie anywhere, [B, L], bool. Inputs there count as zeros, also in the final
            state; outputs there are exactly zero, whatever the bias; no gradient reaches them.
        initial_state: inputs next to the sequence on the side the window looks to (before the first position, or with
            ``reverse`` after the last one), in order of position, [B, K-1, I]; zeros when absent.
        return_final_state: also return the ``initial_state`` of the sequence that continues this one.
        backend: a name in :data:`tstar.ops.backends.BACKENDS`.

    Returns:
        y [B, L, I] in ``x``'s type; with ``return_final_state`` also the state [B, K-1, I].

    Raises:
        ConfigError: the backend is unknown, not installed, or cannot take these tensors; the message says which.
        ValueError: shapes do not fit together, or the activation is unknown.
    """
    _check(x, weight, bias, activation, mask, initial_state)
    chosen = choose("causal_conv1d", CONVS, backend, x, weight, return_final_state)
    with torch.autocast(x.device.type, enabled=False):
        y, state = chosen.run(x, weight, bias, mask, activation, reverse, initial_state)
    return (y, state) if return_final_state else y


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    mask: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    if x.dim() != 3 or weight.dim() != 2 or weight.shape[0] != x.shape[2] or weight.shape[1] < 1:
        raise ValueError(
            f"causal_conv1d: x must be [B, L, I] and weight [I, K] with K >= 1, got {list(x.shape)} and {list(weight.shape)}"
        )
    batch, length, channels = x.shape
    expected = {
        "bias": (bias, [channels]),
        "mask": (mask, [batch, length]),
        "initial_state": (initial_state, [batch, weight.shape[1] - 1, channels]),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and list(tensor.shape) != shape:
            raise ValueError(
                f"causal_conv1d: {name} must be {shape} to fit x {list(x.shape)}, got {list(tensor.shape)}"
            )
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"causal_conv1d: mask must be of type bool, got {mask.dtype}")
    if activation not in (None, "silu"):
        raise ValueError(f"causal_conv1d: activation must be None or 'silu', got {activation!r}")
