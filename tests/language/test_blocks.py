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
from tstar.language.blocks import language_blocks

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
