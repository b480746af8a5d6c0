"""How fast a training goes, and what share of a device's arithmetic it uses."""

import time
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from tstar.data.batch import Batch
from tstar.errors import ConfigError
from tstar.language import VideoLMM
from tstar.language.packing import share_rows
from tstar.stages.base import Stage
from tstar.stages.freezing import count

PEAK_TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.4,
    "H200": 989.4,
    "H100 NVL": 835.5,
    "H100 PCIe": 756.5,
    "H100": 989.4,
    "A100": 312.0,
    "A40": 149.7,
    "A30": 165.0,
    "A10": 125.0,
    "L40S": 362.1,
    "L40": 181.1,
    "L4": 121.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "RTX A6000": 154.8,
    "V100": 125.0,
    "T4": 65.0,
}
"""Without sparsity, in bf16 (fp16 where there is no bf16), 10^12 FLOP/s, by what the device's name holds; the first fit counts."""


@dataclass
class Work:
    """What some training batches of one process were."""

    samples: int = 0
    frames: int = 0
    visual_tokens: int = 0
    positions: int = 0
    """Of the language model, without padding."""
    padded_positions: int = 0
    """Of the language model, as computed."""
    flops: float = 0.0

    def add(self, other: "Work") -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class Costs:
    """Floating-point operations of a step, as is customary: 2 a parameter and position forward, and in the backward pass 2 where a
    gradient passes and 2 where a parameter learns.

    Attention between positions and what is computed twice to save memory do not count; each patch token passes all parameters of
    the encoder and of the compressor once.
    """

    def __init__(self, lmm: VideoLMM) -> None:
        embedding = lmm.language.model.get_input_embeddings()
        head = lmm.language.model.get_output_embeddings()
        outside = {id(p) for p in (*embedding.parameters(), *head.parameters())}
        learns = any(p.requires_grad for p in lmm.compressor.parameters())
        self.encoder = _per_position(lmm.encoder.parameters(), False)
        self.compressor = _per_position(lmm.compressor.parameters(), learns)
        self.language = _per_position((p for p in lmm.language.parameters() if id(p) not in outside), True)
        self.head = _per_position(head.parameters(), True)
        self.patches = lmm.encoder.grid[0] * lmm.encoder.grid[1]

    def step(self, work: Work, supervised: int, encoded: bool) -> float:
        """Of a micro-batch, forward and backward.

        Args:
            work: the micro-batch.
            supervised: its supervised tokens: logits exist for these alone.
            encoded: the encoder ran; not where features were read.
        """
        patch = self.compressor + (self.encoder if encoded else 0)
        return work.frames * self.patches * patch + work.padded_positions * self.language + supervised * self.head


def _per_position(parameters: Iterable[nn.Parameter], passed: bool) -> int:
    parameters = list(parameters)
    return (4 if passed else 2) * count(parameters) + 2 * count(p for p in parameters if p.requires_grad)


def work_of(lmm: VideoLMM, batch: Batch) -> Work:
    """What a batch is, from its shapes alone: nothing waits for the device."""
    visual = [lmm.compressor.num_tokens(frames) if frames else 0 for frames in batch.frame_counts]
    lengths = lmm.row_lengths(batch.input_ids, visual)
    shared = [[n] for n in range(len(batch))] if lmm.pack_tokens is None else share_rows(lengths, lmm.pack_tokens)
    rows = [sum(lengths[number] for number in row) for row in shared]
    return Work(len(batch), sum(batch.frame_counts), sum(visual), sum(lengths), len(rows) * max(rows))


def peak_flops(device: torch.device, tflops: float | None = None) -> float | None:
    """Most operations a second of a device: as given, else that of a known GPU; None where neither is."""
    if tflops is not None:
        return tflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((value * 1e12 for part, value in PEAK_TFLOPS.items() if named(part, name)), None)


def named(part: str, name: str) -> bool:
    """Whether a device's name holds all words of a part: an A10G is no A10, an A100-SXM4-80GB is an A100."""
    return set(part.split()) <= set("".join(c if c.isalnum() else " " for c in name).split())


class Throughput(Callback):
    """Log, at the trainer's logging interval and over all processes, what is done a second.

    ``throughput/samples``, ``frames``, ``visual_tokens``, ``positions`` and ``padded_positions`` are numbers a second;
    ``throughput/waiting`` is the share of the time in which no batch was there, ``throughput/mfu`` that of the device's arithmetic
    which :class:`Costs` account for, where its peak is known. The first batch, validations and checkpoints are left out.

    Args:
        peak_tflops: most operations a second of one device, 10^12; None looks it up.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        self.peak_tflops = peak_tflops
        self._peak: float | None = None
        self._costs: Costs | None = None
        self._work = Work()
        self._since = self._waited = 0.0
        self._ended: float | None = None
        self._other = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Only a stage's batches can be counted."""
        if not isinstance(pl_module, Stage):
            raise ConfigError(f"Throughput needs a tstar stage, got {type(pl_module).__name__}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look the device up; the clock starts at the end of the first batch."""
        assert isinstance(pl_module, Stage)
        self._peak = peak_flops(trainer.strategy.root_device, self.peak_tflops)
        self._costs = Costs(pl_module.lmm)
        self._ended = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """A batch is there."""
        if self._ended is None:
            return
        gap = time.perf_counter() - self._ended
        if self._other:
            self._since += gap
        else:
            self._waited += gap
        self._other = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The time since the last batch was not for want of one."""
        self._other = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """As after a validation."""
        self._other = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the batch; at the end of an interval, log."""
        assert isinstance(pl_module, Stage)
        assert self._costs is not None
        now = time.perf_counter()
        if self._ended is None:
            self._begin(now)
            return
        self._ended = now
        work = work_of(pl_module.lmm, batch)
        work.flops = self._costs.step(work, pl_module.supervised, not batch.frames.is_floating_point())
        self._work.add(work)
        at_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if at_step and interval and trainer.global_step % interval == 0:
            self._log(pl_module, now - self._since)
            self._begin(now)

    def _begin(self, now: float) -> None:
        self._work, self._since, self._waited, self._ended = Work(), now, 0.0, now

    def _log(self, stage: Stage, seconds: float) -> None:
        *counts, flops = astuple(self._work)
        names = [name for name in vars(self._work) if name != "flops"]
        shares = {"waiting": self._waited / seconds}
        if self._peak is not None:
            shares["mfu"] = flops / seconds / self._peak
        rates = {name: count / seconds for name, count in zip(names, counts, strict=True)}
        for values, over_processes in ((rates, "sum"), (shares, "mean")):
            named_values = {f"throughput/{name}": float(value) for name, value in values.items()}
            stage.log_dict(named_values, on_step=True, on_epoch=False, sync_dist=True, reduce_fx=over_processes)
