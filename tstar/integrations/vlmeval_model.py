"""The class that VLMEvalKit makes its model from."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmeval.vlm.base import BaseModel

from tstar.errors import ConfigError, suggest
from tstar.evaluation.answering import Prompt
from tstar.evaluation.response_layouts import FAILURE
from tstar.integrations.harness_model import HarnessModel, Request

ANSWER_TOKENS = 128


class TstarVLMEval(BaseModel):
    """A checkpoint as VLMEvalKit's video model: it is given paths of videos and takes frames by tstar's own rule.

    The kit sets :attr:`nframe` or :attr:`fps` to what a data set's name says, as ``Video-MME_64frame`` does; they become the most
    frames and the rate of that rule. The one that a name does not say stays as the recipe has it.

    Args:
        checkpoint: a checkpoint, or the folder of a stage or run.
        frames: most frames of one video; default the recipe's.
        fps: frames a second, as long as that gives no more; default the recipe's.
        decoder: auto, decord, pyav or torchcodec; default the recipe's.
        max_new_tokens: longest answer.
        device: cpu, cuda, cuda:1; default the GPU of this process, where there is one.
        store: folder of the answers; default ``predictions_vlmevalkit`` in the run's.
        leftovers: refused.
    """

    INTERLEAVE = True
    VIDEO_LLM = True
    allowed_types = ("text", "image", "video")

    def __init__(
        self,
        checkpoint: str,
        frames: int | None = None,
        fps: float | None = None,
        decoder: str | None = None,
        max_new_tokens: int = ANSWER_TOKENS,
        device: str | None = None,
        store: str | None = None,
        **leftovers: Any,
    ) -> None:
        super().__init__()
        known = ("checkpoint", "frames", "fps", "decoder", "max_new_tokens", "device", "store")
        for name in leftovers:
            raise ConfigError(f"unknown setting '{name}' of TstarVLMEval{suggest(name, known)}")
        self.max_new_tokens = max_new_tokens
        self.model = HarnessModel(
            checkpoint, frames=frames, fps=fps, decoder=decoder, device=device, store=store, harness="vlmevalkit"
        )
        self._own = self.model.config.max_frames, self.model.config.fps
        self.failed = 0
        """Questions that could not be answered, so far."""

    @property
    def nframe(self) -> int:
        """Most frames of a video."""
        return self.model.config.max_frames

    @nframe.setter
    def nframe(self, value: int | None) -> None:
        self.model.look(fps=self.model.config.fps, max_frames=int(value or self._own[0]))

    @property
    def fps(self) -> float:
        """Frames a second, as long as that gives no more than :attr:`nframe`."""
        return self.model.config.fps

    @fps.setter
    def fps(self, value: float | None) -> None:
        self.model.look(fps=float(value or self._own[1]), max_frames=self.model.config.max_frames)

    def generate_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """The answer to a message; the kit's own words for a failure where there is none."""
        (outcome,) = self.model.answer([to_request(message, dataset or "unnamed", self.max_new_tokens)])
        if outcome.error is not None:
            self.failed += 1
            return FAILURE
        return outcome.text


def to_request(message: Sequence[Mapping[str, Any]], dataset: str, tokens: int) -> Request:
    """A message as one question about one clip; the kit numbers its questions elsewhere, so media and text tell them apart.

    Raises:
        NotImplementedError: it shows several videos, or a video and pictures.
        ConfigError: it holds what is neither text nor picture nor video.
    """
    texts: dict[str, list[str]] = {"system": [], "user": [], "assistant": []}
    media: dict[str, list[str]] = {"image": [], "video": []}
    for part in message:
        kind, value = part["type"], str(part["value"])
        if kind == "text":
            role = part.get("role") or "user"
            if role not in texts:
                raise ConfigError(f"{dataset}: a text has the role '{role}'{suggest(role, texts)}")
            texts[role] += [value] if value else []
        elif kind in media:
            media[kind].append(value)
        else:
            raise ConfigError(f"{dataset}: a message holds {kind}; tstar takes texts, pictures and videos")
    videos, pictures = media["video"], media["image"]
    if len(videos) > 1 or (videos and pictures):
        raise NotImplementedError(
            f"{dataset} shows {len(videos)} videos and {len(pictures)} pictures with one question"
        )
    return Request(
        task=dataset,
        id=hashlib.sha256(json.dumps([videos, pictures]).encode()).hexdigest()[:16],
        prompt=Prompt(*("\n".join(texts[role]) for role in ("user", "system", "assistant"))),
        max_new_tokens=tokens,
        video=Path(videos[0]) if videos else None,
        pictures=tuple(pictures),
    )
