"""What a stage is fed: frames end to end with their counts, token ids and labels sample by sample."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tstar.data.conversations import Template, tokenize_conversation
from tstar.data.frame_tensors import FrameRoom, encoder_input, end_to_end
from tstar.data.shard_index import RawSample
from tstar.errors import DataError


@dataclass
class Sample:
    """One sample ready for a batch."""

    id: str
    frames: Tensor
    """uint8, [M, 3, S, S]; or the encoder's features of them, float, [M, N, d_vision]. M = 0 for text."""
    input_ids: Tensor
    """[L], with one ``VISUAL`` id unless it is text."""
    labels: Tensor
    """[L], ``IGNORE`` where no loss falls."""


@dataclass
class Skipped:
    """A sample that could not be used and was replaced."""

    shard: str
    key: str
    reason: str


@dataclass
class Batch:
    """Several samples; nothing is padded, so nothing depends on batch mates."""

    ids: list[str]
    frames: Tensor
    """uint8, [sum(M), 3, S, S], clips end to end; or their features, float, [sum(M), N, d_vision]."""
    frame_counts: list[int]
    """M of each clip."""
    input_ids: list[Tensor]
    labels: list[Tensor]
    skipped: list[Skipped] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on ``device``."""
        self.frames = self.frames.to(device, non_blocking=True)
        self.input_ids = [t.to(device, non_blocking=True) for t in self.input_ids]
        self.labels = [t.to(device, non_blocking=True) for t in self.labels]
        return self

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory."""
        self.frames = self.frames.pin_memory()
        return self


@dataclass(frozen=True)
class Processor:
    """Stored samples to tensors; made by the stage, which knows its encoder, tokenizer and template."""

    tokenizer: PreTrainedTokenizerBase
    template: Template
    image_size: int
    """Side of the square the encoder wants, pixels."""
    resize_mode: str = "square"

    def __call__(self, raw: RawSample, features: Tensor | None = None, room: FrameRoom | None = None) -> Sample:
        """Decode and tokenize.

        Args:
            raw: the sample.
            features: of its frames, [M, N, d_vision]; they take their place.
            room: memory for frames.
        """
        name = raw.meta["id"]
        frames = self.frames(raw, room) if features is None else features
        ids, labels = tokenize_conversation(raw.meta["conversations"], len(frames) > 0, self.template, self.tokenizer)
        return Sample(name, frames, ids, labels)

    def frames(self, raw: RawSample, room: FrameRoom | None = None) -> Tensor:
        """The pictures of a sample as the encoder wants them: uint8, [M, 3, S, S]."""
        return encoder_input(raw, self.image_size, self.resize_mode, room)


def collate(samples: list[tuple[Sample, list[Skipped]]]) -> Batch:
    """Samples with what was skipped on the way to them, to one batch."""
    if not samples:
        raise DataError("an empty batch")
    only = [sample for sample, _ in samples]
    return Batch(
        ids=[s.id for s in only],
        frames=end_to_end([s.frames for s in only]),
        frame_counts=[len(s.frames) for s in only],
        input_ids=[s.input_ids for s in only],
        labels=[s.labels for s in only],
        skipped=[skip for _, skips in samples for skip in skips],
    )


def skipped_from(shard: Path, key: str, error: Exception) -> Skipped:
    """What a damaged sample leaves in the log."""
    reason = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
    return Skipped(str(shard), key, reason)
