"""Selective scan by the fused CPU kernels, as a PyTorch operator with gradients.

Round the operator stand ordinary differentiable operations that bring the tensors to the kernels' layout; they touch
nothing of the size of [B, L, I] but where I is no multiple of sixteen or types differ. A tile's width follows from the
shapes alone, and sums over tiles are added in their order, so results do not depend on the number of threads.

Letters: B batch, L positions, I inner channels, S states of a channel.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tstar.ops.cpu_rows import LANES, Rows, check_kept, floats, kernels, moved, neighbours, rows, values
from tstar.ops.cpu_threads import for_each

FORWARD, BACKWARD = "scan_kernels", "scan_kernels_backward"
_UNROLL, _CHUNK = 4, 32
"""Of the kernels; repeated here so that a model can be traced without importing Numba."""
_TILE_FLOATS, _TILES_WANTED = 16384, 4
_LOG2_E = 1.4426950408889634


def scan_cpu(
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
    """The fused kernel; arguments and result as in :func:`tstar.ops.selective_scan`."""
    batch, _, inner = u.shape
    states = A.shape[1]
    wide, deep = -inner % LANES, -states % _UNROLL  # channels and states to add
    dtype = torch.float32
    if all(t is None or t.dtype == torch.bfloat16 for t in (u, dt, z)):
        dtype = torch.bfloat16

    def wide_rows(tensor: Tensor) -> Tensor:
        tensor = F.pad(tensor.to(dtype), (0, wide)) if wide else tensor.to(dtype)
        return neighbours(tensor)

    def channels(tensor: Tensor | None) -> Tensor:
        return u.new_zeros(inner + wide, dtype=torch.float32) if tensor is None else F.pad(tensor.float(), (0, wide))

    if initial_state is None:
        state = u.new_zeros((batch, states + deep, inner + wide), dtype=torch.float32)
    else:
        state = F.pad(initial_state.float().mT, (0, wide, 0, deep))
    inputs = (
        wide_rows(u),
        wide_rows(dt),
        None if z is None else wide_rows(z),
        F.pad(A.float().mT * _LOG2_E, (0, wide, 0, deep)).contiguous(),
        F.pad(B.float(), (0, deep)).contiguous(),
        F.pad(C.float(), (0, deep)).contiguous(),
        channels(D),
        channels(dt_bias),
        state.contiguous(),
    )
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    y, state, _ = scan_tiles(*inputs, mask, dt_softplus, reverse, keep)
    return y[..., :inner].to(u.dtype), state[:, :states, :inner].mT.contiguous()


@torch.library.custom_op("tstar::scan_tiles", mutates_args=(), device_types="cpu")
def scan_tiles(
    u: Tensor,
    dt: Tensor,
    z: Tensor | None,
    rates: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    state: Tensor,
    mask: Tensor | None,
    dt_softplus: bool,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scan tensors laid out for the kernels.

    Args:
        u, dt, z: [B, L, I] of one type, float32 or bfloat16, rows contiguous; I a multiple of sixteen.
        rates: A log2(e), [S, I], float32 as all that follow; S a multiple of four.
        B, C: [B, L, S].
        D, bias: [I].
        state: initial, [B, S, I].
        mask: [B, L], False at padding.
        keep: return what the backward pass needs.

    Returns:
        y [B, L, I], the final state [B, S, I], and the state before each chunk [B, chunks, S, I], empty unless ``keep``.
    """
    call = _Call(u, dt, z, rates, B, C, D, bias, mask, dt_softplus, reverse)
    y, state = torch.empty(u.shape, dtype=u.dtype), state.clone(memory_format=torch.contiguous_format)
    starts = floats(*(_starts_shape(u, rates) if keep else (0,)))
    y_rows, state_values, start_values = rows(y, reverse), values(state), values(starts)

    def tile(number: int) -> None:
        sequence = number // call.tiles
        inputs, shape, y_at, scratch = call.task(number, y_rows, backward=False)
        starts_at = sequence * call.chunks * call.plane
        kernels(FORWARD).forward(
            inputs, shape, y_at, state_values, sequence * call.plane, start_values, starts_at, keep, values(scratch)
        )

    for_each(call.tasks, tile)
    return y, state, starts


@scan_tiles.register_fake
def _(
    u: Tensor,
    dt: Tensor,
    z: Tensor | None,
    rates: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    state: Tensor,
    mask: Tensor | None,
    dt_softplus: bool,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    starts = _starts_shape(u, rates) if keep else (0,)
    return u.new_empty(u.shape), state.new_empty(state.shape), state.new_empty(starts)


@torch.library.custom_op("tstar::scan_tiles_backward", mutates_args=(), device_types="cpu")
def scan_tiles_backward(
    grad_y: Tensor,
    grad_state: Tensor,
    u: Tensor,
    dt: Tensor,
    z: Tensor | None,
    rates: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    starts: Tensor,
    dt_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, dt, z (empty without one), rates, B, C, D, bias and the initial state."""
    call = _Call(u, dt, z, rates, B, C, D, bias, mask, dt_softplus, reverse)
    grad_u, grad_dt = torch.empty(u.shape, dtype=u.dtype), torch.empty(u.shape, dtype=u.dtype)
    grad_z = torch.empty((0, 0, 0) if z is None else u.shape, dtype=u.dtype)
    grad_state = grad_state.clone(memory_format=torch.contiguous_format)
    rate_parts, channel_parts = floats(call.batch, *rates.shape, zero=True), floats(2, call.batch, D.numel(), zero=True)
    row_parts = floats(2, call.batch * call.tiles, *B.shape[1:])  # of B and C
    grad_y = neighbours(grad_y)
    y_rows = rows(grad_y, reverse)
    grad_rows = {"u": rows(grad_u, reverse), "dt": rows(grad_dt, reverse), "z": rows(grad_z, reverse)}
    part_rows = {"B": rows(row_parts[0], reverse), "C": rows(row_parts[1], reverse)}
    sums = {"rates": rate_parts, "D": channel_parts[0], "bias": channel_parts[1], "state": grad_state}
    sum_values, start_values = {name: values(tensor) for name, tensor in sums.items()}, values(starts)

    def tile(number: int) -> None:
        sequence = number // call.tiles
        inputs, shape, y_at, scratch = call.task(number, y_rows, backward=True)
        out = kernels(BACKWARD).Gradients(
            **{name: moved(of, sequence) for name, of in grad_rows.items()},
            **{name: moved(of, number) for name, of in part_rows.items()},
            **sum_values,
            channels_at=sequence * D.numel(),
            state_at=sequence * call.plane,
        )
        starts_at = sequence * call.chunks * call.plane
        kernels(BACKWARD).backward(inputs, shape, y_at, start_values, starts_at, out, values(scratch))

    for_each(call.tasks, tile)
    grad_B, grad_C = row_parts.unflatten(1, (call.batch, call.tiles)).sum(2).unbind(0)  # [B, L, S]
    grad_D, grad_bias = channel_parts.sum(1).unbind(0)
    return (
        grad_u,
        grad_dt,
        grad_z,
        rate_parts.sum(0),
        grad_B.clone(),
        grad_C.clone(),
        grad_D.clone(),
        grad_bias.clone(),
        grad_state,
    )


@scan_tiles_backward.register_fake
def _(
    grad_y: Tensor,
    grad_state: Tensor,
    u: Tensor,
    dt: Tensor,
    z: Tensor | None,
    rates: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    starts: Tensor,
    dt_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, ...]:
    like_z = u.new_empty((0, 0, 0)) if z is None else u.new_empty(u.shape)
    return (
        u.new_empty(u.shape),
        u.new_empty(u.shape),
        like_z,
        *(torch.empty_like(t) for t in (rates, B, C, D, bias, grad_state)),
    )


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    u, dt, z, rates, B, C, D, bias, _state, mask, ctx.dt_softplus, ctx.reverse, _keep = inputs
    ctx.save_for_backward(u, dt, z, rates, B, C, D, bias, mask, output[2])
    ctx.mark_non_differentiable(output[2])


def _backward(ctx: Any, grad_y: Tensor, grad_state: Tensor, _starts: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    check_kept("scan_tiles", saved[-1], saved[0])
    grads = scan_tiles_backward(grad_y, grad_state, *saved, ctx.dt_softplus, ctx.reverse)
    grad_u, grad_dt, grad_z, *rest = grads
    return (grad_u, grad_dt, grad_z if saved[2] is not None else None, *rest, None, None, None, None)


scan_tiles.register_autograd(_backward, setup_context=_keep_inputs)


def _starts_shape(u: Tensor, rates: Tensor) -> tuple[int, ...]:
    return (u.shape[0], (u.shape[1] + _CHUNK - 1) // _CHUNK, *rates.shape)


class _Call:
    """What the tasks of one call share; a task is one tile of one sequence."""

    def __init__(
        self,
        u: Tensor,
        dt: Tensor,
        z: Tensor | None,
        rates: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        bias: Tensor,
        mask: Tensor | None,
        dt_softplus: bool,
        reverse: bool,
    ) -> None:
        self.batch, self.length, self.inner = u.shape
        self.states, self.plane = rates.shape[0], rates.numel()
        self.chunks = -(-self.length // _CHUNK)
        groups = self.inner // LANES
        self.width = LANES * max(1, min(_TILE_FLOATS // max(1, self.states) // LANES, -(-groups // _TILES_WANTED)))
        self.tiles = -(-self.inner // self.width)
        self.tasks = self.batch * self.tiles if self.length else 0
        along = {"u": u, "dt": dt, "z": u if z is None else z, "B": B, "C": C}
        along["mask"] = u.new_empty((0, 0), dtype=torch.bool) if mask is None else mask
        self._along = {name: rows(tensor, reverse) for name, tensor in along.items()}
        self._fixed = {"rates": values(rates), "D": values(D), "bias": values(bias)}
        self._flags = {"softplus": dt_softplus, "gated": z is not None, "masked": mask is not None}

    def task(self, number: int, y: Rows, backward: bool) -> tuple[Any, Any, Any, Any]:
        """(inputs, shape, rows of y, scratch tensor) of a kernel's call."""
        sequence, tile = divmod(number, self.tiles)
        along = {name: moved(of, sequence) for name, of in self._along.items()}
        channel = tile * self.width
        forward = kernels(FORWARD)
        shape = forward.Shape(self.length, self.inner, self.states, channel, min(self.width, self.inner - channel))
        scratch = floats((kernels(BACKWARD) if backward else forward).scratch_floats(self.states, shape.width))
        return forward.Inputs(**along, **self._fixed, **self._flags), shape, moved(y, sequence), scratch
