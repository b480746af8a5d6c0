"""Samples that share a row: the loss and gradients they have alone, in as few rows as fit, and models that cannot are refused."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    Phi3Config,
    Qwen2Config,
)

from tstar.errors import ConfigError
from tstar.language import LanguageConfig, splice
from tstar.language.packing import check_packing, pack, share_rows
from tstar.language.splice import IGNORE, VISUAL

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 60}
HEADS = {"num_attention_heads": 2, "intermediate_size": 48}


@pytest.mark.parametrize(
    ("lengths", "most", "rows"),
    [
        ([5, 5, 5], 10, [[0, 1], [2]]),
        ([3, 9, 4, 3], 10, [[0, 2, 3], [1]]),
        ([12, 2], 10, [[0], [1]]),
        ([1], 10, [[0]]),
        ([6, 5, 4, 3, 2], 10, [[0, 2], [1, 3, 4]]),
    ],
)
def test_samples_share_as_few_rows_as_fit(lengths, most, rows):
    assert share_rows(lengths, most) == rows


def samples(model, seed=0):
    """Texts with and without visual tokens, several answers in one of them; labels and visual tokens."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(5, 50, (n,), generator=generator) for n in (9, 4, 14, 6, 2)]
    rows[1][0] = rows[2][3] = VISUAL
    visual = [torch.randn(n, model.d_language, generator=generator) for n in (0, 5, 3, 0, 0)]
    labels = [torch.where(ids == VISUAL, IGNORE, ids) for ids in rows]
    labels[2][5:9] = IGNORE
    return rows, visual, labels


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("reduction", ["token", "square", "answer"])
@pytest.mark.parametrize("most", [20, 36, 100])
def test_loss_and_gradients_are_those_of_rows_of_ones_own(most, reduction, attention, miniature_parts):
    path = str(miniature_parts / "language")
    model = LanguageConfig(path=path, template="miniature", loss_reduction=reduction, attention=attention).build()
    ids, visual, labels = samples(model)
    visual = [tokens.requires_grad_() for tokens in visual]
    plain = splice(model.embed, ids, visual, labels)
    packed = pack(plain, most)
    assert packed.embeds.shape[:2] == {20: (3, 18), 36: (2, 35), 100: (1, 41)}[most]
    assert packed.mask.sum() == plain.mask.sum() == 41
    results = []
    for batch in (plain, packed):
        losses = model.loss_sum(batch)
        gradients = torch.autograd.grad(losses.mean, [*visual[1:3], *model.model.parameters()], retain_graph=True)
        results.append((losses.total, losses.weight, losses.tokens, gradients))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


def test_a_batch_that_cannot_share_stays_as_it_is(miniature_language):
    ids, visual, labels = samples(miniature_language)
    plain = splice(miniature_language.embed, ids, visual, labels)
    assert pack(plain, 2) is plain


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES, **HEADS),
        Qwen2Config(**SIZES, **HEADS, num_key_value_heads=2),
        Phi3Config(**SIZES, **HEADS, pad_token_id=0),
        GPTNeoXConfig(**SIZES, **HEADS),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_models_of_the_recipes_keep_samples_apart(config, dtype):
    model = AutoModelForCausalLM.from_config(config).to(dtype).train()
    check_packing(model)
    assert model.training


@pytest.mark.parametrize(
    "config",
    [MambaConfig(**SIZES), Mamba2Config(**SIZES, num_heads=8, head_dim=8, state_size=8, n_groups=1)],
    ids=lambda config: config.model_type,
)
def test_a_state_space_model_is_refused(config, one_line):
    with pytest.raises(ConfigError) as caught:
        check_packing(AutoModelForCausalLM.from_config(config))
    one_line(
        caught.value, "model.init_args.pack_tokens", type(config).__name__.removesuffix("Config"), "set it to null"
    )


@pytest.mark.parametrize("attention", ["flash_attention_2", "flash_attention_3", "kernels-community/flash-attn"])
def test_flash_attention_is_refused_by_its_name(attention, one_line):
    """It is on no CPU, and there is nothing to try: transformers looks at positions where a batch has one row."""
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, **HEADS))
    model.config._attn_implementation_internal = attention
    assert model.config._attn_implementation == attention
    with pytest.raises(ConfigError) as caught:
        check_packing(model)
    one_line(caught.value, "model.init_args.pack_tokens", attention, "language.attention to sdpa")


@pytest.mark.parametrize("broken", ["ignores", "lacks", "heeds in one row"])
def test_a_model_whose_samples_see_each_other_is_found_out(broken, one_line, monkeypatch):
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, **HEADS))
    whole = model.base_model.forward

    def ignores(inputs_embeds, position_ids=None, use_cache=False):
        return whole(inputs_embeds=inputs_embeds, use_cache=use_cache)

    def lacks(inputs_embeds, use_cache=False):
        return whole(inputs_embeds=inputs_embeds, use_cache=use_cache)

    def single(inputs_embeds, position_ids=None, use_cache=False):
        more = {"position_ids": position_ids} if len(inputs_embeds) == 1 else {}
        return whole(inputs_embeds=inputs_embeds, use_cache=use_cache, **more)

    forward = {"ignores": ignores, "lacks": lacks, "heeds in one row": single}[broken]
    monkeypatch.setattr(model.base_model, "forward", forward)
    with pytest.raises(ConfigError) as caught:
        check_packing(model)
    one_line(caught.value, "model.init_args.pack_tokens", "LlamaForCausalLM", "see each other", "language.attention")
