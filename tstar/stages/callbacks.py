"""What watches a stage: stopping on a signal without losing work, damaged samples, and a line of progress."""

import contextlib
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import distributed

from tstar.data.batch import Batch
from tstar.errors import DataError
from tstar.stages.checkpoint_io import append_line


class _AtOptimizerSteps(ModelCheckpoint):
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Never with gradients half accumulated, which a checkpoint does not hold."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


def resume_checkpoints(folder: Path, every_n_steps: int) -> ModelCheckpoint:
    """Checkpoints to go on from: the two newest, unrelated to any metric, at optimizer steps only."""
    return _AtOptimizerSteps(
        dirpath=folder,
        filename="{step}",
        monitor="step",
        mode="max",
        save_top_k=2,
        every_n_train_steps=every_n_steps,
        save_on_train_epoch_end=False,
    )


class GracefulStop(Callback):
    """On SIGTERM or SIGINT finish the optimizer step, save a checkpoint and stop; a second SIGINT stops at once.

    Of several processes it is enough that one gets the signal: they all stop after the same step and save together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.received: signal.Signals | None = None
        self.saved: Path | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._group: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over both signals."""
        if trainer.world_size > 1:  # on the CPU, so that asking does not wait for a GPU
            self._group = distributed.new_group(backend="gloo")
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, once no gradients are half accumulated."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches or self.saved is not None:
            return
        self._agree(trainer)
        if self.received is not None:
            self._save(trainer)
            trainer.should_stop = True
            trainer.fit_loop.epoch_loop.min_steps = trainer.fit_loop.min_epochs = None  # stop now, whatever was asked

    def _agree(self, trainer: Trainer) -> None:
        """What one process has received, all have."""
        if trainer.world_size == 1:
            return
        told = torch.tensor(0 if self.received is None else int(self.received))
        distributed.all_reduce(told, op=distributed.ReduceOp.MAX, group=self._group)
        self.received = signal.Signals(int(told)) if told else None

    def _save(self, trainer: Trainer) -> None:
        self.saved = self.folder / f"step={trainer.global_step}.ckpt"
        trainer.save_checkpoint(self.saved)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what a signal after the last step, as during the last validation, finds; give the signals back.

        Not in ``teardown``, which comes after Lightning has put back what it found: its own handlers would stay for good.
        """
        if self.saved is None:
            self._agree(trainer)
            if self.received is not None:
                self._save(trainer)
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


class ResumeNotes(Callback):
    """Tell, before the first step of a resumed run, what differs from the checkpoint.

    Args:
        tell: called with each note.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the stage noted when its checkpoint was read."""
        for note in getattr(pl_module, "notes", ()):
            self.tell(note)


class SkippedSamples(Callback):
    """Write down every damaged sample, and stop training when there are too many.

    Args:
        path: JSON Lines file, one line a sample passed over.
        max_fraction: stop when more than this share of the samples read was damaged, after ``grace`` of them.
    """

    def __init__(self, path: Path, max_fraction: float, grace: int = 100) -> None:
        self.path, self.max_fraction, self.grace = path, max_fraction, grace
        self.read = 0
        self.skipped = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count and write down."""
        self.read += len(batch) + len(batch.skipped)
        self.skipped += len(batch.skipped)
        self._write(batch, trainer)
        if self.read >= self.grace and self.skipped > self.max_fraction * self.read:
            raise DataError(
                f"{self.skipped} of {self.read} samples were damaged, more than max_bad_fraction {self.max_fraction}; "
                f"they are listed in {self.path}"
            )

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *place: int
    ) -> None:
        """Write down."""
        self._write(batch, trainer)

    def _write(self, batch: Batch, trainer: Trainer) -> None:
        for skip in batch.skipped:
            append_line(self.path, json.dumps({"step": trainer.global_step, **asdict(skip)}))


def skipped_summary(path: Path, most: int = 5) -> list[str]:
    """What :class:`SkippedSamples` wrote, in lines for people; empty if nothing was damaged."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):  # the line a killed run was writing
            rows.append(json.loads(line))
    unique = {(row["shard"], row["key"]): row for row in rows}
    reasons = Counter(row["reason"] for row in unique.values())
    lines = [f"{len(unique)} damaged samples were skipped ({path}):"]
    lines += [f"  {row['key']} in {row['shard']}: {row['reason']}" for row in list(unique.values())[:most]]
    if len(unique) > most:
        common = ", ".join(f"{n} x {reason}" for reason, n in reasons.most_common(3))
        lines.append(f"  and {len(unique) - most} more ({common})")
    return lines


class ProgressLines(Callback):
    """Progress without a terminal: one line every so many steps."""

    def __init__(self, name: str, every_n_steps: int) -> None:
        self.name, self.every = name, max(1, every_n_steps)
        self._begun = 0.0
        self._first = self._last = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begun, self._first = time.monotonic(), trainer.global_step
        self._last = self._first

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Print at every n-th optimizer step and at the last."""
        step, total = trainer.global_step, int(trainer.estimated_stepping_batches)
        new, self._last = step != self._last, step  # a step may take several batches
        if new and (step % self.every == 0 or step == total) and trainer.is_global_zero:
            rate = (step - self._first) / max(time.monotonic() - self._begun, 1e-9)
            loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
            left = (total - step) / rate
            print(
                f"{self.name:<16} step {step}/{total}  loss {loss:.3f}  {rate:.2f} steps/s  {left:.0f} s left",
                flush=True,
            )


def progress(name: str, every_n_steps: int) -> Callback:
    """A bar on a terminal, lines elsewhere."""
    return TQDMProgressBar(refresh_rate=1) if sys.stderr.isatty() else ProgressLines(name, every_n_steps)
