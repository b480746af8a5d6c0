"""Conversations to ids and labels: exact strings by hand for every template, and a mask that decodes back to the answers."""

import pytest
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from tstar.data import conversations
from tstar.data.conversations import (
    IGNORE,
    TEMPLATES,
    VISUAL,
    get_template,
    place_marker,
    tokenize_conversation,
    tokenize_pieces,
    tokenize_prompt,
)
from tstar.errors import ConfigError, DataError
from tstar.language import miniature
from tstar.language.splice import IGNORE as THEIR_IGNORE
from tstar.language.splice import VISUAL as THEIR_VISUAL

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def turns(*texts):
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


@pytest.fixture(params=["byte_level", "llama"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


TWO_ROUNDS = turns("<image>\nWhat is it?", " A dog. ", "Is it big?", "Yes")
BY_HAND = {
    "plain": "<image>[A dog.\n]",
    "vicuna_v1": f"{VICUNA_SYSTEM} USER: <image>\nWhat is it? ASSISTANT:[ A dog.</s>]USER: Is it big? ASSISTANT:[ Yes</s>]",
    "pythia": f"{VICUNA_SYSTEM} USER: <image>\nWhat is it? ASSISTANT:[ A dog.<|endoftext|>]"
    "USER: Is it big? ASSISTANT:[ Yes<|endoftext|>]",
    "phi3": "<|system|>\nYou are a helpful AI assistant.<|end|>\n<|user|>\n<image>\nWhat is it?<|end|>\n<|assistant|>\n"
    "[A dog.<|end|>]\n<|user|>\nIs it big?<|end|>\n<|assistant|>\n[Yes<|end|>]\n",
    "qwen2": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\nWhat is it?<|im_end|>\n"
    "<|im_start|>assistant\n[A dog.<|im_end|>]\n<|im_start|>user\nIs it big?<|im_end|>\n<|im_start|>assistant\n"
    "[Yes<|im_end|>]\n",
    "qwen2_5": "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<image>\nWhat is it?<|im_end|>\n<|im_start|>assistant\n[A dog.<|im_end|>]\n"
    "<|im_start|>user\nIs it big?<|im_end|>\n<|im_start|>assistant\n[Yes<|im_end|>]\n",
    "smollm2": "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\n<image>\nWhat is it?<|im_end|>\n<|im_start|>assistant\n[A dog.<|im_end|>]\n"
    "<|im_start|>user\nIs it big?<|im_end|>\n<|im_start|>assistant\n[Yes<|im_end|>]\n",
    "miniature": "<|user|>\n<image>\nWhat is it?<|end|>\n<|assistant|>\n[A dog.<|end|>]\n"
    "<|user|>\nIs it big?<|end|>\n<|assistant|>\n[Yes<|end|>]\n",
}
BY_HAND |= {
    f"{name}_llava_next": BY_HAND[name].replace("<|im_start|>assistant\n[", "[<|im_start|>assistant\n][")
    for name in ("qwen2", "qwen2_5")
}
"""Two rounds in full; what is learnt stands in brackets."""
ENDING = {
    "plain": "\n",
    "vicuna_v1": "</s>",
    "pythia": "<|endoftext|>",
    "phi3": "<|end|>",
    "qwen2": "<|im_end|>",
    "qwen2_5": "<|im_end|>",
    "qwen2_llava_next": "<|im_end|>",
    "qwen2_5_llava_next": "<|im_end|>",
    "smollm2": "<|im_end|>",
    "miniature": "<|end|>",
}


def bracketed(pieces):
    return "".join(f"[{text}]" if learnt else text for text, learnt in pieces)


def test_every_template_has_its_string_here():
    assert set(BY_HAND) == set(ENDING) == set(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_two_rounds_are_written_exactly(name):
    assert bracketed(get_template(name).pieces(place_marker(TWO_ROUNDS, True))) == BY_HAND[name]


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_only_conversations_have_no_place_for_a_visual(name):
    text = bracketed(get_template(name).pieces(place_marker(TWO_ROUNDS, False)))
    assert text == BY_HAND[name].replace("<image>\n", "").replace("<image>", "")


def learnt_runs(labels):
    runs, before = [], IGNORE
    for label in labels.tolist():
        if label != IGNORE:
            if before == IGNORE:
                runs.append([])
            runs[-1].append(label)
        before = label
    return runs


LONG = turns("Look <image> here.\nWell?", "Grün, 犬!\nYes", "And 7?", "", "More?", "A, b.")
ANSWERS = ["Grün, 犬!\nYes", "", "A, b."]


OWN_MASK = {"qwen2_llava_next", "qwen2_5_llava_next"}


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"plain"} - OWN_MASK))
@pytest.mark.parametrize("has_visual", [True, False])
def test_labels_decode_to_the_answers_and_their_end(tokenizer, name, has_visual):
    ids, labels = tokenize_conversation(LONG, has_visual, get_template(name), tokenizer)
    assert ids.shape == labels.shape
    space = " " if name in ("vicuna_v1", "pythia") else ""
    decoded = [tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in learnt_runs(labels)]
    if not space and tokenizer.bos_token == "<s>":
        decoded = [text.removeprefix(" ") for text in decoded]  # sentencepiece writes one after a special token
    assert decoded == [space + answer + ENDING[name] for answer in ANSWERS]
    assert (labels[labels != IGNORE] == ids[labels != IGNORE]).all()
    assert (ids == VISUAL).sum() == has_visual
    assert (labels[ids == VISUAL] == IGNORE).all()
    end = tokenizer.convert_tokens_to_ids(ENDING[name])
    assert (labels == end).sum() == len(ANSWERS)


@pytest.mark.parametrize("has_visual", [True, False])
@pytest.mark.parametrize("caption", ["A dog runs.", "▁x", "犬"])
def test_plain_learns_the_caption_and_the_line_break(tokenizer, has_visual, caption):
    ids, labels = tokenize_conversation(turns("<image>\nCaption?", caption), has_visual, TEMPLATES["plain"], tokenizer)
    first = [tokenizer.bos_token_id] * (tokenizer.bos_token is not None) + [VISUAL] * has_visual
    assert ids[: len(first)].tolist() == first
    assert labels.tolist() == [IGNORE] * len(first) + ids[len(first) :].tolist()  # all else is learnt
    text = tokenizer.decode(ids[len(first) :], clean_up_tokenization_spaces=False)
    assert text.removeprefix(" ").replace("▁", " ") == f"{caption}\n".replace("▁", " ")


def test_vicunas_space_belongs_to_the_answer(llama):
    ids, labels = tokenize_conversation(turns("<image>\nWhat?", "dog"), True, TEMPLATES["vicuna_v1"], llama)
    (run,) = learnt_runs(labels)
    assert llama.convert_ids_to_tokens(run)[0].startswith("▁")
    before = ids[: labels.tolist().index(run[0])]
    assert llama.convert_ids_to_tokens(before.tolist()[-1]).endswith(":")  # as at generation, which ends with the colon


def test_bos_comes_once_and_only_where_the_tokenizer_has_it(byte_level, llama):
    for tokenizer, count in ((byte_level, 0), (llama, 1)):
        ids, _ = tokenize_conversation(TWO_ROUNDS, True, TEMPLATES["vicuna_v1"], tokenizer)
        bos = llama.bos_token_id if tokenizer is llama else byte_level.convert_tokens_to_ids("<s>")
        assert (ids == bos).sum() == count
        assert (ids[0] == bos) == bool(count)


@pytest.mark.parametrize(
    ("template", "first"), [("$A <s>", []), ("<s> $A", ["<s>"]), ("<s> $A <s>", ["<s>"]), ("$A", [])]
)
def test_one_token_as_bos_and_eos_is_told_apart(byte_level, template, first):
    inner = Tokenizer.from_str(byte_level.backend_tokenizer.to_str())
    inner.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<s>")
    ids, _ = tokenize_pieces([("dog", True)], tokenizer)
    assert ids.tolist() == tokenizer.convert_tokens_to_ids(first) + tokenizer("dog", add_special_tokens=False).input_ids


def test_ids_are_those_of_the_text_on_either_side(byte_level):
    ids, _ = tokenize_conversation(TWO_ROUNDS, True, TEMPLATES["qwen2"], byte_level)
    text = BY_HAND["qwen2"].replace("[", "").replace("]", "")
    left, right = (byte_level(part).input_ids for part in text.split("<image>"))
    assert ids.tolist() == [*left, VISUAL, *right]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("has_visual", [True, False])
def test_a_prompt_is_how_the_training_text_begins(tokenizer, name, has_visual):
    template, question = get_template(name), "What is <image> it?"
    prompt = tokenize_prompt(question, has_visual, template, tokenizer)
    ids, labels = tokenize_conversation(turns(question, "A dog"), has_visual, template, tokenizer)
    assert ids[: len(prompt)].tolist() == prompt.tolist()
    assert name in OWN_MASK or (labels[: len(prompt)] == IGNORE).all()
    assert labels[len(prompt)] != IGNORE  # and the answer starts right there


@pytest.mark.parametrize("name", ["vicuna_v1", "phi3", "miniature"])
def test_a_prefill_is_how_the_answer_begins(name):
    template = get_template(name)
    whole = "".join(text for text, _ in template.pieces(turns("What?", "Best option: (A) dog")))
    assert whole.startswith(template.prompt("What?", prefill="Best option: ("))
    assert not template.prompt("What?").endswith(" ")


def test_a_system_text_replaces_the_templates_own_or_goes_before_the_question():
    assert get_template("phi3").prompt("Q", "Be short.") == (
        "<|system|>\nBe short.<|end|>\n<|user|>\nQ<|end|>\n<|assistant|>\n"
    )
    mini = get_template("miniature")
    assert mini.prompt("<image>\nQ", "Be short.") == "<|user|>\n<image>\nBe short.\nQ<|end|>\n<|assistant|>\n"
    assert mini.prompt("Q", "Be short.") == "<|user|>\nBe short.\nQ<|end|>\n<|assistant|>\n"


@pytest.mark.parametrize("text", ["{q}", "{0}", "100 % {system}", "}{"])
def test_braces_in_a_question_are_only_text(text):
    assert f"USER: {text} ASSISTANT:" in get_template("vicuna_v1").prompt(text)


@pytest.mark.parametrize(
    ("texts", "placed"),
    [
        (("<image>\nQ",), "<image>\nQ"),
        (("Q\n<image>",), "<image>\nQ"),
        (("Is <image> it?",), "<image>\nIs  it?"),
        (("Q",), "<image>\nQ"),
        (("<image><image>\nQ <image>",), "<image>\nQ"),
        (("<ima<image>ge>Q",), "<image>\nQ"),
        (("Q", "A <image>", "<image>\nR", "B", "<image>S", "C"), ("Q", "A ", "<image>\nR", "B", "S", "C")),
        (("Q", "<image>A"), ("<image>\nQ", "A")),
    ],
)
def test_the_marker_goes_to_the_start_of_its_question(texts, placed):
    placed = placed if isinstance(placed, tuple) else (placed,)
    assert [t["value"] for t in place_marker(turns(*texts), True)] == list(placed)
    without = [t["value"] for t in place_marker(turns(*texts), False)]
    assert without == [text.removeprefix("<image>\n") for text in placed]


def test_no_answer_token_is_an_error(byte_level):
    bare = conversations.Template(question="{q}")
    with pytest.raises(DataError, match="no answer token"):
        tokenize_conversation(turns("Q", " "), False, bare, byte_level)


def test_an_unknown_template_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"unknown template 'vicuna'; did you mean 'vicuna_v1'\? \(known: miniature"):
        get_template("vicuna")


def test_constants_agree_with_the_language_room():
    assert (IGNORE, VISUAL) == (THEIR_IGNORE, THEIR_VISUAL)
    assert miniature.IGNORE == IGNORE


@pytest.mark.parametrize("texts", [("Q",), ("Q", "A", "R"), ("Q", "A", "R", "B")])
def test_the_miniature_template_is_its_tokenizers_chat_template(byte_level, texts):
    byte_level.chat_template = miniature.CHAT_TEMPLATE
    template, asks = get_template("miniature"), len(texts) % 2 == 1
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    theirs = byte_level.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
    history = "".join(text for text, _ in template.pieces(turns(*texts[: len(texts) // 2 * 2])))
    assert history + (template.prompt(texts[-1]) if asks else "") == theirs


@pytest.mark.parametrize("name", sorted(OWN_MASK))
def test_llava_nexts_mask_learns_marks_and_line_breaks_everywhere(byte_level, name):
    ids, labels = tokenize_conversation(turns("<image>\nWhat?\nSay", "A dog."), True, get_template(name), byte_level)
    system = get_template(name).system_text
    by_hand = [
        ("<|im_start|>", True), ("system", False), ("\n", True), (system, False), ("<|im_end|>", True), ("\n", True),
        ("<|im_start|>", True), ("user", False), ("\n", True), (VISUAL, False), ("\n", True), ("What?", False), ("\n", True),
        ("Say", False), ("<|im_end|>", True), ("\n", True), ("<|im_start|>assistant\nA dog.<|im_end|>", True), ("\n", True),
    ]  # fmt: skip
    expected = []
    for text, learnt in by_hand:
        own = [VISUAL] if text == VISUAL else byte_level(text, add_special_tokens=False).input_ids
        expected += [(token, token if learnt else IGNORE) for token in own]
    assert list(zip(ids.tolist(), labels.tolist(), strict=True)) == expected
