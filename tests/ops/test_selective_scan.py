"""Selective scan against a loop over scalars' axes written from the equations, for every backend of the build."""

import pytest
import torch
from torch import Tensor

from tstar.errors import ConfigError
from tstar.ops import available_scan_backends, scan_torch, selective_scan

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
    """Sequences of a test cross several chunks."""
    monkeypatch.setattr(scan_torch, "_LONGEST_CHUNK", 16)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200])  # shortest, either side of a power of two, several chunks
@pytest.mark.parametrize("backend", available_scan_backends())
def test_scan_and_its_gradients_match_the_recurrence(backend, length, reverse):
    inputs = scan_inputs(length)
    ours, expected = both(inputs, backend, reverse=reverse), recurrence(**inputs, reverse=reverse)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradients(ours, inputs), gradients(expected, inputs))


@pytest.mark.parametrize("length", [1, 15, 16, 17, 65])
def test_chunk_borders_leave_no_trace(short_chunks, length):
    inputs = scan_inputs(length)
    ours, expected = both(inputs, "torch"), recurrence(**inputs)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradients(ours, inputs), gradients(expected, inputs))


@pytest.mark.parametrize("length", [1, 64, 200])
@pytest.mark.parametrize("backend", available_scan_backends())
def test_scan_in_single_precision(backend, length):
    inputs = scan_inputs(length, torch.float32)
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
    ours, expected = both(inputs, backend), recurrence(**exact)
    for got, want in zip(ours, expected, strict=True):
        assert (got - want).abs().max() < 1e-4  # measured 3e-6
    for got, want in zip(gradients(ours, inputs), gradients(expected, exact), strict=True):
        assert (got - want).abs().max() < 1e-5 * max(1.0, float(want.abs().max()))  # measured 6e-7


@pytest.mark.parametrize("absent", ["D", "z", "dt_bias", "initial_state"])
@pytest.mark.parametrize("backend", available_scan_backends())
def test_every_optional_input_can_be_left_out(backend, absent):
    inputs = scan_inputs(20)
    del inputs[absent]
    ours, expected = both(inputs, backend), recurrence(**inputs)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradients(ours, inputs), gradients(expected, inputs))


@pytest.mark.parametrize("backend", available_scan_backends())
def test_steps_are_taken_as_they_are_without_softplus(backend):
    inputs = {name: tensor.detach() for name, tensor in scan_inputs(20).items()}
    inputs["dt"], inputs["dt_bias"] = inputs["dt"].exp(), inputs["dt_bias"].exp()
    torch.testing.assert_close(both(inputs, backend, dt_softplus=False), recurrence(**inputs, dt_softplus=False))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", available_scan_backends())
def test_a_sequence_in_two_parts_equals_the_whole(short_chunks, backend, reverse):
    inputs = {name: tensor.detach() for name, tensor in scan_inputs(50).items()}
    whole_y, whole_state = both(inputs, backend, reverse=reverse)
    parts = [
        {name: tensor[:, part] if name in ("u", "dt", "B", "C", "z") else tensor for name, tensor in inputs.items()}
        for part in (slice(0, 21), slice(21, None))
    ]
    ys, state = [], inputs["initial_state"]
    for part in reversed(parts) if reverse else parts:
        y, state = both(part | {"initial_state": state}, backend, reverse=reverse)
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys[::-1] if reverse else ys, 1), whole_y)
    torch.testing.assert_close(state, whole_state)


@pytest.mark.parametrize("backend", available_scan_backends())
def test_huge_decays_neither_overflow_nor_turn_to_nan(backend):
    inputs = {name: tensor.detach().float() for name, tensor in scan_inputs(130).items()}
    inputs["A"] = inputs["A"] * 100.0
    inputs["dt"] = inputs["dt"] * 50.0  # exponents down to -1e5: accumulated over a chunk no float holds their inverse
    inputs = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    ours = both(inputs, backend)
    assert all(tensor.isfinite().all() for tensor in (*ours, *gradients(ours, inputs)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", available_scan_backends())
def test_half_inputs_are_scanned_in_single_precision(backend, dtype):
    inputs = {name: tensor.detach().to(dtype) for name, tensor in scan_inputs(40).items()}
    y, state = both(inputs, backend)
    wide_y, wide_state = both({name: tensor.float() for name, tensor in inputs.items()}, backend)
    assert (y.dtype, state.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(state, wide_state)
    torch.testing.assert_close(y, wide_y.to(dtype))


def test_autocast_does_not_reach_into_the_scan():
    inputs = {name: tensor.detach().float() for name, tensor in scan_inputs(40).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = selective_scan(**inputs)
    torch.testing.assert_close(inside, selective_scan(**inputs), rtol=0, atol=0)


def test_states_are_not_stored_for_the_whole_sequence(short_chunks):
    inputs = scan_inputs(320, torch.float32, batch=1, inner=8, states=16)
    saved: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        selective_scan(**inputs, backend="torch")
    assert max(saved) < 320 * 8 * 16
    assert sum(saved) < 2 * 320 * 8 * 16  # a dozen of [B, L, I], and a sixteenth of [B, L, I, S]


def test_backends_that_cannot_be_used_are_refused():
    inputs = scan_inputs(2)
    with pytest.raises(
        ConfigError, match=r"'cuda' of selective_scan .* not available in this build; use one of: auto, "
    ):
        selective_scan(**inputs, backend="cuda")
    with pytest.raises(ConfigError, match="unknown backend 'torhc' of selective_scan; did you mean 'torch'"):
        selective_scan(**inputs, backend="torhc")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "u"])
def test_a_wrong_shape_is_named(name):
    inputs = {key: tensor.detach() for key, tensor in scan_inputs(5).items()}
    inputs[name] = inputs[name][..., :-1]
    with pytest.raises(ValueError, match=f"selective_scan: {'B' if name == 'A' else name} must be"):
        selective_scan(**inputs)


def test_an_empty_sequence_keeps_the_state():
    inputs = {name: tensor.detach() for name, tensor in scan_inputs(0).items()}
    y, state = both(inputs, "torch")
    assert y.shape == (2, 0, 6)
    torch.testing.assert_close(state, inputs["initial_state"])
