"""A model's answers to a suite: every video compressed once, all its questions asked of the same visual tokens.

The answers of a batch are stored and synced together the moment they exist, so that an interrupted evaluation goes on where it
stopped, with the batches that an uninterrupted one has. A video that cannot be decoded, or whose subtitles cannot be read, gives
failed items (response null), never a text that could be scored. Letters: M frames of a clip, S side of the encoder's square,
T visual tokens, D their width.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tstar.errors import DataError
from tstar.evaluation import Item, Report
from tstar.evaluation.answering import Answerer, Prompt
from tstar.evaluation.clips import Decoders, Look, Pixels
from tstar.evaluation.media import media_key
from tstar.evaluation.prediction_store import PredictionStore, modes_of, prompt_sha, row_key, with_verdicts
from tstar.evaluation.settings import EvaluationConfig
from tstar.evaluation.suites import Batches, Clip, Suite, open_suite, share
from tstar.stages import Stage

Progress = Callable[[str, int, int], None]
ENCODED_TOGETHER = 32
"""Frames: clips of fewer are encoded with others of their batch up to so many, longer ones alone as soon as they are decoded."""


@dataclass
class _Seen:
    """A clip on its way to answers."""

    clip: Clip
    unanswered: frozenset[str]
    """Ids of the questions that are still to be asked."""
    pixels: Pixels | None = None
    """None where nothing is left to ask, and once it is encoded."""
    visual: Tensor | None = None
    """[T, D], on the CPU."""
    frames: int = 0
    """M."""
    timestamps: tuple[float, ...] = ()
    prompts: dict[str, str] = field(default_factory=dict)
    """What is to be asked, by the ids of the questions."""
    seconds: dict[str, float] = field(default_factory=dict)
    failed: bool = False


class SuiteRunner:
    """Asks one model the questions of suites.

    Args:
        stage: the model, on its device.
        config: sampling, batch and rules.
        predictions: folder of the stored answers, one file a suite and mode.
        model: what the stored answers are of: the checkpoint's hash.
        progress: called with (what, questions done, questions in all).
        process: number of this process among those that ask together, each its share.
        processes: how many there are.
        decoders: decode the videos; by default ones of its own, which end with it.
        precision: the trainer's, see :class:`~tstar.evaluation.answering.Answerer`.
    """

    def __init__(
        self,
        stage: Stage,
        config: EvaluationConfig,
        predictions: Path,
        model: str,
        progress: Progress | None = None,
        *,
        process: int = 0,
        processes: int = 1,
        decoders: Decoders | None = None,
        precision: str = "32-true",
    ) -> None:
        self.stage, self.config, self.predictions, self.model = stage, config, predictions, model
        self.progress = progress or (lambda what, done, total: None)
        self.process, self.processes = process, processes
        self.answerer = Answerer(stage, precision)
        self.decoders = decoders or Decoders(config.decoding_workers(processes), config.time_limit)
        self._suites: dict[tuple[str, int | None], Suite] = {}

    def suite(self, name: str, limit: int | None = None) -> Suite:
        """Questions and media of a suite, looked up once; errors as :func:`tstar.evaluation.suites.open_suite`.

        Media that are missing are listed in ``missing/<suite>.txt`` beside the predictions.
        """
        if (name, limit) not in self._suites:
            listing = self.predictions.parent / "missing" / f"{name}.txt"
            self._suites[name, limit] = open_suite(name, self.config, limit, listing)
        return self._suites[name, limit]

    def modes(self, name: str, limit: int | None = None) -> list[str]:
        """Which of the modes that are to be measured say something about a suite."""
        return modes_of(self.suite(name, limit).benchmark, self.config.modes)

    def begun(self, name: str, mode: str, limit: int | None = None) -> bool:
        """Whether answers of this model to a suite are stored already, on the same frames."""
        asking = _Asking(self, self.suite(name, limit), mode)
        return any(asking.is_own(row) and not row["error"] for row in asking.store.rows())

    def run(self, name: str, mode: str, limit: int | None = None) -> Report:
        """Answer what is not answered yet of suite ``name`` in ``mode``, then score all of it."""
        self.ask(name, mode, limit)
        return self.report(name, mode, limit)

    def ask(self, name: str, mode: str, limit: int | None = None) -> None:
        """Answer what is not answered yet of this process's share."""
        asking = _Asking(self, self.suite(name, limit), mode)
        was_training = self.stage.training
        self.stage.eval()
        try:
            with torch.no_grad():
                asking.run(f"{name}, {mode}")
        finally:
            self.stage.train(was_training)

    def report(self, name: str, mode: str, limit: int | None = None) -> Report:
        """Score the stored answers of all processes, and write them anew as one file, in the order of the questions.

        Raises:
            DataError: answers that other processes gave are not there.
        """
        suite = self.suite(name, limit)
        asking = _Asking(self, suite, mode)
        store = asking.store
        rows = {item.id: row for item in suite.asked if (row := asking.stored(item)) is not None}
        lacking = [item.id for item in suite.asked if item.id not in rows]
        if lacking:
            raise DataError(
                f"{len(lacking)} answers to {name} are not in {store.path.parent} (the first to {lacking[0]}); processes that "
                "evaluate together have to share the run's folder"
            )
        report = suite.benchmark.score(
            suite.items, {item_id: row["response"] for item_id, row in rows.items()}, self.config.rules
        )
        failed = {item_id: row["error"] for item_id, row in rows.items() if row["error"]}
        absent = {item.id: f"{item.media} is not in {suite.place.media}" for item in suite.missing}
        report = replace(report, reasons=failed | absent)
        own = {row_key(row) for row in rows.values()}
        others = [row for row in store.rows() if row_key(row) not in own and not (row["error"] and asking.is_own(row))]
        store.rewrite([*others, *with_verdicts(report, rows.values())])
        if self.processes > 1:
            self.progress(f"{name}, {mode}", len(suite.asked), len(suite.asked))
        return report

    def close(self) -> None:
        """End the processes that decode."""
        self.decoders.close()

    def __enter__(self) -> "SuiteRunner":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Asking:
    """One suite in one mode."""

    def __init__(self, runner: SuiteRunner, suite: Suite, mode: str) -> None:
        self.runner, self.suite, self.mode = runner, suite, mode
        self.stage, self.config = runner.stage, runner.config
        self.tokens = self.config.answer_tokens(suite.benchmark)
        encoder = self.stage.lmm.encoder
        self.look = Look(self.config.sampling, self.config.decoder, encoder.image_size, self.stage.resized, mode)
        path = runner.predictions / suite.benchmark.name / f"{mode}.jsonl"
        self.store = PredictionStore(path, runner.process if runner.processes > 1 else None)

    def run(self, what: str) -> None:
        """Ask; ``what`` is it that progress is told of."""
        items, runner = self.suite.asked, self.runner
        found = ((item.id, self.stored(item)) for item in items)
        answered = {item_id: row for item_id, row in found if row is not None and self._is_answered(row)}
        done, batches = len(answered), Batches[_Seen](self.config.batch_size)
        clips = [
            _Seen(clip, frozenset(item.id for item in clip.items) - answered.keys())
            for clip in share(items, runner.process, runner.processes)
        ]

        def told(count: int) -> None:
            nonlocal done
            done += count
            if count and done < len(items):
                runner.progress(what, done, len(items))

        for seen in self._decoded(clips):
            if seen.failed:
                told(len(seen.unanswered))
                continue
            frames = seen.frames if seen.unanswered else answered[seen.clip.items[0].id].get("frame_count") or 0
            for batch in batches.add(seen, len(seen.clip.items), frames):
                told(self._answer(batch))
        for batch in batches.rest():
            told(self._answer(batch))
        if runner.processes == 1:
            runner.progress(what, len(items), len(items))

    def stored(self, item: Item) -> dict[str, Any] | None:
        """The row of an item under these conditions, whatever it says."""
        alike = [row for row in self.store.of_item(item.id) if self.is_own(row)]
        found = [row for row in alike if row["prompt_sha"] == self._sha(item, row.get("timestamps") or ())]
        return next((row for row in found if not row["error"]), found[-1] if found else None)

    def is_own(self, row: dict[str, Any]) -> bool:
        """Whether a row is of this model, mode and number of frames."""
        return (row["model"], row["mode"], row["frames"]) == (
            self.runner.model,
            self.mode,
            self.config.frames_text(self.mode),
        )

    def _is_answered(self, row: dict[str, Any]) -> bool:
        """Whether a stored answer is as good as a new one.

        A video that could not be decoded is tried again, it may be whole by now; so is a question that was allowed an
        answer of another length.
        """
        return not row["error"] and row.get("max_new_tokens") == self.tokens

    def _prompt(self, item: Item, timestamps: Sequence[float]) -> str:
        return self.suite.benchmark.prompt_for(item, self.suite.place.media, timestamps)

    def _sha(self, item: Item, timestamps: Sequence[float]) -> str | None:
        """Hash of what is asked, None where that cannot be made any more."""
        try:
            return prompt_sha(item, self._prompt(item, timestamps))
        except DataError:
            return None

    def _decoded(self, clips: Sequence[_Seen]) -> Iterator[_Seen]:
        """The clips in their order, with pixels and prompts where a question is left; what cannot be had is stored as failed."""
        media = self.suite.media
        wanted = (seen.clip.wanted(media[media_key(seen.clip.items[0])]) for seen in clips if seen.unanswered)
        nothing = Pixels(np.empty((0, self.look.side, self.look.side, 3), dtype=np.uint8), (), 0.0)
        decoded: Iterator[Pixels | DataError]
        decoded = itertools.repeat(nothing) if self.mode == "blind" else self.runner.decoders.clips(wanted, self.look)
        for seen in clips:
            if seen.unanswered:
                found = next(decoded)
                try:
                    if isinstance(found, DataError):
                        raise found
                    self._take_in(seen, found)
                except DataError as error:
                    seen.failed = True
                    self._store_failed(seen, str(error))
            yield seen

    def _take_in(self, seen: _Seen, pixels: Pixels) -> None:
        left = [item for item in seen.clip.items if item.id in seen.unanswered]
        seen.prompts = {item.id: self._prompt(item, pixels.timestamps) for item in left}
        seen.pixels, seen.frames, seen.timestamps = pixels, len(pixels.frames), pixels.timestamps
        seen.seconds = {"decode": pixels.seconds}
        if seen.frames > ENCODED_TOGETHER // 2:  # no other fits beside it, and its visual tokens take less memory
            self._encode([seen])

    def _encode(self, clips: Sequence[_Seen]) -> None:
        """Compress clips of equal numbers of frames, together."""
        begun = time.perf_counter()
        visual = self.runner.answerer.see([seen.pixels.frames for seen in clips if seen.pixels is not None])
        kept = [tokens.cpu() for tokens in visual]
        each = round((time.perf_counter() - begun) / len(clips), 4)
        for seen, tokens in zip(clips, kept, strict=True):
            seen.visual, seen.pixels = tokens, None
            seen.seconds = seen.seconds | {"encode": each}

    def _answer(self, batch: Sequence[_Seen]) -> int:
        """Ask what is left of a batch of clips, and store it; the number of questions."""
        waiting = [seen for seen in batch if seen.pixels is not None]
        for together in _parts(waiting, max(1, ENCODED_TOGETHER // max(1, waiting[0].frames)) if waiting else 1):
            self._encode(together)
        asked = 0
        for questions in _parts([(seen, item) for seen in batch for item in seen.clip.items], self.config.batch_size):
            left = [(seen, item) for seen, item in questions if item.id in seen.unanswered]
            if left:
                self._generate(left)
            asked += len(left)
        for seen in batch:
            seen.visual, seen.prompts = None, {}
        return asked

    def _generate(self, questions: Sequence[tuple[_Seen, Item]]) -> None:
        begun = time.perf_counter()
        prompts = [seen.prompts[item.id] for seen, item in questions]
        visual = [seen.visual for seen, _ in questions if seen.visual is not None]
        asked = [Prompt(p, item.system, item.prefill) for (_, item), p in zip(questions, prompts, strict=True)]
        answers = self.runner.answerer.ask(asked, visual, max_new_tokens=self.tokens)
        each = round((time.perf_counter() - begun) / len(questions), 4)
        rows = []
        for (seen, item), prompt, answer in zip(questions, prompts, answers, strict=True):
            row = {
                "response": answer.text,
                "visual_tokens": answer.visual_tokens,
                "prompt_tokens": answer.prompt_tokens,
                "answer_tokens": answer.answer_tokens,
                "frame_count": seen.frames,
                "max_new_tokens": self.tokens,
                "seconds": seen.seconds | {"generate": each},
            }
            # a prompt that depends on the frames is found again by them
            row |= {"timestamps": list(seen.timestamps)} if prompt != self._prompt(item, ()) else {}
            rows.append(self._row(item, prompt) | row)
        self.store.extend(rows)

    def _store_failed(self, seen: _Seen, error: str) -> None:
        left = [item for item in seen.clip.items if item.id in seen.unanswered]
        rows = [self._row(item, self._prompt(item, ())) | {"response": None, "error": error} for item in left]
        self.store.extend(rows)

    def _row(self, item: Item, prompt: str) -> dict[str, Any]:
        return {
            "id": item.id,
            "prompt_sha": prompt_sha(item, prompt),
            "model": self.runner.model,
            "mode": self.mode,
            "frames": self.config.frames_text(self.mode),
        }


def _parts(sequence: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(sequence), size):
        yield sequence[start : start + size]
