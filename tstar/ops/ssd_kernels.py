"""Numba kernels of the dual scan: one head of one sequence a call, forward and backward.

As in the selective scan's kernels the sequence streams by in chunks, and what is carried from one position to the next
stays in registers: sixteen channels (the lanes of a vector) of four states at a time. A head has one decay a position,
so the recurrence itself costs less here than the chunked matrix form of it would.

Letters: L positions, H heads, P channels of a head (a multiple of sixteen), S states (a multiple of four), T positions
of a chunk. Buffers of a chunk are stored vector by vector, [P / 16, T + 1, 16].
"""

from typing import Any, NamedTuple

import numpy as np

from tstar.ops.cpu_rows import LANES, Rows
from tstar.ops.simd import broadcast, clear, fma, get, inline, kernel, load, put, row, splat, store, store_totals

CHUNK = 64
"""T: a backward pass starts from states this far apart."""

_ZERO = np.float32(0.0)
_BLOCK = (CHUNK + 1) * LANES
"""Floats from sixteen channels' values along a chunk to the next sixteen's, an odd number of cache lines."""
_DEEP = 4 * _BLOCK + 12 * LANES
"""Floats from one buffer of four states along a chunk to the next: a quarter of 4 KiB past a multiple of it, or a store
to one buffer would hold up loads from another that agree with it in the low twelve bits of their addresses."""


class Head(NamedTuple):
    """One head of one sequence, its rows in order of scanning."""

    x: Rows
    steps: Rows
    """Rows of a single number; ``decays`` too, and both lie alike."""
    decays: Rows
    B: Rows
    """Lies as ``C`` does."""
    C: Rows
    skips: Any
    """D of every head, [H]."""
    number: int
    """Of the head."""
    length: int
    channels: int
    states: int


class HeadGradients(NamedTuple):
    """What a backward pass writes for one head."""

    x: Rows
    steps: Rows
    """Lies as the head's own steps and decays do; ``decays`` too."""
    decays: Rows
    B: Rows
    """Added to, for heads that share them; lies as ``C`` does."""
    C: Rows
    skip: Any
    """One number at ``skip_at``, and three that mean nothing after it."""
    skip_at: int
    state: Any
    """Read as the final state's gradient, overwritten by the initial state's: [S, P] at ``state_at``."""
    state_at: int


def scratch_floats(channels: int, backward: bool) -> int:
    """Floats of scratch memory that a call needs."""
    plane = channels // LANES * _BLOCK
    return 3 * plane + 3 * _DEEP + _BLOCK + LANES if backward else 2 * plane


@inline
def _drive_chunk(head, first, count, scratch, driven):
    """Write step times input of a chunk."""
    for t in range(count):
        at = row(head.x, first + t)
        step = broadcast(head.steps.data, row(head.steps, first + t))
        for i in range(0, head.channels, LANES):
            store(scratch, driven + i // LANES * _BLOCK + t * LANES, step * load(head.x.data, at + i))


@inline
def _scan_block(head, s, first, count, scratch, driven, state, state_at, out):
    """States s .. s + 3 of sixteen channels along a chunk."""
    at, apart = state_at + s * head.channels, head.channels
    h0, h1 = load(state, at), load(state, at + apart)
    h2, h3 = load(state, at + 2 * apart), load(state, at + 3 * apart)
    along, b = row(head.decays, first), row(head.B, first) + s
    for t in range(count):
        decay, drive = broadcast(head.decays.data, along), load(scratch, driven + t * LANES)
        h0 = fma(decay, h0, drive * broadcast(head.B.data, b))
        h1 = fma(decay, h1, drive * broadcast(head.B.data, b + 1))
        h2 = fma(decay, h2, drive * broadcast(head.B.data, b + 2))
        h3 = fma(decay, h3, drive * broadcast(head.B.data, b + 3))
        value = h0 * broadcast(head.C.data, b)
        if s > 0:
            value = fma(h0, broadcast(head.C.data, b), load(scratch, out + t * LANES))
        value = fma(h1, broadcast(head.C.data, b + 1), value)
        value = fma(h2, broadcast(head.C.data, b + 2), value)
        value = fma(h3, broadcast(head.C.data, b + 3), value)
        store(scratch, out + t * LANES, value)
        along += head.decays.step
        b += head.B.step
    store(state, at, h0)
    store(state, at + apart, h1)
    store(state, at + 2 * apart, h2)
    store(state, at + 3 * apart, h3)


@kernel
def forward(head, y, state, state_at, starts, starts_at, keep, scratch):
    """Scan a head.

    Args:
        head: see its class.
        y: Rows of the output.
        state: [S, P] at ``state_at``, read as the initial and overwritten by the final state.
        starts: [chunks, S, P] at ``starts_at``, written with the state before each chunk if ``keep``.
        scratch: see :func:`scratch_floats`.
    """
    plane, size = head.channels // LANES * _BLOCK, head.states * head.channels
    skip = broadcast(head.skips, head.number)
    for chunk, first in enumerate(range(0, head.length, CHUNK)):
        count = min(CHUNK, head.length - first)
        if keep:
            for i in range(0, size, LANES):
                store(starts, starts_at + chunk * size + i, load(state, state_at + i))
        _drive_chunk(head, first, count, scratch, 0)
        for group in range(head.channels // LANES):
            along = group * _BLOCK
            for s in range(0, head.states, 4):
                _scan_block(head, s, first, count, scratch, along, state, state_at + group * LANES, plane + along)
        for t in range(count):
            from_x, to = row(head.x, first + t), row(y, first + t)
            for i in range(0, head.channels, LANES):
                value = load(scratch, plane + i // LANES * _BLOCK + t * LANES)
                store(y.data, to + i, fma(skip, load(head.x.data, from_x + i), value))


@inline
def _repeat_block(head, s, first, count, scratch, driven, before, starts, start):
    """Scan states s .. s + 3 again, keeping the states that each position starts from."""
    apart = head.channels
    h0, h1 = load(starts, start), load(starts, start + apart)
    h2, h3 = load(starts, start + 2 * apart), load(starts, start + 3 * apart)
    along, b = row(head.decays, first), row(head.B, first) + s
    for t in range(count):
        k = before + 4 * t * LANES
        store(scratch, k, h0)
        store(scratch, k + LANES, h1)
        store(scratch, k + 2 * LANES, h2)
        store(scratch, k + 3 * LANES, h3)
        decay, drive = broadcast(head.decays.data, along), load(scratch, driven + t * LANES)
        h0 = fma(decay, h0, drive * broadcast(head.B.data, b))
        h1 = fma(decay, h1, drive * broadcast(head.B.data, b + 1))
        h2 = fma(decay, h2, drive * broadcast(head.B.data, b + 2))
        h3 = fma(decay, h3, drive * broadcast(head.B.data, b + 3))
        along += head.decays.step
        b += head.B.step


@inline
def _return_state(head, b, g, decay, drive, carry, scratch, k, B_sums, C_sums, to_drive, to_decay):
    """One state of sixteen channels at one position, going back: its new carry and sums."""
    weight, before = broadcast(head.B.data, b), load(scratch, k)
    grad = fma(g, broadcast(head.C.data, b), carry)
    now = fma(decay, before, drive * weight)
    store(scratch, C_sums, fma(g, now, load(scratch, C_sums)))
    store(scratch, B_sums, fma(grad, drive, load(scratch, B_sums)))
    return grad * decay, fma(grad, weight, to_drive), fma(grad, before, to_decay)


@inline
def _return_block(
    head, s, first, count, scratch, driven, opened, sums, before, B_sums, C_sums, to_decay, carry, carry_at
):
    """Gradients of states s .. s + 3 from a chunk's last position to its first."""
    apart = head.channels
    c0, c1 = load(carry, carry_at), load(carry, carry_at + apart)
    c2, c3 = load(carry, carry_at + 2 * apart), load(carry, carry_at + 3 * apart)
    for t in range(count - 1, -1, -1):
        at = t * LANES
        decay = broadcast(head.decays.data, row(head.decays, first + t))
        b = row(head.B, first + t) + s
        g, drive = load(scratch, opened + at), load(scratch, driven + at)
        p, q = load(scratch, sums + at), load(scratch, to_decay + at)
        k, m, n = before + 4 * at, B_sums + 4 * at, C_sums + 4 * at
        c0, p, q = _return_state(head, b, g, decay, drive, c0, scratch, k, m, n, p, q)
        k, m, n = k + LANES, m + LANES, n + LANES
        c1, p, q = _return_state(head, b + 1, g, decay, drive, c1, scratch, k, m, n, p, q)
        k, m, n = k + LANES, m + LANES, n + LANES
        c2, p, q = _return_state(head, b + 2, g, decay, drive, c2, scratch, k, m, n, p, q)
        k, m, n = k + LANES, m + LANES, n + LANES
        c3, p, q = _return_state(head, b + 3, g, decay, drive, c3, scratch, k, m, n, p, q)
        store(scratch, sums + at, p)
        store(scratch, to_decay + at, q)
    store(carry, carry_at, c0)
    store(carry, carry_at + apart, c1)
    store(carry, carry_at + 2 * apart, c2)
    store(carry, carry_at + 3 * apart, c3)


@inline
def _add_sums(target, at, scratch, k, spare):
    store_totals(
        scratch, spare,
        load(scratch, k), load(scratch, k + LANES), load(scratch, k + 2 * LANES), load(scratch, k + 3 * LANES),
    )  # fmt: skip
    for i in range(4):
        put(target, at + i, get(target, at + i) + get(scratch, spare + i))


@inline
def _close_chunk(head, first, count, scratch, opened, sums, to_decay, spare, out):
    """Write a chunk's gradients of x, of steps and of decays; its sum of output gradient times input."""
    zero, to_skip = splat(_ZERO), splat(_ZERO)
    for t in range(count):
        from_x, to_x, place = row(head.x, first + t), row(out.x, first + t), row(head.steps, first + t)
        step, to_step = broadcast(head.steps.data, place), zero
        for i in range(0, head.channels, LANES):
            at = i // LANES * _BLOCK + t * LANES
            x, g, to_drive = load(head.x.data, from_x + i), load(scratch, opened + at), load(scratch, sums + at)
            store(out.x.data, to_x + i, fma(g, broadcast(head.skips, head.number), to_drive * step))
            to_step = fma(to_drive, x, to_step)
            to_skip = fma(g, x, to_skip)
        store_totals(scratch, spare, to_step, load(scratch, to_decay + t * LANES), zero, zero)
        put(out.steps.data, place, get(scratch, spare))
        put(out.decays.data, place, get(scratch, spare + 1))
    return to_skip


@kernel
def backward(head, y, starts, starts_at, out, scratch):
    """Gradients of a head, from the last chunk to the first.

    Args:
        head: as in the forward pass.
        y: Rows of the output's gradient.
        starts: the state before each chunk, [chunks, S, P] at ``starts_at``.
        out: see :class:`HeadGradients`.
        scratch: see :func:`scratch_floats`.
    """
    channels, states = head.channels, head.states
    plane, size = channels // LANES * _BLOCK, states * channels
    driven, opened, sums, before = 0, plane, 2 * plane, 3 * plane
    B_sums, C_sums = before + _DEEP, before + 2 * _DEEP
    to_decay = before + 3 * _DEEP
    spare = to_decay + _BLOCK
    to_skip = splat(_ZERO)
    for chunk in range((head.length - 1) // CHUNK, -1, -1):
        first = chunk * CHUNK
        count = min(CHUNK, head.length - first)
        _drive_chunk(head, first, count, scratch, driven)
        for t in range(count):
            for i in range(0, channels, LANES):
                value = load(y.data, row(y, first + t) + i)
                store(scratch, opened + i // LANES * _BLOCK + t * LANES, value)
        clear(scratch, sums, plane)
        clear(scratch, to_decay, _BLOCK)
        for s in range(0, states, 4):
            clear(scratch, B_sums, 2 * _DEEP)
            for group in range(channels // LANES):
                plain, cell = group * _BLOCK, s * channels + group * LANES
                start = starts_at + chunk * size + cell
                _repeat_block(head, s, first, count, scratch, driven + plain, before, starts, start)
                _return_block(
                    head, s, first, count, scratch, driven + plain, opened + plain, sums + plain,
                    before, B_sums, C_sums, to_decay, out.state, out.state_at + cell,
                )  # fmt: skip
            for t in range(count):
                to = row(out.B, first + t) + s
                _add_sums(out.B.data, to, scratch, B_sums + 4 * t * LANES, spare)
                _add_sums(out.C.data, to, scratch, C_sums + 4 * t * LANES, spare)
        to_skip = to_skip + _close_chunk(head, first, count, scratch, opened, sums, to_decay, spare, out)
    store_totals(out.skip, out.skip_at, to_skip, splat(_ZERO), splat(_ZERO), splat(_ZERO))
