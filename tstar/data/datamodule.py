"""Shards to batches, exactly resumable: what was trained is a position in a planned order, not the state of a stream."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tstar.data.batch import Batch, Processor, Sample, Skipped, collate, skipped_from
from tstar.data.plan import Layout, epoch_order, rank_batches
from tstar.data.shard_index import ShardPart, ShardSet
from tstar.errors import ConfigError, DataError

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


class SampleSource(Dataset):
    """Samples by number. A damaged one is replaced by the next that can be read, and what was passed over is reported."""

    def __init__(self, shards: ShardSet, processor: Process) -> None:
        self.shards, self.processor = shards, processor
        self.features: Callable[[int], Tensor] | None = None
        """Encoded frames by a sample's number in its shards, in place of the stored ones."""

    def __len__(self) -> int:
        return len(self.shards.numbers)

    def __getitem__(self, number: int) -> tuple[Sample, list[Skipped]]:
        skips: list[Skipped] = []
        last: Exception | None = None
        for step in range(min(REPLACEMENT_TRIES, len(self))):
            candidate = int(self.shards.numbers[(number + step) % len(self)])
            try:
                return self._sample(candidate), skips
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

    def _sample(self, number: int) -> Sample:
        if self.features is None:
            return self.processor(self.shards.read(number))
        features = self.features(number)
        return self.processor(self.shards.read(number, with_frames=False), features)

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


@dataclass
class LoaderSettings:
    """What every loader of a run shares."""

    num_workers: int
    pin_memory: bool


class PlannedLoader:
    """Given lists of sample numbers as batches, in their order.

    Not a ``DataLoader``: Lightning would put a distributed sampler into one, and a process has its own lists here already.
    """

    def __init__(self, source: SampleSource, batches: list[list[int]], settings: LoaderSettings) -> None:
        self.source, self.batches, self.settings = source, batches, settings

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(
            DataLoader(
                self.source,
                batch_sampler=self.batches,
                num_workers=self.settings.num_workers,
                pin_memory=self.settings.pin_memory,
                collate_fn=collate,
            )
        )


class ResumableLoader:
    """The training batches of one process; knows its length and starts where training stands.

    That place is a pure function of the optimizer steps done. Batches handed out are never counted: a loader fetches ahead.
    Nor is Lightning's epoch asked: on a resume from the end of an epoch it still names the old one when batches are asked for.
    """

    def __init__(
        self,
        source: SampleSource,
        layout: Layout,
        rank: int,
        seed: int,
        settings: LoaderSettings,
        groups: np.ndarray | None,
        lengths: np.ndarray | None,
        frames: np.ndarray | None,
        trainer: Any,
    ) -> None:
        self.source, self.layout, self.rank, self.seed = source, layout, rank, seed
        self.settings, self.groups, self.lengths, self.frames, self.trainer = settings, groups, lengths, frames, trainer
        self._order(0)  # refuses a global batch larger than the data

    def _order(self, epoch: int) -> np.ndarray:
        total = self.layout.global_batch
        return epoch_order(len(self.source), total, self.seed, epoch, self.groups, self.lengths, self.frames)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch, ``trainer.limit_train_batches`` considered."""
        limit = self.trainer.limit_train_batches
        batches = min(len(self), limit) if isinstance(limit, int) else int(len(self) * limit)
        return max(1, -(-batches // self.layout.accumulate))

    def __len__(self) -> int:
        return len(self.source) // self.layout.global_batch * self.layout.accumulate

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the epoch; where it begins is looked up when the first batch is asked for, not before."""
        self._check_unloaded()
        epoch, step = divmod(self.trainer.global_step, self.steps_per_epoch)
        batches = rank_batches(self._order(epoch), self.layout, self.rank, step * self.layout.global_batch)
        yield from PlannedLoader(self.source, list(batches), self.settings)

    def _check_unloaded(self) -> None:
        """Take up a state that Lightning kept to itself.

        Loaders that are set up before a checkpoint is restored are never given theirs; ``estimated_stepping_batches`` in
        ``configure_optimizers`` does that.
        """
        loop = getattr(self.trainer, "fit_loop", None)
        states = getattr(loop, "_combined_loader_states_to_load", None)
        if not loop or not states:
            return
        loop._combined_loader_states_to_load = []
        if self.load_state_dict(states[0]):
            raise ConfigError(
                "cannot go on: the checkpoint is from inside an accumulation window or another accumulation, and the stage "
                "had the loaders set up before it was restored; do not use estimated_stepping_batches in configure_optimizers"
            )

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, free of ranks and workers, at the last optimizer step."""
        epoch, step = divmod(self.trainer.global_step, self.steps_per_epoch)
        return {
            "epoch": epoch,
            "position": step * self.layout.global_batch,
            "seed": self.seed,
            "samples": len(self.source),
            "index": self.source.shards.digest,
            "grouped_by": " and ".join(
                n for n, of in (("modality", self.groups), ("length and frames", self.lengths)) if of is not None
            ),
            "global_batch": self.layout.global_batch,
            "steps_per_epoch": self.steps_per_epoch,
            "accumulate": self.layout.accumulate,
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Go on from ``state``; :class:`ConfigError` where the order would not be the same.

        Returns:
            Whether Lightning's count of batches had to be corrected, which helps only before an epoch begins.
        """
        mine = self.state_dict()
        names = {
            "index": "the shards (data.shards) are others than",
            "samples": "the number of samples (data.limit) is not that of",
            "seed": "data.seed is not that of",
            "grouped_by": "data.group_by_modality and data.group_by_length are not those of",
        }
        for key, name in names.items():
            then = state.get(key, "")  # the first checkpoints do not name a grouping
            if then != mine[key]:
                raise ConfigError(
                    f"cannot go on: {name} the checkpoint (now {mine[key]!s:.40}, then {then!s:.40}); "
                    f"restore it or start a new run{' (versions differ in how they group)' * (key == 'grouped_by')}"
                )
        if state["global_batch"] != mine["global_batch"]:
            raise ConfigError(
                f"cannot go on: the global batch is {mine['global_batch']} and was {state['global_batch']}; keep "
                "data.batch_size x devices x trainer.accumulate_grad_batches the same"
            )
        if state["steps_per_epoch"] != mine["steps_per_epoch"]:
            raise ConfigError(
                f"cannot go on: an epoch has {mine['steps_per_epoch']} steps and had {state['steps_per_epoch']}; keep "
                "trainer.limit_train_batches as it was"
            )
        return self._rewind(state["accumulate"])

    def _rewind(self, accumulate: int) -> bool:
        """Make Lightning's count of batches agree with ours.

        It counts micro-batches, which another accumulation counts differently. A checkpoint from inside a window has the
        weights of the last optimizer step and no gradients, so that the window is gone through again from its start.
        """
        loop = self.trainer.fit_loop.epoch_loop
        progress = loop.batch_progress
        steps, inside = divmod(progress.current.ready, accumulate)
        if inside and progress.is_last_batch:  # an epoch cut by limit_train_batches ends with a step in any case
            return False
        shift = steps * self.layout.accumulate - progress.current.ready
        for count in (progress.current, progress.total):
            for name in ("ready", "started", "processed", "completed"):
                setattr(count, name, getattr(count, name) + shift)
        if inside:
            loop._batches_that_stepped -= 1  # a restart adds one for a step that it takes to be new
        return shift != 0


class ClipDataModule(LightningDataModule):
    """Training and validation batches out of shard folders.

    Args:
        processor: stored samples to tensors; comes from the stage, not from a file.
        shards: folders of training shards; their samples are mixed evenly.
        val_shards: folders whose samples give the validation loss.
        batch_size: samples of one micro-batch on one device.
        group_by_modality: keep pictures and videos in batches of their own.
        group_by_length: batch conversations of like numbers of words, and among them clips of like numbers of frames, so that
            less is computed on padding and more clips run at once.
        limit: use only so many samples, the first ones of each folder, as many of each as its size asks for; for trials.
        num_workers: loader processes; 0 reads in the training process. Does not change the order.
        seed: of the order.
        damaged_shards: "error" refuses to start with a truncated or missing shard, "skip" leaves it out.
        features: folder that keeps what the frozen encoder makes of the frames, encoded before the first step; none encodes
            them anew at every step. Takes frames x patches x d_vision x 2 bytes (float16) of disk.
        features_dtype: number format of what is kept, "float16" or "float32".
    """

    def __init__(
        self,
        processor: Process,
        shards: list[str],
        val_shards: list[str] | None = None,
        batch_size: int = 8,
        group_by_modality: bool = False,
        group_by_length: bool = False,
        limit: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        damaged_shards: Literal["error", "skip"] = "error",
        features: str | None = None,
        features_dtype: Literal["float16", "float32"] = "float16",
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"data.batch_size must be at least 1, got {batch_size}")
        if limit is not None and limit < 1:
            raise ConfigError(f"data.limit must be at least 1, got {limit}")
        if num_workers < 0 or seed < 0:
            name, value = ("num_workers", num_workers) if num_workers < 0 else ("seed", seed)
            raise ConfigError(f"data.{name} must be 0 or more, got {value}")
        skip = damaged_shards == "skip"
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.group_by_modality, self.group_by_length = group_by_modality, group_by_length
        self.train_source = SampleSource(ShardSet(shards, skip_damaged=skip, limit=limit), processor)
        val_set = ShardSet(val_shards, skip_damaged=skip) if val_shards else None
        self.val_source = SampleSource(val_set, processor) if val_set else None
        self.damaged = self.train_source.shards.damaged + (val_set.damaged if val_set else [])
        self.features, self.features_dtype = features, features_dtype
        self.cache: FeatureCache | None = None
        """Given by who trains; without it frames are decoded, whatever ``features`` says."""
        self.prepare_data_per_node = False

    def _sources(self) -> list[SampleSource]:
        return [source for source in (self.train_source, self.val_source) if source is not None]

    def prepare_data(self) -> None:
        """Encode what the cache lacks; in the first process, while the others wait."""
        if self.cache is not None:
            device = self.trainer.strategy.root_device if self.trainer is not None else None
            for source in self._sources():
                self.cache.fill(source.shards.parts(), source.clips, device)

    def setup(self, stage: str) -> None:
        """From here on samples come with features, where there is a cache."""
        if self.cache is not None:
            for source in self._sources():
                source.features = self.cache.open(source.shards.parts())

    def _settings(self) -> LoaderSettings:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return LoaderSettings(self.num_workers, on_gpu)

    def train_dataloader(self) -> ResumableLoader:
        """Batches of this process, in the planned order."""
        trainer = self.trainer
        assert trainer is not None
        layout = Layout(micro=self.batch_size, world=trainer.world_size, accumulate=trainer.accumulate_grad_batches)
        source = self.train_source
        groups = source.column("modality") if self.group_by_modality else None
        lengths = source.column("words") if self.group_by_length else None
        frames = source.column("frames") if self.group_by_length else None
        return ResumableLoader(
            source, layout, trainer.global_rank, self.seed, self._settings(), groups, lengths, frames, trainer
        )

    def val_dataloader(self) -> PlannedLoader | list:
        """Validation batches of this process, in the shards' order; every process has the same number."""
        if self.val_source is None:
            return []
        assert self.trainer is not None
        world, rank = self.trainer.world_size, self.trainer.global_rank
        numbers = list(range(rank, len(self.val_source) // world * world, world))
        batches = [numbers[i : i + self.batch_size] for i in range(0, len(numbers), self.batch_size)]
        return PlannedLoader(self.val_source, batches, self._settings())
