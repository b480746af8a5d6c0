"""State-space dual scan against a loop written from its equations, for every backend of the build."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tstar.errors import ConfigError
from tstar.ops import ssd_torch
from tstar.ops.ssd import available_ssd_backends, ssd_scan
from tstar.ops.ssd_cpu import ssd_heads

BACKENDS = available_ssd_backends()
ALONG = ("x", "dt", "B", "C")


def ssd_inputs(length, dtype=torch.float64, batch=2, heads=4, channels=3, groups=2, states=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "x": (batch, length, heads, channels),
        "dt": (batch, length, heads),
        "A": (heads,),
        "B": (batch, length, groups, states),
        "C": (batch, length, groups, states),
        "D": (heads,),
        "dt_bias": (heads,),
        "initial_state": (batch, heads, channels, states),
    }
    inputs = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    inputs["A"] = -inputs["A"].exp()
    inputs["dt"] -= 1.0
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in inputs.items()}


def detached(inputs):
    return {name: tensor.detach() for name, tensor in inputs.items()}


def recurrence(x, dt, A, B, C, D=None, dt_bias=None, initial_state=None, reverse=False, mask=None, dt_softplus=True):
    """h = exp(step A) h + step B x, y = C h + D x, head by head; always forward, over flipped tensors if asked."""
    if reverse:
        x, dt, B, C = (tensor.flip(1) for tensor in (x, dt, B, C))
        mask = None if mask is None else mask.flip(1)
    if dt_bias is not None:
        dt = dt + dt_bias
    step = torch.log1p(torch.exp(dt)) if dt_softplus else dt
    per_group = x.shape[2] // B.shape[2]
    ys, hs = [], []
    for head in range(x.shape[2]):
        group = head // per_group
        h = torch.zeros_like(x[:, 0, head, :, None] * B[:, 0, 0, None, :]) if initial_state is None else (
            initial_state[:, head]
        )  # fmt: skip
        y_head = []
        for t in range(x.shape[1]):
            update = torch.exp(step[:, t, head] * A[head])[:, None, None] * h + torch.einsum(
                "b,bp,bs->bps", step[:, t, head], x[:, t, head], B[:, t, group]
            )
            y = torch.einsum("bps,bs->bp", update, C[:, t, group])
            if D is not None:
                y = y + D[head] * x[:, t, head]
            if mask is not None:
                valid = mask[:, t]
                update = torch.where(valid[:, None, None], update, h)
                y = torch.where(valid[:, None], y, 0.0)
            h = update
            y_head.append(y)
        ys.append(torch.stack(y_head, 1))
        hs.append(h)
    y = torch.stack(ys, 2)
    return (y.flip(1) if reverse else y), torch.stack(hs, 1)


def gradients(outputs: tuple[Tensor, Tensor], inputs: dict[str, Tensor]) -> list[Tensor]:
    y, state = outputs
    return list(torch.autograd.grad(y.float().square().sum() + state.square().sum(), list(inputs.values())))


def both(inputs: dict[str, Tensor], backend: str = "auto", **options) -> tuple[Tensor, Tensor]:
    return ssd_scan(**inputs, **options, return_final_state=True, backend=backend)


def exact_type(backend: str) -> torch.dtype:
    return torch.float32 if backend == "cpu" else torch.float64


def assert_matches(inputs, backend, **options):
    """Outputs, final state and every gradient equal the recurrence's in float64, as a share of the largest value."""
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
    tolerance = 1e-10 if exact_type(backend) == torch.float64 else 1e-5  # measured 3e-15 and 9e-7
    ours, expected = both(inputs, backend, **options), recurrence(**exact, **options)
    pairs = zip((*ours, *gradients(ours, inputs)), (*expected, *gradients(expected, exact)), strict=True)
    for got, want in pairs:
        assert (got - want).abs().max() <= tolerance * want.abs().max().clamp(min=1e-30)


@pytest.fixture
def short_chunks(monkeypatch):
    """Sequences of a test cross many chunks, blocks of several chunks, and segments."""
    monkeypatch.setattr(ssd_torch, "_CHUNK", 8)
    monkeypatch.setattr(ssd_torch, "_SEGMENT", 32)
    monkeypatch.setitem(ssd_torch._BLOCK_PAIRS, "cpu", 4 * 8 * 8 * 2 * 3)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 31, 127, 128, 129])  # shortest, prime, either side of a chunk
@pytest.mark.parametrize("backend", BACKENDS)
def test_scan_and_its_gradients_match_the_recurrence(backend, length, reverse):
    assert_matches(ssd_inputs(length, exact_type(backend)), backend, reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [7, 8, 9, 100])
def test_borders_of_chunks_blocks_and_segments_leave_no_trace(short_chunks, length, batch, reverse):
    assert_matches(ssd_inputs(length, batch=batch), "torch", reverse=reverse)


@pytest.mark.parametrize(
    "sizes",
    [
        {"states": 1, "groups": 1},
        {"states": 128, "groups": 1},
        {"channels": 1, "groups": 4},
        {"heads": 1, "groups": 1, "channels": 16},
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_size_of_heads_groups_and_states(backend, sizes):
    assert_matches(ssd_inputs(20, exact_type(backend), **sizes), backend)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 2),
    length=st.integers(1, 140),
    groups=st.integers(1, 3),
    shared=st.integers(1, 9),
    channels=st.integers(1, 40),
    states=st.integers(1, 128),
    reverse=st.booleans(),
)
@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_any_shape(backend, batch, length, groups, shared, channels, states, reverse):
    sizes = {"batch": batch, "heads": groups * shared, "groups": groups, "channels": channels, "states": states}
    inputs = ssd_inputs(length, torch.float32, **sizes)
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
    ours, expected = both(inputs, backend, reverse=reverse), both(exact, "reference", reverse=reverse)
    pairs = zip((*ours, *gradients(ours, inputs)), (*expected, *gradients(expected, exact)), strict=True)
    for got, want in pairs:
        assert (got - want).abs().max() <= 1e-5 * want.abs().max().clamp(min=1e-3)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_gradients_match_finite_differences(short_chunks, backend, reverse):
    inputs = ssd_inputs(10, heads=2, channels=2, states=2, groups=1, batch=1)
    names = list(inputs)
    assert torch.autograd.gradcheck(
        lambda *tensors: both(dict(zip(names, tensors, strict=True)), backend, reverse=reverse), list(inputs.values())
    )


def test_the_reference_can_be_differentiated_twice():
    inputs = ssd_inputs(3, heads=2, channels=1, states=2, groups=1, batch=1)
    names = list(inputs)
    assert torch.autograd.gradgradcheck(
        lambda *tensors: both(dict(zip(names, tensors, strict=True)), "reference"), list(inputs.values())
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_scan_in_single_precision(backend):
    inputs = ssd_inputs(200, torch.float32, channels=16, states=16)
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
    ours, expected = both(inputs, backend), both(exact, "reference")
    for got, want in zip(ours, expected, strict=True):
        assert (got - want).abs().max() < 2e-6 * want.abs().max()  # measured 4e-7
    for got, want in zip(gradients(ours, inputs), gradients(expected, exact), strict=True):
        assert (got - want).abs().max() < 1e-5 * max(1.0, float(want.abs().max()))  # measured 1e-6


@pytest.mark.parametrize("absent", ["D", "dt_bias", "initial_state"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_optional_input_can_be_left_out(backend, absent):
    inputs = ssd_inputs(20, exact_type(backend))
    del inputs[absent]
    assert_matches(inputs, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_are_taken_as_they_are_without_softplus(backend):
    inputs = detached(ssd_inputs(20, exact_type(backend)))
    inputs["dt"], inputs["dt_bias"] = inputs["dt"].exp(), inputs["dt_bias"].exp()
    inputs["dt"][:, 5] = -inputs["dt_bias"]  # a step of exactly zero
    inputs = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    assert_matches(inputs, backend, dt_softplus=False)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_anywhere_passes_the_state_on(short_chunks, backend, reverse):
    inputs = ssd_inputs(50, exact_type(backend))
    mask = torch.rand(2, 50, generator=torch.Generator().manual_seed(4)) > 0.4
    mask[0, 10:30], mask[1, 40:] = False, False
    assert_matches(inputs, backend, reverse=reverse, mask=mask)

    spoilt = detached(inputs)
    for name in ALONG:
        spoilt[name] = spoilt[name].clone()
        spoilt[name][~mask] = torch.nan
    spoilt = {name: tensor.requires_grad_() for name, tensor in spoilt.items()}
    outputs = both(spoilt, backend, reverse=reverse, mask=mask)
    torch.testing.assert_close(outputs, both(inputs, backend, reverse=reverse, mask=mask), rtol=0, atol=0)
    assert not outputs[0][~mask].any()
    grads = dict(zip(spoilt, gradients(outputs, spoilt), strict=True))
    assert all(not grads[name][~mask].any() for name in ALONG)
    alone = {name: t[:1, mask[0]] if name in ALONG else t for name, t in inputs.items()}
    alone["initial_state"] = alone["initial_state"][:1]
    torch.testing.assert_close(outputs[0][:1, mask[0]], both(alone, backend, reverse=reverse)[0])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sequence_in_parts_equals_the_whole(short_chunks, backend, dtype, reverse):
    if backend == "cpu" and dtype == torch.float64:
        pytest.skip("the kernel computes in fp32")
    inputs = detached(ssd_inputs(50, dtype))
    whole_y, whole_state = both(inputs, backend, reverse=reverse)
    for cuts in ([0, 1, 50], [0, 21, 22, 50], [0, 8, 16, 49, 50]):
        parts = [slice(*pair) for pair in itertools.pairwise(cuts)]
        ys, state = [], inputs["initial_state"]
        for part in reversed(parts) if reverse else parts:
            pieces = {name: tensor[:, part] if name in ALONG else tensor for name, tensor in inputs.items()}
            y, state = both(pieces | {"initial_state": state}, backend, reverse=reverse)
            ys.append(y)
        joined = torch.cat(ys[::-1] if reverse else ys, 1)
        for got, want in ((joined, whole_y), (state, whole_state)):
            assert (got - want).abs().max() < 1e-6 * want.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_do_not_matter(backend):
    inputs = ssd_inputs(30, exact_type(backend))
    packed = torch.cat([inputs[name].flatten(2) for name in ("x", "B", "C")], -1)  # as a convolution leaves them
    x, B, C = packed.split([12, 10, 10], -1)
    views = {"x": x.unflatten(-1, (4, 3)), "B": B.unflatten(-1, (2, 5)), "C": C.unflatten(-1, (2, 5))}
    views["dt"] = inputs["dt"].mT.contiguous().mT
    ours = both(inputs | views, backend)
    torch.testing.assert_close(ours, both(inputs, backend))
    torch.testing.assert_close(gradients(ours, inputs), gradients(both(inputs, backend), inputs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_decays_neither_overflow_nor_blur_their_neighbours(backend):
    inputs = detached(ssd_inputs(130, torch.float32))
    inputs["dt"][:, 4::5] = 3e4  # sums down to -1e6 within a chunk, and ordinary decays right after
    inputs["x"][:, 4::5] *= 1e-4
    inputs = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
    ours, expected = both(inputs, backend), both(exact, "reference")
    for got, want in zip((*ours, *gradients(ours, inputs)), (*expected, *gradients(expected, exact)), strict=True):
        assert (got - want).abs().max() < 1e-5 * want.abs().max()  # measured 7e-7


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_inputs_are_scanned_with_a_wide_state(backend, dtype, limit):
    inputs = {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in ssd_inputs(150, states=32).items()}
    wide = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
    ours, expected = both(inputs, backend), both(wide, "reference")
    assert [t.dtype for t in ours] == [dtype, torch.float32]
    for got, want in zip((*ours, *gradients(ours, inputs)), (*expected, *gradients(expected, wide)), strict=True):
        assert (got.double() - want).abs().max() < 2 * limit * want.abs().max()  # measured 4e-4, 7e-3


@pytest.mark.parametrize("sizes", [{"length": 0}, {"length": 5, "batch": 0}])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_scan_has_gradients_too(backend, sizes):
    inputs = ssd_inputs(**sizes, dtype=exact_type(backend))
    outputs = both(inputs, backend)
    grads = torch.autograd.grad(outputs[0].sum() + outputs[1].sum(), list(inputs.values()), allow_unused=True)
    assert all(grad is None or grad.isfinite().all() for grad in grads)


def test_the_default_type_of_tensors_does_not_matter():
    inputs = ssd_inputs(70, torch.float32)
    expected = both(inputs, "cpu")
    expected_grads = gradients(expected, inputs)
    torch.set_default_dtype(torch.bfloat16)
    try:
        ours = both(inputs, "cpu")
        grads = gradients(ours, inputs)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close((*ours, *grads), (*expected, *expected_grads), rtol=0, atol=0)


def test_autocast_does_not_reach_into_the_scan():
    inputs = ssd_inputs(70, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = both(inputs)
        grads = gradients(inside, inputs)
    outside = both(inputs)
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)
    torch.testing.assert_close(grads, gradients(outside, inputs), rtol=0, atol=0)


def test_the_operator_passes_the_checks_of_custom_operators(short_chunks):
    inputs = ssd_inputs(20)
    step = inputs["dt"].exp()
    arguments = (inputs["x"], step, step * inputs["A"], *(inputs[n] for n in ("B", "C", "D", "initial_state")), False)
    torch.library.opcheck(ssd_torch.ssd_chunks, arguments, test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(ssd_torch.ssd_chunks, arguments, test_utils="test_autograd_registration")


def test_the_fused_operator_passes_them_too():
    inputs = ssd_inputs(20, torch.float32, channels=16, states=8)
    steps = inputs["dt"].exp().mT.contiguous()
    state = inputs["initial_state"].mT.contiguous()
    tensors = [t.detach().requires_grad_() for t in (inputs["x"], steps, (-steps).exp())]
    tensors += [inputs[name] for name in ("B", "C", "D")] + [state.detach().requires_grad_()]
    for reverse in (False, True):
        torch.library.opcheck(ssd_heads, (*tensors, reverse, True))


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_compiled_without_a_break_in_the_graph(backend):
    inputs = ssd_inputs(70, torch.float32)
    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    ours, expected = compiled(inputs, backend), both(inputs, backend)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradients(ours, inputs), gradients(expected, inputs))


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_checkpointing_changes_no_gradient(backend):
    inputs = ssd_inputs(70, torch.float32)
    again = checkpoint(both, inputs, backend, use_reentrant=False)
    torch.testing.assert_close(gradients(again, inputs), gradients(both(inputs, backend), inputs), rtol=0, atol=0)


def test_results_do_not_depend_on_the_number_of_threads():
    inputs = ssd_inputs(70, torch.float32, batch=3, heads=12, channels=16, groups=1)
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


def test_neither_states_nor_pairs_of_the_whole_sequence_are_stored(short_chunks):
    inputs = ssd_inputs(320, torch.float32, batch=1, heads=4, channels=8, groups=1, states=16)
    saved: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        ssd_scan(**inputs, backend="torch")
    assert sum(saved) < 320 * 4 * 8 * 16 / 4  # a quarter of all states, and less of all pairs; measured 29,192


def test_backends_that_cannot_be_used_are_refused():
    inputs = ssd_inputs(2)
    with pytest.raises(ConfigError, match=r"backend 'cuda' of ssd_scan \(.*\) cannot be used: "):
        ssd_scan(**inputs, backend="cuda")  # float64 on the CPU, whatever is installed
    with pytest.raises(ConfigError, match=r"backend 'cpu' of ssd_scan .* its input is float64; use 'torch'"):
        ssd_scan(**inputs, backend="cpu")
    with pytest.raises(ConfigError, match="unknown backend 'torhc' of ssd_scan; did you mean 'torch'"):
        ssd_scan(**inputs, backend="torhc")


@pytest.mark.parametrize("name", ["dt", "A", "B", "C", "D", "dt_bias", "initial_state"])
def test_a_wrong_shape_is_named(name):
    inputs = detached(ssd_inputs(5))
    inputs[name] = inputs[name][..., :-1]
    with pytest.raises(ValueError, match=f"ssd_scan: {'C' if name == 'B' else name} must be"):
        ssd_scan(**inputs)


def test_groups_and_masks_that_cannot_work_are_named():
    inputs = detached(ssd_inputs(5))
    with pytest.raises(ValueError, match="mask must be of type bool"):
        ssd_scan(**inputs, mask=torch.ones(2, 5))
    with pytest.raises(ValueError, match="2 groups of B must divide the 3 heads"):
        ssd_scan(**(inputs | {"x": inputs["x"][:, :, :3]}))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_sequence_keeps_the_state(backend):
    inputs = detached(ssd_inputs(0, exact_type(backend)))
    y, state = both(inputs, backend)
    assert y.shape == (2, 0, 4, 3)
    torch.testing.assert_close(state, inputs["initial_state"])
