"""Numba kernels of the gated root-mean-square norm: a run of rows a call, forward and backward.

A row is read twice, the second time from the cache: once for its sums, once to be written. With xhat the row over its
root mean square, u the gradient at xhat and D its width, the gradient of the row before the norm is

    (u - xhat mean(u xhat)) / sqrt(mean(x^2) + eps).

Letters: R rows, W their width in memory (a multiple of sixteen), D how much of it counts; the rest is zero.
"""

from typing import Any, NamedTuple

import numpy as np

from tstar.ops.cpu_rows import LANES, Rows
from tstar.ops.simd import fma, inline, kernel, load, sigmoid, splat, store, total

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


class Inputs(NamedTuple):
    """What both passes read. ``z`` may be empty without a gate."""

    x: Rows
    z: Rows
    weight: Any
    """[W]."""
    eps: Any
    """float32."""
    gated: bool
    norm_first: bool
    """The gate comes after the norm."""


class Shape(NamedTuple):
    """Sizes of a call."""

    width: int
    """W."""
    count: int
    """D."""
    start: int
    """First row of the call."""
    stop: int


@inline
def _row(rows, r):
    return rows.first + r * rows.step


@inline
def _scale(squares, inputs, shape):
    """One over the root mean square."""
    return np.float32(_ONE / np.sqrt(total(squares) / np.float32(shape.count) + inputs.eps))


@kernel
def forward(inputs, shape, y, scratch):
    """Write the call's rows of ``y``; ``scratch`` holds W floats."""
    xs, zs, weight, ys = inputs.x.data, inputs.z.data, inputs.weight, y.data
    gated, norm_first = inputs.gated, inputs.norm_first
    for r in range(shape.start, shape.stop):
        from_x, from_z, to = _row(inputs.x, r), _row(inputs.z, r), _row(y, r)
        squares, gated_first = splat(_ZERO), gated and not norm_first
        for i in range(0, shape.width, LANES):
            x = load(xs, from_x + i)
            if gated_first:
                z = load(zs, from_z + i)
                x = x * (z * sigmoid(z))
                store(scratch, i, x)
            squares = fma(x, x, squares)
        scale = splat(_scale(squares, inputs, shape))
        for i in range(0, shape.width, LANES):
            if gated_first:
                x = load(scratch, i)
            else:
                x = load(xs, from_x + i)
            value = (x * scale) * load(weight, i)
            if gated and norm_first:
                z = load(zs, from_z + i)
                value = value * (z * sigmoid(z))
            store(ys, to + i, value)


@kernel
def backward(inputs, shape, grad_y, grad_x, grad_z, grad_weight, part, scratch):
    """Gradients of the call's rows.

    Args:
        inputs, shape: see their classes.
        grad_y: Rows of the output's gradient.
        grad_x, grad_z: Rows to write; the latter may be empty without a gate.
        grad_weight: added to, [W] from W * ``part``; the sum over this call's rows.
        scratch: [W] floats, for the gate's sigmoid.
    """
    xs, zs, weight, dys, dxs, dzs = inputs.x.data, inputs.z.data, inputs.weight, grad_y.data, grad_x.data, grad_z.data
    gated, norm_first = inputs.gated, inputs.norm_first
    one, to_weight = splat(_ONE), part * shape.width
    for r in range(shape.start, shape.stop):
        from_x, from_z, from_y = _row(inputs.x, r), _row(inputs.z, r), _row(grad_y, r)
        to_x, to_z = _row(grad_x, r), _row(grad_z, r)
        squares, products = splat(_ZERO), splat(_ZERO)  # of what is normed; of it and u
        for i in range(0, shape.width, LANES):
            x = load(xs, from_x + i)
            u = load(dys, from_y + i) * load(weight, i)
            if gated:
                z = load(zs, from_z + i)
                share = sigmoid(z)
                store(scratch, i, share)
                if norm_first:
                    u = u * (z * share)
                else:
                    x = x * (z * share)
            squares, products = fma(x, x, squares), fma(x, u, products)
        scale = _scale(squares, inputs, shape)
        shared = splat(np.float32(-scale * scale * scale * (total(products) / np.float32(shape.count))))
        factor = splat(scale)
        for i in range(0, shape.width, LANES):
            x, dy = load(xs, from_x + i), load(dys, from_y + i)
            w, before = load(weight, i), load(grad_weight, to_weight + i)
            if gated:
                z, share = load(zs, from_z + i), load(scratch, i)
                gate, slope = z * share, fma(z * share, one - share, share)
                if norm_first:
                    normed, through = x * factor, dy * gate
                    store(dxs, to_x + i, fma(x, shared, through * w * factor))
                    store(dzs, to_z + i, dy * w * normed * slope)
                else:
                    normed, through = x * gate * factor, dy
                    inner = fma(x * gate, shared, dy * w * factor)
                    store(dxs, to_x + i, inner * gate)
                    store(dzs, to_z + i, inner * x * slope)
            else:
                normed, through = x * factor, dy
                store(dxs, to_x + i, fma(x, shared, dy * w * factor))
            store(grad_weight, to_weight + i, fma(through, normed, before))
