"""The fused CPU norm against the equation in float64."""

import pytest
import torch

from tstar.ops import rms_norm
from tstar.ops.norm_cpu import norm_rows, norm_rows_backward, rms_norm_cpu

GATES = [None, True, False]  # no gate, after the norm, before it


def norm_inputs(rows, width, dtype=torch.float32, gate=None):
    """x and z are halves of one buffer."""
    generator = torch.Generator().manual_seed(0)
    buffer = torch.randn(2, rows, 2 * width, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(width, generator=generator).requires_grad_()
    x, z = buffer.chunk(2, dim=-1)
    options = {} if gate is None else {"z": z, "norm_before_gate": gate}
    return buffer, weight, (x, weight), options


def equation(x, weight, eps=1e-5, z=None, norm_before_gate=True):
    gate = 1.0 if z is None else z / (1 + torch.exp(-z))
    if not norm_before_gate:
        x, gate = x * gate, 1.0
    scale = 1 / torch.sqrt((x * x).sum(-1, keepdim=True) / x.shape[-1] + eps)
    return x * scale * weight * gate


def assert_near(ours, exact, relative):
    """Largest error, relative to the largest number."""
    assert ours.shape == exact.shape
    if exact.numel():
        assert (ours.double() - exact).abs().max() <= relative * exact.abs().max()


def answers(rows, width, dtype, gate):
    """(output, gradient of the buffer, gradient of the weight) of the kernel, and of the equation in float64."""
    buffer, weight, inputs, options = norm_inputs(rows, width, dtype, gate)
    y = rms_norm_cpu(*inputs, **options)
    assert y.dtype == dtype
    exact_buffer, exact_weight = (t.detach().double().requires_grad_() for t in (buffer, weight))
    x, z = exact_buffer.chunk(2, dim=-1)
    exact = equation(x, exact_weight, **(options | ({"z": z} if options else {})))
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours = (y, *torch.autograd.grad(y, (buffer, weight), upstream))
    return ours, (exact, *torch.autograd.grad(exact, (exact_buffer, exact_weight), upstream.double()))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (1, 5), (13, 37), (97, 256)])
def test_norm_and_its_gradients(rows, width, gate):
    (y, *grads), (exact, *exact_grads) = answers(rows, width, torch.float32, gate)
    assert_near(y, exact, 1e-5)
    for ours, right in zip(grads, exact_grads, strict=True):
        assert_near(ours, right, 1e-4)


@pytest.mark.parametrize("gate", GATES)
def test_half_precision_is_only_rounded(gate):
    for ours, right in zip(*answers(13, 37, torch.bfloat16, gate), strict=True):
        assert_near(ours, right, 1e-2)


def test_large_halves_do_not_overflow_and_zeros_stay():
    x = torch.zeros(2, 16, dtype=torch.bfloat16)
    x[0] = 1e30
    y = rms_norm_cpu(x * 1e-12, torch.ones(16))
    torch.testing.assert_close(y[0], torch.ones(16).bfloat16())
    assert not y[1].any()


def test_types_may_differ():
    x, z, weight = torch.randn(3, 16), torch.randn(3, 16).bfloat16(), torch.randn(16)
    for a, b in ((x, z), (z, x), (x.half(), z)):
        y = rms_norm_cpu(a, weight, z=b)
        assert y.dtype == a.dtype
        assert_near(y, equation(a.double(), weight.double(), z=b.double()), 1e-2)


def test_no_rows():
    assert rms_norm_cpu(torch.randn(2, 0, 16), torch.ones(16)).shape == (2, 0, 16)


@pytest.mark.parametrize("gate", GATES)
def test_threads_do_not_change_a_bit(gate):
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            buffer, weight, inputs, options = norm_inputs(150, 512, gate=gate)
            y = rms_norm_cpu(*inputs, **options)
            results.append((y, *torch.autograd.grad(y.square().sum(), (buffer, weight))))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("gate", [None, False])
def test_operators_are_registered_as_pytorch_expects(gate, half):
    _, weight, (x, _), options = norm_inputs(5, 16, gate=gate)
    x, z = (None if t is None else t.detach().flatten(0, 1) for t in (x, options.get("z")))
    rows = [None if t is None else t.requires_grad_() for t in (x, z)]
    torch.library.opcheck(norm_rows, (*rows, weight, 16, 1e-5, gate is None, half))
    rows = [None if t is None else t.detach() for t in (torch.ones_like(x), *rows)]
    torch.library.opcheck(norm_rows_backward, (*rows, weight.detach(), 16, 1e-5, gate is None))


def test_a_result_in_half_precision_is_the_wide_one_rounded():
    x, weight = torch.randn(5, 20, requires_grad=True), torch.randn(20, requires_grad=True)
    wide, half = rms_norm(x, weight), rms_norm(x, weight, dtype=torch.bfloat16)
    torch.testing.assert_close(half, wide.bfloat16(), rtol=0, atol=0)
    grads = [torch.autograd.grad(y, (x, weight), torch.ones_like(y)) for y in (wide, half)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_whole(backend):
    buffer, weight, inputs, options = norm_inputs(5, 16, gate=True)
    compiled = torch.compile(rms_norm_cpu, fullgraph=True, backend=backend)
    results = []
    for run in (compiled, rms_norm_cpu):
        y = run(*inputs, **options)
        results.append((y, *torch.autograd.grad(y.square().sum(), (buffer, weight))))
    torch.testing.assert_close(*results)
