"""Causal convolution against PyTorch's own, padded by hand."""

import pytest
import torch
import torch.nn.functional as F

from tstar.ops import causal_conv1d


def conv_inputs(length, channels=5, taps=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, length, channels), (channels, taps), (channels,)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def padded_conv(x, weight, bias):
    taps = weight.shape[1]
    y = F.conv1d(x.transpose(1, 2), weight[:, None], bias, padding=taps - 1, groups=x.shape[2])
    return y[..., : x.shape[1]].transpose(1, 2)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize("length", [1, 3, 4, 20])  # shorter than the window, and longer
def test_convolution_and_its_gradients(length, taps, reverse, activation):
    inputs = conv_inputs(length, taps=taps)
    ours = causal_conv1d(*inputs, activation=activation, reverse=reverse)
    x, weight, bias = inputs
    expected = padded_conv(x.flip(1), weight, bias).flip(1) if reverse else padded_conv(x, weight, bias)
    expected = expected * torch.sigmoid(expected) if activation else expected
    torch.testing.assert_close(ours, expected)
    grads = [torch.autograd.grad(y.square().sum(), inputs) for y in (ours, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("cut", [1, 2, 10])  # the state of a part shorter than the window reaches back into its own
@pytest.mark.parametrize("reverse", [False, True])
def test_a_sequence_in_two_parts_equals_the_whole(reverse, cut):
    x, weight, bias = conv_inputs(20)
    whole, whole_state = causal_conv1d(x, weight, bias, reverse=reverse, return_final_state=True)
    parts, ys, state = [x[:, :cut], x[:, cut:]], [], None
    for part in reversed(parts) if reverse else parts:
        y, state = causal_conv1d(part, weight, bias, reverse=reverse, initial_state=state, return_final_state=True)
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys[::-1] if reverse else ys, 1), whole)
    torch.testing.assert_close(state, whole_state)


def test_half_inputs_meet_single_precision_taps():
    x, weight, bias = conv_inputs(20, dtype=torch.float32)
    y = causal_conv1d(x.bfloat16(), weight, bias)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, padded_conv(x.bfloat16().float(), weight, bias).bfloat16())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(4, 4)}, r"x must be \[B, L, I\] and weight \[I, K\]"),
        ({"bias": torch.ones(4)}, r"bias must be \[5\]"),
        ({"initial_state": torch.ones(2, 4, 5)}, r"initial_state must be \[2, 3, 5\]"),
        ({"activation": "relu"}, "activation must be None or 'silu', got 'relu'"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    x, weight, bias = conv_inputs(6, dtype=torch.float32)
    with pytest.raises(ValueError, match=f"causal_conv1d: {message}"):
        causal_conv1d(**({"x": x, "weight": weight, "bias": bias} | change))
