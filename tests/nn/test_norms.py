"""RMSNorm against its formula."""

import torch

from tstar.nn import RMSNorm


def test_rms_norm_formula():
    norm = RMSNorm(8)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(8.0))
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    expected = x / torch.sqrt((x * x).sum(-1, keepdim=True) / 8 + 1e-5) * torch.arange(8.0)
    torch.testing.assert_close(norm(x), expected)
    assert norm.weight._no_weight_decay


def test_rms_norm_squares_in_single_precision():
    x = torch.full((1, 8), 3e4, dtype=torch.float16)  # its square is beyond fp16
    y = RMSNorm(8)(x)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y, torch.ones_like(y))
