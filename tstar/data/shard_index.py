"""Reading shards: an index beside every tar, samples fetched by offset and checked by checksum.

A shard set is a folder of ``shard-00000.tar`` (plain WebDataset tars), two numpy files beside each, and ``shards.json``:

- ``.members.npy``: field, offset, size and crc32 of every file in the tar;
- ``.samples.npy``: key, first member, member count, modality, frames, words, and whose frames it has, of every sample.

Samples are read at the start, some 50 bytes each; members are mapped while a shard is read from, and few shards are open at once.
"""

import errno
import json
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tstar.errors import ConfigError, DataError

MANIFEST = "shards.json"
MEMBER = np.dtype([("field", "S16"), ("offset", "<u8"), ("size", "<u8"), ("crc32", "<u4")])
MODALITIES = ("text", "image", "video")
FRAMES_OF = "frames_of"
"""In the JSON of a sample without frames: key of the earlier sample of its tar whose frames, or features, are also its own."""
FEATURES = "features.npy"
"""Field of a sample that holds features in place of frames."""
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
        raise_ours(path, error)
        raise DataError(f"shard index {path} is missing or damaged ({error.strerror or error}); {REMEDY}") from error
    except Exception as error:  # a damaged header makes numpy raise many types, down to tokenize's
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"shard index {path} is missing or damaged ({reason}); {REMEDY}") from error


def _check_members(members: np.ndarray, samples: np.ndarray, shard: Path) -> None:
    ends = int(samples[-1]["first"]) + int(samples[-1]["members"]) if len(samples) else 0
    if members.dtype != MEMBER or members.ndim != 1 or len(members) != ends:
        raise DataError(f"shard index {index_paths(shard)[1]} is damaged (it does not fit its members); {REMEDY}")


def raise_ours(path: Path, error: OSError) -> None:
    """Raise what says nothing against a file as what it is."""
    if error.errno in OUR_FAULT:
        raise ConfigError(f"cannot open {path} ({error.strerror}); {OUR_FAULT[error.errno]}") from error


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
