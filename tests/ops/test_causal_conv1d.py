"""Causal convolution against a loop in float64 written from the equation, for every backend of the build."""

import importlib.machinery
import sys
import types

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tstar.errors import ConfigError
from tstar.ops import causal_conv1d, conv_cuda
from tstar.ops.conv_cpu import conv_rows, conv_rows_backward

HERE = ("reference", "torch", "cpu")


def conv_inputs(length, channels=5, taps=4, dtype=torch.float32, batch=2):
    """x is half of a wider buffer, as out of a projection."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "x": (batch, length, 2 * channels),
        "weight": (channels, taps),
        "bias": (channels,),
        "initial_state": (batch, taps - 1, channels),
    }
    inputs = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    inputs["x"] = inputs["x"].to(dtype)[..., channels:]
    inputs["initial_state"] = inputs["initial_state"].to(dtype)
    return {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}


def padding(length, batch=2):
    """False at a third of the positions, the first sequence's last two among them."""
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[0, -2:] = False
    return mask


def looped(x, weight, bias, initial_state, activation=None, reverse=False, mask=None):
    """Output and next state, one position and one tap after another."""
    taps, length = weight.shape[1], x.shape[1]
    if mask is not None:
        x = x * mask[:, :, None]
    line = torch.cat([x, initial_state] if reverse else [initial_state, x], 1)
    outputs = []
    for t in range(length):
        y = bias.expand(x.shape[0], -1)
        for j in range(taps):
            y = y + weight[:, taps - 1 - j] * line[:, t + j if reverse else t + taps - 1 - j]
        outputs.append(y / (1 + torch.exp(-y)) if activation else y)
    y = torch.stack(outputs, 1) if outputs else x
    if mask is not None:
        y = y * mask[:, :, None]
    return y, line[:, : taps - 1] if reverse else line[:, length:]


def with_gradients(run, inputs, upstream, **options):
    """(y, next state, gradients of all inputs)."""
    y, state = run(**inputs, **options)
    loss = (y * upstream.to(y.dtype)).sum() + state.square().sum()
    wanted = list(inputs.values())
    return (y, state, *torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True))


def assert_near(ours, exact, forward, backward):
    """Largest errors, relative to the largest number of each tensor."""
    for number, (one, right) in enumerate(zip(ours, exact, strict=True)):
        assert one.shape == right.shape
        if right.numel():
            error, size = (one.double() - right).abs().max(), right.abs().max()
            assert error <= (forward if number < 2 else backward) * size, number


def check(backend, forward, backward, length, channels=5, taps=4, dtype=torch.float32, **options):
    inputs = conv_inputs(length, channels, taps, dtype)
    upstream = torch.randn(inputs["x"].shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    exact_inputs = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
    ours = with_gradients(causal_conv1d, inputs, upstream, backend=backend, return_final_state=True, **options)
    assert ours[0].dtype == ours[1].dtype == dtype
    assert_near(ours, with_gradients(looped, exact_inputs, upstream, **options), forward, backward)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("taps", [1, 2, 4, 8])
@pytest.mark.parametrize("length", [1, 3, 4, 23])  # shorter than the window, and longer
@pytest.mark.parametrize("backend", HERE)
def test_convolution_and_its_gradients(backend, length, taps, reverse, activation):
    check(backend, 1e-5, 1e-4, length, taps=taps, reverse=reverse, activation=activation)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [2, 23])
@pytest.mark.parametrize("backend", HERE)
def test_padding(backend, length, reverse):
    mask = padding(length)
    check(backend, 1e-5, 1e-4, length, reverse=reverse, activation="silu", mask=mask)
    inputs = conv_inputs(length)
    y = causal_conv1d(**inputs, reverse=reverse, mask=mask, backend=backend)
    (grad,) = torch.autograd.grad(y.sum(), inputs["x"])
    assert not y[~mask].any()
    assert not grad[~mask].any()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("length", "channels"), [(128, 16), (131, 544), (389, 48)])  # round the kernel's block sizes
def test_long_and_wide_inputs_of_the_cpu_kernel(length, channels, masked):
    check("cpu", 1e-5, 1e-4, length, channels, activation="silu", mask=padding(length) if masked else None)


@pytest.mark.parametrize("backend", HERE)
def test_half_precision_is_only_rounded(backend):
    check(backend, 1e-2, 1e-2, 23, dtype=torch.bfloat16, activation="silu", mask=padding(23))


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_double_precision_stays(backend):
    inputs = {name: tensor.detach().double() for name, tensor in conv_inputs(9).items()}
    y = causal_conv1d(**inputs, activation="silu", backend=backend)
    torch.testing.assert_close(y, looped(**inputs, activation="silu")[0])


@pytest.mark.parametrize("cut", [1, 2, 10])  # the state of a part shorter than the window reaches back into its own
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", HERE)
def test_a_sequence_in_two_parts_equals_the_whole(backend, reverse, cut):
    x, weight, bias, _ = conv_inputs(20).values()
    options = {"reverse": reverse, "return_final_state": True, "backend": backend}
    whole, whole_state = causal_conv1d(x, weight, bias, **options)
    parts, ys, state = [x[:, :cut], x[:, cut:]], [], None
    for part in reversed(parts) if reverse else parts:
        y, state = causal_conv1d(part, weight, bias, initial_state=state, **options)
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys[::-1] if reverse else ys, 1), whole)
    torch.testing.assert_close(state, whole_state)


@pytest.mark.parametrize("backend", HERE)
def test_no_positions_leave_the_state(backend):
    inputs = conv_inputs(0)
    y, state = causal_conv1d(**inputs, return_final_state=True, backend=backend)
    assert y.shape == (2, 0, 5)
    assert torch.equal(state, inputs["initial_state"])


def test_any_layout_and_any_gradient_layout():
    x, weight, bias, _ = conv_inputs(23, channels=16).values()
    y = causal_conv1d(x, weight, bias, backend="cpu")
    for other in (x.detach().mT.contiguous().mT, x.detach()[:1].expand(2, -1, -1)):
        y = causal_conv1d(other.requires_grad_(), weight, bias, backend="cpu")
        torch.testing.assert_close(y, causal_conv1d(other, weight, bias, backend="torch"))
    (plain,) = torch.autograd.grad(y, weight, torch.ones_like(y), retain_graph=True)
    (expanded,) = torch.autograd.grad(y.sum(), weight)  # one number, seen everywhere
    torch.testing.assert_close(plain, expanded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_do_not_change_a_bit(dtype):
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            inputs = conv_inputs(400, channels=512, dtype=dtype)
            ones = torch.ones(2, 400, 512)
            options = {"activation": "silu", "return_final_state": True, "backend": "cpu"}
            results.append(with_gradients(causal_conv1d, inputs, ones, **options))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("stateful", [False, True])
def test_operators_are_registered_as_pytorch_expects(stateful):
    x, weight, bias, state = conv_inputs(7, channels=16).values()
    weight = weight.detach().mT.contiguous().requires_grad_()
    rest = (state, padding(7)) if stateful else (None, None)
    torch.library.opcheck(conv_rows, (x, weight, bias, *rest, True, False))
    plain = [None if t is None else t.detach() for t in (torch.ones(2, 7, 16), x, weight, bias, *rest)]
    torch.library.opcheck(conv_rows_backward, (*plain, True, True))


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_whole_in_a_checkpoint_under_autocast(compiler):
    inputs = conv_inputs(9, channels=16, dtype=torch.bfloat16)
    plain = with_gradients(
        causal_conv1d, inputs, torch.ones(2, 9, 16), activation="silu", return_final_state=True, backend="cpu"
    )

    @torch.compile(fullgraph=True, backend=compiler)
    def compiled(**inputs):
        return causal_conv1d(**inputs, activation="silu", return_final_state=True)

    def checkpointed(**inputs):
        return checkpoint(lambda: compiled(**inputs), use_reentrant=False)

    with torch.autocast("cpu", torch.bfloat16):
        results = with_gradients(checkpointed, inputs, torch.ones(2, 9, 16))
    assert results[0].dtype == torch.bfloat16
    torch.testing.assert_close(results, plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(4, 4)}, r"x must be \[B, L, I\] and weight \[I, K\]"),
        ({"bias": torch.ones(4)}, r"bias must be \[5\]"),
        ({"initial_state": torch.ones(2, 4, 5)}, r"initial_state must be \[2, 3, 5\]"),
        ({"mask": torch.ones(2, 5).bool()}, r"mask must be \[2, 6\]"),
        ({"mask": torch.ones(2, 6)}, "mask must be of type bool, got torch.float32"),
        ({"activation": "relu"}, "activation must be None or 'silu', got 'relu'"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=f"causal_conv1d: {message}"):
        causal_conv1d(**(conv_inputs(6) | change))


def test_a_backend_that_cannot_take_the_call_says_why(one_line):
    inputs = conv_inputs(6)
    double = {name: tensor.double() for name, tensor in inputs.items()}
    for given, backend, words in (
        (inputs, "gpu", ("unknown backend 'gpu'",)),
        (double, "cpu", ("float64", "'torch'")),
    ):
        with pytest.raises(ConfigError) as error:
            causal_conv1d(**given, backend=backend)
        one_line(error.value, "causal_conv1d", *words)
    assert causal_conv1d(**double).dtype == torch.float64  # "auto" finds one


def vendor_fn(
    x,
    weight,
    bias=None,
    seq_idx=None,
    initial_states=None,
    return_final_states=False,
    final_states_out=None,
    activation=None,
):
    """The vendor's interface, its limits asserted: x [B, I, L] with channels side by side."""
    assert x.stride(1) == 1
    assert x.shape[1] % 8 == x.stride(0) % 8 == x.stride(2) % 8 == 0
    assert 2 <= weight.shape[1] <= 4
    assert weight.dtype == torch.float32
    if initial_states is None:
        initial_states = x.new_zeros(x.shape[0], x.shape[1], weight.shape[1] - 1)
    else:
        assert initial_states.stride(1) == 1
        assert initial_states.dtype == x.dtype
    line = torch.cat([initial_states, x], -1).float()
    y = torch.nn.functional.conv1d(line, weight[:, None], bias, groups=x.shape[1])
    return (y * torch.sigmoid(y) if activation == "silu" else y).to(x.dtype)


@pytest.fixture
def vendor(monkeypatch):
    """A function that installs a package with the given ``causal_conv1d_fn``, said to compute on the CPU."""

    def install(function):
        package = types.ModuleType("causal_conv1d")
        package.__spec__ = importlib.machinery.ModuleSpec("causal_conv1d", None)
        package.causal_conv1d_fn = function
        monkeypatch.setitem(sys.modules, "causal_conv1d", package)
        monkeypatch.setattr(conv_cuda, "DEVICE", "cpu")
        conv_cuda.find_fault.cache_clear()

    yield install
    conv_cuda.find_fault.cache_clear()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("channels", [5, 16])
def test_vendor_kernel_gets_its_layout(vendor, channels, reverse):
    vendor(vendor_fn)
    for taps in (2, 4):
        for length in (1, 23):
            check("cuda", 1e-5, 1e-4, length, channels, taps, reverse=reverse, activation="silu", mask=padding(length))
    check("cuda", 1e-2, 1e-2, 9, channels, dtype=torch.bfloat16, reverse=reverse)


def test_vendor_kernel_is_preferred_where_it_fits(vendor):
    calls = []

    def counted(*args, **options):
        calls.append(1)
        return vendor_fn(*args, **options)

    vendor(counted)
    causal_conv1d(**conv_inputs(6))
    assert len(calls) == 3  # the check's two and this one
    causal_conv1d(**conv_inputs(6))
    assert len(calls) == 4
    causal_conv1d(**conv_inputs(6, taps=5))
    causal_conv1d(**{name: tensor.double() for name, tensor in conv_inputs(6).items()})
    assert len(calls) == 4


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_vendor_kernel_is_checked_before_it_is_compiled_in(vendor, compiler):
    vendor(vendor_fn)
    inputs = {name: tensor.detach() for name, tensor in conv_inputs(6).items()}
    compiled = torch.compile(causal_conv1d, fullgraph=True, backend=compiler)
    torch.testing.assert_close(compiled(**inputs, backend="cuda"), causal_conv1d(**inputs, backend="torch"))


@torch.inference_mode()
def test_vendor_kernel_is_checked_with_gradients_whoever_asks(vendor):
    vendor(vendor_fn)
    inputs = {name: tensor.detach() for name, tensor in conv_inputs(6).items()}
    torch.testing.assert_close(causal_conv1d(**inputs, backend="cuda"), causal_conv1d(**inputs, backend="torch"))


def flipped_taps(x, weight, *args, **options):
    return vendor_fn(x, weight.flip(1), *args, **options)


def forgets_the_state(*args, initial_states=None, **options):
    return vendor_fn(*args, **options)


def detached(*args, **options):
    return vendor_fn(*args, **options).detach()


def crashes(*args, **options):
    raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (flipped_taps, "disagrees with the reference"),
        (forgets_the_state, "disagrees with the reference|not have been used"),
        (detached, "failed on a small input"),
        (crashes, "no kernel image is available"),
    ],
)
def test_a_wrong_vendor_kernel_is_refused(vendor, function, reason, one_line):
    vendor(function)
    inputs = conv_inputs(6)
    with pytest.raises(ConfigError, match=reason) as error:
        causal_conv1d(**inputs, backend="cuda")
    one_line(error.value, "backend 'cuda' of causal_conv1d", "pip install causal-conv1d")
    torch.testing.assert_close(causal_conv1d(**inputs), causal_conv1d(**inputs, backend="torch"))


def test_vendor_kernel_refuses_what_it_cannot_do(vendor, monkeypatch, one_line):
    vendor(vendor_fn)
    double = {name: tensor.double() for name, tensor in conv_inputs(6).items()}
    for inputs, words in ((conv_inputs(6, taps=5), "2 to 4 taps, got 5"), (double, "float64")):
        with pytest.raises(ConfigError) as error:
            causal_conv1d(**inputs, backend="cuda")
        one_line(error.value, words)
    monkeypatch.setattr(conv_cuda, "DEVICE", "cuda")
    with pytest.raises(ConfigError, match="its input is on cpu"):
        causal_conv1d(**conv_inputs(6), backend="cuda")


def test_missing_vendor_package_names_its_install_line(monkeypatch):
    conv_cuda.find_fault.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install causal-conv1d"):
        causal_conv1d(**conv_inputs(6), backend="cuda")
    conv_cuda.find_fault.cache_clear()
