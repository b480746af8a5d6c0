"""Numba kernels of the selective scan: one sequence and one tile of channels a call; here forward.

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
    broadcast,
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
)

CHUNK = 32
"""T: a backward pass starts from states this far apart."""

_ZERO, _ONE, LOWEST = np.float32(0.0), np.float32(1.0), np.float32(-126.0)
BLOCK = (CHUNK + 1) * LANES
"""Floats from sixteen channels' values along a chunk to the next sixteen's; an odd number of cache lines, so that a
row's vectors do not compete for the same few places of a cache."""


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


def scratch_floats(states: int, width: int) -> int:
    """Floats of scratch memory that a forward call needs."""
    return 2 * states * width + 3 * (width // LANES * BLOCK)


@inline
def to_tile(source, origin, tile, at, shape):
    """[S, I] at ``origin`` of ``source`` to the tile's vectors at ``at`` of ``tile``."""
    for group in range(shape.width // LANES):
        for s in range(shape.states):
            value = load(source, origin + s * shape.inner + shape.channel + group * LANES)
            store(tile, at + (group * shape.states + s) * LANES, value)


@inline
def from_tile(tile, at, target, origin, shape, factor):
    for group in range(shape.width // LANES):
        for s in range(shape.states):
            value = load(tile, at + (group * shape.states + s) * LANES)
            store(target, origin + s * shape.inner + shape.channel + group * LANES, value * splat(factor))


@inline
def hidden_at(inputs, t):
    return inputs.masked and get_byte(inputs.mask.data, row(inputs.mask, t)) == 0


@inline
def open_chunk(inputs, shape, first, count, scratch, steps, slopes, driven):
    """Write step sizes, their derivatives (unless ``slopes`` is negative) and step times input; the greatest step."""
    top = splat(_ZERO)
    for t in range(count):
        from_dt, from_u = row(inputs.dt, first + t) + shape.channel, row(inputs.u, first + t) + shape.channel
        hidden = hidden_at(inputs, first + t)
        for i in range(0, shape.width, LANES):
            at = i // LANES * BLOCK + t * LANES
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
def fastest_decay(scratch, rates, count):
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
    plane = width // LANES * BLOCK
    driven, out = steps + plane, steps + 2 * plane
    to_tile(inputs.rates, 0, scratch, rates, shape)
    to_tile(state, state_at, scratch, h, shape)
    fastest = fastest_decay(scratch, rates, size)

    for chunk, first in enumerate(range(0, shape.length, CHUNK)):
        count = min(CHUNK, shape.length - first)
        if keep:
            from_tile(scratch, h, starts, starts_at + chunk * states * shape.inner, shape, _ONE)
        mild = open_chunk(inputs, shape, first, count, scratch, steps, -1, driven) * fastest >= LOWEST
        for group in range(width // LANES):
            along, v = group * BLOCK, group * states * LANES
            for s in range(0, states, 4):
                _scan_block(
                    inputs, s, first, count, mild, scratch, steps + along, driven + along,
                    rates + v + s * LANES, h + v + s * LANES, out + along,
                )  # fmt: skip
        for t in range(count):
            from_u, from_z = row(inputs.u, first + t) + shape.channel, row(inputs.z, first + t) + shape.channel
            to, hidden = row(y, first + t) + shape.channel, hidden_at(inputs, first + t)
            for i in range(0, width, LANES):
                skip = load(inputs.D, shape.channel + i)
                value = fma(skip, load(inputs.u.data, from_u + i), load(scratch, out + i // LANES * BLOCK + t * LANES))
                if inputs.gated:
                    gate = load(inputs.z.data, from_z + i)
                    value = value * (gate * sigmoid(gate))
                if hidden:
                    value = splat(_ZERO)
                store(y.data, to + i, value)
    from_tile(scratch, h, state, state_at, shape, _ONE)
