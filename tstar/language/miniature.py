"""The miniature language model: a small Llama with its own tokenizer, trained on generated text alone.

Saved in Hugging Face layout and loaded like any other model. What it reads is chosen by the caller
(``tstar.data.miniature.lessons``).
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tstar.language.splice import IGNORE
from tstar.nn.precision import matmul_precision
from tstar.nn.small_training import History, Schedule, train

SPECIAL = ("<pad>", "<s>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
CONTEXT = 2048
LOOK_BACK = ((1, 2, 5, 6), (1, 2, 3, 4))
"""How many tokens back the heads of the first layers look when training begins; further heads look nowhere in particular.

Five and six words lie between an object and its background: a *red heart* moves left on a *striped* background."""

Document = Sequence[tuple[str, bool]]
"""Pieces of text, each with whether it is learnt."""
Encoded = tuple[Tensor, Tensor]
"""Ids [L] and labels [L] of a document."""


@dataclass(frozen=True, kw_only=True)
class MiniatureLanguage:
    """Sizes of the model."""

    width: int = 160
    layers: int = 4
    heads: int = 4
    vocabulary: int = 1024
    """At most so many tokens: all bytes, the marks, and the most frequent pieces of words."""


@dataclass(frozen=True)
class Reading:
    """Some steps on one set of documents."""

    documents: Sequence[Document]
    steps: int
    batch_size: int = 64


def train_miniature_language(
    out: Path,
    readings: Sequence[Reading],
    *,
    sizes: MiniatureLanguage = MiniatureLanguage(),
    start: Path | None = None,
    schedule: Schedule | None = None,
    seed: int = 0,
    state: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    compiled: bool = False,
) -> History:
    """Make tokenizer and model, or take finished ones, train the model on one reading after the other, and write both.

    Args:
        out: folder.
        readings: documents and steps, in order; a new tokenizer is made from all of them.
        sizes: of a new model.
        start: folder of the model and tokenizer to go on from; may be ``out``.
        schedule: rates; default a peak of 1e-3 over all steps.
        seed: of weights and order.
        state: file from which a stopped training goes on.
        progress: called with (steps done, steps in all).
        compiled: let torch compile the model first; the same up to rounding.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    steps = sum(reading.steps for reading in readings)
    if not readings or not all(reading.documents for reading in readings) or steps < 1:
        raise ValueError("documents and at least one step are needed")
    schedule = schedule or Schedule(steps=steps, lr=1e-3)
    tokenizer, model = _new(readings, sizes, seed) if start is None else _finished(start)
    batches = _Batches([(encode(r.documents, tokenizer), r.steps, r.batch_size) for r in readings], seed)
    read = hashlib.sha256(json.dumps([reading.documents for reading in readings]).encode()).hexdigest()
    counts = [(len(r.documents), r.steps, r.batch_size) for r in readings]
    identity: dict[str, Any] = {
        "language": asdict(sizes),
        "seed": seed,
        "readings": counts,
        "read": read,
        "compiled": compiled,
    }
    if start is not None:
        identity["start"] = hashlib.sha256((start / "model.safetensors").read_bytes()).hexdigest()
    body = torch.compile(model.model, dynamic=True) if compiled else model.model

    def step_loss(step: int) -> Tensor:
        return answer_loss(body, model.lm_head, *batches[step])

    with matmul_precision("medium"):  # two to four times as fast where the processor multiplies bfloat16
        history = train(model, step_loss, schedule, state, identity, progress=progress)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    model.save_pretrained(out, safe_serialization=True)
    return history


def _new(readings: Sequence[Reading], sizes: MiniatureLanguage, seed: int) -> tuple[Any, Any]:
    """Tokenizer and untrained model."""
    tokenizer = make_tokenizer(
        ["".join(text for text, _ in document) for reading in readings for document in reading.documents],
        sizes.vocabulary,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _new_model(tokenizer, sizes)
        _seed_positions(model)
    return tokenizer, model


def _finished(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and model of an earlier training."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    return AutoTokenizer.from_pretrained(folder), LlamaForCausalLM.from_pretrained(folder)


def _new_model(tokenizer: Any, sizes: MiniatureLanguage) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=sizes.width,
            intermediate_size=sizes.width * 11 // 4,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.heads,
            max_position_embeddings=CONTEXT,
            attention_bias=True,
            tie_word_embeddings=True,
            # the usual 0.02 suits widths of thousands; here it leaves attention flat, and letters at chance for thousands of steps
            initializer_range=sizes.width**-0.5,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


@torch.no_grad()
def _seed_positions(model: Any) -> None:
    """Let the first heads begin by looking at a token before their own, as :data:`LOOK_BACK` says.

    Which property belongs to which object is told by neighbouring tokens. Attention has to look at neighbours before it can
    find that out, and from random weights that alone takes longer than all the rest. With the same vector b as bias of the
    keys and, turned back by m places, of the queries, rotary attention peaks m places back. Only fast turning pairs of channels
    are used: the others stay free for what the tokens say.
    """
    turns = model.model.rotary_emb.inv_freq  # radians a token, of every pair of channels
    pairs, fast = len(turns), len(turns) * 2 // 5
    for layer, offsets in zip(model.model.layers, LOOK_BACK, strict=False):
        heads = model.config.num_attention_heads
        queries, keys = (p.bias.view(heads, 2, pairs) for p in (layer.self_attn.q_proj, layer.self_attn.k_proj))
        for head, offset in enumerate(offsets[:heads]):
            b = torch.zeros(2, pairs)
            b[:, :fast] = 1.5 * torch.randn(2, fast).sign()
            cos, sin = torch.cos(-offset * turns), torch.sin(-offset * turns)
            keys[head] = b
            queries[head] = torch.stack([b[0] * cos - b[1] * sin, b[1] * cos + b[0] * sin])


def make_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE made from ``texts``, with a chat template; it can write any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def encode(documents: Sequence[Document], tokenizer: Any) -> list[Encoded]:
    """Ids and labels of every document, shortest first."""
    pieces = [text for document in documents for text, _ in document]
    found = iter(tokenizer(pieces, add_special_tokens=False).input_ids)
    pairs = []
    for document in documents:
        ids: list[int] = []
        labels: list[int] = []
        for _, learnt in document:
            piece = next(found)
            ids += piece
            labels += piece if learnt else [IGNORE] * len(piece)
        pairs.append((torch.tensor(ids, dtype=torch.int32), torch.tensor(labels, dtype=torch.int32)))
    return sorted(pairs, key=lambda pair: len(pair[0]))


class _Batches:
    """The batch of every step: documents of like length, drawn by seed and step alone."""

    def __init__(self, readings: Sequence[tuple[list[Encoded], int, int]], seed: int) -> None:
        self.seed = seed
        self.readings = [
            ([pairs[i : i + size] for i in range(0, len(pairs), size)], steps) for pairs, steps, size in readings
        ]

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Ids [B, L], padded with 0 at the end, and labels [B, L]."""
        ends = np.cumsum([steps for _, steps in self.readings])
        groups, _ = self.readings[int(np.searchsorted(ends, step, side="right"))]
        group = groups[int(np.random.default_rng((self.seed, step)).integers(len(groups)))]
        longest = max(len(ids) for ids, _ in group)
        ids = torch.stack([F.pad(ids, (0, longest - len(ids))) for ids, _ in group]).long()
        labels = torch.stack([F.pad(own, (0, longest - len(own)), value=IGNORE) for _, own in group]).long()
        return ids, labels


def answer_loss(body: Any, head: Any, ids: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled tokens; ids and labels [B, L], padded at the end, which no causal model sees."""
    hidden = body(input_ids=ids).last_hidden_state[:, :-1]  # [B, L - 1, D]
    targets = labels[:, 1:]
    learnt = targets != IGNORE
    return F.cross_entropy(head(hidden[learnt]), targets[learnt])
