"""Stored samples made ready for a model, by number; damaged ones are replaced and reported."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tstar.data.batch import Processor, Sample, Skipped, skipped_from
from tstar.data.frame_tensors import FrameRoom
from tstar.data.shard_set import ShardPart, ShardSet
from tstar.errors import DataError

REPLACEMENT_TRIES = 100
DAMAGE = (DataError, OSError, ValueError, LookupError, TypeError, ArithmeticError)
"""What damaged bytes raise."""

Process = Callable[..., Sample]
"""What makes a stored sample ready for a model, as :class:`tstar.data.batch.Processor`."""


class FeatureCache(Protocol):
    """Keeps a frozen encoder's features, as ``tstar.vision.feature_cache.FeatureCache``."""

    def fill(
        self,
        shards: list[ShardPart],
        clips: Callable[[range], Iterator[Tensor | int | str]],
        device: torch.device | None = None,
    ) -> None:
        """Encode what is not there."""

    def open(self, shards: list[ShardPart]) -> Callable[[int], Tensor]:
        """[M, N, d_vision] by number of the sample."""


def evenly(count: int, most: int | None) -> list[int]:
    """Which of ``count`` frames stay where ``most`` may: those nearest to j * count / most, as if no more had been sampled."""
    return list(range(count)) if most is None or count <= most else [round(j * count / most) for j in range(most)]


class SampleSource(Dataset):
    """Samples by number. A damaged one is replaced by the next that can be read, and what was passed over is reported."""

    def __init__(self, shards: ShardSet, processor: Process, max_frames: int | None = None) -> None:
        self.shards, self.processor, self.max_frames = shards, processor, max_frames
        self.features: Callable[[int], Tensor] | None = None
        """Encoded frames by a sample's number in its shards, in place of the stored ones."""

    def __len__(self) -> int:
        return len(self.shards.numbers)

    def __getitems__(self, numbers: Sequence[int]) -> list[tuple[Sample, list[Skipped]]]:
        """Those of a batch, their frames in one memory; how a ``DataLoader`` asks."""
        counts = [self.shards.frame_count(int(self.shards.numbers[n])) for n in numbers]
        room = FrameRoom(sum(min(count, self.max_frames or count) for count in counts))
        return [self._or_next(number, room) for number in numbers]

    def __getitem__(self, number: int) -> tuple[Sample, list[Skipped]]:
        return self._or_next(number, None)

    def _or_next(self, number: int, room: FrameRoom | None) -> tuple[Sample, list[Skipped]]:
        skips: list[Skipped] = []
        last: Exception | None = None
        for step in range(min(REPLACEMENT_TRIES, len(self))):
            candidate = int(self.shards.numbers[(number + step) % len(self)])
            try:
                return self._sample(candidate, room), skips
            except DAMAGE as error:
                skips.append(skipped_from(*self.shards.locate(candidate), error))
                last = error
        raise DataError(
            f"{len(skips)} samples in a row cannot be used, beginning with {skips[0].key} in {skips[0].shard} "
            f"({skips[0].reason}); run the same `tstar shard` again"
        ) from last

    def column(self, name: str) -> np.ndarray:
        """One column of the sample index, by number of the sample."""
        return self.shards.column(name)[self.shards.numbers]

    def frame_counts(self) -> np.ndarray:
        """Frames that are used of each sample."""
        counts = self.column("frames")
        return counts if self.max_frames is None else np.minimum(counts, self.max_frames)

    def _sample(self, number: int, room: FrameRoom | None) -> Sample:
        if self.features is None:
            raw = self.shards.read(number)
            if raw.features is None:
                frames = [raw.frames[place] for place in evenly(len(raw.frames), self.max_frames)]
                return self.processor(replace(raw, frames=tuple(frames)), room=room)
            features = torch.from_numpy(raw.features)
        else:
            raw, features = self.shards.read(number, with_frames=False), self.features(number)
        return self.processor(raw, features[evenly(len(features), self.max_frames)])

    def clips(self, numbers: range) -> Iterator[Tensor | int | str]:
        """What there is to encode of each sample.

        Yields:
            Its frames, uint8 [M, 3, S, S]; or the number of an earlier one of ``numbers`` with the same stored frames, byte
            for byte; or, of a damaged one, the reason.
        """
        assert isinstance(self.processor, Processor)
        seen: dict[bytes, int] = {}
        for number in numbers:
            clip: Tensor | int | str
            try:
                raw = self.shards.read(number)
                stored = hashlib.blake2b(b"".join(len(f).to_bytes(8, "little") + f for f in raw.frames)).digest()
                clip = seen[stored] if stored in seen else self.processor.frames(raw)
                seen.setdefault(stored, number)
            except DAMAGE as error:
                clip = skipped_from(*self.shards.locate(number), error).reason
            yield clip
