"""Where the miniature language model's attention looks before it has learnt anything."""

import pytest
import torch

from tstar.language.miniature import LOOK_BACK, MiniatureLanguage, _new_model, _seed_positions, make_tokenizer


@pytest.fixture(scope="module")
def attention():
    """Mean attention by distance, [layers, heads, distances], over random tokens, of an unseeded and a seeded model."""
    tokenizer = make_tokenizer(["a red star moves left on a dotted background"], 300)
    found = []
    for seeded in (False, True):
        torch.manual_seed(0)
        model = _new_model(tokenizer, MiniatureLanguage())
        if seeded:
            _seed_positions(model)
        model.set_attn_implementation("eager")
        with torch.no_grad():
            weights = model(torch.randint(5, len(tokenizer), (8, 60)), output_attentions=True).attentions
        places = torch.arange(20, 60)
        found.append(
            torch.stack([torch.stack([w.mean(0)[:, places, places - d] for d in range(12)]).mean(2).T for w in weights])
        )
    return found


def test_seeded_heads_look_as_far_back_as_they_are_told(attention):
    _, seeded = attention
    for layer, offsets in enumerate(LOOK_BACK):
        for head, offset in enumerate(offsets):
            assert seeded[layer, head].argmax() == offset, (layer, head)
            assert seeded[layer, head, offset] > 0.2
            far = [d for d in range(12) if abs(d - offset) > 3]
            assert seeded[layer, head, far].max() < seeded[layer, head, offset] / 4


def test_the_others_look_everywhere_as_before(attention):
    plain, seeded = attention
    assert plain.max() < 0.06  # 1 of 20 to 60 tokens each
    assert seeded[len(LOOK_BACK) :].max() < 0.06


def test_biases_are_saved_and_are_part_of_the_weights(tmp_path):
    import transformers

    tokenizer = make_tokenizer(["a red star"], 300)
    torch.manual_seed(0)
    model = _new_model(tokenizer, MiniatureLanguage())
    _seed_positions(model)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    kept = again.model.layers[0].self_attn.k_proj.bias
    assert kept.abs().max() == 1.5
    assert torch.equal(kept, model.model.layers[0].self_attn.k_proj.bias)
