"""Selective scan against a loop written from the equations, for every backend that is installed."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tstar.errors import ConfigError
from tstar.ops import available_scan_backends, scan_torch, selective_scan
from tstar.ops.scan import SCANS
from tstar.ops.scan_cpu import scan_tiles

NAMES = ("u", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_state")


def scan_inputs(length, dtype=torch.float64, batch=2, inner=6, states=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "u": (batch, length, inner),
        "dt": (batch, length, inner),
        "A": (inner, states),
        "B": (batch, length, states),
        "C": (batch, length, states),
        "D": (inner,),
        "z": (batch, length, inner),
        "dt_bias": (inner,),
        "initial_state": (batch, inner, states),
    }
    inputs = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    inputs["A"] = -inputs["A"].exp()
    inputs["dt"] -= 1.0
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in inputs.items()}


def recurrence(u, dt, A, B, C, D=None, z=None, dt_bias=None, initial_state=None, reverse=False, dt_softplus=True):
    """h = exp(step A) h + step B u, y = (C h + D u) z sigmoid(z); always forward, over flipped tensors if asked."""
    if reverse:
        u, dt, B, C = (tensor.flip(1) for tensor in (u, dt, B, C))
    if dt_bias is not None:
        dt = dt + dt_bias
    step = torch.log1p(torch.exp(dt)) if dt_softplus else dt
    h = 0.0 if initial_state is None else initial_state
    ys = []
    for t in range(u.shape[1]):
        h = torch.exp(torch.einsum("bi,is->bis", step[:, t], A)) * h
        h = h + torch.einsum("bi,bs,bi->bis", step[:, t], B[:, t], u[:, t])
        ys.append(torch.einsum("bis,bs->bi", h, C[:, t]))
    y = torch.stack(ys, 1)
    if D is not None:
        y = y + torch.einsum("bti,i->bti", u, D)
    if reverse:
        y = y.flip(1)
    return (y if z is None else y * z * torch.sigmoid(z)), h


def gradients(outputs: tuple[Tensor, Tensor], inputs: dict[str, Tensor]) -> list[Tensor]:
    y, state = outputs
    return list(torch.autograd.grad(y.square().sum() + state.square().sum(), list(inputs.values())))


def both(inputs: dict[str, Tensor], backend: str = "auto", **options) -> tuple[Tensor, Tensor]:
    return selective_scan(**inputs, **options, return_final_state=True, backend=backend)


@pytest.fixture
def short_chunks(monkeypatch):
    """Sequences of a test cross several chunks of the torch backend; the CPU kernel's are 32 long as it is."""
    monkeypatch.setattr(scan_torch, "_LONGEST_CHUNK", 16)


def exact_type(backend: str) -> torch.dtype:
    return torch.float32 if backend == "cpu" else torch.float64


def assert_near(got: Tensor, want: Tensor, tolerance: float) -> None:
    """Largest difference, as a share of the largest value."""
    difference = (got.double() - want).abs().max() / want.abs().max().clamp(min=1e-30)
    assert difference <= tolerance, f"{difference:.1e} > {tolerance:.1e}"


def assert_matches(backend: str, inputs: dict[str, Tensor], dtype: torch.dtype | None = None, **options) -> None:
    """Outputs, final state and every gradient of a backend equal the recurrence's in float64."""
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
    wide = inputs["u"].dtype == torch.float64
    ours, expected = both(inputs, backend, **options), recurrence(**exact, **options)
    for got, want in zip(ours, expected, strict=True):
        assert_near(got, want, 1e-12 if wide else 1e-5)  # measured 3e-15, 3e-7
    for got, want in zip(gradients(ours, inputs), gradients(expected, exact), strict=True):
        assert_near(got, want, 1e-10 if wide else 1e-5)  # measured 7e-15, 6e-7


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 97])  # shortest, either side of the kernel's chunk, a prime
@pytest.mark.parametrize("backend", available_scan_backends())
def test_scan_and_its_gradients_match_the_recurrence(backend, length, reverse):
    assert_matches(backend, scan_inputs(length, exact_type(backend)), reverse=reverse)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_single_precision_of_the_other_backends(backend):
    assert_matches(backend, scan_inputs(200, torch.float32))


@pytest.mark.parametrize("length", [1, 15, 16, 17, 65])
def test_chunk_borders_leave_no_trace(short_chunks, length):
    assert_matches("torch", scan_inputs(length))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 70),
    inner=st.integers(1, 70),
    states=st.integers(1, 128),
    reverse=st.booleans(),
)
@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_any_shape(backend, batch, length, inner, states, reverse):
    inputs = scan_inputs(length, exact_type(backend), batch=batch, inner=inner, states=states)
    assert_matches(backend, inputs, reverse=reverse)


@pytest.mark.parametrize("backend", available_scan_backends())
def test_strided_inputs(backend):
    """Halves of one projection, a transposed tensor and an expanded one are read where they lie."""
    dtype = exact_type(backend)
    inputs = scan_inputs(40, dtype, inner=16)
    projected = torch.randn(2, 40, 32, dtype=dtype, generator=torch.Generator().manual_seed(1))
    inputs["u"], inputs["z"] = projected.chunk(2, dim=-1)
    inputs["dt"] = inputs["dt"].detach().mT.contiguous().mT
    inputs["B"] = inputs["B"].detach()[:1].expand(2, -1, -1)
    plain = {name: tensor.detach().clone() for name, tensor in inputs.items()}
    torch.testing.assert_close(both(inputs, backend), both(plain, backend), rtol=0, atol=0)


@pytest.mark.parametrize("absent", ["D", "z", "dt_bias", "initial_state"])
@pytest.mark.parametrize("backend", available_scan_backends())
def test_every_optional_input_can_be_left_out(backend, absent):
    inputs = scan_inputs(20, exact_type(backend))
    del inputs[absent]
    assert_matches(backend, inputs)


@pytest.mark.parametrize("backend", available_scan_backends())
def test_steps_are_taken_as_they_are_without_softplus(backend):
    inputs = scan_inputs(20, exact_type(backend))
    for name in ("dt", "dt_bias"):
        inputs[name] = inputs[name].detach().exp().requires_grad_()
    assert_matches(backend, inputs, dt_softplus=False)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", available_scan_backends())
def test_padding_is_passed_over(backend, reverse):
    """Wherever it lies, masked positions are as if they were not there, and get zeros and no gradient."""
    inputs = scan_inputs(50, exact_type(backend), batch=1)
    mask = torch.rand(50, generator=torch.Generator().manual_seed(3)) < 0.6
    y, state = both(inputs, backend, mask=mask[None], reverse=reverse)
    along = ("u", "dt", "B", "C", "z")
    short = {name: tensor[:, mask] if name in along else tensor for name, tensor in inputs.items()}
    short_y, short_state = both(short, backend, reverse=reverse)
    torch.testing.assert_close(y[:, mask], short_y)
    torch.testing.assert_close(state, short_state)
    assert not y[:, ~mask].any()
    spoilt = {name: tensor.detach().clone() for name, tensor in inputs.items()}
    for name in along:
        spoilt[name][:, ~mask] = torch.nan
    spoilt = {name: tensor.requires_grad_() for name, tensor in spoilt.items()}
    outputs = both(spoilt, backend, mask=mask[None], reverse=reverse)
    torch.testing.assert_close(outputs, (y, state), rtol=0, atol=0)
    assert all(grad.isfinite().all() for grad in gradients(outputs, spoilt))
    masked = dict(zip(inputs, gradients((y, state), inputs), strict=True))
    alone = dict(zip(inputs, gradients((short_y, short_state), inputs), strict=True))
    torch.testing.assert_close(masked, alone, rtol=1e-5, atol=1e-5)
    assert not any(masked[name][:, ~mask].any() for name in along)


@pytest.mark.parametrize("cut", [1, 21, 32, 49])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", available_scan_backends())
def test_a_sequence_in_two_parts_equals_the_whole(short_chunks, backend, reverse, cut):
    inputs = {name: tensor.detach() for name, tensor in scan_inputs(50, exact_type(backend)).items()}
    whole_y, whole_state = both(inputs, backend, reverse=reverse)
    parts = [
        {name: tensor[:, part] if name in ("u", "dt", "B", "C", "z") else tensor for name, tensor in inputs.items()}
        for part in (slice(0, cut), slice(cut, None))
    ]
    ys, state = [], inputs["initial_state"]
    for part in reversed(parts) if reverse else parts:
        y, state = both(part | {"initial_state": state}, backend, reverse=reverse)
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys[::-1] if reverse else ys, 1), whole_y, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(state, whole_state, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", available_scan_backends())
def test_huge_decays_neither_overflow_nor_turn_to_nan(backend):
    inputs = {name: tensor.detach().float() for name, tensor in scan_inputs(130).items()}
    inputs["A"] = inputs["A"] * 100.0
    inputs["dt"] = inputs["dt"] * 50.0  # exponents down to -1e5: accumulated over a chunk no float holds their inverse
    inputs = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    ours, expected = both(inputs, backend), both(inputs, "reference")
    assert all(tensor.isfinite().all() for tensor in (*ours, *gradients(ours, inputs)))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["u", "dt", "B", "z"])
@pytest.mark.parametrize("backend", available_scan_backends())
def test_a_nan_is_not_swallowed(backend, name):
    inputs = {key: tensor.detach().float() for key, tensor in scan_inputs(40).items()}
    inputs[name][:, 20] = torch.nan
    assert both(inputs, backend)[0][:, 20].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", available_scan_backends())
def test_half_inputs_are_scanned_in_single_precision(backend, dtype):
    inputs = {name: tensor.detach().to(dtype) for name, tensor in scan_inputs(40).items()}
    y, state = both(inputs, backend)
    wide_y, wide_state = both({name: tensor.float() for name, tensor in inputs.items()}, backend)
    assert (y.dtype, state.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(state, wide_state)
    torch.testing.assert_close(y, wide_y.to(dtype))


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_half_precision_gradients(backend):
    inputs = scan_inputs(70, torch.float32)
    halved = {
        name: tensor.detach().to(torch.bfloat16 if name in ("u", "dt", "B", "C", "z") else None).requires_grad_()
        for name, tensor in inputs.items()
    }
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in halved.items()}
    ours, expected = gradients(both(halved, backend), halved), gradients(recurrence(**exact), exact)
    for got, want in zip(ours, expected, strict=True):
        assert_near(got, want, 1e-2)  # measured 4e-3


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_gradients_by_finite_differences(backend, short_chunks):
    inputs = scan_inputs(19, batch=1, inner=2, states=2)
    names = list(inputs)
    assert torch.autograd.gradcheck(
        lambda *args: both(dict(zip(names, args, strict=True)), backend), list(inputs.values())
    )


@pytest.mark.parametrize("backend", available_scan_backends())
def test_autocast_does_not_reach_into_the_scan(backend):
    inputs = scan_inputs(40, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = both(inputs, backend)
        grads = gradients(inside, inputs)
    outside = both(inputs, backend)
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)
    torch.testing.assert_close(grads, gradients(outside, inputs), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_type_of_tensors_does_not_matter(dtype):
    inputs = scan_inputs(40, torch.float32)
    expected = both(inputs, "cpu")
    expected_grads = gradients(expected, inputs)
    torch.set_default_dtype(dtype)
    try:
        ours = both(inputs, "cpu")
        grads = gradients(ours, inputs)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    torch.testing.assert_close(grads, expected_grads, rtol=0, atol=0)


@pytest.mark.parametrize("sizes", [{"length": 0}, {"length": 5, "batch": 0}])
@pytest.mark.parametrize("backend", available_scan_backends())
def test_nothing_to_scan_has_gradients_too(backend, sizes):
    inputs = scan_inputs(**sizes, dtype=exact_type(backend))
    outputs = both(inputs, backend)
    torch.testing.assert_close(outputs[1], inputs["initial_state"])
    grads = torch.autograd.grad(outputs[0].sum() + outputs[1].sum(), list(inputs.values()), allow_unused=True)
    assert all(grad is None or grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_second_derivatives_are_refused(backend):
    inputs = scan_inputs(5, torch.float32)
    (grad,) = torch.autograd.grad(both(inputs, backend)[0].square().sum(), inputs["u"], create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(grad.sum(), inputs["dt"])


def test_the_operator_refuses_gradients_of_what_it_did_not_keep():
    inputs = scan_inputs(20, torch.float32, inner=16)
    rates, state = inputs["A"].detach().mT.contiguous(), inputs["initial_state"].detach().mT.contiguous()
    tensors = (inputs["u"], inputs["dt"], None, rates, *(inputs[name] for name in ("B", "C", "D", "dt_bias")), state)
    y, _, _ = scan_tiles(*tensors, None, True, False, False)
    with pytest.raises(RuntimeError, match="call it with keep=True"):
        y.sum().backward()


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_states_are_not_stored_for_the_whole_sequence(short_chunks, backend):
    inputs = scan_inputs(320, torch.float32, batch=1, inner=16, states=32)
    saved: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        selective_scan(**inputs, backend=backend)
    assert sum(saved) < 320 * 16 * 32  # a dozen of [B, L, I], and a sixteenth or less of [B, L, I, S]


def test_the_fused_operator_is_registered_as_pytorch_expects():
    inputs = scan_inputs(20, torch.float32, inner=16)
    rates = inputs["A"].detach().mT.contiguous().requires_grad_()
    state = inputs["initial_state"].detach().mT.contiguous().requires_grad_()
    mask = torch.rand(2, 20) < 0.8
    for z, padding, reverse in ((inputs["z"], mask, False), (None, None, True)):
        tensors = (inputs["u"], inputs["dt"], z, rates, *(inputs[name] for name in ("B", "C", "D", "dt_bias")), state)
        torch.library.opcheck(scan_tiles, (*tensors, padding, True, reverse, True))


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_under_compile_and_checkpointing(backend):
    inputs = scan_inputs(40, torch.float32, inner=16)

    def run(*args: Tensor) -> Tensor:
        y, state = both(dict(zip(NAMES, args, strict=True)), backend)
        return y.square().sum() + state.square().sum()

    values = [inputs[name] for name in NAMES]
    plain = torch.autograd.grad(run(*values), values)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*values), values), plain)
    torch.testing.assert_close(torch.autograd.grad(checkpoint(run, *values, use_reentrant=False), values), plain)


def test_results_do_not_depend_on_the_number_of_threads():
    inputs = scan_inputs(70, torch.float32, batch=3, inner=160, states=16)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            outputs = both(inputs, "cpu")
            results.append((*outputs, *gradients(outputs, inputs)))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=0)


def test_backends_that_cannot_be_used_are_refused(monkeypatch):
    inputs = scan_inputs(2)
    with pytest.raises(ConfigError, match=r"unknown backend 'torhc' of selective_scan; did you mean 'torch'"):
        selective_scan(**inputs, backend="torhc")
    with pytest.raises(ConfigError, match=r"'cpu' of selective_scan .* its input is float64; use 'torch'"):
        selective_scan(**inputs, backend="cpu")
    assert selective_scan(**inputs).dtype == torch.float64  # auto takes another
    narrow = {name: tensor.float() for name, tensor in inputs.items()}
    monkeypatch.setitem(
        SCANS, "cpu", replace(SCANS["cpu"], missing=lambda: "Numba is not installed; pip install numba")
    )
    with pytest.raises(ConfigError, match="Numba is not installed; pip install numba"):
        selective_scan(**narrow, backend="cpu")
    torch.testing.assert_close(selective_scan(**narrow), selective_scan(**narrow, backend="torch"), rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "u"])
def test_a_wrong_shape_is_named(name):
    inputs = {key: tensor.detach() for key, tensor in scan_inputs(5).items()}
    inputs[name] = inputs[name][..., :-1]
    with pytest.raises(ValueError, match=f"selective_scan: {'B' if name == 'A' else name} must be"):
        selective_scan(**inputs)


def test_a_mask_of_another_type_is_refused():
    inputs = scan_inputs(5)
    with pytest.raises(ValueError, match=r"selective_scan: mask must be of type bool, got torch.float32"):
        selective_scan(**inputs, mask=torch.ones(2, 5))


def test_an_empty_sequence_keeps_the_state():
    inputs = {name: tensor.detach() for name, tensor in scan_inputs(0).items()}
    y, state = both(inputs, "torch")
    assert y.shape == (2, 0, 6)
    torch.testing.assert_close(state, inputs["initial_state"])
