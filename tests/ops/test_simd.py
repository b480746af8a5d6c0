"""The vector type of the CPU kernels against NumPy in float64, and its bfloat16 against PyTorch's."""

import math

import numba
import numpy as np
import pytest
import torch

from tstar.ops import simd
from tstar.ops.cpu_rows import values
from tstar.ops.simd import LANES, fma, load, sigmoid, softplus, splat, store, total


@numba.njit(error_model="numpy")
def unary(name, count, source, target):
    for i in range(0, count, LANES):
        x = load(source, i)
        if name == 0:
            x = sigmoid(x)
        elif name == 1:
            x = softplus(x)
        store(target, i, x)


@numba.njit(error_model="numpy")
def powers(clamped, x, ys, target):
    arguments = load(x, 0), load(ys, 0), load(ys, LANES), load(ys, 2 * LANES), load(ys, 3 * LANES)
    if clamped:
        results = simd.exp2_products_clamped(*arguments)
    else:
        results = simd.exp2_products(*arguments)
    store(target, 0, results[0])
    store(target, LANES, results[1])
    store(target, 2 * LANES, results[2])
    store(target, 3 * LANES, results[3])


@numba.njit(error_model="numpy")
def arithmetic(x, y, z, target):
    a, b, c = load(x, 0), load(y, 0), load(z, 0)
    store(target, 0, fma(a, b, c))
    store(target, LANES, a * b + c)
    store(target, 2 * LANES, a - b)
    store(target, 3 * LANES, splat(total(a)))
    store(target, 4 * LANES, simd.broadcast(x, 3))
    store(target, 5 * LANES, simd.largest(a, b))


def memory(array):
    """Of a NumPy array or tensor that stays alive where this is called."""
    return values(torch.from_numpy(array) if isinstance(array, np.ndarray) else array)


def through(name, x):
    out = np.empty_like(x)
    unary({"sigmoid": 0, "softplus": 1}[name], x.size, memory(x), memory(out))
    return out


def wide_range():
    """Both signs, from tiny to past where exp overflows."""
    near = np.linspace(-30, 30, 16384)
    far = np.geomspace(1e-30, 120, 8192)
    return np.concatenate([near, far, -far]).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "exact"), [("sigmoid", lambda x: 1 / (1 + np.exp(-x))), ("softplus", lambda x: np.logaddexp(0, x))]
)
def test_sigmoid_and_softplus_in_their_tails(name, exact):
    """Measured: within 5.1e-7 of themselves for x above -5, and 3.9e-6 at -87, where rounding x log2(e) shows."""
    x = wide_range()
    ours, exact = through(name, x), exact(x.astype(np.float64))
    for lowest, tolerance in ((-5, 1e-6), (-87, 5e-6)):
        seen = x > lowest
        np.testing.assert_allclose(ours[seen], exact[seen], rtol=tolerance)
    assert (ours[x <= -87] < 2.0**-125).all()  # powers are held at 2^-126
    assert (ours >= 0).all()


@pytest.mark.parametrize(("name", "high", "low"), [("sigmoid", 1.0, 0.0), ("softplus", math.inf, 0.0)])
def test_infinities_and_nan_pass(name, high, low):
    x = np.zeros(LANES, np.float32)
    x[:3] = math.inf, -math.inf, math.nan
    y = through(name, x)
    assert y[0] == high
    assert low <= y[1] < 2.0**-125
    assert math.isnan(y[2])
    assert np.isfinite(y[3:]).all()  # lanes do not mix


@pytest.mark.parametrize("clamped", [False, True])
def test_powers_of_two(clamped):
    generator = np.random.default_rng(0)
    x = generator.uniform(0, 1, LANES).astype(np.float32)
    ys = generator.uniform(-300 if clamped else -126, 0, 4 * LANES).astype(np.float32)
    out = np.empty_like(ys)
    powers(clamped, memory(x), memory(ys), memory(out))
    products = np.tile(x.astype(np.float64), 4) * ys
    np.testing.assert_allclose(out, np.exp2(np.maximum(products, -126)), rtol=1e-5 if clamped else 1e-6)


def test_arithmetic():
    generator = np.random.default_rng(0)
    x, y, z = generator.standard_normal((3, LANES)).astype(np.float32)
    z[0] = -x[0] * y[0]  # what is left is the product's rounding, which only a fused operation sees
    out = np.empty((6, LANES), np.float32)
    arithmetic(memory(x), memory(y), memory(z), memory(out))
    exact = x.astype(np.float64) * y + z
    np.testing.assert_array_equal(out[0], exact.astype(np.float32))
    np.testing.assert_allclose(out[1], exact, atol=1e-6)
    np.testing.assert_array_equal(out[2], x - y)
    np.testing.assert_allclose(out[3], np.full(LANES, x.astype(np.float64).sum()), atol=1e-6)
    np.testing.assert_array_equal(out[4], np.full(LANES, x[3]))
    np.testing.assert_array_equal(out[5], np.maximum(x, y))


def test_bfloat16_is_rounded_like_pytorch():
    bits = torch.arange(0, 2**32, 65537 * 3 + 2, dtype=torch.int64).to(torch.int32)  # floats of every size
    ties = (torch.arange(0, 2**16, dtype=torch.int64) * 65536 + 0x8000).to(torch.int32)
    x = torch.cat([bits, ties]).view(torch.float32)
    x = x[: x.numel() // LANES * LANES]
    halves = torch.empty(x.numel(), dtype=torch.bfloat16)
    unary(2, x.numel(), values(x), values(halves))
    ours, theirs = halves, x.bfloat16()
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours[~ours.isnan()], theirs[~ours.isnan()])

    back = torch.empty(x.numel())
    unary(2, x.numel(), values(halves), values(back))  # widened on loading
    assert torch.equal(back[~ours.isnan()], theirs.float()[~ours.isnan()])


def test_kept_kernels_go_stale_with_what_they_are_made_of(monkeypatch, tmp_path):
    """Numba compares this stamp with the one on disk; it has to follow the contents of every file that kernels use."""
    stamps = []
    for text in ("one", "one", "other"):
        for name in ("simd.py", "cpu_rows.py", "some_kernels.py"):
            (tmp_path / name).write_text(text if name == "cpu_rows.py" else "same")
        monkeypatch.setattr(simd, "__file__", str(tmp_path / "simd.py"))
        simd._digest.cache_clear()
        stamps.append(simd.kernel(unary.py_func)._cache._cache_file._source_stamp)
    simd._digest.cache_clear()
    assert stamps[0] == stamps[1] != stamps[2]
