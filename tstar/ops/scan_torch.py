"""Selective scan in chunks of PyTorch operations: any device, gradients, memory that does not grow with L times S.

Everything that is not the recurrence itself is computed for a whole chunk at once; the recurrence is then one fused
multiply-add a position, over all channels and states. Decays are only ever multiplied into a state, never divided by or
accumulated, so that a decay that underflows is a plain zero. Backward keeps the state at each chunk's start and
computes the chunk's other states again.

Letters: B batch, L positions, T positions of a chunk, I inner channels, S states of a channel. Inside a chunk tensors
are [T, B, S, I]: a position is contiguous, and so is the wide channel axis that broadcasting runs along.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK_ELEMENTS = {"cpu": 2**18}
"""Elements of a chunk's [T, B, S, I]; on a CPU few enough that three such buffers stay in cache."""
_CHUNK_ELEMENTS_ELSEWHERE = 2**24
_SHORTEST_CHUNK, _LONGEST_CHUNK = 16, 128


def scan_torch(
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
    """Chunk after chunk; arguments and result as in :func:`tstar.ops.selective_scan`."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    x, step = u.to(dtype), dt.to(dtype)
    if dt_bias is not None:
        step = step + dt_bias.to(dtype)
    if dt_softplus:
        step = F.softplus(step)
    if mask is not None:
        step = step.masked_fill(~mask.unsqueeze(-1), 0.0)
    if initial_state is None:
        initial_state = x.new_zeros(u.shape[0], *A.shape)  # [B, I, S]

    along = [x, step, B.to(dtype), C.to(dtype)]
    if reverse:
        along = [tensor.flip(1) for tensor in along]
    along = [tensor.contiguous() for tensor in along]  # a copy costs less than strided chunks
    y, state, _ = scan_chunks(*along, A.to(dtype).contiguous(), initial_state.to(dtype))
    if reverse:
        y = y.flip(1)

    if D is not None:
        y = torch.addcmul(y, x, D.to(dtype))
    if z is not None:
        y = y * F.silu(z.to(dtype))
    if mask is not None:
        y = y.masked_fill(~mask.unsqueeze(-1), 0.0)
    return y.to(u.dtype), state


@torch.library.custom_op("tstar::scan_chunks", mutates_args=())
def scan_chunks(
    x: Tensor, step: Tensor, B: Tensor, C: Tensor, A: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The recurrence alone, forward in time; tensors contiguous and of one type, float32 or float64.

    Args:
        x, step: [B, L, I].
        B, C: [B, L, S].
        A: [I, S].
        state: initial, [B, I, S].

    Returns:
        y [B, L, I], the final state [B, I, S], and the state before each chunk [chunks, B, S, I].
    """
    A_t, h = A.t().contiguous(), state.transpose(1, 2).contiguous()  # [S, I], [B, S, I]
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    chunks = _chunks(x, A)
    starts = x.new_empty(len(chunks), *h.shape)
    decay, states = _buffers(x, A, chunks, 2)
    for chunk, start in zip(chunks, starts.unbind(0), strict=True):
        start.copy_(h)
        x_c, step_c, B_c, C_c = _time_first((x, step, B, C), chunk)
        now = slice(0, x_c.shape[0])
        h = _fill_states(step_c * x_c, step_c, B_c, A_t, h, decay[now], states[now])
        y[:, chunk] = torch.matmul(C_c.unsqueeze(2), states[now]).squeeze(2).transpose(0, 1)
    return y, h.transpose(1, 2).clone(memory_format=torch.contiguous_format), starts


@scan_chunks.register_fake
def _(x: Tensor, step: Tensor, B: Tensor, C: Tensor, A: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, inner = x.shape
    size = _chunk_size(x, A)
    starts = x.new_empty((length + size - 1) // size, batch, A.shape[1], inner)
    return x.new_empty(x.shape), x.new_empty(batch, inner, A.shape[1]), starts


@torch.library.custom_op("tstar::scan_chunks_backward", mutates_args=())
def scan_chunks_backward(
    grad_y: Tensor, grad_state: Tensor, x: Tensor, step: Tensor, B: Tensor, C: Tensor, A: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, step, B, C, A and the initial state."""
    grad_y = grad_y.contiguous()
    A_t = A.t().contiguous()
    grad_x, grad_step, grad_B, grad_C = (torch.empty_like(t) for t in (x, step, B, C))
    grad_A = torch.zeros_like(A_t)  # [S, I]
    carry = grad_state.transpose(1, 2).contiguous()  # gradient of the state that a chunk hands on, [B, S, I]
    chunks = _chunks(x, A)
    buffers = _buffers(x, A, chunks, 3)
    for chunk, start in zip(reversed(chunks), reversed(starts.unbind(0)), strict=True):
        x_c, step_c, B_c, C_c, gy_c = _time_first((x, step, B, C, grad_y), chunk)
        decay, states, grads = (buffer[: x_c.shape[0]] for buffer in buffers)
        input_c = step_c * x_c  # [T, B, I]
        _fill_states(input_c, step_c, B_c, A_t, start, decay, states)
        _fill_state_grads(gy_c, C_c, carry, decay, grads)
        carry = decay[0] * grads[0]

        grad_C[:, chunk] = torch.matmul(states, gy_c.unsqueeze(3)).squeeze(3).transpose(0, 1)
        grad_B[:, chunk] = torch.matmul(grads, input_c.unsqueeze(3)).squeeze(3).transpose(0, 1)
        grad_input = torch.matmul(B_c.unsqueeze(2), grads).squeeze(2)  # [T, B, I]
        grad_x[:, chunk] = (grad_input * step_c).transpose(0, 1)

        grads.mul_(decay)  # from here on the gradient of the exponent step * A
        grads[1:].mul_(states[:-1])
        grads[0].mul_(start)
        torch.mul(grads, A_t, out=states)
        grad_step[:, chunk] = (grad_input * x_c).add_(states.sum(2)).transpose(0, 1)
        grad_A += torch.mul(grads, step_c.unsqueeze(2), out=states).flatten(0, 1).sum(0)
    grad_state = carry.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    return grad_x, grad_step, grad_B, grad_C, grad_A.t().contiguous(), grad_state


@scan_chunks_backward.register_fake
def _(
    grad_y: Tensor, grad_state: Tensor, x: Tensor, step: Tensor, B: Tensor, C: Tensor, A: Tensor, starts: Tensor
) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in (x, step, B, C, A, grad_state))


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:5], output[2])
    ctx.mark_non_differentiable(output[2])


def _backward(ctx: Any, grad_y: Tensor, grad_state: Tensor, _starts: Tensor) -> tuple[Tensor, ...]:
    with torch.autocast(grad_y.device.type, enabled=False):
        return scan_chunks_backward(grad_y, grad_state, *ctx.saved_tensors)


scan_chunks.register_autograd(_backward, setup_context=_keep_inputs)


def _chunk_size(x: Tensor, A: Tensor) -> int:
    budget = _CHUNK_ELEMENTS.get(x.device.type, _CHUNK_ELEMENTS_ELSEWHERE)
    return max(_SHORTEST_CHUNK, min(_LONGEST_CHUNK, budget // max(1, x.shape[0] * A.numel())))


def _chunks(x: Tensor, A: Tensor) -> list[slice]:
    length, size = x.shape[1], _chunk_size(x, A)
    return [slice(first, min(first + size, length)) for first in range(0, length, size)]


def _buffers(x: Tensor, A: Tensor, chunks: Sequence[slice], count: int) -> list[Tensor]:
    longest = chunks[0].stop if chunks else 0
    return [x.new_empty(longest, x.shape[0], A.shape[1], A.shape[0]) for _ in range(count)]  # [T, B, S, I]


def _time_first(tensors: Sequence[Tensor], chunk: slice) -> list[Tensor]:
    return [tensor[:, chunk].transpose(0, 1) for tensor in tensors]  # [T, B, ...]


def _fill_states(
    inputs: Tensor, step: Tensor, B: Tensor, A_t: Tensor, start: Tensor, decay: Tensor, states: Tensor
) -> Tensor:
    """Write exp(step A) into ``decay`` and every h_t into ``states``, both [T, B, S, I]; a copy of the last h_t."""
    torch.mul(step.unsqueeze(2), A_t, out=decay).exp_()
    torch.mul(B.unsqueeze(3), inputs.unsqueeze(2), out=states)
    h = start
    for decay_t, state_t in zip(decay.unbind(0), states.unbind(0), strict=True):
        h = state_t.addcmul_(decay_t, h)
    return h.clone()


def _fill_state_grads(grad_y: Tensor, C: Tensor, carry: Tensor, decay: Tensor, grads: Tensor) -> None:
    """Write the gradient of every h_t into ``grads`` [T, B, S, I]: what y_t gives it, and what h_{t+1} hands back."""
    torch.mul(C.unsqueeze(3), grad_y.unsqueeze(2), out=grads)
    steps, decays = grads.unbind(0), decay.unbind(0)
    later = steps[-1].add_(carry)
    for t in range(len(steps) - 2, -1, -1):
        later = steps[t].addcmul_(decays[t + 1], later)
