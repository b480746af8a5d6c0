"""Hugging Face causal language models, fed embeddings instead of ids."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from tstar.errors import ConfigError, DataError
from tstar.language.blocks import checkpoint_blocks
from tstar.language.lora import LoraSettings, add_adapters, is_adapter
from tstar.language.splice import IGNORE, Spliced
from tstar.language.state_spaces import is_state_spaces, load_state_spaces

LENGTH_POWERS = {"token": 0.0, "square": 0.5, "answer": 1.0}
"""A token weighs its answer's length to minus this power, by ``loss_reduction``."""
LOADING = (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError, UnpicklingError)
"""What files that are no model raise when they are loaded."""
LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of models whose logits are more than the output embeddings' product."""


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Which language model reads the visual tokens."""

    path: str
    """A folder in Hugging Face layout, or a hub name (which is then downloaded)."""
    template: str
    """Prompt template of the model: miniature, vicuna_v1, phi3, qwen2, qwen2_5, pythia or smollm2; qwen2_llava_next and
    qwen2_5_llava_next learn also the marks of turns, as LLaVA-NeXT does."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights in memory. CPUs without AVX-512 multiply bfloat16 many times slower than float32."""
    attention: str | None = None
    """Attention implementation as transformers names it; default its own choice."""
    gradient_checkpointing: bool = False
    """Recompute layers in backward: less memory, about a fifth slower. Of a frozen model too, which hands gradients back."""
    loss_reduction: Literal["token", "square", "answer"] = "token"
    """How much an answer of n tokens weighs in a batch's loss: n (the mean over tokens), the square root of n, or 1."""
    tokenizer: str | None = None
    """Folder or hub name of the tokenizer, where it does not lie with the model."""
    pickled_weights: bool = False
    """Take weights in PyTorch's own format where a model has no safetensors; tensors alone are read from it."""
    lora: LoraSettings | None = None
    """Learn small matrices beside the model's own, which stay as they are."""

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
        if config.lora is not None:
            add_adapters(self.model, config.lora)
        self.d_language: int = self.model.get_input_embeddings().weight.shape[1]
        self._own_ends = _end_ids(self.tokenizer.eos_token_id, self.model.generation_config.eos_token_id)
        # a checkpoint's own penalties and sampling would make "greedy" mean another thing for every model
        self.model.generation_config = type(self.model.generation_config)()
        if config.gradient_checkpointing:
            checkpoint_blocks(self.model)

    def learnable(self) -> dict[str, nn.Parameter]:
        """What learns if the model does, by name: the adapters where there are any, else everything."""
        return {n: p for n, p in self.named_parameters() if self.config.lora is None or is_adapter(n)}

    def requires_grad_(self, requires_grad: bool = True) -> "HFCausalLM":
        """Let what is :meth:`learnable` learn, or nothing."""
        super().requires_grad_(False)
        for parameter in self.learnable().values():
            parameter.requires_grad_(requires_grad)
        return self

    @property
    def native_length(self) -> int | None:
        """Positions that the model was made for; None where its architecture knows no bound."""
        return getattr(self.model.config, "max_position_embeddings", None)

    @property
    def description(self) -> dict[str, Any]:
        """What trained weights belong to, in JSON types."""
        lora = {"lora": asdict(self.config.lora)} if self.config.lora is not None else {}
        return {"type": self.model.config.model_type, "d_language": self.d_language, **lora}

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] to embeddings [..., D]."""
        return self.model.get_input_embeddings()(ids)

    def loss_sum(self, batch: Spliced) -> LossSum:
        """Cross-entropy over the supervised tokens of a batch, weighed as ``loss_reduction`` says.

        Raises:
            ValueError: the batch is padded on the left.
        """
        hidden, logits, supervised = self._supervised_logits(batch)
        if not len(logits):
            # no logits: their sum is 0 and keeps the head in the graph
            return LossSum(hidden.sum() * 0.0 + logits.sum(), logits.new_zeros(()), 0)
        losses = F.cross_entropy(logits, batch.labels[:, 1:][supervised], reduction="none")  # [count]
        weights = answer_lengths(supervised).float().pow(-LENGTH_POWERS[self.config.loss_reduction])
        return LossSum((losses * weights).sum(), weights.sum(), len(logits))

    @torch.no_grad()
    def log_likelihoods(self, batch: Spliced) -> Tensor:
        """Sum of the log-probabilities of the supervised tokens of each sample of a batch padded on the right, [B]."""
        _, logits, supervised = self._supervised_logits(batch)
        losses = F.cross_entropy(logits, batch.labels[:, 1:][supervised], reduction="none")  # [count]
        sample = supervised.nonzero()[:, 0]
        return -losses.new_zeros(len(supervised)).index_add_(0, sample, losses)

    def _supervised_logits(self, batch: Spliced) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states, [B, P, D]; logits, [count, vocabulary]; of which positions, [B, P - 1]: those before a supervised token.

        There are no others: with a vocabulary of 150,000 they would be the largest tensor by far.
        """
        if not batch.mask[:, 0].all():
            raise ValueError("the first position of a sample is padding; a batch that is learnt is padded on the right")
        # no real position of a causal model sees padding on the right, and without a mask torch may take its causal kernels
        places = (
            {} if batch.positions is None else {"position_ids": batch.positions}
        )  # they keep samples of a row apart
        hidden = self.model.base_model(inputs_embeds=batch.embeds, use_cache=False, **places)[0]  # [B, P, D]
        supervised = batch.labels[:, 1:] != IGNORE  # position t predicts t + 1
        chosen = hidden[:, :-1][supervised]  # [count, D]
        head = self.model.get_output_embeddings()
        chosen = chosen.to(head.weight.dtype)  # Mamba's residual stream is fp32 beside weights in half precision
        return hidden, head(chosen).float(), supervised

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
    from transformers import AutoTokenizer
    from transformers.utils import logging

    local = Path(config.path).is_dir()
    if not local and (config.path.count("/") != 1 or config.path.startswith((".", "/"))):
        raise DataError(
            f"no language model in {config.path}; name a folder or a hub model, or run `tstar miniature-models` for the miniature's"
        )
    logging.disable_progress_bar()
    words = config.tokenizer or config.path
    try:
        tokenizer = AutoTokenizer.from_pretrained(words, use_fast=True, local_files_only=Path(words).is_dir())
    except LOADING as error:
        key = "tokenizer" if config.tokenizer else "path"
        more = "" if config.tokenizer else "; if its tokenizer lies elsewhere, name it in language.tokenizer"
        raise DataError(f"cannot load the tokenizer of language.{key} '{words}': {_reason(error)}{more}") from error
    model = _load_model(config, local)
    scaled = [name for name in LOGIT_CHANGES if getattr(model.config, name, None) not in (None, 1.0)]
    if scaled:
        raise ConfigError(
            f"language.path '{config.path}' changes its logits by {scaled[0]}, which the loss does not follow; choose another model"
        )
    if not tokenizer.is_fast:
        raise ConfigError(f"'{words}' has no fast tokenizer; label masks need its character offsets")
    rows = model.get_input_embeddings().weight.shape[0]
    if config.tokenizer and len(tokenizer) > rows:
        raise ConfigError(
            f"language.tokenizer '{words}' has {len(tokenizer)} tokens and the language model {rows} embeddings; name its own"
        )
    return tokenizer, model


def _load_model(config: LanguageConfig, local: bool) -> Any:
    from transformers import AutoModelForCausalLM

    extra = {"attn_implementation": config.attention} if config.attention else {}
    dtype = getattr(torch, config.dtype)
    try:
        if is_state_spaces(config.path):
            return load_state_spaces(config.path, dtype, pickled=config.pickled_weights)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            config.path,
            dtype=dtype,
            local_files_only=local,
            trust_remote_code=False,
            use_safetensors=None if config.pickled_weights else True,
            output_loading_info=True,
            **extra,
        )
    except LOADING as error:
        reason = _reason(error)
        pickled = not config.pickled_weights and "safetensors" in reason and not isinstance(error, SafetensorError)
        remedy = "; language.pickled_weights: true takes weights in PyTorch's own format" if pickled else ""
        raise DataError(f"cannot load language.path '{config.path}': {reason}{remedy}") from error
    model, found = loaded
    absent = sorted(found["missing_keys"])
    if absent:
        raise DataError(
            f"language.path '{config.path}': {len(absent)} tensors are missing from the weights (e.g. {absent[0]}); "
            "are they of this model and complete?"
        )
    return model


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
