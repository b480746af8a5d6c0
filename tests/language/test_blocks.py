"""Where language models keep their layers."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
)

from tstar.errors import ConfigError
from tstar.language.blocks import checkpoint_blocks, language_blocks

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 40}
ATTENTION = {"num_attention_heads": 2, "intermediate_size": 48}
CONFIGS = [
    LlamaConfig(**SMALL, **ATTENTION),
    Qwen2Config(**SMALL, **ATTENTION, num_key_value_heads=2),
    Phi3Config(**SMALL, **ATTENTION, pad_token_id=0),
    GPTNeoXConfig(**SMALL, **ATTENTION),
    OPTConfig(**SMALL, num_attention_heads=2, ffn_dim=48, word_embed_proj_dim=32),
    GPT2Config(n_embd=32, n_layer=3, n_head=2, vocab_size=40),
    MambaConfig(**SMALL),
    Mamba2Config(**SMALL, num_heads=8, head_dim=8, state_size=8, n_groups=1),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_every_layer_runs_once_and_in_order(config):
    model = AutoModelForCausalLM.from_config(config)
    blocks = language_blocks(model)
    assert len(blocks) == 3
    inside = {id(p) for block in blocks for p in block.parameters()}
    outside = [p for p in model.base_model.parameters() if id(p) not in inside]
    assert sum(p.numel() for p in outside) < 40 * 32 + 3000 * 32  # embeddings, places and norms
    ran = []
    for number, block in enumerate(blocks):
        block.register_forward_hook(lambda *args, number=number: ran.append(number))
    model.base_model(inputs_embeds=model.get_input_embeddings()(torch.tensor([[1, 2, 3]])), use_cache=False)
    assert ran == [0, 1, 2]


def test_a_model_without_such_a_list_is_refused(one_line):
    model = nn.Sequential(nn.ModuleList([nn.Linear(2, 2)]))
    model.config = LlamaConfig(**SMALL, **ATTENTION)
    with pytest.raises(ConfigError) as caught:
        language_blocks(model)
    one_line(caught.value, "Sequential", "3 layers", "run.compile", "trainer.strategy")


def passed_back(model, embeds, runs):
    """What a frozen model hands back to its input, the bytes that autograd keeps meanwhile, and how often layers ran."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    runs.clear()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.base_model(inputs_embeds=embeds, use_cache=False)[0]
    (gradient,) = torch.autograd.grad(hidden.square().sum(), embeds)
    return gradient, sum(size for size, _ in kept.values()), list(runs)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_a_frozen_models_layers_are_computed_again_for_the_same_gradients(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()
    embeds, runs = torch.randn(2, 24, 32, requires_grad=True), []
    part = next(
        m
        for m in language_blocks(model)[0].modules()
        if isinstance(m, nn.Linear | nn.Conv1d) or "Conv1D" in str(type(m))
    )
    part.register_forward_hook(lambda *args: runs.append(torch.is_grad_enabled()))
    plain, most, once = passed_back(model, embeds, runs)
    assert plain.abs().sum() > 0
    checkpoint_blocks(model)
    again, few, twice = passed_back(model, embeds, runs)
    assert torch.equal(again, plain)
    assert few < most / 3
    assert len(twice) == 2 * len(once)
    with torch.no_grad():
        runs.clear()
        model.base_model(inputs_embeds=embeds, use_cache=False)
        cached = model.generate(inputs_embeds=embeds, max_new_tokens=3, do_sample=False)
    assert cached.shape == (2, 3)
    assert not model.get_input_embeddings()(torch.tensor([1])).requires_grad
    model.train().requires_grad_(True)
    assert passed_back(model, embeds, runs)[1] < most / 3  # in training mode it is as ever


def test_layers_of_another_class_are_still_computed_again():
    """What slices a layer (FSDP2) gives it a class of its own."""
    model = AutoModelForCausalLM.from_config(CONFIGS[0]).requires_grad_(False).eval()
    embeds, runs = torch.randn(1, 4, 32, requires_grad=True), []
    plain, _, _ = passed_back(model, embeds, runs)
    checkpoint_blocks(model)
    for block in language_blocks(model):
        block.input_layernorm.register_forward_hook(lambda *args: runs.append(1))
        block.__class__ = type("Sliced", (type(block),), {})
    for training in (False, True):
        for block in language_blocks(model):
            block.training = training
        again, _, ran = passed_back(model, embeds, runs)
        assert len(ran) == 6
        assert torch.equal(again, plain)
