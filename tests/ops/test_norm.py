"""RMS norm and its gate against their formulas."""

import pytest
import torch

from tstar.ops.norm import rms_norm


def formula(x, weight, eps):
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) / x.shape[-1] + eps) * weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norm_and_gate_in_either_order(dtype):
    generator = torch.Generator().manual_seed(0)
    x, z, weight = (torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((3, 5, 8), (3, 5, 8), (8,)))
    gate = z / (1 + torch.exp(-z))
    torch.testing.assert_close(rms_norm(x, weight, 1e-3), formula(x, weight, 1e-3))
    torch.testing.assert_close(rms_norm(x, weight, 1e-3, z=z), formula(x, weight, 1e-3) * gate)
    torch.testing.assert_close(rms_norm(x, weight, z=z, norm_before_gate=False), formula(x * gate, weight, 1e-5))


def test_groups_are_normed_alone():
    x, z, weight = torch.randn(3, 8), torch.randn(3, 8), torch.randn(8)
    alone = [rms_norm(x[:, half], weight[half], z=z[:, half]) for half in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(rms_norm(x, weight, z=z, groups=2), torch.cat(alone, -1))


@pytest.mark.parametrize("norm_before_gate", [True, False])
def test_gradients_match_finite_differences(norm_before_gate):
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 6), (6,), (2, 6))]
    assert torch.autograd.gradcheck(
        lambda x, weight, z: rms_norm(x, weight, z=z, norm_before_gate=norm_before_gate), inputs
    )


@pytest.mark.parametrize("norm_before_gate", [True, False])
def test_half_precision_is_squared_and_gated_in_single(norm_before_gate):
    x, z = torch.full((1, 8), 3e4, dtype=torch.float16), torch.full((1, 8), 30.0, dtype=torch.float16)
    y = rms_norm(x, torch.ones(8), z=z, norm_before_gate=norm_before_gate)  # the square and the product overflow fp16
    assert y.dtype == torch.float16
    torch.testing.assert_close(y, torch.full_like(y, 30.0 if norm_before_gate else 1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(15)}, r"weight must be \[16\] to fit x \[4, 16\], got \[15\]"),
        ({"z": torch.ones(1, 16)}, r"z must have the shape of x, \[4, 16\], got \[1, 16\]"),
        ({"groups": 3}, "groups must divide the 16 numbers of a row, got 3"),
    ],
)
def test_wrong_shapes_are_named(change, message):
    with pytest.raises(ValueError, match=f"rms_norm: {message}"):
        rms_norm(**({"x": torch.ones(4, 16), "weight": torch.ones(16)} | change))
