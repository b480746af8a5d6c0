"""The class that lmms-eval makes its model from."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages

from tstar.errors import ConfigError, suggest
from tstar.evaluation.answering import Prompt
from tstar.integrations.harness_model import HarnessModel, Request

ANSWER_TOKENS = 128
"""Longest answer to tasks that do not say."""
GREEDY = {"do_sample": (False, None), "num_beams": (1, None), "temperature": (0, None), "repetition_penalty": (1, None)}
"""Settings of a generation that have to have one of these values: answers are greedy."""
WITHOUT_EFFECT = ("top_p", "top_k", "image_aspect_ratio")
"""Settings that mean nothing to a greedy answer, or to another model's way of cutting pictures."""


class TstarChat(lmms):
    """A checkpoint as lmms-eval's chat model.

    Args:
        checkpoint: a checkpoint, or the folder of a stage or run.
        pretrained: the same, by the name after which the harness calls its folder of results.
        frames: most frames of one video; default the recipe's.
        fps: frames a second, as long as that gives no more; default the recipe's.
        decoder: auto, decord, pyav or torchcodec; default the recipe's.
        max_new_tokens: longest answer to tasks that do not say.
        store: folder of the answers; default ``predictions_lmms_eval`` in the run's.
        batch_size: questions answered at once.
        max_batch_size: given by the harness and not used.
        device: cpu, cuda, cuda:1; default the GPU of this process, where there is one.
        leftovers: refused.
    """

    is_simple = False

    def __init__(
        self,
        checkpoint: str | None = None,
        pretrained: str | None = None,
        frames: int | None = None,
        fps: float | None = None,
        decoder: str | None = None,
        max_new_tokens: int = ANSWER_TOKENS,
        store: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: Any = None,
        device: str | None = None,
        **leftovers: Any,
    ) -> None:
        super().__init__()
        known = ("checkpoint", "pretrained", "frames", "fps", "decoder", "max_new_tokens", "store")
        for name in leftovers:
            raise ConfigError(f"unknown model argument '{name}'{suggest(name, known)}")
        place = checkpoint or pretrained
        if not place or (checkpoint and pretrained):
            raise ConfigError("--model_args needs checkpoint=PATH (or pretrained=PATH): a checkpoint or a run's folder")
        if not str(batch_size).isdecimal():
            raise ConfigError(f"batch_size must be a number, got '{batch_size}'")
        self.max_new_tokens = max_new_tokens
        self._settings: dict[str, Any] = {
            "checkpoint": place,
            "frames": frames,
            "fps": fps,
            "decoder": decoder,
            "batch_size": int(batch_size),
            "device": device,
            "store": store,
            "harness": "lmms_eval",
        }
        self._model: HarnessModel | None = HarnessModel(**self._settings)
        self.device: torch.device = self._model.device
        self._rank, self._world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if self._world_size > 1:
            from accelerate import Accelerator

            self.accelerator = Accelerator()

    @property
    def model(self) -> HarnessModel:
        """Loaded again where the harness has cleaned it away."""
        if self._model is None:
            self._model = HarnessModel(**self._settings)
        return self._model

    def clean(self) -> None:
        """Give the memory of the model back."""
        if self._model is not None:
            self._model.close()
        self._model = None
        super().clean()

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answers in the order of the requests; "" for what failed, whose number is told at the end."""
        outcomes = self.model.answer(self._requests(requests), len(requests))
        results = []
        for outcome in outcomes:
            counts = None
            if outcome.answer is not None:
                read = outcome.answer.prompt_tokens + outcome.answer.visual_tokens
                counts = TokenCounts(input_tokens=read, output_tokens=outcome.answer.answer_tokens)
            results.append(GenerationResult(outcome.text, counts))
        return results

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not there."""
        raise NotImplementedError("tstar generates answers; tasks that rank options by likelihood cannot be run")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not there."""
        raise NotImplementedError("tstar answers one question at a time; tasks of several rounds cannot be run")

    def _requests(self, requests: Sequence[Any]) -> Iterator[Request]:
        for request in requests:
            _, doc_to_messages, settings, doc_id, task, split = request.args
            messages = ChatMessages(messages=doc_to_messages(self.task_dict[task][split][doc_id]))
            tokens, until = check_settings(settings or {}, task, self.max_new_tokens)
            yield to_request(messages, task, f"{split}/{doc_id}", tokens, until)


def check_settings(settings: dict[str, Any], task: str, default: int) -> tuple[int, tuple[str, ...]]:
    """Longest answer, and the texts that end it, out of a task's ``generation_kwargs``; ConfigError where they cannot be kept."""
    given = dict(settings)
    tokens, until = given.pop("max_new_tokens", None) or default, given.pop("until", None) or ()
    for name in WITHOUT_EFFECT:
        given.pop(name, None)
    for name, legal in GREEDY.items():
        if given.pop(name, None) not in legal:
            raise ConfigError(
                f"task {task} sets {name}={settings[name]}, but tstar answers greedily; set it to {legal[0]} by --gen_kwargs"
            )
    if given:
        name = next(iter(given))
        raise ConfigError(f"task {task} sets {name}={given[name]}, which tstar does not know; take it out of its YAML")
    return int(tokens), (until,) if isinstance(until, str) else tuple(until)


def to_request(messages: Any, task: str, doc: str, tokens: int, until: tuple[str, ...]) -> Request:
    """A document's messages as one question about one clip.

    Raises:
        NotImplementedError: they hold sound, several videos, or more than one question.
    """
    texts: dict[str, list[str]] = {"system": [], "user": [], "assistant": []}
    videos: list[Any] = []
    pictures: list[Any] = []
    for number, message in enumerate(messages.messages):
        if message.role == "assistant" and number < len(messages.messages) - 1:
            raise NotImplementedError(f"task {task} has more than one question, which tstar does not answer")
        for content in message.content:
            if content.type == "text":
                texts[message.role].append(content.text)
            elif content.type == "image":
                pictures.append(content.url)
            elif content.type == "video":
                videos.append(content)
            else:
                raise NotImplementedError(f"task {task} has {content.type}, which tstar does not hear")
    if len(videos) > 1 or (videos and pictures):
        raise NotImplementedError(
            f"task {task} shows {len(videos)} videos and {len(pictures)} pictures with one question"
        )
    window = None
    if videos and (videos[0].start_time is not None or videos[0].end_time is not None):
        window = float(videos[0].start_time or 0), float("inf" if videos[0].end_time is None else videos[0].end_time)
    if videos and not isinstance(videos[0].url, (str, Path)):
        raise NotImplementedError(f"task {task} gives a {type(videos[0].url).__name__} for a video; tstar takes paths")
    return Request(
        task=task,
        id=doc,
        prompt=Prompt(*("\n".join(texts[role]) for role in ("user", "system", "assistant"))),
        max_new_tokens=tokens,
        video=Path(videos[0].url) if videos else None,
        window=window,
        pictures=tuple(pictures),
        until=until,
    )
