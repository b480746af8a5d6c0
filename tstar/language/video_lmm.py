"""Frozen encoder, compressor and language model as one model of tensors.

Letters: M frames of a clip, N patch tokens of a frame, T visual tokens of a clip, D width of the language model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tstar.compressors import Compressor
from tstar.language.hf_causal_lm import HFCausalLM, LossSum
from tstar.language.packing import check_packing, pack
from tstar.language.splice import IGNORE, splice
from tstar.vision import VisionEncoder


class VideoLMM(nn.Module):
    """A multimodal language model for video: ``encoder`` (frozen) -> ``compressor`` -> ``language``."""

    def __init__(
        self,
        encoder: VisionEncoder,
        compressor: Compressor,
        language: HFCausalLM,
        max_length: int = 4096,
        pack_tokens: int | None = None,
    ):
        super().__init__()
        self.encoder, self.compressor, self.language = encoder, compressor, language
        self.max_length, self.pack_tokens = max_length, pack_tokens
        if pack_tokens is not None:
            check_packing(language.model)
        self.truncated = 0
        """Training sequences of this process that were longer than ``max_length`` and lost their end, since its start."""
        self.dropped = 0
        """Those of them that had nothing left to learn from, and were dropped."""

    def visual_tokens(self, frames: Tensor, frame_counts: list[int]) -> list[Tensor]:
        """Clips to what the language model sees of them.

        Args:
            frames: uint8, [sum(M), 3, S, S], clips end to end; or the encoder's features of them, float, [sum(M), N, d_vision].
            frame_counts: M of each clip; 0 for a sample without one.

        Returns:
            [T, D] of each clip.
        """
        known = frames.is_floating_point()
        features = (
            frames.to(next(self.encoder.parameters()).dtype) if known else self.encoder(frames)
        )  # [sum(M), N, d_vision]
        return self.compressor(features, frame_counts)

    def forward(
        self, frames: Tensor, frame_counts: list[int], input_ids: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> LossSum:
        """Loss over the supervised tokens of the batch.

        In training, compressor and language model run once forward and once backward, whatever the batch holds: with several
        processes, one may have text only where another has videos, and they meet in every layer.

        Args:
            frames: uint8, [sum(M), 3, S, S], or features, as :meth:`visual_tokens` takes them.
            frame_counts: M of each sample; 0 for text.
            input_ids: [L] of each sample, with a ``VISUAL`` id where the visual tokens go.
            labels: [L] of each sample.
        """
        blank = self.training and not any(frame_counts)
        if blank:
            # every trained tensor takes part in every process, also where a batch is text only
            *visual, unseen = self.visual_tokens(self._blank_picture(frames.device), [*frame_counts, 1])
        else:
            visual = self.visual_tokens(frames, frame_counts)
        batch = splice(self.language.embed, input_ids, visual, labels, max_length=self.max_length)
        if self.training:
            self.truncated += batch.cut
            self.dropped += batch.dropped
        if self.pack_tokens is not None:
            batch = pack(batch, self.pack_tokens)
        aside = [unseen] if blank else visual if batch.dropped else []
        if aside:  # the language model does not read them, yet they are in the graph
            unread = torch.stack([tokens.sum() for tokens in aside]).sum()
            batch.embeds = batch.embeds + unread.to(batch.embeds.dtype) * 0.0
        return self.language.loss_sum(batch)

    def row_lengths(self, input_ids: Sequence[Tensor], visual: Sequence[int]) -> list[int]:
        """Positions of the language model that samples take.

        Args:
            input_ids: [L] of each sample.
            visual: visual tokens of each; 0 for text.
        """
        pairs = zip(input_ids, visual, strict=True)
        return [min(len(ids) + (tokens - 1 if tokens else 0), self.max_length) for ids, tokens in pairs]

    def _blank_picture(self, device: torch.device) -> Tensor:
        size = self.encoder.image_size
        return torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Tensor], visual: Sequence[Tensor], *, max_new_tokens: int = 16, stop: Sequence[str] = ()
    ) -> list[str]:
        """Greedy answers.

        Args:
            prompts: [L] ids of each prompt.
            visual: [T, D] of each prompt, as :meth:`visual_tokens` gave them; [0, D] for a question without video.
            max_new_tokens: upper bound on each answer.
            stop: texts that end an answer besides the tokenizer's own.
        """
        batch = splice(self.language.embed, prompts, visual, pad="left", max_length=None)
        return self.language.generate(batch, max_new_tokens=max_new_tokens, stop=stop)

    @torch.no_grad()
    def option_likelihoods(self, prompt: Tensor, visual: Tensor, options: Sequence[Tensor]) -> Tensor:
        """How likely each of several answers is.

        Args:
            prompt: [L] ids, as :meth:`generate` takes them.
            visual: [T, D] of the prompt.
            options: ids of each answer, as they would follow the prompt; at least one each.

        Returns:
            [options], sums of the log-probabilities of an answer's tokens; over an answer's length, their mean.
        """
        if not options or min(map(len, options)) < 1:
            raise ValueError("option_likelihoods needs options, each of at least one token")
        own = [option.to(prompt) for option in options]
        rows = [torch.cat([prompt, option]) for option in own]
        labels = [torch.cat([torch.full_like(prompt, IGNORE), option]) for option in own]
        batch = splice(self.language.embed, rows, [visual] * len(rows), labels)
        return self.language.log_likelihoods(batch)
