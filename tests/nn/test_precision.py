"""The precision of matrix products: what it does, and that it is given back."""

import pytest
import torch

from tstar.nn import precision
from tstar.nn.precision import matmul_precision


def test_the_precision_holds_inside_and_is_given_back_also_after_an_error():
    before, inside = torch.get_float32_matmul_precision(), []

    def fail():
        with matmul_precision("medium"):
            inside.append(torch.get_float32_matmul_precision())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == ["medium"]
    assert torch.get_float32_matmul_precision() == before


def test_products_are_no_coarser_than_bfloat16_makes_them():
    torch.manual_seed(0)
    a, b = torch.randn(64, 96), torch.randn(96, 48)
    exact = a.double() @ b.double()
    bound = a.abs().double() @ b.abs().double()  # each factor is rounded by at most 2**-9 of itself
    with matmul_precision("medium"):
        coarse = (a @ b).double()
    assert ((coarse - exact).abs() <= 2.1 * 2**-9 * bound).all()
    assert ((a @ b).double() - exact).abs().max() < 1e-4


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is chosen on a CPU")
@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize("name", ["highest", "high", "medium"])
def test_attention_in_bfloat16_is_whole_products(monkeypatch, name, bfloat16):
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: bfloat16)
    fused = not (bfloat16 and name == "medium")
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 30, 8, requires_grad=True) for _ in range(3))
    scores = (q @ k.mT / 8**0.5).masked_fill(torch.ones(30, 30).triu(1).bool(), -torch.inf)
    with matmul_precision(name):
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert ("flash" in type(attended.grad_fn).__name__.lower()) == fused
    assert torch.backends.cuda.flash_sdp_enabled()
    torch.testing.assert_close(attended, scores.softmax(-1) @ v, atol=2e-2, rtol=2e-2)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="'low'"), matmul_precision("low"):
        pass
