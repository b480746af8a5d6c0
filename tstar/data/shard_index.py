"""Reading shards: an index beside every tar, samples fetched by offset and checked by checksum.

A shard set is a folder of ``shard-00000.tar`` (plain WebDataset tars), two numpy files beside each, and ``shards.json``:

- ``.members.npy``: field, offset, size and crc32 of every file in the tar;
- ``.samples.npy``: key, first member, member count, modality, frames, words, and whose frames it has, of every sample.

Samples are read at the start, some 50 bytes each; members are mapped while a shard is read from, and few shards are open at once.
"""

import errno
import hashlib
import io
import json
import os
import tarfile
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
from tstar.errors import ConfigError, DataError

MANIFEST = "shards.json"
MEMBER = np.dtype([("field", "S16"), ("offset", "<u8"), ("size", "<u8"), ("crc32", "<u4")])
MODALITIES = ("text", "image", "video")
FRAMES_OF = "frames_of"
"""In the JSON of a sample without frames: key of the earlier sample of its tar whose frames, or features, are also its own."""
FEATURES = "features.npy"
"""Field of a sample that holds features in place of frames."""
OPEN_SHARDS = 64
OUR_FAULT = {
    errno.EMFILE: "raise the number of open files (ulimit -n)",
    errno.ENFILE: "the system has too many open files",
    errno.ENOMEM: "there is not enough memory",
    errno.EACCES: "it must be readable",
}
"""Errors of the system that say nothing against a file."""
REMEDY = "run the same `tstar shard` again"


def sample_dtype(key_bytes: int) -> np.dtype:
    """Row of ``.samples.npy`` for keys of at most ``key_bytes`` bytes."""
    return np.dtype(
        [
            ("key", f"S{key_bytes}"),
            ("first", "<u4"),
            ("members", "<u2"),
            ("modality", "u1"),
            ("frames", "<u2"),
            ("words", "<u4"),
            ("frames_of", "<u4"),
        ]
    )


@dataclass(frozen=True)
class RawSample:
    """One sample as stored."""

    meta: dict[str, Any]
    """The JSON: id, modality, source, timestamps (s), duration (s), conversations, checksum."""
    frames: tuple[bytes, ...]
    """Encoded frames in time order; one for a picture, none for text."""
    features: np.ndarray | None = None
    """In place of frames: what a vision encoder made of them, [M, N, d_vision]."""


class ShardPart(NamedTuple):
    """One tar of a set."""

    digest: str
    """sha256 of the tar, by its manifest."""
    numbers: range
    """Running numbers of its samples."""
    frames: int
    """Stored frames of all of them."""


def index_paths(shard: Path) -> tuple[Path, Path]:
    """Where the index of ``shard`` lies: members, samples."""
    return shard.with_suffix(".members.npy"), shard.with_suffix(".samples.npy")


def build_index(shard: Path) -> tuple[np.ndarray, np.ndarray]:
    """Walk a finished tar once and describe its members and samples."""
    members: list[tuple] = []
    samples: list[tuple] = []
    rows: dict[str, int] = {}
    with tarfile.open(shard) as tar, shard.open("rb") as raw:
        for info in tar:
            key, field = info.name.split(".", 1)
            raw.seek(info.offset_data)
            data = raw.read(info.size)
            if not samples or samples[-1][0] != key.encode():
                rows[key] = len(samples)
                samples.append((key.encode(), len(members), 0, 0, 0, 0, rows[key]))
            head = list(samples[-1])
            head[2] += 1
            if field == "json":
                meta = json.loads(data)
                words = sum(len(t["value"].split()) for t in meta["conversations"])
                owner = rows[meta.get(FRAMES_OF, key)]
                head[3:] = [MODALITIES.index(meta["modality"]), len(meta["timestamps"]), words, owner]
            samples[-1] = tuple(head)
            members.append((field.encode(), info.offset_data, info.size, zlib.crc32(data)))
    longest = max((len(s[0]) for s in samples), default=1)
    return np.array(members, dtype=MEMBER), np.array(samples, dtype=sample_dtype(longest))


def load_index(shard: Path) -> tuple[np.ndarray, np.ndarray]:
    """Members and samples of ``shard``, memory-mapped; :class:`DataError` if they are missing, damaged or do not fit."""
    members, samples = map(_mapped, index_paths(shard))
    fields: Any = samples.dtype.fields or {}
    wanted = sample_dtype(1)
    fits = (
        set(fields) == set(wanted.names or ())
        and all(fields[name][0] == wanted[name] for name in fields if name != "key")
        and samples.ndim == 1
    )
    if not fits:
        raise DataError(f"shard index {index_paths(shard)[1]} is damaged (it is no list of samples); {REMEDY}")
    _check_members(members, samples, shard)
    return members, samples


def load_members(shard: Path, samples: np.ndarray) -> np.ndarray:
    """Members of ``shard``, memory-mapped, where its samples are known; errors as :func:`load_index`."""
    members = _mapped(index_paths(shard)[0])
    _check_members(members, samples, shard)
    return members


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        _raise_ours(path, error)
        raise DataError(f"shard index {path} is missing or damaged ({error.strerror or error}); {REMEDY}") from error
    except Exception as error:  # a damaged header makes numpy raise many types, down to tokenize's
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"shard index {path} is missing or damaged ({reason}); {REMEDY}") from error


def _check_members(members: np.ndarray, samples: np.ndarray, shard: Path) -> None:
    ends = int(samples[-1]["first"]) + int(samples[-1]["members"]) if len(samples) else 0
    if members.dtype != MEMBER or members.ndim != 1 or len(members) != ends:
        raise DataError(f"shard index {index_paths(shard)[1]} is damaged (it does not fit its members); {REMEDY}")


def _raise_ours(path: Path, error: OSError) -> None:
    """Raise what says nothing against a file as what it is."""
    if error.errno in OUR_FAULT:
        raise ConfigError(f"cannot open {path} ({error.strerror}); {OUR_FAULT[error.errno]}") from error


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


def read_manifest(folder: Path) -> dict[str, Any]:
    """What ``shards.json`` says: :class:`DataError` if there is none, or it is damaged or names files elsewhere."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(
            f"no shards in {folder} ({MANIFEST} is missing); make them with `tstar shard`, "
            "or the miniature's with `tstar miniature`"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for entry in manifest["shards"]:
            if Path(entry["file"]).name != entry["file"]:
                raise DataError(f"{path} names a shard outside its folder: {entry['file']!r}")
            for name, kind in (("bytes", int), ("samples", int), ("sha256", str)):
                if not isinstance(entry[name], kind):
                    raise TypeError(f"{name} of {entry['file']} is {entry[name]!r}")
        if sum(entry["samples"] for entry in manifest["shards"]) != manifest["samples"]:
            raise ValueError("its shards do not hold as many samples as it promises")
        return manifest
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}); {REMEDY}") from error


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
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self.shards[shard], self._samples[shard][number - self._starts[shard]]["key"].decode(errors="replace")

    def frame_count(self, number: int) -> int:
        """Frames of a sample, by the index."""
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return int(self._samples[shard][number - self._starts[shard]]["frames"])

    def read(self, number: int, *, with_frames: bool = True) -> RawSample:
        """Fetch one sample by offset; :class:`DataError` says what is wrong with a damaged one.

        Args:
            number: of the sample.
            with_frames: False reads its JSON alone.
        """
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        samples = self._samples[shard]
        own = samples[number - self._starts[shard]]
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
                _raise_ours(path, error)
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
