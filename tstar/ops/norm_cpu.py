"""Gated root-mean-square norm by the fused CPU kernels, as a PyTorch operator with gradients.

Letters: R rows, D their width.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tstar.ops.cpu_rows import LANES, floats, kernels, neighbours, rows, shares, values
from tstar.ops.cpu_threads import for_each


def rms_norm_cpu(
    x: Tensor,
    weight: Tensor,
    eps: float = 1e-5,
    *,
    z: Tensor | None = None,
    norm_before_gate: bool = True,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The fused kernel, in fp32 between fp32 or bf16; arguments and result as in :func:`tstar.ops.norm.rms_norm`."""
    width = x.shape[-1]
    wide = -width % LANES  # numbers to add to a row
    inside = torch.bfloat16 if x.dtype == torch.bfloat16 and (z is None or z.dtype == x.dtype) else torch.float32
    dtype = x.dtype if dtype is None else dtype

    def flat(tensor: Tensor) -> Tensor:
        tensor = tensor.to(inside).reshape(-1, width)  # [R, D]
        return F.pad(tensor, (0, wide)) if wide else tensor

    gate, half = None if z is None else flat(z), dtype == torch.bfloat16
    y = norm_rows(flat(x), gate, F.pad(weight.float(), (0, wide)), width, eps, norm_before_gate, half)
    if wide:
        y = y[:, :width]
    return y.reshape(x.shape).to(dtype)


@torch.library.custom_op("tstar::norm_rows", mutates_args=(), device_types="cpu")
def norm_rows(
    x: Tensor, z: Tensor | None, weight: Tensor, width: int, eps: float, norm_first: bool, half: bool
) -> Tensor:
    """Norm of rows laid out for the kernels.

    Args:
        x, z: [R, W] of one type, float32 or bfloat16; W a multiple of sixteen.
        weight: [W], float32.
        width: D, numbers of a row that count; the rest must be zero.
        eps: added under the root.
        norm_first: the gate comes after the norm.
        half: return bfloat16; else float32.

    Returns:
        y [R, W].
    """
    call = _Call(x, z, weight, width, eps, norm_first)
    y = torch.empty(x.shape, dtype=torch.bfloat16 if half else torch.float32)
    y_rows = rows(y.unsqueeze(0))

    def share(number: int) -> None:
        scratch = floats(x.shape[1])
        call.kernels.forward(call.inputs, call.shape(number), y_rows, values(scratch))

    for_each(len(call.shares), share)
    return y


@norm_rows.register_fake
def _(x: Tensor, z: Tensor | None, weight: Tensor, width: int, eps: float, norm_first: bool, half: bool) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.bfloat16 if half else torch.float32)


@torch.library.custom_op("tstar::norm_rows_backward", mutates_args=(), device_types="cpu")
def norm_rows_backward(
    grad_y: Tensor, x: Tensor, z: Tensor | None, weight: Tensor, width: int, eps: float, norm_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, z (empty without one) and weight."""
    call = _Call(x, z, weight, width, eps, norm_first)
    grad_x = torch.empty(x.shape, dtype=x.dtype)
    grad_z = torch.empty((0, 0) if z is None else x.shape, dtype=x.dtype)
    parts = floats(len(call.shares), *weight.shape, zero=True)
    grad_y = neighbours(grad_y)
    y_rows, x_rows, z_rows = (rows(tensor.unsqueeze(0)) for tensor in (grad_y, grad_x, grad_z))
    part_values = values(parts)

    def share(number: int) -> None:
        scratch = floats(x.shape[1])
        call.kernels.backward(
            call.inputs, call.shape(number), y_rows, x_rows, z_rows, part_values, number, values(scratch)
        )

    for_each(len(call.shares), share)
    return grad_x, grad_z, parts.sum(0)


@norm_rows_backward.register_fake
def _(
    grad_y: Tensor, x: Tensor, z: Tensor | None, weight: Tensor, width: int, eps: float, norm_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    like_z = x.new_empty((0, 0) if z is None else x.shape)
    return x.new_empty(x.shape), like_z, weight.new_empty(weight.shape)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, z, weight, *ctx.options, _half = inputs
    ctx.save_for_backward(x, z, weight)


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    grad_x, grad_z, grad_weight = norm_rows_backward(grad_y, *saved, *ctx.options)
    return grad_x, grad_z if saved[1] is not None else None, grad_weight, None, None, None, None


norm_rows.register_autograd(_backward, setup_context=_keep_inputs)


class _Call:
    """What the tasks of one call share; a task is a run of rows."""

    def __init__(self, x: Tensor, z: Tensor | None, weight: Tensor, width: int, eps: float, norm_first: bool) -> None:
        self.kernels = kernels("norm_kernels")
        self.wide, self.width = x.shape[1], width
        self.shares = shares(*x.shape)
        self._held = [neighbours(x), x.new_empty((0, 0)) if z is None else neighbours(z), weight.contiguous()]
        self.inputs = self.kernels.Inputs(
            *(rows(tensor.unsqueeze(0)) for tensor in self._held[:2]),
            values(self._held[2]),
            np.float32(eps),
            gated=z is not None,
            norm_first=norm_first,
        )

    def shape(self, number: int) -> Any:
        """Sizes and rows of a task."""
        return self.kernels.Shape(self.wide, self.width, *self.shares[number])
