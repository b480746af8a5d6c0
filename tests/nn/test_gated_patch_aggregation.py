"""Gated patch aggregation against a loop written from equations 2 and 3 of arXiv:2506.13564."""

import pytest
import torch

from tstar.nn import GatedPatchAggregation


def loop(gpa, x):
    k, out = gpa.interval, x.clone()
    for b in range(x.shape[0]):
        for first in range(0, x.shape[1], k + 1):
            q = x[b, first + k]
            scores = torch.exp(gpa.patch_head.weight @ q + gpa.patch_head.bias)
            alpha = scores / scores.sum()
            logit = gpa.gate_head.weight[0] @ q + gpa.gate_head.bias[0]
            g = 0.01 + 0.98 / (1 + torch.exp(-logit))
            out[b, first + k] = (1 - g) * q + g * sum(alpha[i] * x[b, first + i] for i in range(k))
    return out


@pytest.mark.parametrize("interval", [1, 3, 10])
def test_aggregation_and_its_gradients_match_a_loop(interval):
    torch.manual_seed(0)
    gpa = GatedPatchAggregation(6, interval).double().eval()
    for parameter in gpa.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 4 * (interval + 1), 6, dtype=torch.float64, requires_grad=True)
    ours, expected = gpa(x), loop(gpa, x)
    torch.testing.assert_close(ours, expected)
    grads = [torch.autograd.grad(y.square().sum(), [x, *gpa.parameters()]) for y in (ours, expected)]
    torch.testing.assert_close(*grads)


def test_patches_pass_unchanged_and_the_input_is_left_alone():
    gpa, x = GatedPatchAggregation(6, 3), torch.randn(1, 8, 6)
    before = x.clone()
    y = gpa(x)
    assert torch.equal(x, before)
    patches = [0, 1, 2, 4, 5, 6]
    assert torch.equal(y[:, patches], x[:, patches])
    assert not torch.equal(y[:, [3, 7]], x[:, [3, 7]])


def test_at_the_start_patches_weigh_alike_and_the_gate_is_half_open():
    torch.manual_seed(0)
    gpa = GatedPatchAggregation(64, 10).eval()
    x = torch.randn(2, 22, 64)
    alpha, gate = gpa.weights(x[:, [10, 21]])
    assert (alpha - 0.1).abs().max() < 1e-3
    assert (gate - 0.5).abs().max() < 1e-3
    mean = x[0, :10].mean(0)
    torch.testing.assert_close(gpa(x)[0, 10], (x[0, 10] + mean) / 2, rtol=0, atol=2e-3)  # measured 9e-4


def test_the_gate_stays_off_its_ends():
    gpa = GatedPatchAggregation(4, 2)
    for logit, expected in ((-1e4, 0.01), (1e4, 0.99)):
        torch.nn.init.constant_(gpa.gate_head.bias, logit)
        _, gate = gpa.weights(torch.zeros(1, 4))
        torch.testing.assert_close(gate, torch.tensor([[expected]]))


def test_dropout_touches_the_heads_alone():
    torch.manual_seed(0)
    gpa, x = GatedPatchAggregation(32, 2, dropout=0.5), torch.randn(1, 6, 32)
    for parameter in gpa.parameters():
        torch.nn.init.constant_(parameter, 0.0)
    torch.testing.assert_close(gpa.train()(x), gpa.eval()(x))  # heads say the same whatever reaches them
    gpa.reset_parameters()
    torch.nn.init.normal_(gpa.patch_head.weight)
    assert not torch.equal(gpa.train()(x), gpa.eval()(x))


def test_softmax_and_sigmoid_are_single_precision():
    gpa, x = GatedPatchAggregation(8, 3).to(torch.bfloat16), torch.randn(1, 8, 8, dtype=torch.bfloat16)
    alpha, gate = gpa.weights(x)
    assert (alpha.dtype, gate.dtype, gpa(x).dtype) == (torch.float32, torch.float32, torch.bfloat16)


def test_ragged_chunks_are_refused():
    with pytest.raises(ValueError, match="9 tokens are no multiple of interval"):
        GatedPatchAggregation(8, 3)(torch.zeros(1, 9, 8))


def test_biases_have_no_weight_decay():
    gpa = GatedPatchAggregation(8, 3)
    exempt = {name for name, p in gpa.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert exempt == {"patch_head.bias", "gate_head.bias"}
