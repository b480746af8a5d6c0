"""Hugging Face causal language models, fed embeddings instead of ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from tstar.errors import ConfigError, DataError
from tstar.language.splice import IGNORE, Spliced

LENGTH_POWERS = {"token": 0.0, "square": 0.5, "answer": 1.0}
"""A token weighs its answer's length to minus this power, by ``loss_reduction``."""
LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of models whose logits are more than the output embeddings' product."""


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Which language model reads the visual tokens."""

    path: str
    """A folder in Hugging Face layout, or a hub name (which is then downloaded)."""
    template: str
    """Prompt template of the model: miniature, vicuna_v1, phi3, qwen2, qwen2_5 or pythia."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights in memory."""
    attention: str | None = None
    """Attention implementation as transformers names it; default its own choice."""
    gradient_checkpointing: bool = False
    """Recompute layers in backward: less memory, about a fifth slower."""
    loss_reduction: Literal["token", "square", "answer"] = "token"
    """How much an answer of n tokens weighs in a batch's loss: n (the mean over tokens), the square root of n, or 1."""

    def build(self) -> "HFCausalLM":
        """Load the model and its tokenizer."""
        return HFCausalLM(self)


class LossSum(NamedTuple):
    """What a batch adds to a loss that several batches share."""

    total: Tensor
    """Sum of the weighted losses of the supervised tokens, scalar."""
    weight: Tensor
    """Sum of their weights, scalar."""
    tokens: int
    """How many there are."""

    @property
    def mean(self) -> Tensor:
        """The loss of this batch alone; 0, still in the graph, where nothing is supervised."""
        return self.total / self.weight if self.tokens else self.total


class HFCausalLM(nn.Module):
    """A causal language model with its tokenizer; parameters live under ``model``."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer, self.model = _load(config)
        self.d_language: int = self.model.get_input_embeddings().weight.shape[1]
        self._own_ends = _end_ids(self.tokenizer.eos_token_id, self.model.generation_config.eos_token_id)
        # a checkpoint's own penalties and sampling would make "greedy" mean another thing for every model
        self.model.generation_config = type(self.model.generation_config)()
        if config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] to embeddings [..., D]."""
        return self.model.get_input_embeddings()(ids)

    def loss(self, batch: Spliced) -> tuple[Tensor, int]:
        """The loss of a batch alone, and the number of supervised tokens; see :meth:`loss_sum`."""
        losses = self.loss_sum(batch)
        return losses.mean, losses.tokens

    def loss_sum(self, batch: Spliced) -> LossSum:
        """Cross-entropy over the supervised tokens of a batch, weighed as ``loss_reduction`` says.

        Logits exist at supervised positions only: with a vocabulary of 150,000 they would be the largest tensor by far.

        Raises:
            ValueError: the batch is padded on the left.
        """
        if not batch.mask[:, 0].all():
            raise ValueError("the first position of a sample is padding; a batch that is learnt is padded on the right")
        # no real position of a causal model sees padding on the right, and without a mask torch may take its causal kernels
        places = (
            {} if batch.positions is None else {"position_ids": batch.positions}
        )  # which also keep samples of a row apart
        hidden = self.model.base_model(inputs_embeds=batch.embeds, use_cache=False, **places)[0]  # [B, P, D]
        targets = batch.labels[:, 1:]  # position t predicts t + 1
        supervised = targets != IGNORE
        count = int(supervised.sum())
        chosen = hidden[:, :-1][supervised]  # [count, D]
        logits = self.model.get_output_embeddings()(chosen).float()
        if not count:  # no logits: their sum is 0 and keeps the head in the graph
            return LossSum(hidden.sum() * 0.0 + logits.sum(), logits.new_zeros(()), 0)
        losses = F.cross_entropy(logits, targets[supervised], reduction="none")  # [count]
        weights = answer_lengths(supervised).float().pow(-LENGTH_POWERS[self.config.loss_reduction])
        return LossSum((losses * weights).sum(), weights.sum(), count)

    @torch.no_grad()
    def generate(self, batch: Spliced, *, max_new_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Greedy continuations of a left-padded batch, without special tokens.

        Args:
            batch: prompts, padded on the left.
            max_new_tokens: upper bound, at least 1.
            stop: further texts that end an answer, as the template's end mark; they are no part of it.
        """
        ends = self._own_ends | {i for text in stop if (i := self._single_token(text)) is not None}
        pad = self.tokenizer.pad_token_id
        ids = self.model.generate(
            inputs_embeds=batch.embeds,
            attention_mask=batch.mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=sorted(ends) or None,
            pad_token_id=pad if pad is not None else min(ends, default=0),
            synced_gpus=False,  # one of several processes may ask alone
        )  # [B, new]
        answers = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [_before(answer, stop) for answer in answers]

    def _single_token(self, text: str) -> int | None:
        """The token that is this text and nothing else, if the vocabulary has one."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids if text else []
        return ids[0] if len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id else None


def answer_lengths(supervised: Tensor) -> Tensor:
    """How many tokens the answer has that a supervised token belongs to.

    Args:
        supervised: [B, T], whether a position is learnt; an answer is a run of such positions.

    Returns:
        [supervised positions], in the order of ``tensor[supervised]``.
    """
    starts = supervised & ~F.pad(supervised, (1, 0))[:, :-1]  # [B, T]
    answer = starts.flatten().cumsum(0)[supervised.flatten()] - 1
    return torch.bincount(answer)[answer]


def _before(answer: str, stop: Sequence[str]) -> str:
    """The answer up to the first stop text: one of several tokens does not end the generation by itself."""
    return answer[: min((at for text in stop if text and (at := answer.find(text)) >= 0), default=None)]


def _end_ids(*given: int | Sequence[int] | None) -> set[int]:
    """Token ids out of single ones, lists and nothing."""
    return {int(i) for ids in given if ids is not None for i in ([ids] if isinstance(ids, int) else ids)}


def _load(config: LanguageConfig) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    local = Path(config.path).is_dir()
    if not local and (config.path.count("/") != 1 or config.path.startswith((".", "/"))):
        raise DataError(
            f"no language model in {config.path}; name a folder or a hub model, or run `tstar miniature-models` for the miniature's"
        )
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.path, use_fast=True, local_files_only=local)
        extra = {"attn_implementation": config.attention} if config.attention else {}
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            config.path,
            dtype=getattr(torch, config.dtype),
            local_files_only=local,
            trust_remote_code=False,
            output_loading_info=True,
            **extra,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError, UnpicklingError) as error:
        raise DataError(f"cannot load language.path '{config.path}': {' '.join(str(error).split())[:300]}") from error
    model, found = loaded
    absent = sorted(found["missing_keys"])
    if absent:
        raise DataError(
            f"language.path '{config.path}': {len(absent)} tensors are missing from the weights (e.g. {absent[0]}); "
            "are they of this model and complete?"
        )
    scaled = [name for name in LOGIT_CHANGES if getattr(model.config, name, None) not in (None, 1.0)]
    if scaled:
        raise ConfigError(
            f"language.path '{config.path}' changes its logits by {scaled[0]}, which the loss does not follow; choose another model"
        )
    if not tokenizer.is_fast:
        raise ConfigError(
            f"language.path '{config.path}' has no fast tokenizer; label masks need its character offsets"
        )
    return tokenizer, model
