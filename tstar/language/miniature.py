"""The miniature language model: a Llama of about a million parameters with its own tokenizer, lightly trained on generated text.

Saved in Hugging Face layout and loaded like any other model.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from tstar.language.splice import IGNORE

SPECIAL = ("<pad>", "<s>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
VOCABULARY = 1024
WIDTH, LAYERS, HEADS = 128, 4, 4
CONTEXT = 2048

Document = Sequence[tuple[str, bool]]
"""Pieces of text, each with whether it is learnt."""


def build_miniature_language(
    out: Path,
    documents: Sequence[Document],
    *,
    steps: int,
    batch_size: int = 32,
    lr: float = 3e-3,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Make tokenizer and model from ``documents``, train the model, and write both into ``out``.

    Returns:
        Mean loss over the last tenth of the steps, nats a token.
    """
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    if not documents or steps < 1:
        raise ValueError(f"documents and at least one step are needed, got {len(documents)} and {steps}")

    tokenizer = _tokenizer(["".join(text for text, _ in d) for d in documents])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH * 11 // 4,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        loss = _train(model, _encode(documents, tokenizer), steps, batch_size, lr, seed, progress)
    logging.disable_progress_bar()
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    model.save_pretrained(out, safe_serialization=True)
    return loss


def _tokenizer(texts: Sequence[str]):  # type: ignore[no-untyped-def]  # transformers comes late
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _encode(documents: Sequence[Document], tokenizer) -> list[tuple[torch.Tensor, torch.Tensor]]:  # type: ignore[no-untyped-def]
    pairs = []
    for document in documents:
        ids: list[int] = []
        labels: list[int] = []
        for text, learnt in document:
            piece = tokenizer(text, add_special_tokens=False).input_ids
            ids += piece
            labels += piece if learnt else [IGNORE] * len(piece)
        pairs.append((torch.tensor(ids), torch.tensor(labels)))
    return sorted(pairs, key=lambda pair: len(pair[0]))


def _train(model, pairs, steps, batch_size, lr, seed, progress) -> float:  # type: ignore[no-untyped-def]
    """Batches of documents of like length, in random order; the rate rises for a tenth of the steps and falls as a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / (0.1 * steps), 0.5 * (1 + math.cos(math.pi * s / steps)))
    )
    generator = torch.Generator().manual_seed(seed)
    groups = [pairs[i : i + batch_size] for i in range(0, len(pairs), batch_size)]
    last: list[float] = []
    model.train()
    for step in range(steps):
        group = groups[int(torch.randint(len(groups), (), generator=generator))]
        longest = max(len(ids) for ids, _ in group)
        ids = torch.stack([F.pad(i, (0, longest - len(i))) for i, _ in group])  # [B, L]; pad id is 0
        labels = torch.stack([F.pad(t, (0, longest - len(t)), value=IGNORE) for _, t in group])
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]  # causal: right padding is never looked at
        targets = labels[:, 1:]
        loss = F.cross_entropy(model.lm_head(hidden[targets != IGNORE]), targets[targets != IGNORE])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step >= steps - max(1, steps // 10):
            last.append(loss.item())
        if progress:
            progress(step + 1, steps)
    return sum(last) / len(last)
