"""All samples of shard folders by one running number, read by offset and checked."""

import hashlib
import io
import json
import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tstar.data.annotations import check_turns
from tstar.data.remote_shards import ShardCache, is_remote
from tstar.data.shard_index import (
    FEATURES,
    MANIFEST,
    REMEDY,
    RawSample,
    index_paths,
    load_index,
    load_members,
    raise_ours,
    read_manifest,
)
from tstar.errors import DataError

OPEN_SHARDS = 64


class ShardPart(NamedTuple):
    """One tar of a set."""

    digest: str
    """sha256 of the tar, by its manifest."""
    numbers: range
    """Running numbers of its samples."""
    frames: int
    """Stored frames of all of them."""


def _checked(shard: Path, entry: dict[str, Any], *, remote: bool) -> np.ndarray:
    """The samples of a shard, in memory, after a look at its files."""
    size = shard.stat().st_size if shard.is_file() else -1
    if size != entry["bytes"] and not remote:
        found = "is missing" if size < 0 else f"has {size} bytes where {entry['bytes']} were written"
        raise DataError(f"shard {shard} {found}; {REMEDY}")
    _, samples = load_index(shard)
    if len(samples) != entry["samples"]:
        wrong = f"{len(samples)} samples where {entry['samples']} were written"
        raise DataError(f"shard index {index_paths(shard)[1]} is damaged ({wrong}); {REMEDY}")
    return np.array(samples)  # a mapped one would keep a file open, and there may be thousands


def shares(sizes: Sequence[int], total: int) -> list[int]:
    """``total`` (or all, if that is less) split in proportion to ``sizes``; what is left over goes to the largest remainders."""
    whole = sum(sizes)
    total = min(total, whole)
    parts = [size * total // max(whole, 1) for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: -(sizes[i] * total % max(whole, 1)))
    for i in order[: total - sum(parts)]:
        parts[i] += 1
    return parts


class ShardSet:
    """All samples of one or more shard folders, addressed by one running number.

    Args:
        folders: folders that hold ``shards.json``, or URLs of such.
        skip_damaged: leave out shards whose size is not what their manifest says or whose index is damaged, instead of
            refusing to start.
        limit: use so many samples in all, the first ones of each folder, as many of each as its size asks for.
        only: file name of the one shard of each folder that is used.
        cache: where tars of folders at URLs are kept; only with those.

    Raises:
        DataError: a folder is no shard set, or a shard is missing, truncated or without its index (unless skipped).
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        *,
        skip_damaged: bool = False,
        limit: int | None = None,
        only: str | None = None,
        cache: ShardCache | None = None,
    ) -> None:
        self.cache = cache
        self.shards: list[Path] = []
        self.encoders: set[str] = set()
        """Keys of the encoders whose features the folders hold; "" for one that holds frames."""
        self.damaged: list[str] = []
        self._digests: list[str] = []
        self._remote: list[int] = []
        """Size of each shard that is to be fetched when it is read; 0 for local ones."""
        self._samples: list[np.ndarray] = []
        digest = hashlib.sha256()
        firsts = []
        for place in folders:
            folder = self._local(place)
            firsts.append(len(self.shards))
            manifest = read_manifest(folder)
            self.encoders.add(str((manifest.get("features") or {}).get("encoder", "")))
            for entry in manifest["shards"]:
                if only is not None and entry["file"] != only:
                    continue
                shard = folder / entry["file"]
                try:
                    samples = _checked(shard, entry, remote=is_remote(place))
                except DataError as error:
                    if not skip_damaged:
                        raise DataError(f"{error}, or set data.damaged_shards to skip") from error
                    self.damaged.append(str(error).removesuffix(f"; {REMEDY}"))
                    continue
                self.shards.append(shard)
                self._samples.append(samples)
                self._digests.append(entry["sha256"])
                self._remote.append(entry["bytes"] if is_remote(place) else 0)
                digest.update(f"{entry['sha256']}\n".encode())
        self.digest = digest.hexdigest()
        """Of all shards, used or not."""
        self.numbers = self._choose([*firsts, len(self.shards)], limit)
        """Of the samples to use; all, without a limit."""
        if self.cache is not None:
            self.cache.check_room(sum(self._remote))
        if not len(self):
            left_out = f" ({len(self.damaged)} damaged shards were left out)" if self.damaged else ""
            raise DataError(f"no samples in {', '.join(map(str, folders))}{left_out}; run `tstar shard` first")
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()

    def _local(self, folder: str | Path) -> Path:
        """Where a set's manifest and index lie; a remote one's are brought here."""
        if not is_remote(folder):
            return Path(folder)
        if self.cache is None:
            raise DataError(f"{folder} is a URL; a set that is read this way must be a local folder")

        def small_files(manifest: dict[str, Any]) -> list[str]:
            names = [str(entry["file"]) for entry in manifest["shards"]]
            return [path.name for name in names for path in index_paths(Path(Path(name).name))]

        return self.cache.open_set(str(folder), MANIFEST, small_files)

    def _choose(self, bounds: list[int], limit: int | None) -> np.ndarray:
        """Numbers of the samples to use; shards that hold none of them are dropped. ``bounds`` are the folders' among shards."""
        spans = [range(first, last) for first, last in pairwise(bounds)]
        sizes = [sum(len(self._samples[shard]) for shard in span) for span in spans]
        self.folder_sizes = shares(sizes, sum(sizes) if limit is None else limit)
        """Samples to use of each folder."""
        kept, used = [], []
        for span, left in zip(spans, self.folder_sizes, strict=True):
            for shard in span:
                if left > 0:
                    kept.append(shard)
                    used.append(min(left, len(self._samples[shard])))
                    left -= used[-1]
        columns: list[list[Any]] = [self.shards, self._samples, self._digests, self._remote]
        for column in columns:
            column[:] = [column[shard] for shard in kept]
        self._starts = np.cumsum([0, *map(len, self._samples)])
        ranges = [np.arange(count) + start for start, count in zip(self._starts, used, strict=False)]
        return np.concatenate([np.empty(0, int), *ranges])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def column(self, name: str) -> np.ndarray:
        """One column of the sample index over the whole set: "modality", "frames" or "words"."""
        return np.concatenate([samples[name] for samples in self._samples])

    def parts(self) -> list[ShardPart]:
        """The tars, all of their samples in them."""
        bounds = [int(start) for start in self._starts]
        rows = zip(self._digests, pairwise(bounds), self._samples, strict=True)
        return [
            ShardPart(digest, range(start, end), int(samples["frames"].sum(dtype=np.int64)))
            for digest, (start, end), samples in rows
        ]

    def locate(self, number: int) -> tuple[Path, str]:
        """Shard and key of a sample."""
        shard, row = self._row(number)
        return self.shards[shard], row["key"].decode(errors="replace")

    def frame_count(self, number: int) -> int:
        """Frames of a sample, by the index."""
        return int(self._row(number)[1]["frames"])

    def _row(self, number: int) -> tuple[int, np.void]:
        """Number of a sample's shard, and its row in that one's index."""
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return shard, self._samples[shard][number - self._starts[shard]]

    def read(self, number: int, *, with_frames: bool = True) -> RawSample:
        """Fetch one sample by offset; :class:`DataError` says what is wrong with a damaged one.

        Args:
            number: of the sample.
            with_frames: False reads its JSON alone.
        """
        shard, own = self._row(number)
        samples = self._samples[shard]
        if own["frames_of"] >= len(samples):
            raise DataError("the index points past the end of the shard")
        files = self._files(shard, own, with_frames)
        if with_frames and samples[own["frames_of"]]["key"] != own["key"]:  # another sample of this tar has its frames
            files = self._files(shard, samples[own["frames_of"]], True) | {"json": files["json"]}
        if "json" not in files:
            raise DataError("the sample is incomplete")
        meta = json.loads(files.pop("json"))
        stored = files.pop(FEATURES, None)
        features = None if stored is None else np.load(io.BytesIO(stored), allow_pickle=False)
        there = len(files) if features is None else len(features)
        if with_frames and there != len(meta["timestamps"]):
            raise DataError("the sample is incomplete")
        check_turns(meta["conversations"], "conversation")
        return RawSample(meta, tuple(files.values()), features)

    def _files(self, shard: int, row: np.void, with_frames: bool) -> dict[str, bytes]:
        """The files of one row of the index, checked, by field."""
        opened, first = self._opened(shard), int(row["first"])
        size = os.fstat(opened.tar).st_size
        found: dict[str, bytes] = {}
        for member in opened.members[first : first + int(row["members"])]:
            if not with_frames and member["field"] != b"json":
                continue
            if int(member["offset"]) + int(member["size"]) > size:
                raise DataError("the index points past the end of the shard")
            data = os.pread(opened.tar, int(member["size"]), int(member["offset"]))
            field = member["field"].decode(errors="replace")
            if len(data) != member["size"] or zlib.crc32(data) != member["crc32"]:
                raise DataError(f"checksum of {field} differs")
            found[field] = data
        return found

    def _opened(self, shard: int) -> "_OpenShard":
        if shard not in self._open:
            while len(self._open) >= OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
            path, size = self.shards[shard], self._remote[shard]
            members = load_members(path, self._samples[shard])
            try:
                if size and self.cache is not None:
                    tar = self.cache.open_tar(path, size, self._digests[shard])
                else:
                    tar = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise_ours(path, error)
                raise
            self._open[shard] = _OpenShard(tar, members)
        self._open.move_to_end(shard)
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        """A worker opens files of its own."""
        return {**self.__dict__, "_open": OrderedDict()}

    def close(self) -> None:
        """Close the tars; a later read opens them again."""
        while self._open:
            self._open.popitem()[1].close()


@dataclass(frozen=True)
class _OpenShard:
    tar: int
    """Descriptor."""
    members: np.ndarray
    """Mapped."""

    def close(self) -> None:
        os.close(self.tar)
