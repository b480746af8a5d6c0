"""State-space dual scan in chunks of matrix products: any device, gradients, memory that does not grow with L times T.

Dao & Gu, "Transformers are SSMs", arXiv:2405.21060, section 6 (listing 1). With a_t = step_t A, c_i the sum of a up to
position i of a chunk, and h the state before the chunk:

    y_i = sum_{j <= i} exp(c_i - c_j) (C_i . B_j) step_j x_j  +  exp(c_i) C_i h  +  D x_i
    h'  = exp(c_T) h + sum_j exp(c_T - c_j) step_j B_j x_j

The first sum is one [T, T] product per head; both terms with h are one wide product for all heads of a group, which is
why a state is held here as [G, S, W]. Only differences of c that are never positive are exponentiated, so nothing
overflows; c is summed in float64 and used as a high and a low part, so that the difference of two large sums is exact
to the last digit. Products of bf16 inputs run in bf16; exponents and states are in fp32 or float64.

A block is as many chunks as are computed at once. Backward keeps the state before each segment of blocks and computes
the others again.

Letters: B batch, L positions, H heads, P channels of a head, G groups of heads that share B and C, J = H / G heads and
W = J * P channels of a group, S states of a channel, T positions of a chunk, K = R * n chunks of a block: n of each of
R sequences.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_CHUNK = 128
"""T, where a sequence is that long; quadratic work grows with it, work on states shrinks."""
_SEGMENT = 512
"""Positions, at least, between two states that backward keeps."""
_BLOCK_PAIRS = {"cpu": 2**19}
"""Elements of a block's [K, H, T, T], at most, if one chunk has fewer; on a CPU so that a block stays in cache."""
_BLOCK_PAIRS_ELSEWHERE = 2**25
_HALF_FACTOR = 4
"""A block of bf16 inputs may be this much larger: small bf16 products cost more to start than to compute."""
_FLOOR = {torch.float32: -64.0, torch.float64: -600.0}
"""Sums of exponents below this count as this, 1e-28 of the input in fp32: far below its precision, and far enough from
its subnormal numbers, which would make exponentials and products several times slower."""
_LARGEST_STEP = 1e3
"""No single exponent need be larger: sums of such stay exact enough in float64, and exp(-1e3) is zero in any type."""


def ssd_torch(
    x: Tensor,
    step: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    reverse: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Block after block; ``step`` [B, L, H] is final and in the state's type, the rest as in ``ssd_scan``."""
    if initial_state is None:
        initial_state = step.new_zeros(x.shape[0], x.shape[2], x.shape[3], B.shape[3])
    skip = torch.zeros_like(A) if D is None else D
    A, skip, initial_state = (t.to(step.dtype) for t in (A, skip, initial_state))
    y, state, _ = ssd_chunks(x, step, step * A, B, C, skip, initial_state, reverse)
    return y, state


@torch.library.custom_op("tstar::ssd_chunks", mutates_args=())
def ssd_chunks(
    x: Tensor, step: Tensor, exponent: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Scan forward: (y, final state, states before every segment in order of scanning, [N, B, G, S, W])."""
    groups = B.shape[2]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    inside = _to_wide(state, groups)
    segments = _segments(x, reverse)
    borders = inside.new_empty(len(segments), *inside.shape)
    with torch.autocast(x.device.type, enabled=False):
        for rows in _row_blocks(x):
            h = inside[rows]
            for border, segment in zip(borders, segments, strict=True):
                border[rows] = h
                for span in segment:
                    block = _Block(span, rows, x, step, exponent, B, C, reverse)
                    starts, h = block.states(h)
                    block.write_outputs(span.view(y, rows), starts, D)
            inside[rows] = h
    return y, _to_narrow(inside, state.shape), borders


@ssd_chunks.register_fake
def _(
    x: Tensor, step: Tensor, exponent: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, heads, channels = x.shape
    groups, states = B.shape[2:]
    borders = state.new_empty(len(_segments(x, reverse)), batch, groups, states, heads // groups * channels)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), torch.empty_like(state), borders


@torch.library.custom_op("tstar::ssd_chunks_backward", mutates_args=())
def ssd_chunks_backward(
    grad_y: Tensor,
    grad_state: Tensor,
    x: Tensor,
    step: Tensor,
    exponent: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    borders: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of (x, step, exponent, B, C, D, state) from those of y and of the final state."""
    along = (x, step, exponent, B, C)
    grads = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in along]
    grad_D, carried = torch.zeros_like(D), _to_wide(grad_state, B.shape[2])
    segments = _segments(x, reverse)
    with torch.autocast(x.device.type, enabled=False):
        for rows in _row_blocks(x):
            carry = carried[rows]  # gradient of the state that a block hands on
            for border, segment in zip(reversed(borders), reversed(segments), strict=True):
                h, entered = border[rows], []
                for span in segment:
                    block = _Block(span, rows, x, step, exponent, B, C, reverse)
                    starts, h = block.states(h)
                    entered.append((span, block, starts))
                for span, block, starts in reversed(entered):
                    *block_grads, block_grad_D, carry = block.gradients(span.read(grad_y, rows), starts, carry, D)
                    grad_D += block_grad_D
                    for grad, part in zip(grads, block_grads, strict=True):
                        view = span.view(grad, rows)
                        view.copy_(part.unflatten(0, view.shape[:2]))
            carried[rows] = carry
    return (*grads, grad_D, _to_narrow(carried, grad_state.shape))  # type: ignore[return-value]


@ssd_chunks_backward.register_fake
def _(
    grad_y: Tensor,
    grad_state: Tensor,
    x: Tensor,
    step: Tensor,
    exponent: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    borders: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    along = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (x, step, exponent, B, C)]
    return (*along, torch.empty_like(D), torch.empty_like(grad_state))  # type: ignore[return-value]


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, state, ctx.reverse = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.mark_non_differentiable(output[2])
    ctx.state_shape = state.shape
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, grad_state: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    x, *others, borders = ctx.saved_tensors  # once: checkpointing computes them again for every reading
    if grad_y is None:
        grad_y = torch.zeros_like(x)
    if grad_state is None:
        grad_state = borders.new_zeros(ctx.state_shape)
    return (*ssd_chunks_backward(grad_y, grad_state, x, *others, borders, ctx.reverse), None)


ssd_chunks.register_autograd(_backward, setup_context=_keep_for_backward)


@dataclass(frozen=True)
class _Span:
    """``count`` chunks of ``chunk`` positions from ``first`` on."""

    first: int
    count: int
    chunk: int

    def view(self, tensor: Tensor, rows: slice) -> Tensor:
        """The span of [B, L, ...] as a view [R, n, T, ...]."""
        return tensor[rows, self.first : self.first + self.count * self.chunk].unflatten(1, (self.count, self.chunk))

    def read(self, tensor: Tensor, rows: slice) -> Tensor:
        """The span of [B, L, ...] as [K, T, ...]."""
        return self.view(tensor, rows).flatten(0, 1)


class _Block:
    """One block of inputs, and what both passes compute from it; heads come before positions in all that is made."""

    def __init__(
        self,
        span: _Span,
        rows: slice,
        x: Tensor,
        step: Tensor,
        exponent: Tensor,
        B: Tensor,
        C: Tensor,
        reverse: bool,
    ) -> None:
        self.count, self.groups, self.dtype = span.count, B.shape[2], step.dtype
        self.last = 0 if reverse else -1
        self.reverse = reverse
        low = torch.bfloat16 if x.dtype == torch.bfloat16 else step.dtype
        self.x = span.read(x, rows).to(low)  # [K, T, H, P]
        self.step = span.read(step, rows).transpose(1, 2)  # [K, H, T]
        self.B, self.C = (span.read(t, rows).to(low).transpose(1, 2) for t in (B, C))  # [K, G, T, S]
        sums = span.read(exponent, rows).transpose(1, 2).to(torch.float64, copy=True).clamp_(min=-_LARGEST_STEP)
        self.cut = sums < _FLOOR[self.dtype]  # positions that nothing gets past, [K, H, T]
        self.sums = sums.flip(-1).cumsum(-1).flip(-1) if reverse else sums.cumsum(-1)  # c, [K, H, T]
        floor = _FLOOR[self.dtype]
        self.from_start = self.sums.clamp(min=floor).exp().to(self.dtype)  # exp(c_i)
        to_end = self.sums[..., self.last, None] - self.sums
        self.to_end = to_end.clamp(min=floor).exp().to(self.dtype)  # exp(c_T - c_i)

    def decays(self, log_weight: Tensor | None = None) -> Tensor:
        """weight_j exp(c_i - c_j) for j up to i, [K, H, T, T]; finite, but without meaning, for later j."""
        high = self.sums.to(self.dtype)
        low = (self.sums - high).to(self.dtype)
        sign = torch.ones(high.shape[-1], high.shape[-1], dtype=self.dtype, device=high.device)
        sign = self.causal(sign).mul_(-2).add_(1)  # -1 where a pair counts; elsewhere the sum of the two, not above 0
        pairs = torch.addcmul(high.unsqueeze(-1), high.unsqueeze(-2), sign)
        pairs.add_(low.unsqueeze(-1)).sub_((low if log_weight is None else low - log_weight).unsqueeze(-2))
        return pairs.clamp_(min=_FLOOR[self.dtype]).exp_()

    def causal(self, pairs: Tensor) -> Tensor:
        """Zero the pairs [.., T, T] whose second position comes after the first in order of scanning, in place."""
        return pairs.triu_() if self.reverse else pairs.tril_()

    def products(self) -> Tensor:
        """C_i . B_j for j up to i, else zero, [K, G, 1, T, T]."""
        return self.causal(torch.matmul(self.C, self.B.mT).to(self.dtype)).unsqueeze(2)

    def wide(self, tensor: Tensor) -> Tensor:
        """[K, T, H, P] to [K, G, T, W]."""
        return tensor.reshape(*tensor.shape[:2], self.groups, -1).transpose(1, 2)

    def narrow(self, tensor: Tensor) -> Tensor:
        """[K, G, T, W] to [K, T, H, P]."""
        return tensor.transpose(1, 2).reshape(self.x.shape)

    def across(self, weight: Tensor, tensor: Tensor) -> Tensor:
        """``tensor`` [K, T, H, P] times a weight per position and head [K, H, T], in the type of the products."""
        return tensor * weight.transpose(1, 2).unsqueeze(-1).to(tensor.dtype)

    def states(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """States [K, G, S, W] before each chunk, and [R, G, S, W] after the last, from the one before the first."""
        inputs = self.across(self.step * self.to_end, self.x)  # [K, T, H, P]
        added = torch.matmul(self.B.mT, self.wide(inputs))  # [K, G, S, W]
        return self.chain(added, h, range(self.count)[:: -1 if self.reverse else 1])

    def chain(self, added: Tensor, h: Tensor, order: range) -> tuple[Tensor, Tensor]:
        """h' = exp(c_T) h + added over the chunks in order: every h before its chunk, and the last h'."""
        decay = self.from_start[..., self.last].unflatten(1, (self.groups, -1))  # [K, G, J]
        decay = decay.repeat_interleave(self.wide_head, -1).unsqueeze(2)  # [K, G, 1, W]
        if self.count == 1:
            return h, torch.addcmul(added, h, decay)
        added, decay = (t.unflatten(0, (-1, self.count)) for t in (added, decay))  # [R, n, ...]
        before = torch.empty_like(added, dtype=self.dtype)
        for c in order:
            before[:, c] = h
            h = torch.addcmul(added[:, c], h, decay[:, c])
        return before.flatten(0, 1), h

    @property
    def wide_head(self) -> int:
        """P."""
        return self.x.shape[-1]

    def write_outputs(self, y: Tensor, starts: Tensor, D: Tensor) -> None:
        """Write y, [R, n, T, H, P]."""
        pairs = self.decays(self.step.log())
        self.by_group(pairs).mul_(self.products())
        pairs.diagonal(dim1=-2, dim2=-1).add_(D.unsqueeze(-1))
        inside = torch.matmul(pairs.to(self.x.dtype), self.x.transpose(1, 2)).transpose(1, 2)
        entering = self.narrow(torch.matmul(self.C, starts.to(self.x.dtype)))
        _write_sum(y, inside, entering, self.from_start.transpose(1, 2).unsqueeze(-1))

    def by_group(self, pairs: Tensor) -> Tensor:
        """[K, H, T, T] seen as [K, G, J, T, T]."""
        return pairs.unflatten(1, (self.groups, -1))

    def gradients(self, grad_y: Tensor, starts: Tensor, carry: Tensor, D: Tensor) -> tuple[Tensor, ...]:
        """Gradients of x, step, exponent, B, C (all [K, T, ..]), of D [H] and of the state before the block."""
        low = self.x.dtype
        grad_y = grad_y.to(low)
        inputs = self.across(self.step * self.to_end, self.x)
        weighted = self.across(self.from_start, grad_y)  # [K, T, H, P]
        order = range(self.count)[:: 1 if self.reverse else -1]
        ends, carry = self.chain(torch.matmul(self.C.mT, self.wide(weighted)), carry, order)

        decays, products = self.decays(), self.products()
        grad_pairs = torch.matmul(grad_y.transpose(1, 2), self.x.permute(0, 2, 3, 1)).to(self.dtype)  # [K, H, T, T]
        grad_D = grad_pairs.diagonal(dim1=-2, dim2=-1).sum((0, -1))
        grad_pairs.mul_(self.step.unsqueeze(-2)).mul_(decays)
        grad_products = self.causal(self.by_group(grad_pairs).sum(2)).to(low)  # [K, G, T, T]
        self.by_group(grad_pairs).mul_(products)  # from here on the gradient of the exponents c_i - c_j
        grad_pairs.diagonal(dim1=-2, dim2=-1).zero_()
        grad_sums = grad_pairs.sum(-1).double() - grad_pairs.sum(-2).double()  # [K, H, T]
        self.by_group(decays).mul_(products)

        low_starts, low_ends = starts.to(low), ends.to(low)
        grad_C = torch.matmul(self.wide(weighted), low_starts.mT) + torch.matmul(grad_products, self.B)
        grad_B = torch.matmul(self.wide(inputs), low_ends.mT) + torch.matmul(grad_products.mT, self.C)
        entering = self.narrow(torch.matmul(self.C, low_starts))  # [K, T, H, P]
        grad_sums += self.head_sums(weighted, entering)
        grad_input = self.across(self.to_end, self.narrow(torch.matmul(self.B, low_ends)))
        leaving = self.head_sums(self.x, grad_input) * self.step
        grad_total = leaving.sum(-1) + self.from_start[..., self.last] * self.state_sums(starts, ends)  # [K, H]
        grad_sums -= leaving

        grad_input += torch.matmul(decays.mT.to(low), grad_y.transpose(1, 2)).transpose(1, 2)
        grad_step = self.head_sums(self.x, grad_input)
        grad_x = self.across(self.step, grad_input).addcmul_(grad_y, D.to(low).unsqueeze(-1))
        grad_sums = grad_sums.cumsum(-1) if self.reverse else grad_sums.flip(-1).cumsum(-1).flip(-1)
        grad_exponent = (grad_sums + grad_total.unsqueeze(-1)).to(self.dtype)
        grad_exponent.masked_fill_(self.cut, 0.0)  # a rest of rounding there, and a large step would make it larger
        along = (grad_x, *(t.transpose(1, 2) for t in (grad_step, grad_exponent, grad_B, grad_C)))
        return (*along, grad_D, carry)

    def head_sums(self, one: Tensor, other: Tensor) -> Tensor:
        """Sum over the channels of each head of a product of two [K, T, H, P]: [K, H, T]."""
        return (one * other).sum(-1, dtype=self.dtype).transpose(1, 2)

    def state_sums(self, one: Tensor, other: Tensor) -> Tensor:
        """Sum over each head's states of a product of two [K, G, S, W]: [K, H]."""
        return (one * other).sum(2).unflatten(-1, (-1, self.wide_head)).sum(-1).flatten(1)


def _write_sum(out: Tensor, one: Tensor, other: Tensor, weight: Tensor) -> None:
    """out = one + other * weight in a single pass: ``out`` [R, n, T, ...], the rest [K, T, ...]."""
    one, other, weight = (t.unflatten(0, out.shape[:2]) for t in (one, other, weight.to(other.dtype)))
    if out.dtype == one.dtype:
        torch.addcmul(one, other, weight, out=out)
    else:
        out.copy_(torch.addcmul(one, other, weight))


def _to_wide(state: Tensor, groups: int) -> Tensor:
    """[B, H, P, S] to a copy [B, G, S, W]."""
    wide = state.unflatten(1, (groups, -1)).permute(0, 1, 4, 2, 3)  # [B, G, S, J, P]
    return wide.clone(memory_format=torch.contiguous_format).flatten(3)


def _to_narrow(state: Tensor, shape: torch.Size) -> Tensor:
    """[B, G, S, W] to a copy of shape [B, H, P, S]."""
    narrow = state.unflatten(3, (-1, shape[2])).permute(0, 1, 3, 4, 2)  # [B, G, J, P, S]
    return narrow.clone(memory_format=torch.contiguous_format).view(shape)


def _block_chunks(x: Tensor) -> tuple[int, int]:
    """R and n of a block of full chunks."""
    batch, length, heads, _ = x.shape
    pairs = heads * min(_CHUNK, max(1, length)) ** 2
    elements = _BLOCK_PAIRS.get(x.device.type, _BLOCK_PAIRS_ELSEWHERE)
    budget = max(1, elements * (_HALF_FACTOR if x.dtype == torch.bfloat16 else 1) // pairs)
    rows = max(1, min(batch, budget))
    return rows, max(1, budget // rows)


def _row_blocks(x: Tensor) -> Iterator[slice]:
    rows, _ = _block_chunks(x)
    return (slice(first, first + rows) for first in range(0, x.shape[0], rows))


def _segments(x: Tensor, reverse: bool) -> list[list[_Span]]:
    """Spans that cover a sequence, in order of scanning, in segments that start with a state worth keeping."""
    length = x.shape[1]
    _, most = _block_chunks(x)
    chunks = length // _CHUNK
    spans = [_Span(first * _CHUNK, min(most, chunks - first), _CHUNK) for first in range(0, chunks, most)]
    if length % _CHUNK:
        spans.append(_Span(chunks * _CHUNK, 1, length % _CHUNK))
    if reverse:
        spans.reverse()
    size = max(1, _SEGMENT // (_CHUNK * most))
    return [spans[first : first + size] for first in range(0, len(spans), size)]
