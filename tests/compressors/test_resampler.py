"""The resamplers against one put together from PyTorch's attention module."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tstar.compressors import build_compressor
from tstar.compressors.resampler import frame_positions
from tstar.nn.resampler import ResamplerLayer

D_VISION, D_LANGUAGE, GRID = 20, 28, (4, 6)


def build(name, **options):
    torch.manual_seed(0)
    sizes = {"d_vision": D_VISION, "d_language": D_LANGUAGE, "grid": GRID, "preset": "tiny"}
    return build_compressor(name, **sizes, **options).eval()


def reference_layer(layer, queries, keys):
    """The two formulas of the layer with PyTorch's own attention."""
    width = queries.shape[-1]
    theirs = nn.MultiheadAttention(width, layer.num_heads, batch_first=True)
    theirs.in_proj_weight = nn.Parameter(torch.cat([p.weight for p in (layer.q_proj, layer.k_proj, layer.v_proj)]))
    theirs.in_proj_bias = nn.Parameter(torch.cat([p.bias for p in (layer.q_proj, layer.k_proj, layer.v_proj)]))
    theirs.out_proj.weight, theirs.out_proj.bias = layer.out_proj.weight, layer.out_proj.bias
    weights = dict(layer.named_parameters())

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-5)

    def linear(name, x):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    normed = norm("query_norm", queries)
    seen = torch.cat([normed, norm("key_norm", keys)], 1)
    start = normed if layer.residual == "normed" else queries
    queries = start + theirs(normed, seen, seen, need_weights=False)[0]
    x = norm("mlp_norm", queries)
    return queries + linear("w2", norm("inner_norm", F.silu(linear("w1", x)) * linear("w3", x)))


@pytest.mark.parametrize("residual", ["normed", "raw"])
def test_a_layer_is_its_formula(residual):
    torch.manual_seed(0)
    layer = ResamplerLayer(32, 4, 64, dropout=0.1, residual=residual).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    given = [torch.randn(2, 3, 32).requires_grad_(), torch.randn(2, 7, 32).requires_grad_()]
    ours, theirs = layer(*given), reference_layer(layer, *given)
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn(2, 3, 32)
    gradients = [torch.autograd.grad((y * direction).sum(), given) for y in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("patch_positions", [True, False])
def test_a_frames_queries_go_through_every_layer(patch_positions):
    compressor = build("resampler2d", patch_positions=patch_positions)
    x = torch.randn(3, 24, D_VISION)
    keys = compressor.in_proj(x + compressor.pos_emb if patch_positions else x)
    queries = compressor.queries.expand(3, -1, -1)
    for layer in compressor.layers:
        queries = reference_layer(layer, queries, keys)
    expected = compressor.out_proj(queries)
    first, second = compressor(x, [1, 2])
    torch.testing.assert_close(torch.cat([first, second]), expected.flatten(0, 1))


def test_a_clips_queries_see_all_of_its_frames_and_when_they_were():
    compressor = build("resampler3d")
    x = torch.randn(3, 24, D_VISION)
    keys = compressor.in_proj(x + compressor.pos_emb) + frame_positions(3, 32, x.device)[:, None]
    queries = compressor.queries[None]
    for layer in compressor.layers:
        queries = reference_layer(layer, queries, keys.reshape(1, 72, 32))
    torch.testing.assert_close(compressor(x, [3])[0], compressor.out_proj(queries)[0])
    assert not torch.allclose(compressor(x, [3])[0], compressor(x.flip(0), [3])[0])


def test_frame_positions_are_sines_and_cosines():
    found = frame_positions(300, 8, torch.device("cpu"))
    for frame in (0, 1, 299):
        for pair in range(4):
            angle = frame / 10000 ** (2 * pair / 8)
            assert found[frame, 2 * pair].item() == pytest.approx(math.sin(angle), abs=2e-5)
            assert found[frame, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=2e-5)


@pytest.mark.parametrize("name", ["resampler2d", "resampler3d"])
def test_attention_is_dropped_in_training_only(name):
    compressor = build(name, dropout=0.5)
    x = torch.randn(2, 24, D_VISION)
    torch.testing.assert_close(compressor(x, [2])[0], compressor(x, [2])[0], rtol=0, atol=0)
    compressor.train()
    assert not torch.allclose(compressor(x, [2])[0], compressor(x, [2])[0])
