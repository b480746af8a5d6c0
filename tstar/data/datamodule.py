"""The DataModule: shard folders to the training and validation batches of a process."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningDataModule

from tstar.data.loaders import LoaderSettings, PlannedLoader, ResumableLoader
from tstar.data.plan import Layout, Mixture
from tstar.data.remote_shards import ShardCache
from tstar.data.sample_source import FeatureCache, Process, SampleSource
from tstar.data.shard_set import ShardSet
from tstar.errors import ConfigError
from tstar.ops.cpu_threads import threads_of_waiting_ranks

CACHE_DIR = "data_shards/.cache"


def shard_cache(folder: str, gigabytes: float | None) -> ShardCache:
    """Where remote shards are kept, as the settings say."""
    return ShardCache(Path(folder), None if gigabytes is None else round(gigabytes * 1e9))


class ClipDataModule(LightningDataModule):
    """Training and validation batches out of shard folders.

    Args:
        processor: stored samples to tensors; comes from the stage, not from a file.
        shards: folders of training shards, the sets; their samples are mixed evenly, each once an epoch, unless weighted.
        val_shards: folders whose samples give the validation loss.
        batch_size: samples of one micro-batch on one device.
        group_by_modality: keep pictures and videos in batches of their own.
        group_by_length: batch conversations of like numbers of words, and among them clips of like numbers of frames, so that
            less is computed on padding and more clips run at once.
        weights: how often an epoch goes through each set of ``shards``: 2 takes every sample twice, 0.5 half of them, and the
            other half in the next epoch.
        sizes: in place of weights, how many samples of each set an epoch takes.
        max_frames: most frames that are used of a clip, of the stored ones at even distances; none uses all.
        limit: use only so many samples, the first ones of each folder, as many of each as its size asks for; for trials.
        num_workers: loader processes, which read, decode and tokenize; 0 does so in the training process. Does not change the
            order.
        prefetch: batches that each of them has ready.
        seed: of the order.
        damaged_shards: "error" refuses to start with a truncated or missing shard, "skip" leaves it out.
        features: folder that keeps what the frozen encoder makes of the frames, encoded before the first step; none encodes
            them anew at every step. Takes frames x patches x d_vision x 2 bytes (float16) of disk.
        features_dtype: number format of what is kept, "float16" or "float32".
        cache_dir: folder for the tars of ``shards`` that are URLs.
        cache_gb: most of them that are kept, in 10^9 bytes; none keeps all.
    """

    def __init__(
        self,
        processor: Process,
        shards: list[str],
        val_shards: list[str] | None = None,
        batch_size: int = 8,
        group_by_modality: bool = False,
        group_by_length: bool = False,
        weights: list[float] | None = None,
        sizes: list[int] | None = None,
        max_frames: int | None = None,
        limit: int | None = None,
        num_workers: int = 0,
        prefetch: int = 2,
        seed: int = 0,
        damaged_shards: Literal["error", "skip"] = "error",
        features: str | None = None,
        features_dtype: Literal["float16", "float32"] = "float16",
        cache_dir: str = CACHE_DIR,
        cache_gb: float | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"data.batch_size must be at least 1, got {batch_size}")
        if limit is not None and limit < 1:
            raise ConfigError(f"data.limit must be at least 1, got {limit}")
        if max_frames is not None and max_frames < 1:
            raise ConfigError(f"data.max_frames must be at least 1, got {max_frames}")
        if num_workers < 0 or seed < 0:
            name, value = ("num_workers", num_workers) if num_workers < 0 else ("seed", seed)
            raise ConfigError(f"data.{name} must be 0 or more, got {value}")
        if prefetch < 1:
            raise ConfigError(f"data.prefetch must be at least 1, got {prefetch}")
        skip = damaged_shards == "skip"
        self.batch_size, self.seed, self.num_workers, self.prefetch = batch_size, seed, num_workers, prefetch
        self.group_by_modality, self.group_by_length = group_by_modality, group_by_length
        cache = shard_cache(cache_dir, cache_gb)
        train_set = ShardSet(shards, skip_damaged=skip, limit=limit, cache=cache)
        self.train_source = SampleSource(train_set, processor, max_frames)
        self.mixture = _mixture(shards, self.train_source.shards.folder_sizes, weights, sizes)
        val_set = ShardSet(val_shards, skip_damaged=skip, cache=cache) if val_shards else None
        self.val_source = SampleSource(val_set, processor, max_frames) if val_set else None
        self.damaged = self.train_source.shards.damaged + (val_set.damaged if val_set else [])
        self.features, self.features_dtype = features, features_dtype
        self.cache: FeatureCache | None = None
        """Given by who trains; without it frames are decoded, whatever ``features`` says."""
        self.prepare_data_per_node = False

    def _sources(self) -> list[SampleSource]:
        return [source for source in (self.train_source, self.val_source) if source is not None]

    def prepare_data(self) -> None:
        """Encode what the cache lacks; in the first process, while the others wait."""
        self._check_encoders()
        if self.cache is not None:
            device = self.trainer.strategy.root_device if self.trainer is not None else None
            with threads_of_waiting_ranks():
                for source in self._sources():
                    self.cache.fill(source.shards.parts(), source.clips, device)

    def setup(self, stage: str) -> None:
        """From here on samples come with features, where there is a cache; stored ones must be of the encoder that is used."""
        self._check_encoders()
        if self.cache is not None:
            for source in self._sources():
                source.features = self.cache.open(source.shards.parts())

    def _check_encoders(self) -> None:
        for source in self._sources():
            keys = source.shards.encoders
            if keys == {""}:
                continue
            if "" in keys:
                raise ConfigError(
                    "data.shards hold frames in one folder and features in another; a batch cannot hold both"
                )
            if self.cache is not None:
                raise ConfigError(
                    "data.features keeps what is made of frames, and data.shards hold features; set it to null"
                )
            assert self.trainer is not None
            stage: Any = self.trainer.lightning_module
            if keys != {stage.features_key(self.features_dtype)}:
                raise ConfigError(
                    "data.shards hold features of another encoder, preprocessing or precision than this stage's (vision, "
                    "run.matmul_precision, data.features_dtype); make them with `tstar shard --encode` and this recipe"
                )

    def _settings(self) -> LoaderSettings:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return LoaderSettings(self.num_workers, on_gpu, self.prefetch)

    def train_dataloader(self) -> ResumableLoader:
        """Batches of this process, in the planned order."""
        trainer = self.trainer
        assert trainer is not None
        layout = Layout(micro=self.batch_size, world=trainer.world_size, accumulate=trainer.accumulate_grad_batches)
        source = self.train_source
        groups = source.column("modality") if self.group_by_modality else None
        lengths = source.column("words") if self.group_by_length else None
        frames = source.frame_counts() if self.group_by_length else None
        return ResumableLoader(
            source,
            layout,
            trainer.global_rank,
            self.seed,
            self._settings(),
            groups,
            lengths,
            frames,
            self.mixture,
            trainer,
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


def _mixture(
    folders: list[str], there: list[int], weights: list[float] | None, sizes: list[int] | None
) -> Mixture | None:
    """What an epoch takes of each set; None where it takes every sample once."""
    if weights is None and sizes is None:
        return None
    if weights is not None and sizes is not None:
        raise ConfigError("data.weights and data.sizes both say how much of each set is taken; give one of them")
    name, given = ("weights", weights) if weights is not None else ("sizes", sizes)
    assert given is not None
    if len(given) != len(folders) or not all(0 < value < np.inf for value in given):
        raise ConfigError(
            f"data.{name} must hold a number above 0 for each of the {len(folders)} data.shards, got {given}"
        )
    takes = [max(1, round(v * n)) if weights is not None else int(v) for v, n in zip(given, there, strict=True)]
    if empty := [folder for folder, size in zip(folders, there, strict=True) if not size]:
        raise ConfigError(f"data.{name} takes samples of {empty[0]}, of which data.limit leaves none; raise it")
    return Mixture(tuple(there), tuple(takes))
