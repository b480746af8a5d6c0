"""How much a stage trains on: samples, frames of a sample, steps.

Shards that are there are counted. A folder that is not, but has the name of a public set, as `tstar shard` with configs/data/*.yaml
writes it, is taken to hold what that set is published with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tstar.data.public_sets import SETS
from tstar.data.remote_shards import is_remote
from tstar.data.shard_index import MANIFEST
from tstar.data.shard_set import ShardSet, shares
from tstar.errors import ConfigError

PUBLISHED_FRAMES = 128
"""Most frames of a clip in the published training, and in configs/data/*.yaml."""
VIDEO_178K = 1_335_500
"""Captions, open-ended and multiple-choice questions of LLaVA-Video-178K, without the parts of other sets that come with it."""
UNBOUNDED_EPOCHS = 1000
"""Lightning's, where nothing bounds a training."""
PICTURES = ("llava_pretrain", "llava_instruct", "llava_mix665k", "elva_substitute")
"""Public sets of pictures; the others are of videos."""
PICTURE_STAGES = ("Align", "AlignProjector", "ImageSFT")
"""Stages that the published protocols give pictures only."""


def published_samples(name: str) -> int | None:
    """Samples of a public set as `tstar shard` leaves them; None for a set that is not public."""
    known = SETS.get(name)
    if known is None or name == "plain":
        return None
    return VIDEO_178K if name == "llava_video_178k" else known.kept or known.draw or known.published


@dataclass(frozen=True)
class Samples:
    """What a stage trains on."""

    count: int | None
    """Samples of an epoch; None where nobody knows."""
    source: str
    """Where the number comes from, for people."""
    frames: int
    """Frames of the longest sample, as far as data.max_frames lets them be used."""
    mean_frames: float
    """Of all samples of an epoch; those without frames count too. The longest, where nobody knows."""
    frames_source: str


def stage_samples(config: dict[str, Any], kind: str, given_samples: int | None, given_frames: int | None) -> Samples:
    """Samples of a stage's epoch and their frames.

    Args:
        config: of the stage.
        kind: name of its class.
        given_samples: number to use where the recipe's shards say nothing.
        given_frames: frames of a clip to use in place of what the shards say; pictures keep their one.
    """
    data = config.get("data") or {}
    folders = [str(f) for f in data.get("shards") or []]
    if folders and all(not is_remote(f) and (Path(f) / MANIFEST).is_file() for f in folders):
        shards = ShardSet(folders, skip_damaged=data.get("damaged_shards") == "skip", limit=data.get("limit"))
        stored = np.split(shards.column("frames")[shards.numbers], np.cumsum(shards.folder_sizes)[:-1])
        frames = [of if given_frames is None else np.where(of > 1, given_frames, of) for of in stored]
        taken = _taken(shards.folder_sizes, data)
        why = "--training-frames" if given_frames and max(map(_longest, stored)) > 1 else "the recipe's shards"
        return _samples(sum(taken), "the recipe's shards", frames, taken, why, data)
    names = [Path(folder).name for folder in folders]
    sizes = [published_samples(name) for name in names]
    pictures = [_holds_pictures(name, kind) for name in names] or [kind in PICTURE_STAGES]
    frames = [np.array([1 if alone else given_frames or PUBLISHED_FRAMES]) for alone in pictures]
    why = "pictures" if all(pictures) else "--training-frames" if given_frames else "the published training"
    known = [size for size in sizes if size is not None]
    if known and len(known) == len(names):
        limit = data.get("limit")
        taken = _taken(known if limit is None else shares(known, limit), data)
        return _samples(sum(taken), f"published size of {', '.join(names)}", frames, taken, why, data)
    longest = [max(map(_longest, frames))]  # of how many nobody knows
    return _samples(given_samples, "--samples" if given_samples else "not known", [np.array(longest)], [1], why, data)


def _samples(
    count: int | None, source: str, frames: Sequence[np.ndarray], taken: Sequence[int], why: str, data: dict[str, Any]
) -> Samples:
    """What is trained on, from the frames of each folder's samples and how many an epoch takes of it."""
    most = data.get("max_frames")
    longest = max(map(_longest, frames))
    if most is not None and longest > most:
        longest, why, frames = most, "data.max_frames", [np.minimum(of, most) for of in frames]
    means = [float(of.mean()) if len(of) else 0.0 for of in frames]
    return Samples(count, source, max(longest, 1), float(np.average(means, weights=taken)), why)


def _longest(frames: np.ndarray) -> int:
    return int(frames.max(initial=0))


def _holds_pictures(name: str, kind: str) -> bool:
    """Whether a folder of that name has pictures only; one that is not of a public set, by the stage that trains on it."""
    return name in PICTURES if published_samples(name) is not None else kind in PICTURE_STAGES


def _taken(sizes: Sequence[int], data: dict[str, Any]) -> list[int]:
    """Samples an epoch takes of each of some sets of these sizes."""
    if data.get("sizes"):
        return [int(size) for size in data["sizes"]]
    if data.get("weights"):
        return [max(1, round(w * n)) for w, n in zip(data["weights"], sizes, strict=False)]
    return list(sizes)


def steps_of(samples: int | None, global_batch: int, trainer: dict[str, Any]) -> int | None:
    """Optimizer steps of a stage, as :attr:`tstar.stages.base.Stage.total_steps` counts them; None where that is not known.

    Raises:
        ConfigError: the samples are fewer than a step takes.
    """
    most = trainer.get("max_steps", -1)
    bounds = [most] if most is not None and most >= 0 else []
    epochs = trainer.get("max_epochs")
    if epochs is None and not bounds:
        epochs = UNBOUNDED_EPOCHS
    if samples is not None and epochs is not None and epochs >= 0:
        if samples < global_batch:
            raise ConfigError(
                f"the global batch of {global_batch} (batch size x devices x accumulation) is larger than the {samples} samples; "
                "lower data.batch_size"
            )
        accumulate = trainer.get("accumulate_grad_batches") or 1
        batches, limit = samples // global_batch * accumulate, trainer.get("limit_train_batches")
        if limit is not None:
            batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        bounds.append(epochs * -(-batches // accumulate))
    return min(bounds) if bounds else None
