"""A model as something that is shown clips and asked about them: what every way of evaluating it goes through.

Letters: M frames of a clip, S side of the encoder's square, T visual tokens of a clip, D width of the language model.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tstar.data.conversations import get_template, tokenize_prompt
from tstar.data.images import to_square
from tstar.stages import Stage

MIXED = {"bf16-mixed": torch.bfloat16, "bf16": torch.bfloat16, "16-mixed": torch.float16, "16": torch.float16}
"""Precisions of Lightning's trainer in which products are halves and weights are not, with their types."""


@dataclass(frozen=True)
class Prompt:
    """All text that the model is given with one question."""

    text: str
    system: str = ""
    """"" leaves the model its own."""
    prefill: str = ""
    """What its answer is started with; the answer is what comes after it."""


@dataclass(frozen=True)
class Answer:
    """What came back, and what it took."""

    text: str
    visual_tokens: int
    prompt_tokens: int
    """Of text, the template's included."""
    answer_tokens: int
    """Of the text that came back; the mark that ended it is not among them."""


class Answerer:
    """Shows a stage clips and asks it about them.

    Args:
        stage: in eval mode and on its device.
        precision: the trainer's; answers are computed in what the model was trained in. Other than mixed ones leave weights and
            products as the stage has them.
    """

    def __init__(self, stage: Stage, precision: str = "32-true") -> None:
        self.stage = stage
        self.half = MIXED.get(precision)
        self.template = get_template(stage.answer_template)

    @property
    def side(self) -> int:
        """S."""
        return self.stage.lmm.encoder.image_size

    def square(self, frame: np.ndarray) -> np.ndarray:
        """One frame [height, width, 3] as the encoder takes it, uint8 [S, S, 3]."""
        return to_square(frame, self.side, self.stage.resized)

    def stacked(self, squares: Iterable[np.ndarray]) -> np.ndarray:
        """Such frames as one clip, uint8 [M, S, S, 3]; of none an empty one."""
        made = list(squares)
        return np.stack(made) if made else np.empty((0, self.side, self.side, 3), dtype=np.uint8)

    @torch.no_grad()
    def see(self, clips: Sequence[np.ndarray]) -> list[Tensor]:
        """Clips, uint8 [M, S, S, 3] each, as the language model sees them: [T, D] each; no frames give no tokens."""
        frames = clips[0] if len(clips) == 1 else np.concatenate(clips)
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).to(self.stage.device)  # [sum(M), 3, S, S]
        with self._products():
            return list(self.stage.lmm.visual_tokens(pixels, [len(clip) for clip in clips]))

    @torch.no_grad()
    def ask(
        self, prompts: Sequence[Prompt], visual: Sequence[Tensor], *, max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[Answer]:
        """Greedy answers.

        Args:
            prompts: questions to be answered together.
            visual: [T, D] of each one's clip, as :meth:`see` gave them; [0, D] for a question without one.
            max_new_tokens: upper bound on each answer.
            stop: texts that end an answer besides the model's own marks.
        """
        device = self.stage.device
        ids = [self.tokens(prompt, len(tokens) > 0) for prompt, tokens in zip(prompts, visual, strict=True)]
        ends: dict[str, Any] = {"stop": tuple(stop)} if stop else {}
        with self._products():
            texts = self.stage.generate(
                [own.to(device) for own in ids],
                [own.to(device) for own in visual],
                max_new_tokens=max_new_tokens,
                **ends,
            )
        count = self.stage.lmm.language.tokenizer
        return [
            Answer(text, len(seen), len(own) - (len(seen) > 0), len(count(text, add_special_tokens=False).input_ids))
            for text, own, seen in zip(texts, ids, visual, strict=True)
        ]

    def _products(self) -> AbstractContextManager[object]:
        return torch.autocast(self.stage.device.type, self.half) if self.half else nullcontext()

    def tokens(self, prompt: Prompt, has_visual: bool) -> Tensor:
        """Ids of a prompt, with one that holds the place of the visual tokens, [L]."""
        tokenizer = self.stage.lmm.language.tokenizer
        return tokenize_prompt(
            prompt.text, has_visual, self.template, tokenizer, system=prompt.system, prefill=prompt.prefill
        )
