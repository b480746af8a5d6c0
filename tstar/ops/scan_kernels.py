"""Numba kernels of the selective scan: one sequence and one tile of channels a call, forward and backward.

The sequence streams by in chunks. A chunk's rows are read once, brought to step sizes and inputs in a small buffer,
scanned there, and written once. The scan takes sixteen channels (the lanes of a vector) and four states at a time, so
that what it carries from one position to the next stays in registers. A chunk's states are never written out but for
the state it starts from, if a backward pass will need it; that pass computes the others again.

Letters: L positions, I inner channels, S states of a channel (a multiple of four here), W channels of a tile (a
multiple of sixteen), T positions of a chunk. Buffers of a tile are stored vector by vector: [W / 16, T + 1, 16] along
positions, [W / 16, S, 16] along states.
"""

from typing import Any, NamedTuple

import numpy as np

from tstar.ops.cpu_rows import LANES, Rows
from tstar.ops.simd import (
    LN_2,
    broadcast,
    clear,
    exp2_products,
    exp2_products_clamped,
    fma,
    get,
    get_byte,
    greatest,
    inline,
    kernel,
    largest,
    load,
    row,
    sigmoid,
    softplus,
    splat,
    store,
    store_totals,
)

CHUNK = 32
"""T: a backward pass starts from states this far apart."""

_ZERO, _ONE, _LN_2, _LOWEST = np.float32(0.0), np.float32(1.0), np.float32(LN_2), np.float32(-126.0)
_BLOCK = (CHUNK + 1) * LANES
"""Floats from sixteen channels' values along a chunk to the next sixteen's; an odd number of cache lines, so that a
row's vectors do not compete for the same few places of a cache."""

_DEEP = 4 * _BLOCK + 12 * LANES
"""Floats from one buffer of four states along a chunk to the next: a quarter of 4 KiB past a multiple of it, or a store
to one buffer would hold up loads from another that agree with it in the low twelve bits of their addresses."""


class Inputs(NamedTuple):
    """What both passes read. ``z`` and ``mask`` may be empty where their flag is off."""

    u: Rows
    dt: Rows
    z: Rows
    B: Rows
    C: Rows
    mask: Rows
    rates: Any
    """A log2(e), [S * I]."""
    D: Any
    bias: Any
    softplus: bool
    gated: bool
    masked: bool


class Shape(NamedTuple):
    """Sizes of a call."""

    length: int
    inner: int
    states: int
    channel: int
    """First channel of the tile."""
    width: int
    """W."""


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


def scratch_floats(states: int, width: int, backward: bool) -> int:
    """Floats of scratch memory that a call needs."""
    plane = width // LANES * _BLOCK
    if not backward:
        return 2 * states * width + 3 * plane
    return 3 * states * width + 8 * plane + 4 * _DEEP


@inline
def _to_tile(source, origin, tile, at, shape):
    """[S, I] at ``origin`` of ``source`` to the tile's vectors at ``at`` of ``tile``."""
    for group in range(shape.width // LANES):
        for s in range(shape.states):
            value = load(source, origin + s * shape.inner + shape.channel + group * LANES)
            store(tile, at + (group * shape.states + s) * LANES, value)


@inline
def _from_tile(tile, at, target, origin, shape, factor):
    for group in range(shape.width // LANES):
        for s in range(shape.states):
            value = load(tile, at + (group * shape.states + s) * LANES)
            store(target, origin + s * shape.inner + shape.channel + group * LANES, value * splat(factor))


@inline
def _hidden(inputs, t):
    return inputs.masked and get_byte(inputs.mask.data, row(inputs.mask, t)) == 0


@inline
def _open_chunk(inputs, shape, first, count, scratch, steps, slopes, driven):
    """Write step sizes, their derivatives (unless ``slopes`` is negative) and step times input; the greatest step."""
    top = splat(_ZERO)
    for t in range(count):
        from_dt, from_u = row(inputs.dt, first + t) + shape.channel, row(inputs.u, first + t) + shape.channel
        hidden = _hidden(inputs, first + t)
        for i in range(0, shape.width, LANES):
            at = i // LANES * _BLOCK + t * LANES
            raw = load(inputs.dt.data, from_dt + i) + load(inputs.bias, shape.channel + i)
            step, slope = raw, splat(_ONE)
            if inputs.softplus:
                step = softplus(raw)
                if slopes >= 0:
                    slope = sigmoid(raw)
            if hidden:
                step, slope = splat(_ZERO), splat(_ZERO)
            top = largest(top, step)
            store(scratch, steps + at, step)
            store(scratch, driven + at, step * load(inputs.u.data, from_u + i))
            if slopes >= 0:
                store(scratch, slopes + at, slope)
    return greatest(top)


@inline
def _fastest_decay(scratch, rates, count):
    lowest = _ZERO
    for i in range(rates, rates + count):
        lowest = min(lowest, get(scratch, i))
    return lowest


@inline
def _scan_block(inputs, s, first, count, mild, scratch, steps, driven, rates, state, out):
    """States s .. s + 3 of sixteen channels along a chunk."""
    a0, a1 = load(scratch, rates), load(scratch, rates + LANES)
    a2, a3 = load(scratch, rates + 2 * LANES), load(scratch, rates + 3 * LANES)
    h0, h1 = load(scratch, state), load(scratch, state + LANES)
    h2, h3 = load(scratch, state + 2 * LANES), load(scratch, state + 3 * LANES)
    for t in range(count):
        step, drive = load(scratch, steps + t * LANES), load(scratch, driven + t * LANES)
        if mild:
            e0, e1, e2, e3 = exp2_products(step, a0, a1, a2, a3)
        else:
            e0, e1, e2, e3 = exp2_products_clamped(step, a0, a1, a2, a3)
        b, c = row(inputs.B, first + t) + s, row(inputs.C, first + t) + s
        h0 = fma(e0, h0, drive * broadcast(inputs.B.data, b))
        h1 = fma(e1, h1, drive * broadcast(inputs.B.data, b + 1))
        h2 = fma(e2, h2, drive * broadcast(inputs.B.data, b + 2))
        h3 = fma(e3, h3, drive * broadcast(inputs.B.data, b + 3))
        value = h0 * broadcast(inputs.C.data, c)
        if s > 0:
            value = fma(h0, broadcast(inputs.C.data, c), load(scratch, out + t * LANES))
        value = fma(h1, broadcast(inputs.C.data, c + 1), value)
        value = fma(h2, broadcast(inputs.C.data, c + 2), value)
        value = fma(h3, broadcast(inputs.C.data, c + 3), value)
        store(scratch, out + t * LANES, value)
    store(scratch, state, h0)
    store(scratch, state + LANES, h1)
    store(scratch, state + 2 * LANES, h2)
    store(scratch, state + 3 * LANES, h3)


@kernel
def forward(inputs, shape, y, state, state_at, starts, starts_at, keep, scratch):
    """Scan a tile.

    Args:
        inputs, shape: see their classes.
        y: Rows of the output.
        state: [S * I] at ``state_at``, read as the initial and overwritten by the final state.
        starts: [chunks, S * I] at ``starts_at``, written with the state before each chunk if ``keep``.
        scratch: see :func:`scratch_floats`.
    """
    width, states, size = shape.width, shape.states, shape.states * shape.width
    rates, h, steps = 0, size, 2 * size
    plane = width // LANES * _BLOCK
    driven, out = steps + plane, steps + 2 * plane
    _to_tile(inputs.rates, 0, scratch, rates, shape)
    _to_tile(state, state_at, scratch, h, shape)
    fastest = _fastest_decay(scratch, rates, size)

    for chunk, first in enumerate(range(0, shape.length, CHUNK)):
        count = min(CHUNK, shape.length - first)
        if keep:
            _from_tile(scratch, h, starts, starts_at + chunk * states * shape.inner, shape, _ONE)
        mild = _open_chunk(inputs, shape, first, count, scratch, steps, -1, driven) * fastest >= _LOWEST
        for group in range(width // LANES):
            along, v = group * _BLOCK, group * states * LANES
            for s in range(0, states, 4):
                _scan_block(
                    inputs, s, first, count, mild, scratch, steps + along, driven + along,
                    rates + v + s * LANES, h + v + s * LANES, out + along,
                )  # fmt: skip
        for t in range(count):
            from_u, from_z = row(inputs.u, first + t) + shape.channel, row(inputs.z, first + t) + shape.channel
            to, hidden = row(y, first + t) + shape.channel, _hidden(inputs, first + t)
            for i in range(0, width, LANES):
                skip = load(inputs.D, shape.channel + i)
                value = fma(skip, load(inputs.u.data, from_u + i), load(scratch, out + i // LANES * _BLOCK + t * LANES))
                if inputs.gated:
                    gate = load(inputs.z.data, from_z + i)
                    value = value * (gate * sigmoid(gate))
                if hidden:
                    value = splat(_ZERO)
                store(y.data, to + i, value)
    _from_tile(scratch, h, state, state_at, shape, _ONE)


@inline
def _open_gradients(inputs, shape, y, first, count, scratch, opened, slopes):
    """Write the gradient of the output before its gate, and what the gate's own gradient is but for that output."""
    for t in range(count):
        from_y, from_z = row(y, first + t) + shape.channel, row(inputs.z, first + t) + shape.channel
        hidden = _hidden(inputs, first + t)
        for i in range(0, shape.width, LANES):
            at = i // LANES * _BLOCK + t * LANES
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
    size, plane, block = states * width, width // LANES * _BLOCK, _DEEP
    rows, deep = 3 * size, 3 * size + 8 * plane
    return _Places(
        0, size, 2 * size,
        rows, rows + plane, rows + 2 * plane, rows + 3 * plane, rows + 4 * plane, rows + 5 * plane, rows + 6 * plane,
        deep, deep + block, deep + 2 * block, deep + 3 * block,
    )  # fmt: skip


@inline
def _at_block(places, group, states, s):
    """The places of four states of sixteen channels."""
    v, row = (group * states + s) * LANES, group * _BLOCK
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
            cell, channel = i // LANES * _BLOCK + t * LANES, shape.channel + i
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
    places, size, plane = _places(states, width), states * width, width // LANES * _BLOCK
    gates = places.to_step + plane
    _to_tile(inputs.rates, 0, scratch, places.rates, shape)
    _to_tile(out.state, out.state_at, scratch, places.carry, shape)
    clear(scratch, places.rate_sums, size)
    fastest = _fastest_decay(scratch, places.rates, size)

    for chunk in range((shape.length - 1) // CHUNK, -1, -1):
        first = chunk * CHUNK
        count = min(CHUNK, shape.length - first)
        top = _open_chunk(inputs, shape, first, count, scratch, places.steps, places.slopes, places.driven)
        mild = top * fastest >= _LOWEST
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
    _from_tile(scratch, places.carry, out.state, out.state_at, shape, _ONE)
    _from_tile(scratch, places.rate_sums, out.rates, out.state_at, shape, _LN_2)
