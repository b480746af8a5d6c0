"""Conversations to token ids and labels: prompt templates, the visual placeholder, the label mask.

Templates are the exact strings the published models were tuned with. Loss falls on answers and the token that ends them;
everything else is masked. The mask comes from character offsets on the rendered text, so no length arithmetic can go wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tstar.data.annotations import Turn
from tstar.errors import ConfigError, DataError, suggest

if TYPE_CHECKING:  # the miniature world's drawing processes want templates and nothing heavy
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

IGNORE = -100
"""Label of a position that takes no part in the loss."""
VISUAL = -200
"""Id that holds the place of the visual tokens."""
MARKER = "<image>"
"""How datasets write that place, for pictures and videos alike."""


@dataclass(frozen=True)
class Template:
    """How rounds of a conversation become one string; ``{q}`` and ``{system}`` are filled in."""

    question: str
    answer_start: str = ""
    """Belongs to the answer's piece of text but is never generated on its own (LLaVA's space after the colon)."""
    answer_end: str = ""
    after_answer: str = ""
    system: str = ""
    system_text: str = ""
    learnt_suffix: str = ""
    """End of ``question`` that is learnt too."""
    learnt_tokens: tuple[str, ...] = ()
    """Texts of tokens that are learnt wherever they stand."""
    captions_only: bool = False
    """The alignment form: the question is dropped, the caption follows the picture."""

    def pieces(self, turns: Sequence[Turn], system: str = "") -> list[tuple[str, bool]]:
        """The rendered text in pieces, each with whether it is supervised."""
        if self.captions_only:
            marker = MARKER if any(MARKER in t["value"] for t in turns) else ""
            return [(marker, False), (turns[1]["value"].strip() + self.answer_end, True)]
        pieces = [(self.system.format(system=system or self.system_text), False)] if self.system else []
        if system and not self.system:
            turns = [{**turns[0], "value": _with_preamble(system, turns[0]["value"])}, *turns[1:]]
        for human, answer in zip(turns[::2], turns[1::2], strict=True):
            asked = self.question.format(q=human["value"])
            start = len(asked) - len(self.learnt_suffix)
            pieces += [
                (asked[:start], False),
                (asked[start:], True),
                (self.answer_start + answer["value"].strip() + self.answer_end, True),
                (self.after_answer, False),
            ]
        return [(text, learnt) for text, learnt in pieces if text]

    def prompt(self, question: str, system: str = "", prefill: str = "") -> str:
        """What a model is given to answer ``question``; ``prefill`` starts its answer."""
        turns = ({"from": "human", "value": question}, {"from": "gpt", "value": ""})
        whole = "".join(text for text, _ in self.pieces(turns, system))
        text = whole.removesuffix(self.answer_start + self.answer_end + self.after_answer)
        return text + (self.answer_start + prefill if prefill else "")


def _with_preamble(system: str, question: str) -> str:
    """A model without a system turn reads the system text at the head of its first question, after the visual."""
    if question.startswith(MARKER):
        return f"{MARKER}\n{system}\n{question.removeprefix(MARKER).lstrip()}"
    return f"{system}\n{question}"


_VICUNA = Template(
    system="{system} ",
    system_text="A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions.",
    question="USER: {q} ASSISTANT:",
    answer_start=" ",
    answer_end="</s>",
)
_CHATML = Template(
    system="<|im_start|>system\n{system}<|im_end|>\n",
    system_text="You are a helpful assistant.",
    question="<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n",
    answer_end="<|im_end|>",
    after_answer="\n",
)
_QWEN2_5 = replace(_CHATML, system_text="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")


def _as_llava_next(template: Template) -> Template:
    """LLaVA-NeXT's mask for Qwen: the whole turn of the assistant is learnt, and every mark of a turn and line break."""
    marks = ("<|im_start|>", "<|im_end|>", "\n")
    return replace(template, learnt_suffix="<|im_start|>assistant\n", learnt_tokens=marks)


TEMPLATES: dict[str, Template] = {
    "plain": Template(question="", answer_end="\n", captions_only=True),
    "vicuna_v1": _VICUNA,
    "pythia": replace(_VICUNA, answer_end="<|endoftext|>"),
    "phi3": Template(
        system="<|system|>\n{system}<|end|>\n",
        system_text="You are a helpful AI assistant.",
        question="<|user|>\n{q}<|end|>\n<|assistant|>\n",
        answer_end="<|end|>",
        after_answer="\n",
    ),
    "qwen2": _CHATML,
    "smollm2": replace(_CHATML, system_text="You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    "qwen2_5": _QWEN2_5,
    "qwen2_llava_next": _as_llava_next(_CHATML),
    "qwen2_5_llava_next": _as_llava_next(_QWEN2_5),
    "miniature": Template(question="<|user|>\n{q}<|end|>\n<|assistant|>\n", answer_end="<|end|>", after_answer="\n"),
}


def get_template(name: str) -> Template:
    """The template called ``name``; an unknown one raises :class:`ConfigError`."""
    if name not in TEMPLATES:
        raise ConfigError(f"unknown template '{name}'{suggest(name, TEMPLATES)}")
    return TEMPLATES[name]


def place_marker(turns: Sequence[Turn], has_visual: bool) -> list[Turn]:
    """Put the one visual marker at the start of its human turn, as ``<image>`` and a line break.

    The first marker found keeps its turn, further ones go; a visual without a marker goes to the first question; text-only
    conversations lose theirs.
    """
    home = next((i for i, t in enumerate(turns) if t["from"] == "human" and MARKER in t["value"]), 0)
    placed = []
    for number, turn in enumerate(turns):
        text = turn["value"]
        while MARKER in text:  # taking one out may join the halves of another
            text = text.replace(MARKER, "")
        text = text.strip() if turn["from"] == "human" else text
        placed.append({**turn, "value": f"{MARKER}\n{text}" if has_visual and number == home else text})
    return placed


def tokenize_pieces(
    pieces: Sequence[tuple[str, bool]], tokenizer: "PreTrainedTokenizerBase", learnt_tokens: Sequence[str] = ()
) -> "tuple[Tensor, Tensor]":
    """Rendered pieces to (input ids [L], labels [L]); the marker becomes one :data:`VISUAL` id.

    The text on either side of the marker is tokenized on its own; the tokenizer's own first token (BOS) comes once, at the start.
    Supervised are tokens of supervised pieces and those whose text is one of ``learnt_tokens``.
    """
    import torch

    text = "".join(piece for piece, _ in pieces)
    supervised = []
    position = 0
    for piece, counts in pieces:
        if counts:
            supervised.append((position, position + len(piece)))
        position += len(piece)
    ids = _first_tokens(tokenizer)
    labels = [IGNORE] * len(ids)
    start = 0
    for number, part in enumerate(text.split(MARKER)):
        if number:
            ids.append(VISUAL)
            labels.append(IGNORE)
            start += len(MARKER)
        coded = tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)
        for token, (left, right) in zip(coded.input_ids, coded.offset_mapping, strict=True):
            right = max(right, left + 1)  # a token may stand for no character, as the space that some put first
            inside = any(left + start < end and right + start > begin for begin, end in supervised)
            ids.append(token)
            labels.append(token if inside or part[left:right] in learnt_tokens else IGNORE)
        start += len(part)
    return torch.tensor(ids), torch.tensor(labels)


def _first_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """What the tokenizer puts before any text: BOS or nothing."""
    plain = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    return next(whole[:i] for i in range(len(whole)) if whole[i : i + len(plain)] == plain)


def tokenize_conversation(
    turns: Sequence[Turn], has_visual: bool, template: Template, tokenizer: "PreTrainedTokenizerBase"
) -> "tuple[Tensor, Tensor]":
    """A training conversation to (input ids [L], labels [L]).

    Raises:
        DataError: no token is left to learn from.
    """
    ids, labels = tokenize_pieces(template.pieces(place_marker(turns, has_visual)), tokenizer, template.learnt_tokens)
    if not (labels != IGNORE).any():
        raise DataError("the conversation has no answer token to learn from")
    return ids, labels


def tokenize_prompt(
    question: str,
    has_visual: bool,
    template: Template,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    system: str = "",
    prefill: str = "",
) -> "Tensor":
    """A question to the ids a model continues, [L], with one :data:`VISUAL` id if it has a visual."""
    (turn,) = place_marker([{"from": "human", "value": question}], has_visual)
    return tokenize_pieces([(template.prompt(turn["value"], system, prefill), False)], tokenizer)[0]
