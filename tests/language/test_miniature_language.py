"""The miniature language model as it is built: the same every time, with a tokenizer that loses nothing."""

import hashlib

import pytest
import torch
import transformers

from tstar.data.conversations import get_template
from tstar.errors import DataError
from tstar.language import LanguageConfig
from tstar.language.miniature import Reading, train_miniature_language
from tstar.nn.small_training import Schedule


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_it_is_the_same_every_time(miniature_parts, make_language, tmp_path):
    state = torch.get_rng_state()
    make_language(tmp_path / "again", seed=0)
    make_language(tmp_path / "other", seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    again, other = digests(tmp_path / "again"), digests(tmp_path / "other")
    assert again == digests(miniature_parts / "language")
    assert again["model.safetensors"] != other["model.safetensors"]
    assert again["tokenizer.json"] == other["tokenizer.json"]


def test_training_learns_the_answers(make_language, tmp_path):
    seen = []
    history = make_language(tmp_path, 12, progress=lambda done, total: seen.append((done, total)))
    assert history.recent(2) < history.losses[0] - 1
    assert seen == [(done, 12) for done in range(1, 13)]
    assert len(history.losses) == 12


def test_further_reading_goes_on_from_a_finished_model(miniature_parts, language_documents, tmp_path):
    start, out = miniature_parts / "language", tmp_path / "out"
    readings = [Reading(language_documents, 2, 8)]
    still = Schedule(steps=2, lr=0.0, checkpoint_every=1)
    train_miniature_language(out, readings, start=start, schedule=still)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert digests(out)[name] == digests(start)[name]
    state = tmp_path / "state.pt"
    learning = Schedule(steps=2, lr=1e-3, checkpoint_every=1)
    train_miniature_language(out, readings, start=start, schedule=learning, state=state)
    assert digests(out)["tokenizer.json"] == digests(start)["tokenizer.json"]
    assert digests(out)["model.safetensors"] != digests(start)["model.safetensors"]
    with pytest.raises(DataError, match="other settings"):  # the same reading, begun elsewhere
        train_miniature_language(tmp_path / "other", readings, start=out, schedule=learning, state=state)


@pytest.mark.parametrize("text", ["A red star.\n(B) two  spaces", "ünïcode ✓ 日本", "", "<|user|>\nq<|end|>\n"])
def test_the_tokenizer_loses_nothing(miniature_language, text):
    tokenizer = miniature_language.tokenizer
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=False) == text


def test_marks_are_one_token_each(miniature_language):
    tokenizer = miniature_language.tokenizer
    for mark in ("<pad>", "<s>", "<|user|>", "<|assistant|>", "<|end|>"):
        assert len(tokenizer(mark).input_ids) == 1
    assert (tokenizer.pad_token_id, tokenizer.eos_token) == (0, "<|end|>")
    assert len(tokenizer) == miniature_language.model.config.vocab_size


def test_the_chat_template_renders_what_training_used(miniature_language):
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A star."}]
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A star."}]
    template, tokenizer = get_template("miniature"), miniature_language.tokenizer
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "".join(t for t, _ in template.pieces(turns))
    asked = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert asked == template.prompt("What?")


def test_any_other_program_can_load_it(miniature_parts):
    model = transformers.AutoModelForCausalLM.from_pretrained(miniature_parts / "language")
    ours = LanguageConfig(path=str(miniature_parts / "language"), template="miniature").build()
    assert type(model).__name__ == "LlamaForCausalLM"
    theirs = dict(model.named_parameters())
    assert all(torch.equal(theirs[name], p) for name, p in ours.model.named_parameters())


def test_nothing_to_learn_from_is_refused(language_documents, tmp_path):
    for readings in ([], [Reading([], 1)], [Reading(language_documents, 0)]):
        with pytest.raises(ValueError, match="at least one step"):
            train_miniature_language(tmp_path, readings)
