"""A checkpoint that answers the requests of other people's harnesses, one store behind it.

Frames, prompts and answers go the way of ``tstar validate`` (:mod:`tstar.evaluation.answering`). Every answer is stored when it
exists, so that a harness that is started again, or dies, loses none of them. What cannot be answered is stored as failed, and
counted: it never becomes a text that could be scored.
"""

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tstar.data.images import read_image
from tstar.errors import ConfigError, DataError
from tstar.evaluation.answering import Answer, Answerer, Prompt
from tstar.evaluation.checkpoints import Restored, default_out, restore
from tstar.evaluation.clips import Decoders, Look, Wanted
from tstar.evaluation.media import Media, Part
from tstar.evaluation.prediction_store import PredictionStore
from tstar.evaluation.settings import EvaluationConfig
from tstar.nn.precision import matmul_precision

log = logging.getLogger("tstar")
AHEAD = 2
"""Clips decoded before their turn."""


@dataclass(frozen=True)
class Request:
    """One question of a harness."""

    task: str
    id: str
    """Of the question within its task."""
    prompt: Prompt
    max_new_tokens: int
    video: Path | None = None
    window: tuple[float, float] | None = None
    """Seconds of the video that are looked at; None is all of it."""
    pictures: tuple[Any, ...] = ()
    """Paths, or what Pillow makes of one; several are one clip, in this order."""
    until: tuple[str, ...] = ()
    """Texts that end the answer."""


@dataclass(frozen=True)
class Outcome:
    """What came of a request: a text, or an error."""

    text: str
    """"" of a request that failed."""
    answer: Answer | None
    error: str | None


@dataclass
class _Clip:
    """What several requests in a row may be about."""

    key: str
    """Of the media and how they are looked at."""
    frames: "Future[np.ndarray]"
    """uint8, [M, S, S, 3]."""
    visual: Tensor | None = None
    """[T, D], once it was needed."""


@dataclass(frozen=True)
class _Asked:
    place: int
    request: Request
    clip: _Clip


class HarnessModel:
    """The model, how it looks at media, and its store.

    Args:
        checkpoint: a checkpoint, or the folder of a stage or run.
        frames: most frames of one video; default the recipe's.
        fps: frames a second, as long as that gives no more; default the recipe's.
        decoder: auto, decord, pyav or torchcodec; default the recipe's.
        batch_size: questions answered at once.
        device: cpu, cuda, cuda:1; default the GPU of this process, where there is one.
        store: folder of the answers; default ``predictions_<harness>`` in the run's.
        harness: its name.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        frames: int | None = None,
        fps: float | None = None,
        decoder: str | None = None,
        batch_size: int = 1,
        device: str | None = None,
        store: str | Path | None = None,
        harness: str,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        self.restored: Restored = restore(Path(checkpoint), place_of(device), "checkpoint")
        given = {"max_frames": frames, "fps": fps, "decoder": decoder}
        wanted = {name: value for name, value in given.items() if value is not None}
        self.config = EvaluationConfig(**{**self.restored.evaluation, "benchmarks": {}, **wanted})
        self.batch_size = batch_size
        self.folder = Path(store) if store else default_out(self.restored.path) / f"predictions_{harness}"
        if self.folder.is_file():
            raise ConfigError(f"store must be a folder, got the file {self.folder}")
        self.answerer = Answerer(self.restored.stage, self.restored.precision)
        self.decoders = Decoders(min(1, self.config.decoding_workers()), self.config.time_limit)
        self._stores: dict[str, _TaskStore] = {}

    def close(self) -> None:
        """End the process that decodes videos."""
        self.decoders.close()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.restored.stage.device

    def look(self, *, fps: float, max_frames: int) -> None:
        """Look at videos otherwise from now on."""
        self.config = replace(self.config, fps=fps, max_frames=max_frames)

    def answer(self, requests: Iterable[Request], total: int | None = None) -> list[Outcome]:
        """What comes back for each request, in their order.

        Args:
            requests: made one by one, as they may hold pictures.
            total: how many there are, for a bar on a terminal.

        Raises:
            DataError: there were several requests, and all of them failed.
            ConfigError: none can be answered so, as where a decoder is not installed.
        """
        outcomes: dict[int, Outcome] = {}
        with ThreadPoolExecutor(1, thread_name_prefix="tstar-decoding") as pool, _bar(total) as bar:
            batch: list[_Asked] = []
            for asked in self._ahead(self._new(requests, outcomes, pool)):
                if batch and (len(batch) == self.batch_size or _kind(batch[0]) != _kind(asked)):
                    outcomes |= self._ask(batch)
                    batch = []
                batch.append(asked)
                bar(len(outcomes))
            outcomes |= self._ask(batch) if batch else {}
        failed = [outcomes[place] for place in sorted(outcomes) if outcomes[place].error]
        if failed:
            text = f"{len(failed)} of {len(outcomes)} requests failed, the first: {failed[0].error}"
            if len(failed) == len(outcomes) > 1:
                raise DataError(text)
            log.warning("%s; they were answered by nothing and are listed in %s", text, self.folder)
        return [outcomes[place] for place in range(len(outcomes))]

    def _new(
        self, requests: Iterable[Request], outcomes: dict[int, Outcome], pool: ThreadPoolExecutor
    ) -> Iterator[_Asked]:
        """Requests that are not answered yet; the stored answers of the others go into ``outcomes``."""
        clip: _Clip | None = None
        for place, request in enumerate(requests):
            row = self._store(request.task).get(request, self._frames_key(request), self.restored.key)
            if row is not None:
                counts = (int(row.get(name) or 0) for name in ("visual_tokens", "prompt_tokens", "answer_tokens"))
                outcomes[place] = Outcome(row["response"], Answer(row["response"], *counts), None)
                continue
            key = f"{request.video} {self._frames_key(request)}"
            if clip is None or clip.key != key or request.pictures:
                clip = _Clip(key, pool.submit(self._decode, request))
            yield _Asked(place, request, clip)

    def _ahead(self, asked: Iterator[_Asked]) -> Iterator[_Asked]:
        """The same, begun with before their turn."""
        waiting = list(islice(asked, AHEAD))
        while waiting:
            yield waiting.pop(0)
            waiting += islice(asked, 1)

    def _decode(self, request: Request) -> np.ndarray:
        """Frames as the encoder takes them, uint8 [M, S, S, 3]."""
        if request.video is not None:
            stage, config = self.restored.stage, self.config
            wanted = Wanted(str(request.video), "video", Media((Part(request.video),)), request.window, None)
            look = Look(config.sampling, config.decoder, self.answerer.side, stage.resized, "full")
            return self.decoders.decode(wanted, look).frames
        return self.answerer.stacked(self.answerer.square(_pixels(picture)) for picture in request.pictures)

    def _ask(self, batch: Sequence[_Asked]) -> dict[int, Outcome]:
        """Answer and store a batch; where that fails, each of it alone, so that one costs no other."""
        ready: list[_Asked] = []
        outcomes: dict[int, Outcome] = {}
        for asked in batch:
            try:
                self._see(asked.clip)
                ready.append(asked)
            except ConfigError:
                raise
            except Exception as error:  # whatever odd media bring about, they cost this request and no other
                outcomes[asked.place] = self._failed(asked, error)
        if not ready:
            return outcomes
        try:
            return outcomes | self._generate(ready)
        except ConfigError:
            raise
        except Exception as error:
            if len(ready) > 1:
                for asked in ready:
                    outcomes |= self._ask([asked])
                return outcomes
            return outcomes | {ready[0].place: self._failed(ready[0], error)}

    def _see(self, clip: _Clip) -> Tensor:
        """Visual tokens of a clip, [T, D]; computed once."""
        if clip.visual is None:
            with matmul_precision(self.restored.matmul_precision):
                (clip.visual,) = self.answerer.see([clip.frames.result()])
        return clip.visual

    def _generate(self, batch: Sequence[_Asked]) -> dict[int, Outcome]:
        first, begun = batch[0].request, time.perf_counter()
        with matmul_precision(self.restored.matmul_precision):
            answers = self.answerer.ask(
                [asked.request.prompt for asked in batch],
                [self._see(asked.clip) for asked in batch],
                max_new_tokens=first.max_new_tokens,
                stop=first.until,
            )
        each = round((time.perf_counter() - begun) / len(batch), 4)
        outcomes = {}
        for asked, answer in zip(batch, answers, strict=True):
            row = {"response": answer.text, "visual_tokens": answer.visual_tokens, "seconds": {"generate": each}}
            row |= {"prompt_tokens": answer.prompt_tokens, "answer_tokens": answer.answer_tokens}
            row |= {"frame_count": len(asked.clip.frames.result())}
            self._keep(asked.request, row)
            outcomes[asked.place] = Outcome(answer.text, answer, None)
        return outcomes

    def _failed(self, asked: _Asked, error: Exception) -> Outcome:
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        self._keep(asked.request, {"response": None, "error": reason})
        return Outcome("", None, f"{asked.request.task} {asked.request.id}: {reason}")

    def _keep(self, request: Request, row: dict[str, Any]) -> None:
        self._store(request.task).append(request, self._frames_key(request), self.restored.key, row)

    def _store(self, task: str) -> "_TaskStore":
        if task not in self._stores:
            self._stores[task] = _TaskStore(self.folder / task.replace("/", "_"))
        return self._stores[task]

    def _frames_key(self, request: Request) -> str:
        if request.video is None:
            return f"{len(request.pictures)} pictures"
        key = self.config.frames_text()
        return key + (f", {request.window[0]:g} to {request.window[1]:g} s" if request.window else "")


class _TaskStore:
    """Answers to one task: read from the files of all processes, written into that of this one."""

    def __init__(self, folder: Path) -> None:
        own = f"full.{os.environ.get('RANK', '0')}.jsonl"
        self._own = PredictionStore(folder / own)
        self._others = [PredictionStore(path) for path in sorted(folder.glob("full.*.jsonl")) if path.name != own]

    def get(self, request: Request, frames: str, model: str) -> dict[str, Any] | None:
        """The row of an answer that is as good as a new one; what failed is tried again."""
        for store in (self._own, *self._others):
            row = store.get(request.id, prompt_sha=_sha(request), model=model, mode="full", frames=frames)
            if row is not None and not row["error"] and row.get("max_new_tokens") == request.max_new_tokens:
                return row
        return None

    def append(self, request: Request, frames: str, model: str, row: dict[str, Any]) -> None:
        """Write one row."""
        key = {"id": request.id, "prompt_sha": _sha(request), "model": model, "mode": "full", "frames": frames}
        self._own.append({**key, "max_new_tokens": request.max_new_tokens, **row})


def place_of(device: str | None) -> torch.device:
    """The device of this process: what is asked for, or its GPU where there is one; of several processes each its own."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device is None:
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(str(device))
    except RuntimeError as error:
        raise ConfigError(f"device must be like cpu, cuda or cuda:1, got '{device}'") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device '{device}' is not there: PyTorch finds no CUDA device")
    return torch.device("cuda", local) if place == torch.device("cuda") else place


def _sha(request: Request) -> str:
    """Hash over all text that the model is given and what ends its answer."""
    texts = [request.prompt.system, request.prompt.text, request.prompt.prefill, *request.until]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def _kind(asked: _Asked) -> tuple[int, tuple[str, ...]]:
    """What questions answered together have to share."""
    return asked.request.max_new_tokens, asked.request.until


def _pixels(picture: Any) -> np.ndarray:
    """A path or a picture of Pillow's as uint8 RGB [height, width, 3]."""
    if isinstance(picture, (str, Path)):
        return read_image(picture)
    return np.asarray(picture.convert("RGB"))


class _bar:  # noqa: N801 - used as a function
    """A bar on a terminal of the first process, nothing elsewhere."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._progress: Any = None

    def __enter__(self) -> "_bar":
        if self._total and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
            from rich.progress import Progress

            self._progress = Progress(transient=True)
            self._progress.start()
            self._task = self._progress.add_task("answering", total=self._total)
        return self

    def __call__(self, done: int) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=done)

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()
