"""Numba kernels of the causal convolution: a run of segments a call, forward and backward.

A segment is SEGMENT neighbouring positions of one sequence; all of a batch are numbered in one row. Four positions are
worked on together, so that their windows share what they read of the input and of the taps. Where a window reaches
before the sequence or over padding, positions are taken one by one. The backward pass computes again what went into
SiLU, also for the K - 1 positions after a segment, whose windows reach back into it.

Letters: L positions, I channels (a multiple of sixteen), K taps.
"""

from typing import Any, NamedTuple

import numpy as np

from tstar.ops.cpu_rows import LANES, Rows
from tstar.ops.simd import clear, fma, get_byte, inline, kernel, load, sigmoid, splat, store

SEGMENT = 128
"""Positions of a segment, a multiple of four."""
TILE = 528
"""Channels that a backward pass takes at a time, so that its scratch memory stays in the cache. Long rows stream best,
and with a power of two the rows of scratch memory would fall on the same sets of the cache."""

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


class Inputs(NamedTuple):
    """What both passes read. ``state`` and ``mask`` may be empty where their flag is off."""

    x: Rows
    state: Rows
    """Inputs before the first position, in order of scanning: [K - 1] rows."""
    mask: Rows
    weight: Any
    """[K * I]."""
    bias: Any
    """[I]."""
    stateful: bool
    masked: bool
    silu: bool


class Shape(NamedTuple):
    """Sizes of a call."""

    length: int
    inner: int
    taps: int
    segments: int
    """Of a sequence."""
    start: int
    """First segment of the call."""
    stop: int


class Gradients(NamedTuple):
    """What a backward pass writes."""

    x: Rows
    state: Rows
    weight: Any
    """Added to, [K * I] from K * I * ``part``; the sum of this call's segments."""
    bias: Any
    """Added to, [I] from I * ``part``."""
    part: int


def scratch_floats(taps: int) -> int:
    """Floats of scratch memory that a backward call needs."""
    return (SEGMENT + taps - 1) * TILE


@inline
def _row(rows, sequence, t):
    return rows.first + sequence * rows.apart + t * rows.step


@inline
def _hidden(inputs, sequence, t):
    return inputs.masked and get_byte(inputs.mask.data, _row(inputs.mask, sequence, t)) == 0


@inline
def _whole(inputs, sequence, taps, t, end):
    """Whether t .. t + 3 lie before ``end`` and see neither the sequence's start nor padding."""
    whole = t + 1 >= taps and t + 4 <= end
    if whole and inputs.masked:
        for s in range(t + 1 - taps, t + 4):
            whole = whole and get_byte(inputs.mask.data, _row(inputs.mask, sequence, s)) != 0
    return whole


@inline
def _windows(data, at, step, taps, weight, inner, i, forth, start):
    """Four neighbouring windows of sixteen channels, the first one's rows from ``at`` on; added to ``start``.

    Taps are read from the first to the last, or from the last to the first unless ``forth``.
    """
    x0, x1, x2 = load(data, at), load(data, at + step), load(data, at + 2 * step)
    y0, y1, y2, y3 = start, start, start, start
    for k in range(taps):
        x3 = load(data, at + (k + 3) * step)
        w = load(weight, (k if forth else taps - 1 - k) * inner + i)
        y0, y1, y2, y3 = fma(w, x0, y0), fma(w, x1, y1), fma(w, x2, y2), fma(w, x3, y3)
        x0, x1, x2 = x1, x2, x3
    return y0, y1, y2, y3


@inline
def _window(inputs, shape, sequence, t, i):
    """One window, wherever it lies."""
    x, state, weight, y = inputs.x.data, inputs.state.data, inputs.weight, load(inputs.bias, i)
    for k in range(shape.taps):
        s, w = t + 1 - shape.taps + k, load(weight, k * shape.inner + i)
        if s < 0:
            if inputs.stateful:
                y = fma(w, load(state, _row(inputs.state, sequence, s + shape.taps - 1) + i), y)
        elif not _hidden(inputs, sequence, s):
            y = fma(w, load(x, _row(inputs.x, sequence, s) + i), y)
    return y


@inline
def _activated(y, silu):
    if silu:
        y = y * sigmoid(y)
    return y


@inline
def _through(grad, y, silu):
    """Gradient before the activation, from the one after it."""
    if silu:
        share = sigmoid(y)
        grad = grad * fma(y * share, splat(_ONE) - share, share)
    return grad


@kernel
def forward(inputs, shape, y):
    """Write the rows of ``y`` that lie in the call's segments."""
    x, weight, bias, out = inputs.x.data, inputs.weight, inputs.bias, y.data
    for segment in range(shape.start, shape.stop):
        sequence, first = segment // shape.segments, segment % shape.segments * SEGMENT
        last = min(first + SEGMENT, shape.length)
        for block in range(first, last, 4):
            if _whole(inputs, sequence, shape.taps, block, last):
                at, step = _row(inputs.x, sequence, block + 1 - shape.taps), inputs.x.step
                to, on = _row(y, sequence, block), y.step
                for i in range(0, shape.inner, LANES):
                    y0, y1, y2, y3 = _windows(x, at + i, step, shape.taps, weight, shape.inner, i, True, load(bias, i))
                    store(out, to + i, _activated(y0, inputs.silu))
                    store(out, to + on + i, _activated(y1, inputs.silu))
                    store(out, to + 2 * on + i, _activated(y2, inputs.silu))
                    store(out, to + 3 * on + i, _activated(y3, inputs.silu))
            else:
                for t in range(block, min(block + 4, last)):
                    to, hidden = _row(y, sequence, t), _hidden(inputs, sequence, t)
                    for i in range(0, shape.inner, LANES):
                        value = splat(_ZERO)
                        if not hidden:
                            value = _activated(_window(inputs, shape, sequence, t, i), inputs.silu)
                        store(out, to + i, value)


@inline
def _add(array, position, value):
    store(array, position, load(array, position) + value)


@inline
def _block_gradients(inputs, shape, sequence, t, grad_y, grads, low, high, scratch, to):
    """Gradients before the activation of t .. t + 3, to rows of TILE floats from ``to`` on, and what taps get of them."""
    x, step, taps, inner = inputs.x.data, inputs.x.step, shape.taps, shape.inner
    dy, weight, bias, to_weights, to_biases = grad_y.data, inputs.weight, inputs.bias, grads.weight, grads.bias
    row, from_y, on = _row(inputs.x, sequence, t + 1 - taps), _row(grad_y, sequence, t), grad_y.step
    to_weight, to_bias = grads.part * taps * inner, grads.part * inner
    for i in range(low, high, LANES):
        y0, y1, y2, y3 = _windows(x, row + i, step, taps, weight, inner, i, True, load(bias, i))
        g0 = _through(load(dy, from_y + i), y0, inputs.silu)
        g1 = _through(load(dy, from_y + on + i), y1, inputs.silu)
        g2 = _through(load(dy, from_y + 2 * on + i), y2, inputs.silu)
        g3 = _through(load(dy, from_y + 3 * on + i), y3, inputs.silu)
        store(scratch, to + i - low, g0)
        store(scratch, to + TILE + i - low, g1)
        store(scratch, to + 2 * TILE + i - low, g2)
        store(scratch, to + 3 * TILE + i - low, g3)
        _add(to_biases, to_bias + i, (g0 + g1) + (g2 + g3))
        x0, x1, x2 = load(x, row + i), load(x, row + step + i), load(x, row + 2 * step + i)
        for k in range(taps):
            x3 = load(x, row + (k + 3) * step + i)
            part = load(to_weights, to_weight + k * inner + i)
            part = fma(g3, x3, fma(g2, x2, fma(g1, x1, fma(g0, x0, part))))
            store(to_weights, to_weight + k * inner + i, part)
            x0, x1, x2 = x1, x2, x3


@inline
def _row_gradients(inputs, shape, sequence, t, own, grad_y, grads, low, high, scratch, to):
    """The same for one position; taps get nothing unless it is the segment's ``own``."""
    taps, inner, hidden = shape.taps, shape.inner, _hidden(inputs, sequence, t)
    from_y, dy, seen, state = _row(grad_y, sequence, t), grad_y.data, inputs.x.data, inputs.state.data
    to_weights, to_biases = grads.weight, grads.bias
    for i in range(low, high, LANES):
        g = splat(_ZERO)
        if not hidden:
            g = _through(load(dy, from_y + i), _window(inputs, shape, sequence, t, i), inputs.silu)
        store(scratch, to + i - low, g)
        if own and not hidden:
            _add(to_biases, grads.part * inner + i, g)
            for k in range(taps):
                s, at = t + 1 - taps + k, (grads.part * taps + k) * inner + i
                if s < 0:
                    if inputs.stateful:
                        x = load(state, _row(inputs.state, sequence, s + taps - 1) + i)
                        store(to_weights, at, fma(g, x, load(to_weights, at)))
                elif not _hidden(inputs, sequence, s):
                    x = load(seen, _row(inputs.x, sequence, s) + i)
                    store(to_weights, at, fma(g, x, load(to_weights, at)))


@inline
def _to_inputs(inputs, shape, sequence, first, last, grads, low, high, scratch):
    """Input gradients of first .. last - 1 from ``scratch``, which starts with row ``first``."""
    weight, dx = inputs.weight, grads.x.data
    for t in range(first, last, 4):
        for i in range(low, high, LANES):
            d0, d1, d2, d3 = _windows(
                scratch, (t - first) * TILE + i - low, TILE, shape.taps, weight, shape.inner, i, False, splat(_ZERO)
            )
            store(dx, _row(grads.x, sequence, t) + i, d0)
            if t + 1 < last:
                store(dx, _row(grads.x, sequence, t + 1) + i, d1)
            if t + 2 < last:
                store(dx, _row(grads.x, sequence, t + 2) + i, d2)
            if t + 3 < last:
                store(dx, _row(grads.x, sequence, t + 3) + i, d3)
    if inputs.masked:
        for t in range(first, last):
            if _hidden(inputs, sequence, t):
                for i in range(low, high, LANES):
                    store(dx, _row(grads.x, sequence, t) + i, splat(_ZERO))


@inline
def _to_state(shape, sequence, weight, grads, low, high, scratch):
    """Gradients of the initial state from ``scratch``, which starts with row 0."""
    out = grads.state.data
    for r in range(shape.taps - 1):
        for i in range(low, high, LANES):
            d = splat(_ZERO)
            for t in range(r + 1):  # position t sees row r with tap r - t
                d = fma(load(weight, (r - t) * shape.inner + i), load(scratch, t * TILE + i - low), d)
            store(out, _row(grads.state, sequence, r) + i, d)


@kernel
def backward(inputs, shape, grad_y, grads, scratch):
    """Gradients of the call's segments.

    Args:
        inputs, shape, grads: see their classes.
        grad_y: Rows of the output's gradient.
        scratch: see :func:`scratch_floats`; gradients before the activation, [SEGMENT + K - 1, TILE].
    """
    reach = shape.taps - 1
    for segment in range(shape.start, shape.stop):
        sequence, first = segment // shape.segments, segment % shape.segments * SEGMENT
        last, seen = min(first + SEGMENT, shape.length), min(first + SEGMENT + reach, shape.length)
        for low in range(0, shape.inner, TILE):
            high = min(low + TILE, shape.inner)
            t = first
            while t < seen:
                to = (t - first) * TILE
                if _whole(inputs, sequence, shape.taps, t, last):
                    _block_gradients(inputs, shape, sequence, t, grad_y, grads, low, high, scratch, to)
                    t += 4
                else:
                    _row_gradients(inputs, shape, sequence, t, t < last, grad_y, grads, low, high, scratch, to)
                    t += 1
            clear(scratch, (seen - first) * TILE, (SEGMENT + reach - seen + first) * TILE)
            _to_inputs(inputs, shape, sequence, first, last, grads, low, high, scratch)
            if first == 0 and inputs.stateful:
                _to_state(shape, sequence, inputs.weight, grads, low, high, scratch)
