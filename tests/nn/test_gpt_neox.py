"""The GPT-NeoX layer against Hugging Face's."""

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXModel

from tstar.nn.gpt_neox import GPTNeoXLayer, rotary_angles, rotate


def both(causal, layers=2):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "num_hidden_layers": layers}
    rope = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
    config = GPTNeoXConfig(**sizes, vocab_size=8, rope_parameters=rope, attn_implementation="eager")
    theirs = GPTNeoXModel(config).eval()
    ours = torch.nn.ModuleList(GPTNeoXLayer(64, 4, 96, 8, 500.0, causal) for _ in range(layers))
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for layer, other in zip(ours, theirs.layers, strict=True):
        layer.load_state_dict(other.state_dict())
    return ours, theirs


@pytest.mark.parametrize("length", [1, 2, 37])
def test_the_causal_layer_is_hugging_faces_with_gradients(length):
    ours, theirs = both(causal=True)
    x = torch.randn(2, length, 64, requires_grad=True)
    y = x
    for layer in ours:
        y = layer(y)
    y = theirs.final_layer_norm(y)
    expected = theirs(inputs_embeds=x, use_cache=False).last_hidden_state
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(y)
    for found in zip(
        torch.autograd.grad((y * weights).sum(), [x, *ours.parameters()]),
        torch.autograd.grad((expected * weights).sum(), [x, *theirs.layers.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def test_the_bidirectional_layer_sees_all_positions():
    ours, theirs = both(causal=False)
    x = torch.randn(1, 9, 64)
    y = x
    for layer in ours:
        y = layer(y)
    expected = x
    angles = theirs.rotary_emb(x, torch.arange(9)[None])
    for other in theirs.layers:
        expected = other(expected, attention_mask=None, position_embeddings=angles)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


def test_a_turn_is_a_rotation_of_each_pair_and_leaves_the_rest():
    angles = rotary_angles(torch.arange(40000.0), 4, 10000.0)
    torch.testing.assert_close(angles[39999], torch.tensor([39999.0, 39999.0 / 100]))
    x = torch.randn(1, 40000, 1, 6)
    turned = rotate(x, angles)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    pairs = torch.complex(x[..., :2], x[..., 2:4]) * torch.polar(torch.ones_like(angles), angles)[:, None]
    torch.testing.assert_close(torch.complex(turned[..., :2], turned[..., 2:4]), pairs)
