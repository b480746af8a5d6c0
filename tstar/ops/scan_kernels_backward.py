"""Numba kernels of the selective scan, backward: one sequence and one tile of channels a call.

Chunks are taken from the last to the first. In each, four states of sixteen channels are scanned again from the chunk's
start, and then followed back with the gradient of the state in registers.

Letters and layouts are those of :mod:`tstar.ops.scan_kernels`.
"""

from typing import Any, NamedTuple

import numpy as np

from tstar.ops.cpu_rows import LANES, Rows
from tstar.ops.scan_kernels import BLOCK, CHUNK, LOWEST, fastest_decay, from_tile, hidden_at, open_chunk, to_tile
from tstar.ops.simd import (
    LN_2,
    broadcast,
    clear,
    exp2_products,
    exp2_products_clamped,
    fma,
    inline,
    kernel,
    load,
    row,
    sigmoid,
    splat,
    store,
    store_totals,
)

_ZERO, _ONE, _LN_2 = np.float32(0.0), np.float32(1.0), np.float32(LN_2)
_DEEP = 4 * BLOCK + 12 * LANES
"""Floats from one buffer of four states along a chunk to the next: a quarter of 4 KiB past a multiple of it, or a store
to one buffer would hold up loads from another that agree with it in the low twelve bits of their addresses."""


class Gradients(NamedTuple):
    """What a backward pass writes. Sums over channels or sequences are left as one part a tile or sequence."""

    u: Rows
    dt: Rows
    z: Rows
    B: Rows
    """Part of this tile; ``C`` too."""
    C: Rows
    rates: Any
    """By A log2(e), [S * I] at ``state_at``."""
    D: Any
    """Added to, [I] at ``channels_at``; ``bias`` too."""
    bias: Any
    channels_at: int
    state: Any
    """Read as the final state's gradient, overwritten by the initial state's: [S * I] at ``state_at``."""
    state_at: int


def scratch_floats(states: int, width: int) -> int:
    """Floats of scratch memory that a backward call needs."""
    return 3 * states * width + 8 * (width // LANES * BLOCK) + 4 * _DEEP


@inline
def _open_gradients(inputs, shape, y, first, count, scratch, opened, slopes):
    """Write the gradient of the output before its gate, and what the gate's own gradient is but for that output."""
    for t in range(count):
        from_y, from_z = row(y, first + t) + shape.channel, row(inputs.z, first + t) + shape.channel
        hidden = hidden_at(inputs, first + t)
        for i in range(0, shape.width, LANES):
            at = i // LANES * BLOCK + t * LANES
            value = load(y.data, from_y + i)
            if hidden:
                value = splat(_ZERO)
            if inputs.gated:
                gate = load(inputs.z.data, from_z + i)
                share = sigmoid(gate)
                store(scratch, slopes + at, value * share * fma(gate, splat(_ONE) - share, splat(_ONE)))
                value = value * (gate * share)
            store(scratch, opened + at, value)


@inline
def _repeat_block(inputs, s, first, count, mild, scratch, at, starts, start, inner):
    """Scan states s .. s + 3 again, keeping decays and decayed states; adds to the output if there is a gate."""
    a0, a1 = load(scratch, at.rates), load(scratch, at.rates + LANES)
    a2, a3 = load(scratch, at.rates + 2 * LANES), load(scratch, at.rates + 3 * LANES)
    h0, h1 = load(starts, start), load(starts, start + inner)
    h2, h3 = load(starts, start + 2 * inner), load(starts, start + 3 * inner)
    for t in range(count):
        step, drive = load(scratch, at.steps + t * LANES), load(scratch, at.driven + t * LANES)
        if mild:
            e0, e1, e2, e3 = exp2_products(step, a0, a1, a2, a3)
        else:
            e0, e1, e2, e3 = exp2_products_clamped(step, a0, a1, a2, a3)
        h0, h1, h2, h3 = e0 * h0, e1 * h1, e2 * h2, e3 * h3
        k = 4 * t * LANES
        store(scratch, at.decays + k, e0)
        store(scratch, at.decays + k + LANES, e1)
        store(scratch, at.decays + k + 2 * LANES, e2)
        store(scratch, at.decays + k + 3 * LANES, e3)
        store(scratch, at.decayed + k, h0)
        store(scratch, at.decayed + k + LANES, h1)
        store(scratch, at.decayed + k + 2 * LANES, h2)
        store(scratch, at.decayed + k + 3 * LANES, h3)
        b, c = row(inputs.B, first + t) + s, row(inputs.C, first + t) + s
        h0 = fma(drive, broadcast(inputs.B.data, b), h0)
        h1 = fma(drive, broadcast(inputs.B.data, b + 1), h1)
        h2 = fma(drive, broadcast(inputs.B.data, b + 2), h2)
        h3 = fma(drive, broadcast(inputs.B.data, b + 3), h3)
        if inputs.gated:
            value = fma(h0, broadcast(inputs.C.data, c), load(scratch, at.out + t * LANES))
            value = fma(h1, broadcast(inputs.C.data, c + 1), value)
            value = fma(h2, broadcast(inputs.C.data, c + 2), value)
            value = fma(h3, broadcast(inputs.C.data, c + 3), value)
            store(scratch, at.out + t * LANES, value)


@inline
def _return_state(inputs, s, t, g, step, drive, scratch, at, k, carry, rate, rate_sum, to_drive, to_step):
    """One state of sixteen channels at one position, going back: its new carry and sums."""
    b = broadcast(inputs.B.data, row(inputs.B, t) + s)
    grad = fma(g, broadcast(inputs.C.data, row(inputs.C, t) + s), carry)
    decayed = load(scratch, at.decayed + k)
    store(scratch, at.C_sums + k, fma(g, fma(drive, b, decayed), load(scratch, at.C_sums + k)))
    store(scratch, at.B_sums + k, fma(grad, drive, load(scratch, at.B_sums + k)))
    exponent = grad * decayed
    return (
        grad * load(scratch, at.decays + k),
        fma(exponent, step, rate_sum),
        fma(grad, b, to_drive),
        fma(exponent, rate, to_step),
    )


@inline
def _return_block(inputs, s, first, count, scratch, at):
    """Gradients of states s .. s + 3 from a chunk's last position to its first."""
    a0, a1 = load(scratch, at.rates), load(scratch, at.rates + LANES)
    a2, a3 = load(scratch, at.rates + 2 * LANES), load(scratch, at.rates + 3 * LANES)
    c0, c1 = load(scratch, at.carry), load(scratch, at.carry + LANES)
    c2, c3 = load(scratch, at.carry + 2 * LANES), load(scratch, at.carry + 3 * LANES)
    r0, r1 = load(scratch, at.rate_sums), load(scratch, at.rate_sums + LANES)
    r2, r3 = load(scratch, at.rate_sums + 2 * LANES), load(scratch, at.rate_sums + 3 * LANES)
    for t in range(count - 1, -1, -1):
        cell = t * LANES
        g, step, drive = (
            load(scratch, at.opened + cell),
            load(scratch, at.steps + cell),
            load(scratch, at.driven + cell),
        )
        p, q = load(scratch, at.to_drive + cell), load(scratch, at.to_step + cell)
        now, k = first + t, 4 * cell
        c0, r0, p, q = _return_state(inputs, s, now, g, step, drive, scratch, at, k, c0, a0, r0, p, q)
        c1, r1, p, q = _return_state(inputs, s + 1, now, g, step, drive, scratch, at, k + LANES, c1, a1, r1, p, q)
        c2, r2, p, q = _return_state(inputs, s + 2, now, g, step, drive, scratch, at, k + 2 * LANES, c2, a2, r2, p, q)
        c3, r3, p, q = _return_state(inputs, s + 3, now, g, step, drive, scratch, at, k + 3 * LANES, c3, a3, r3, p, q)
        store(scratch, at.to_drive + cell, p)
        store(scratch, at.to_step + cell, q)
    store(scratch, at.carry, c0)
    store(scratch, at.carry + LANES, c1)
    store(scratch, at.carry + 2 * LANES, c2)
    store(scratch, at.carry + 3 * LANES, c3)
    store(scratch, at.rate_sums, r0)
    store(scratch, at.rate_sums + LANES, r1)
    store(scratch, at.rate_sums + 2 * LANES, r2)
    store(scratch, at.rate_sums + 3 * LANES, r3)


class _Places(NamedTuple):
    """Where a backward pass keeps what in its scratch memory."""

    rates: int
    carry: int
    """Gradient of the state that a position hands on."""
    rate_sums: int
    steps: int
    slopes: int
    driven: int
    opened: int
    """Gradient of the output before its gate."""
    out: int
    to_drive: int
    to_step: int
    decays: int
    decayed: int
    B_sums: int
    C_sums: int


@inline
def _places(states, width):
    size, plane, block = states * width, width // LANES * BLOCK, _DEEP
    rows, deep = 3 * size, 3 * size + 8 * plane
    return _Places(
        0, size, 2 * size,
        rows, rows + plane, rows + 2 * plane, rows + 3 * plane, rows + 4 * plane, rows + 5 * plane, rows + 6 * plane,
        deep, deep + block, deep + 2 * block, deep + 3 * block,
    )  # fmt: skip


@inline
def _at_block(places, group, states, s):
    """The places of four states of sixteen channels."""
    v, row = (group * states + s) * LANES, group * BLOCK
    return _Places(
        places.rates + v, places.carry + v, places.rate_sums + v,
        places.steps + row, places.slopes + row, places.driven + row, places.opened + row, places.out + row,
        places.to_drive + row, places.to_step + row,
        places.decays, places.decayed, places.B_sums, places.C_sums,
    )  # fmt: skip


@inline
def _close_chunk(inputs, shape, first, count, scratch, at, gates, out):
    """Write a chunk's gradients of u, dt and z, and add up those of D and the bias."""
    for t in range(count):
        from_u = row(inputs.u, first + t) + shape.channel
        to_u, to_dt = row(out.u, first + t) + shape.channel, row(out.dt, first + t) + shape.channel
        to_z = row(out.z, first + t) + shape.channel
        for i in range(0, shape.width, LANES):
            cell, channel = i // LANES * BLOCK + t * LANES, shape.channel + i
            x, g, skip = load(inputs.u.data, from_u + i), load(scratch, at.opened + cell), load(inputs.D, channel)
            to_drive = load(scratch, at.to_drive + cell)
            store(out.u.data, to_u + i, fma(g, skip, to_drive * load(scratch, at.steps + cell)))
            to_step = fma(to_drive, x, load(scratch, at.to_step + cell) * splat(_LN_2))
            to_step = to_step * load(scratch, at.slopes + cell)
            store(out.dt.data, to_dt + i, to_step)
            sums = out.channels_at + channel
            store(out.bias, sums, load(out.bias, sums) + to_step)
            store(out.D, sums, fma(g, x, load(out.D, sums)))
            if inputs.gated:
                value = fma(skip, x, load(scratch, at.out + cell))
                store(out.z.data, to_z + i, value * load(scratch, gates + cell))


@kernel
def backward(inputs, shape, y, starts, starts_at, out, scratch):
    """Gradients of a tile, from the last chunk to the first.

    Args:
        inputs, shape: as in the forward pass.
        y: Rows of the output's gradient.
        starts: the state before each chunk, [chunks, S * I] at ``starts_at``.
        out: see :class:`Gradients`.
        scratch: see :func:`scratch_floats`.
    """
    width, states, inner = shape.width, shape.states, shape.inner
    places, size, plane = _places(states, width), states * width, width // LANES * BLOCK
    gates = places.to_step + plane
    to_tile(inputs.rates, 0, scratch, places.rates, shape)
    to_tile(out.state, out.state_at, scratch, places.carry, shape)
    clear(scratch, places.rate_sums, size)
    fastest = fastest_decay(scratch, places.rates, size)

    for chunk in range((shape.length - 1) // CHUNK, -1, -1):
        first = chunk * CHUNK
        count = min(CHUNK, shape.length - first)
        top = open_chunk(inputs, shape, first, count, scratch, places.steps, places.slopes, places.driven)
        mild = top * fastest >= LOWEST
        _open_gradients(inputs, shape, y, first, count, scratch, places.opened, gates)
        clear(scratch, places.out, 3 * plane)
        for s in range(0, states, 4):
            clear(scratch, places.B_sums, 2 * _DEEP)
            for group in range(width // LANES):
                at = _at_block(places, group, states, s)
                start = starts_at + (chunk * states + s) * inner + shape.channel + group * LANES
                _repeat_block(inputs, s, first, count, mild, scratch, at, starts, start, inner)
                _return_block(inputs, s, first, count, scratch, at)
            for t in range(count):
                to_B, to_C = row(out.B, first + t) + s, row(out.C, first + t) + s
                from_B, from_C = places.B_sums + 4 * t * LANES, places.C_sums + 4 * t * LANES
                store_totals(
                    out.B.data, to_B,
                    load(scratch, from_B), load(scratch, from_B + LANES),
                    load(scratch, from_B + 2 * LANES), load(scratch, from_B + 3 * LANES),
                )  # fmt: skip
                store_totals(
                    out.C.data, to_C,
                    load(scratch, from_C), load(scratch, from_C + LANES),
                    load(scratch, from_C + 2 * LANES), load(scratch, from_C + 3 * LANES),
                )  # fmt: skip
        _close_chunk(inputs, shape, first, count, scratch, places, gates, out)
    from_tile(scratch, places.carry, out.state, out.state_at, shape, _ONE)
    from_tile(scratch, places.rate_sums, out.rates, out.state_at, shape, _LN_2)
