"""The order of training samples: a pure function of (seed, epoch), whatever the number of processes or workers.

A global step takes ``global_batch`` samples. Each process takes its slice of each micro-batch; the ragged end of an epoch is
dropped for all alike, so that every process has the same number of batches. Nothing but (epoch, position) is needed to go on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tstar.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one global batch is cut."""

    micro: int
    """Samples in one micro-batch of one process."""
    world: int = 1
    """Processes."""
    accumulate: int = 1
    """Micro-batches of one optimizer step."""

    @property
    def global_batch(self) -> int:
        return self.micro * self.world * self.accumulate


@dataclass(frozen=True)
class Mixture:
    """How many samples of each set an epoch takes. Sets lie one after the other in the samples' running numbers."""

    sizes: tuple[int, ...]
    """Samples in each set."""
    takes: tuple[int, ...]
    """Samples of each that an epoch takes: fewer than there are, or more, and then some twice."""

    def draw(self, seed: int, epoch: int) -> np.ndarray:
        """Sample numbers of one epoch, [sum(takes)].

        Every set is dealt out like a pack of cards that is shuffled whenever it is used up: after any number of epochs
        no sample of a set has been taken more than once more often than another.
        """
        drawn, first = [], 0
        for number, (size, take) in enumerate(zip(self.sizes, self.takes, strict=True)):
            packs = range(epoch * take // max(size, 1), -(-(epoch + 1) * take // max(size, 1)))
            dealt = [np.random.default_rng([seed, number, pack]).permutation(size) for pack in packs]
            start = epoch * take - packs.start * size
            drawn.append(first + np.concatenate([np.empty(0, int), *dealt])[start : start + take])
            first += size
        return np.concatenate(drawn)


LENGTH_WINDOW = 32
"""Global batches among whose samples those of like length are brought together."""
LENGTH_STEP = 1.2
"""Ratio of the bounds of one step of lengths; those of a step count as alike."""


def epoch_order(
    samples: int | Mixture,
    global_batch: int,
    seed: int,
    epoch: int,
    groups: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    frames: np.ndarray | None = None,
) -> np.ndarray:
    """Sample numbers of one epoch in the order they are trained, cut to whole global batches.

    Args:
        samples: how many there are, each taken once; or how many of each set are taken.
        global_batch: samples of one optimizer step.
        seed: of the run.
        epoch: from 0.
        groups: a group number for every sample, [samples]; global batches then hold one group each as far as the numbers
            allow, in shuffled order (paper section 6: images and videos do not share a batch).
        lengths: of every sample, [samples]; those of a global batch are then alike, so that less is computed on padding.
        frames: of every sample, [samples]; among samples of like length, those with like numbers of frames come together, because a
            compressor runs clips of one length at once. Only with ``lengths``.

    Returns:
        [k * global_batch]; without a mixture every number at most once.
    """
    count = samples if isinstance(samples, int) else sum(samples.takes)
    if count < global_batch:
        raise ConfigError(
            f"the global batch of {global_batch} (batch size x devices x accumulation) is larger than the {count} samples; "
            "lower data.batch_size"
        )
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(samples if isinstance(samples, int) else samples.draw(seed, epoch))
    whole = count // global_batch * global_batch
    if groups is None and lengths is None:
        return order[:whole]
    full, rest = [], []
    for mine in [order] if groups is None else [order[groups[order] == group] for group in np.unique(groups)]:
        cut = len(mine) // global_batch * global_batch
        full.append(
            mine[:cut] if lengths is None else _alike(mine[:cut], lengths, frames, global_batch * LENGTH_WINDOW, rng)
        )
        rest.append(mine[cut:])
    batches = np.concatenate([*full, *rest])[:whole].reshape(-1, global_batch)
    return rng.permutation(batches).reshape(-1)


def _alike(
    order: np.ndarray, lengths: np.ndarray, frames: np.ndarray | None, window: int, rng: np.random.Generator
) -> np.ndarray:
    """Every ``window`` samples of the order, sorted by length in steps of ``LENGTH_STEP``, within a step by frames, then by length.

    Lengths are taken give or take a tenth: in few samples, too, others meet each epoch. Frames rise and fall in turn, so that
    like ones meet across steps.
    """
    blurred = lengths[order] * rng.uniform(0.9, 1.1, len(order))
    step = np.log(np.maximum(blurred, 1)) // np.log(LENGTH_STEP)
    turned = 0 * step if frames is None else frames[order] * np.where(step % 2, -1.0, 1.0)
    parts = [slice(start, start + window) for start in range(0, len(order), window)]
    return np.concatenate([order[:0], *(order[p][np.lexsort((blurred[p], turned[p], step[p]))] for p in parts)])


def rank_batches(order: np.ndarray, layout: Layout, rank: int, position: int = 0) -> Iterator[list[int]]:
    """Micro-batches of one process from ``position`` samples into the epoch on.

    Args:
        order: of :func:`epoch_order`, a multiple of the global batch.
        layout: how a global batch is cut.
        rank: of this process.
        position: samples already trained in this epoch, a multiple of the global batch.
    """
    per_micro = layout.micro * layout.world
    for start in range(position, len(order), per_micro):
        yield order[start + rank * layout.micro : start + (rank + 1) * layout.micro].tolist()
