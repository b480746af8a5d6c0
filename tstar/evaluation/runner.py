"""A model's answers to a suite: every video compressed once, all its questions asked of the same visual tokens.

An answer is stored the moment it exists, so that an interrupted evaluation goes on where it stopped. A video that cannot be
decoded gives failed items (response null), never a text that could be scored.
"""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tstar.data.conversations import get_template, tokenize_prompt
from tstar.data.decoding import DECODERS, read_video
from tstar.data.frame_sampling import FrameSampling
from tstar.data.frame_tensors import frames_to_tensor
from tstar.data.images import to_square
from tstar.errors import ConfigError, DataError, suggest
from tstar.evaluation import Benchmark, Item, Report, get_benchmark
from tstar.evaluation.base import check_rules
from tstar.evaluation.prediction_store import MODES, PredictionStore, prompt_sha, write_scored
from tstar.stages import Stage

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Which suites are run, and how the model looks at their videos."""

    benchmarks: dict[str, str] = field(default_factory=dict)
    """Folder of each suite by name; it holds annotations and videos as published."""
    fps: float = 10.0
    """Frames a second."""
    max_frames: int = 128
    """Most frames of one video; may exceed what training used."""
    decoder: str = "auto"
    """auto, decord or pyav."""
    max_new_tokens: int = 16
    """Longest answer."""
    batch_size: int = 16
    """Questions answered at once."""
    rules: Literal["official", "strict"] = "official"
    """Whose scoring: the benchmark's own, accidents included, or one strict rule for all."""
    baselines: bool = True
    """At the end, also ask with the frames in a random order, with the middle frame only, and without the video (blind)."""
    validation_items: int = 32
    """Questions of each suite during training; 0 leaves the suites to the end."""

    def __post_init__(self) -> None:
        FrameSampling(fps=self.fps, max_frames=self.max_frames)
        check_rules(self.rules)
        if not isinstance(self.benchmarks, dict):
            raise ConfigError(
                f"evaluation.benchmarks must give each suite its folder, or be {{}} for none; got {self.benchmarks}"
            )
        for name in self.benchmarks:
            get_benchmark(name)
        for name, least in (("max_new_tokens", 1), ("batch_size", 1), ("validation_items", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"evaluation.{name} must be at least {least}, got {getattr(self, name)}")
        if self.decoder not in (known := ("auto", *DECODERS)):
            raise ConfigError(f"unknown evaluation.decoder '{self.decoder}'{suggest(self.decoder, known)}")

    @property
    def modes(self) -> tuple[str, ...]:
        """What is measured at the end."""
        return MODES if self.baselines else ("full",)


@dataclass
class _Question:
    item: Item
    prompt: Tensor
    """[L] token ids."""
    visual: Tensor
    """[T, D]."""
    frames: int
    seconds: dict[str, float]


class SuiteRunner:
    """Asks one model the questions of suites.

    Args:
        stage: the model, on its device.
        config: sampling, batch and rules.
        predictions: folder of the stored answers, one file a suite and mode.
        model: what the stored answers are of: the checkpoint's hash.
        progress: called with (what, questions done, questions in all).
    """

    def __init__(
        self, stage: Stage, config: EvaluationConfig, predictions: Path, model: str, progress: Progress | None = None
    ) -> None:
        self.stage, self.config, self.predictions, self.model = stage, config, predictions, model
        self.progress = progress or (lambda what, done, total: None)
        self.template = get_template(stage.answer_template)
        self.sampling = FrameSampling(fps=config.fps, max_frames=config.max_frames)

    def run(self, name: str, mode: str, limit: int | None = None) -> Report:
        """Answer what is not answered yet of suite ``name`` in ``mode``, then score all of it."""
        benchmark, folder = get_benchmark(name), Path(self.config.benchmarks[name])
        if not folder.exists():
            raise DataError(
                f"no suite in {folder} (evaluation.benchmarks.{name}); `tstar miniature` makes the miniature's"
            )
        items = subset(benchmark.load(folder), limit)
        store = PredictionStore(self.predictions / name / f"{mode}.jsonl")
        todo = [item for item in items if not self._answered(store, item, mode)]
        done = len(items) - len(todo)
        was_training = self.stage.training
        self.stage.eval()
        try:
            with torch.no_grad():
                failed: list[Item] = []
                for group in batched(self._questions(todo, folder, mode, store, failed), self.config.batch_size):
                    self._answer(group, mode, store)
                    done += len(group)
                    if done + len(failed) < len(items):
                        self.progress(f"{name}, {mode}", done + len(failed), len(items))
                self.progress(f"{name}, {mode}", len(items), len(items))
        finally:
            self.stage.train(was_training)
        return self._score(benchmark, items, store, mode)

    def _score(self, benchmark: Benchmark, items: list[Item], store: PredictionStore, mode: str) -> Report:
        rows = [row for item in items if (row := self._stored(store, item, mode)) is not None]
        report = benchmark.score(items, {row["id"]: row["response"] for row in rows}, self.config.rules)
        write_scored(store.path, report, store.rows())
        return report

    def _answered(self, store: PredictionStore, item: Item, mode: str) -> bool:
        """Whether the stored answer is as good as a new one.

        A video that could not be decoded is tried again, it may be whole by now; so is a question that was allowed an
        answer of another length.
        """
        row = self._stored(store, item, mode)
        return row is not None and not row["error"] and row.get("max_new_tokens") == self.config.max_new_tokens

    def _stored(self, store: PredictionStore, item: Item, mode: str) -> dict | None:
        return store.get(
            item.id, prompt_sha=prompt_sha(item), model=self.model, mode=mode, frames=self._frames_key(mode)
        )

    def _frames_key(self, mode: str) -> str:
        sampled = f"{self.config.max_frames} at {self.config.fps:g} fps"
        sampled += f" by {self.config.decoder}" if self.config.decoder != "auto" else ""
        apart = {"blind": "none", "single_frame": f"middle of {sampled}", "shuffled": f"shuffled {sampled}"}
        return apart.get(mode, sampled)

    def _questions(
        self, items: list[Item], folder: Path, mode: str, store: PredictionStore, failed: list[Item]
    ) -> Iterator[_Question]:
        """Questions with their visual tokens, video by video; videos are decoded one ahead in a thread.

        Those of videos that cannot be decoded are stored as failed and added to ``failed``.
        """
        by_media = itertools.groupby(sorted(items, key=lambda i: i.media), key=lambda i: i.media)
        groups = [(media, list(own)) for media, own in by_media]
        device = self.stage.device
        with ThreadPoolExecutor(1) as pool:
            decoded = (pool.submit(self._frames, folder, media, mode) for media, _ in groups)
            ahead = list(itertools.islice(decoded, 2))
            for _, own in groups:
                clip = ahead.pop(0)
                try:
                    frames, seconds = clip.result()
                except DataError as error:
                    for item in own:
                        self._store(store, item, mode, None, error=str(error))
                    failed += own
                    continue
                finally:
                    ahead += itertools.islice(decoded, 1)
                begun = time.perf_counter()
                (visual,) = self.stage.lmm.visual_tokens(frames.to(device), [len(frames)])
                times = {"decode": seconds, "encode": round(time.perf_counter() - begun, 4)}
                for item in own:
                    yield _Question(item, self._prompt(item, len(frames) > 0), visual, len(frames), dict(times))

    def _frames(self, folder: Path, media: str, mode: str) -> tuple[Tensor, float]:
        """What the model sees of a video in ``mode``, uint8 [M, 3, side, side], and the seconds that decoding took."""
        size = self.stage.lmm.encoder.image_size
        if mode == "blind":
            return frames_to_tensor([], 0, size), 0.0
        begun = time.perf_counter()
        clip = read_video(folder / media, self.sampling, self.config.decoder)
        frames = clip.frames
        if mode == "single_frame":
            frames = frames[len(frames) // 2][None]
        elif mode == "shuffled":
            frames = frames[shuffled_order(media, clip.timestamps)]
        pixels = [to_square(frame, size, self.stage.resized) for frame in frames]
        return frames_to_tensor(pixels, len(pixels), size), round(time.perf_counter() - begun, 4)

    def _prompt(self, item: Item, has_visual: bool) -> Tensor:
        tokenizer = self.stage.lmm.language.tokenizer
        return tokenize_prompt(
            item.prompt, has_visual, self.template, tokenizer, system=item.system, prefill=item.prefill
        ).to(self.stage.device)

    def _answer(self, group: Sequence[_Question], mode: str, store: PredictionStore) -> None:
        begun = time.perf_counter()
        answers = self.stage.generate(
            [q.prompt for q in group], [q.visual for q in group], max_new_tokens=self.config.max_new_tokens
        )
        each = round((time.perf_counter() - begun) / len(group), 4)
        for question, answer in zip(group, answers, strict=True):
            self._store(
                store,
                question.item,
                mode,
                answer,
                visual_tokens=len(question.visual),
                frame_count=question.frames,
                max_new_tokens=self.config.max_new_tokens,
                seconds=question.seconds | {"generate": each},
            )

    def _store(self, store: PredictionStore, item: Item, mode: str, response: str | None, **more: object) -> None:
        store.append(
            {
                "id": item.id,
                "prompt_sha": prompt_sha(item),
                "model": self.model,
                "mode": mode,
                "frames": self._frames_key(mode),
                "response": response,
                **more,
            }
        )


def shuffled_order(media: str, positions: Sequence[float]) -> list[int]:
    """A random order of a video's frames, the same in every run, that shows them otherwise than time does.

    Args:
        media: path of the video below its suite's folder; its hash is the seed.
        positions: when each frame is shown, [M]. With fewer than three different ones any order may come, time's too.

    Returns:
        Indices of the frames, [M].
    """
    draw = np.random.default_rng(int.from_bytes(hashlib.sha256(media.encode()).digest()[:8], "big"))
    order = draw.permutation(len(positions))
    while len(set(positions)) >= 3 and [positions[k] for k in order] == list(positions):
        order = draw.permutation(len(positions))
    return [int(k) for k in order]


def subset(items: list[Item], limit: int | None) -> list[Item]:
    """About ``limit`` items, spread evenly over the suite and without tearing a video's questions apart."""
    if limit is None or limit >= len(items):
        return items
    clusters: dict[str, list[Item]] = {}
    for item in items:
        clusters.setdefault(item.cluster, []).append(item)
    wanted = max(1, round(len(clusters) * limit / len(items)))
    names = list(clusters)
    chosen = {names[i * len(names) // wanted] for i in range(wanted)}
    return [item for item in items if item.cluster in chosen]


def batched(questions: Iterator[_Question], size: int) -> Iterator[list[_Question]]:
    """Lists of at most ``size``."""
    while group := list(itertools.islice(questions, size)):
        yield group
