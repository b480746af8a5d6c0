"""How much a stage trains on: samples, frames of a sample, steps.

Shards that are there are counted. A folder that is not, but has the name of a public set, as `tstar shard` with configs/data/*.yaml
writes it, is taken to hold what that set is published with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tstar.data.public_sets import SETS
from tstar.data.remote_shards import is_remote
from tstar.data.shard_index import MANIFEST
from tstar.data.shard_set import ShardSet
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
    """Frames of the longest sample."""
    mean_frames: float
    """Of all samples; those without frames count too."""
    frames_source: str


def stage_samples(config: dict[str, Any], kind: str, given_samples: int | None, given_frames: int | None) -> Samples:
    """Samples of a stage's epoch and their frames.

    Args:
        config: of the stage.
        kind: name of its class.
        given_samples: number to use where the recipe's shards say nothing.
        given_frames: frames of a clip to use in place of what the shards say; a stage of pictures keeps its one.
    """
    data = config.get("data") or {}
    folders = [str(f) for f in data.get("shards") or []]
    limit = data.get("limit")
    if folders and all(not is_remote(f) and (Path(f) / MANIFEST).is_file() for f in folders):
        shards = ShardSet(folders, skip_damaged=data.get("damaged_shards") == "skip", limit=limit)
        frames = shards.column("frames")[shards.numbers]
        count = _taken(shards.folder_sizes, data)
        largest, mean = int(frames.max()), float(frames.mean())
        if given_frames is not None and largest > 1:
            return Samples(count, "the recipe's shards", given_frames, float(given_frames), "--training-frames")
        return Samples(count, "the recipe's shards", max(largest, 1), mean, "the recipe's shards")
    names = [Path(folder).name for folder in folders]
    known = [published_samples(name) for name in names]
    sizes = [size for size in known if size is not None]
    pictures = all(name in PICTURES for name in names) if sizes and len(sizes) == len(names) else kind in PICTURE_STAGES
    frames = 1 if pictures else given_frames or PUBLISHED_FRAMES
    why = "pictures" if pictures else "--training-frames" if given_frames else "the published training"
    if sizes and len(sizes) == len(names):
        total = sum(sizes)
        if limit is not None:
            sizes = [size * min(limit, total) // total for size in sizes]
        return Samples(_taken(sizes, data), f"published size of {', '.join(names)}", frames, float(frames), why)
    return Samples(given_samples, "--samples" if given_samples else "not known", frames, float(frames), why)


def _taken(sizes: Sequence[int], data: dict[str, Any]) -> int:
    """Samples an epoch takes of sets of these sizes."""
    if data.get("sizes"):
        return sum(int(size) for size in data["sizes"])
    if data.get("weights"):
        return sum(max(1, round(w * n)) for w, n in zip(data["weights"], sizes, strict=False))
    return sum(sizes)


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
