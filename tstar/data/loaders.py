"""Batches in a planned order, exactly resumable: what was trained is a position in that order, not the state of a stream."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from tstar.data.batch import Batch, collate
from tstar.data.plan import Layout, Mixture, epoch_order, rank_batches
from tstar.data.sample_source import SampleSource
from tstar.errors import ConfigError


@dataclass
class LoaderSettings:
    """What every loader of a run shares."""

    num_workers: int
    pin_memory: bool
    prefetch: int = 2


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
                prefetch_factor=self.settings.prefetch if self.settings.num_workers else None,
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
        mixture: Mixture | None,
        trainer: Any,
    ) -> None:
        self.source, self.layout, self.rank, self.seed, self.mixture = source, layout, rank, seed, mixture
        self.settings, self.groups, self.lengths, self.frames, self.trainer = settings, groups, lengths, frames, trainer
        self._order(0)  # refuses a global batch larger than the data

    def _order(self, epoch: int) -> np.ndarray:
        total = self.layout.global_batch
        samples = self.mixture or len(self.source)
        return epoch_order(samples, total, self.seed, epoch, self.groups, self.lengths, self.frames)

    @property
    def epoch_samples(self) -> int:
        """Samples of one epoch, before the ragged end is dropped."""
        return sum(self.mixture.takes) if self.mixture else len(self.source)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch, ``trainer.limit_train_batches`` considered."""
        limit = self.trainer.limit_train_batches
        batches = min(len(self), limit) if isinstance(limit, int) else int(len(self) * limit)
        return max(1, -(-batches // self.layout.accumulate))

    def __len__(self) -> int:
        return self.epoch_samples // self.layout.global_batch * self.layout.accumulate

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
            **({"mixture": list(self.mixture.takes)} if self.mixture else {}),
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
            "mixture": "the mixture of sets (data.weights, data.sizes) is not that of",
            "grouped_by": "data.group_by_modality and data.group_by_length are not those of",
        }
        for key, name in names.items():
            then = state.get(key, "")  # the first checkpoints name neither grouping nor mixture
            if then != mine.get(key, ""):
                raise ConfigError(
                    f"cannot go on: {name} the checkpoint (now {mine.get(key, '')!s:.40}, then {then!s:.40}); "
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
