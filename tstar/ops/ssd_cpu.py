"""Dual scan by the fused CPU kernels, as a PyTorch operator with gradients; a task is one head of one sequence.

Letters: B batch, L positions, H heads, P channels of a head, G groups of heads, S states of a channel.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tstar.ops.cpu_rows import LANES, Rows, check_kept, floats, kernels, moved, rows, values
from tstar.ops.cpu_threads import for_each

_UNROLL, _CHUNK = 4, 64
"""Of the kernels; repeated here so that a model can be traced without importing Numba."""
_PARTS = 8
"""Sums over the heads of a group are made in this many parts at most, each by one thread and in order of heads."""


def ssd_cpu(
    x: Tensor,
    step: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    reverse: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The fused kernel; arguments and result as those of the backends in :mod:`tstar.ops.ssd`."""
    batch, _, heads, channels = x.shape
    states = B.shape[3]
    wide, deep = -channels % LANES, -states % _UNROLL
    x_rows = x if x.dtype == torch.bfloat16 else x.float()
    x_rows = F.pad(x_rows, (0, wide)) if wide else x_rows
    if x_rows.stride(3) != 1 or x_rows.stride(2) != channels + wide:
        x_rows = x_rows.contiguous()
    steps = step.float().mT.contiguous()  # [B, H, L]
    if initial_state is None:
        state = x.new_zeros((batch, heads, states + deep, channels + wide), dtype=torch.float32)
    else:
        state = F.pad(initial_state.float().mT, (0, wide, 0, deep)).contiguous()
    inputs = (
        x_rows,
        steps,
        torch.exp(steps * A.float().unsqueeze(-1)),
        F.pad(B.float(), (0, deep)).contiguous(),
        F.pad(C.float(), (0, deep)).contiguous(),
        x.new_zeros(heads, dtype=torch.float32) if D is None else D.float(),
        state,
    )
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    y, state, _ = ssd_heads(*inputs, reverse, keep)
    return y[..., :channels].to(x.dtype), state[:, :, :states, :channels].mT.contiguous()


@torch.library.custom_op("tstar::ssd_heads", mutates_args=(), device_types="cpu")
def ssd_heads(
    x: Tensor, steps: Tensor, decays: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor, reverse: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Scan tensors laid out for the kernels.

    Args:
        x: [B, L, H, P], float32 or bfloat16, heads of a row side by side; P a multiple of sixteen.
        steps, decays: [B, H, L], float32 as all that follow; decays are exp(A step).
        B, C: [B, L, G, S]; S a multiple of four.
        D: [H].
        state: initial, [B, H, S, P].
        keep: return what the backward pass needs.

    Returns:
        y [B, L, H, P], the final state [B, H, S, P], and the state before each chunk [B, H, chunks, S, P], empty
        unless ``keep``.
    """
    call = _Call(x, steps, decays, B, C, D, reverse)
    y, state = torch.empty(x.shape, dtype=x.dtype), _copy(state)
    starts = floats(*(_starts_shape(x, B) if keep else (0,)))
    y_rows, state_values, start_values = rows(y.flatten(2), reverse), values(state), values(starts)

    def task(number: int) -> None:
        scratch = floats(call.kernels.scratch_floats(call.channels, False))
        starts_at = number * call.chunks * call.plane
        call.kernels.forward(
            call.head(number), call.of_head(y_rows, number), state_values, number * call.plane,
            start_values, starts_at, keep, values(scratch),
        )  # fmt: skip

    for_each(call.tasks, task)
    return y, state, starts


@ssd_heads.register_fake
def _(
    x: Tensor, steps: Tensor, decays: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor, reverse: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    starts = state.new_empty(_starts_shape(x, B) if keep else (0,))
    return x.new_empty(x.shape), state.new_empty(state.shape), starts


@torch.library.custom_op("tstar::ssd_heads_backward", mutates_args=(), device_types="cpu")
def ssd_heads_backward(
    grad_y: Tensor,
    grad_state: Tensor,
    x: Tensor,
    steps: Tensor,
    decays: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    starts: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, steps, decays, B, C, D and the initial state."""
    call = _Call(x, steps, decays, B, C, D, reverse)
    grad_y, grad_state = grad_y.contiguous(), _copy(grad_state)
    grad_x, grad_steps, grad_decays = (
        torch.empty(x.shape, dtype=x.dtype),
        floats(*steps.shape),
        floats(*steps.shape),
    )
    runs = call.runs()  # heads that one task takes one after another, by part
    parts = floats(2, len(runs), x.shape[1], B.shape[3], zero=True)  # of B and C
    skips = floats(*steps.shape[:2], 4, zero=True)
    y_rows, x_rows = rows(grad_y.flatten(2), reverse), rows(grad_x.flatten(2), reverse)
    along = [rows(grad.flatten(0, 1), reverse) for grad in (grad_steps, grad_decays)]
    part_rows = [rows(part, reverse) for part in parts]
    start_values, skip_values, state_values = values(starts), values(skips), values(grad_state)
    scratch_floats = call.kernels.scratch_floats(call.channels, True)

    def task(part: int) -> None:
        scratch = floats(scratch_floats)
        B_rows, C_rows = (moved(of, part) for of in part_rows)
        for number in runs[part]:
            steps_rows, decays_rows = (moved(of, number) for of in along)
            out = call.kernels.HeadGradients(
                call.of_head(x_rows, number), steps_rows, decays_rows, B_rows, C_rows,
                skip_values, 4 * number, state_values, number * call.plane,
            )  # fmt: skip
            starts_at = number * call.chunks * call.plane
            call.kernels.backward(
                call.head(number), call.of_head(y_rows, number), start_values, starts_at, out, values(scratch)
            )

    for_each(len(runs) if call.length else 0, task)
    grad_B, grad_C = (
        parts.unflatten(1, (call.batch, B.shape[2], call.parts)).sum(3).transpose(2, 3).unbind(0)
    )  # [B, L, G, S]
    return grad_x, grad_steps, grad_decays, _copy(grad_B), _copy(grad_C), skips[..., 0].sum(0), grad_state


@ssd_heads_backward.register_fake
def _(
    grad_y: Tensor,
    grad_state: Tensor,
    x: Tensor,
    steps: Tensor,
    decays: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    starts: Tensor,
    reverse: bool,
) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in (x, steps, decays, B, C, D, grad_state))


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, _state, ctx.reverse, _keep = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.mark_non_differentiable(output[2])


def _backward(ctx: Any, grad_y: Tensor, grad_state: Tensor, _starts: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    check_kept("ssd_heads", saved[-1], saved[0])
    return (*ssd_heads_backward(grad_y, grad_state, *saved, ctx.reverse), None, None)


ssd_heads.register_autograd(_backward, setup_context=_keep_inputs)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _starts_shape(x: Tensor, B: Tensor) -> tuple[int, ...]:
    batch, length, heads, channels = x.shape
    return (batch, heads, (length + _CHUNK - 1) // _CHUNK, B.shape[3], channels)


class _Call:
    """What the tasks of one call share."""

    def __init__(
        self, x: Tensor, steps: Tensor, decays: Tensor, B: Tensor, C: Tensor, D: Tensor, reverse: bool
    ) -> None:
        self.kernels = kernels("ssd_kernels")
        self.batch, self.length, self.heads, self.channels = x.shape
        self.states, self.shared = B.shape[3], self.heads // B.shape[2]  # heads that share B and C
        self.plane, self.chunks = self.states * self.channels, -(-self.length // _CHUNK)
        self.parts = max(n for n in range(1, _PARTS + 1) if self.shared % n == 0)
        self.tasks = self.batch * self.heads if self.length else 0
        flat = [x.flatten(2), steps.flatten(0, 1), decays.flatten(0, 1), B.flatten(2), C.flatten(2)]
        self._held = [*flat, D]  # flattening copies where it must, and a copy has to outlive the kernels
        self._x, *along = (rows(tensor, reverse) for tensor in flat)
        self._along, self._shared, self._skips = along[:2], along[2:], values(D)

    def runs(self) -> list[range]:
        """Task numbers of every group of every sequence, cut into equally many parts."""
        size = self.shared // self.parts
        return [range(first, first + size) for first in range(0, self.batch * self.heads, size)]

    def of_head(self, of: Rows, number: int) -> Rows:
        """A head's part of the rows of its sequence."""
        sequence, head = divmod(number, self.heads)
        of = moved(of, sequence)
        return of._replace(first=of.first + head * self.channels)

    def head(self, number: int) -> Any:
        """The kernel's view of one head."""
        sequence, head = divmod(number, self.heads)
        steps, decays = (moved(of, number) for of in self._along)
        B, C = (moved(of, sequence) for of in self._shared)
        B, C = (of._replace(first=of.first + head // self.shared * self.states) for of in (B, C))
        x = self.of_head(self._x, number)
        return self.kernels.Head(x, steps, decays, B, C, self._skips, head, self.length, self.channels, self.states)
