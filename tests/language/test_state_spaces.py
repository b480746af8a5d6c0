"""Models in the form of the state-spaces repositories, against transformers' own of the same weights."""

import json

import pytest
import torch
import transformers

from tstar.errors import DataError
from tstar.language import LanguageConfig
from tstar.language.state_spaces import is_state_spaces, load_state_spaces

OWN = {"d_model": 32, "n_layer": 2, "vocab_size": 45, "pad_vocab_size_multiple": 16, "tie_embeddings": True}
KINDS = {
    "Mamba1": (
        transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=48, state_size=4),
        {"layer": "Mamba1", "d_state": 4},
    ),
    "Mamba2": (
        transformers.Mamba2Config(
            hidden_size=32, num_hidden_layers=2, vocab_size=48, state_size=8, head_dim=16, num_heads=4, n_groups=1
        ),
        {"layer": "Mamba2", "d_state": 8, "headdim": 16},
    ),
}


@pytest.fixture(params=KINDS)
def published(request, tmp_path):
    """A folder in their form, and transformers' model with the same weights."""
    config, ssm = KINDS[request.param]
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    tensors = {n.replace("backbone.embeddings.", "backbone.embedding."): t for n, t in model.state_dict().items()}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({**OWN, "ssm_cfg": ssm}))
    return tmp_path, model


def test_it_gives_what_transformers_model_gives(published):
    folder, theirs = published
    assert is_state_spaces(str(folder))
    ours = load_state_spaces(str(folder), torch.float32, pickled=True).eval()
    ids = torch.randint(0, 45, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=0, atol=0)


def test_it_is_loaded_as_any_other_with_a_tokenizer_from_elsewhere(published, miniature_parts, byte_level, tmp_path):
    folder, _ = published
    tokenizer = str(tmp_path / "tokenizer")
    byte_level.save_pretrained(tokenizer)
    settings = {"path": str(folder), "template": "pythia", "pickled_weights": True}
    with pytest.raises(DataError, match=r"cannot load the tokenizer .*name it in language\.tokenizer"):
        LanguageConfig(**settings).build()
    with pytest.raises(DataError, match=r"only safetensors are read; language\.pickled_weights: true"):
        LanguageConfig(**{**settings, "pickled_weights": False}, tokenizer=tokenizer).build()
    with pytest.raises(Exception, match=r"language\.tokenizer .* has \d+ tokens and the language model 48 embeddings"):
        LanguageConfig(**settings, tokenizer=tokenizer).build()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attn_layer_idx": [1]}, "attention or feed-forward"),
        ({"ssm_cfg": {"layer": "Mamba3"}}, "layers of kind Mamba3"),
        ({"ssm_cfg": {"layer": "Mamba1", "odd": 1}}, "cannot be followed: odd"),
        ({"n_layer": 3}, r"\d+ tensors are missing and 0 unknown"),
        ({"n_layer": 1}, r"0 tensors are missing and \d+ unknown"),
    ],
)
def test_what_cannot_be_followed_is_named(published, change, reason):
    folder, _ = published
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **change}))
    with pytest.raises(DataError, match=reason):
        load_state_spaces(str(folder), torch.float32, pickled=True)


def test_other_folders_are_not_of_this_form(tmp_path, miniature_parts):
    assert not is_state_spaces(str(miniature_parts / "language"))
    assert not is_state_spaces(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    assert not is_state_spaces(str(tmp_path))
