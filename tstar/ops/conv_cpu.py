"""Causal convolution by the fused CPU kernels, as a PyTorch operator with gradients.

Letters: B batch, L positions, I channels, K taps.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tstar.ops.conv_torch import next_state
from tstar.ops.cpu_rows import LANES, floats, kernels, neighbours, rows, shares, values
from tstar.ops.cpu_threads import for_each


def conv_cpu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    activation: str | None,
    reverse: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The fused kernel; arguments and result as in :func:`tstar.ops.causal_conv1d`."""
    inner, taps = weight.shape
    wide = -inner % LANES  # channels to add
    dtype = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32

    def padded(tensor: Tensor) -> Tensor:
        return F.pad(tensor.to(dtype), (0, wide)) if wide else tensor.to(dtype)

    y = conv_rows(
        padded(x),
        F.pad(weight.float().mT, (0, wide)).contiguous(),
        weight.new_zeros(inner + wide, dtype=torch.float32) if bias is None else F.pad(bias.float(), (0, wide)),
        None if initial_state is None or taps == 1 else padded(initial_state),
        mask,
        activation == "silu",
        reverse,
    )
    if wide:
        y = y[..., :inner]
    return y.to(x.dtype), next_state(x, taps, mask, reverse, initial_state)


@torch.library.custom_op("tstar::conv_rows", mutates_args=(), device_types="cpu")
def conv_rows(
    x: Tensor, weight: Tensor, bias: Tensor, state: Tensor | None, mask: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    """Convolve tensors laid out for the kernels.

    Args:
        x: [B, L, I], float32 or bfloat16; I a multiple of sixteen.
        weight: [K, I], float32, contiguous.
        bias: [I], float32.
        state: inputs next to the sequence in order of position, [B, K-1, I] of ``x``'s type; zeros when absent.
        mask: [B, L], False at padding.
        silu: put the sum through SiLU.
        reverse: windows look to later positions.

    Returns:
        y [B, L, I] in ``x``'s type.
    """
    call = _Call(x, weight, bias, state, mask, silu, reverse)
    y = torch.empty(x.shape, dtype=x.dtype)
    y_rows = rows(y, reverse)
    for_each(len(call.shares), lambda number: call.kernels.forward(call.inputs, call.shape(number), y_rows))
    return y


@conv_rows.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, state: Tensor | None, mask: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("tstar::conv_rows_backward", mutates_args=(), device_types="cpu")
def conv_rows_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor | None,
    mask: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and the state (empty without one)."""
    call = _Call(x, weight, bias, state, mask, silu, reverse)
    grad_x = torch.empty(x.shape, dtype=x.dtype)
    grad_state = torch.zeros((0, 0, 0) if state is None else state.shape, dtype=x.dtype)
    weight_parts = floats(len(call.shares), *weight.shape, zero=True)
    bias_parts = floats(len(call.shares), *bias.shape, zero=True)
    grad_y = neighbours(grad_y)
    y_rows, x_rows, state_rows = (rows(tensor, reverse) for tensor in (grad_y, grad_x, grad_state))
    weight_values, bias_values = values(weight_parts), values(bias_parts)

    def share(number: int) -> None:
        grads = call.kernels.Gradients(x_rows, state_rows, weight_values, bias_values, number)
        scratch = floats(call.kernels.scratch_floats(weight.shape[0]))
        call.kernels.backward(call.inputs, call.shape(number), y_rows, grads, values(scratch))

    for_each(len(call.shares), share)
    return grad_x, weight_parts.sum(0), bias_parts.sum(0), grad_state


@conv_rows_backward.register_fake
def _(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    state: Tensor | None,
    mask: Tensor | None,
    silu: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    like_state = x.new_empty((0, 0, 0) if state is None else state.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape), like_state


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.silu, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    grad_x, grad_weight, grad_bias, grad_state = conv_rows_backward(grad_y, *saved, ctx.silu, ctx.reverse)
    return grad_x, grad_weight, grad_bias, grad_state if saved[3] is not None else None, None, None, None


conv_rows.register_autograd(_backward, setup_context=_keep_inputs)


class _Call:
    """What the tasks of one call share; a task is a run of segments."""

    def __init__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        state: Tensor | None,
        mask: Tensor | None,
        silu: bool,
        reverse: bool,
    ) -> None:
        self.kernels = kernels("conv_kernels")
        stateful, masked = state is not None, mask is not None
        batch, self.length, self.inner = x.shape
        self.taps = weight.shape[0]
        self.segments = -(-self.length // self.kernels.SEGMENT)
        self.shares = shares(batch * self.segments)
        state = x.new_empty((0, 0, 0)) if state is None else state
        mask = torch.empty(0, 0, dtype=torch.bool) if mask is None else mask
        self._held = [neighbours(x), neighbours(state), mask, weight.contiguous(), bias.contiguous()]
        x, state, mask, weight, bias = self._held
        self.inputs = self.kernels.Inputs(
            rows(x, reverse),
            rows(state, reverse),
            rows(mask, reverse),
            values(weight),
            values(bias),
            stateful=stateful,
            masked=masked,
            silu=silu,
        )

    def shape(self, number: int) -> Any:
        """Sizes and segments of a task."""
        start, stop = self.shares[number]
        return self.kernels.Shape(self.length, self.inner, self.taps, self.segments, start, stop)
