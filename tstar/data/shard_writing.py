"""Tars with their index, each whole or not there, and the manifest that completes a set."""

import errno
import io
import json
import os
import tarfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tstar.data.cores import usable_cores
from tstar.data.files import file_digest, sweep, temporary_name, write_whole
from tstar.data.shard_index import MANIFEST, build_index, index_paths, load_index
from tstar.errors import DataError


def write_tar(shard: Path, samples: Iterable[dict[str, Any]], skipped: Sequence[dict[str, str]]) -> None:
    """Write one tar, the list of what it had to leave out, and its index, in this order.

    Args:
        shard: the tar's final name.
        samples: bytes by field, and "__key__", the name that they share.
        skipped: id, media and reason of what was left out; read when the samples are through.
    """
    temporary = temporary_name(shard)
    for path in index_paths(shard):  # from here on nobody takes an older shard of this name for finished
        path.unlink(missing_ok=True)
    try:
        with temporary.open("wb") as stream:
            with tarfile.open(fileobj=stream, mode="w") as tar:
                for sample in samples:
                    _add(tar, sample)
            stream.flush()
            os.fsync(stream.fileno())
        index = build_index(temporary)
        temporary.replace(shard)
        write_whole(_skipped_path(shard), json.dumps(list(skipped), indent=1).encode())
        for path, array in zip(index_paths(shard), index, strict=True):
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            write_whole(path, buffer.getvalue())
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"disk full at {shard}; finished shards are kept, the same command goes on") from error
        raise


def _add(tar: tarfile.TarFile, sample: dict[str, Any]) -> None:
    """One sample as WebDataset lays it out: a file a field, by name, the same bytes whoever writes and when."""
    for field in sorted(sample.keys() - {"__key__"}):
        entry = tarfile.TarInfo(f"{sample['__key__']}.{field}")
        entry.size, entry.mode, entry.uname, entry.gname = len(sample[field]), 0o444, "tstar", "tstar"
        tar.addfile(entry, io.BytesIO(sample[field]))


def read_skipped(shard: Path) -> list[dict[str, str]]:
    """What a tar had to leave out."""
    return json.loads(_skipped_path(shard).read_text())


def is_whole(shard: Path) -> bool:
    """Whether a tar is what its index says, byte by byte, and the list of what it lacks is there."""
    try:
        there = load_index(shard)
        whole = shard.stat().st_size == _tar_bytes(there[0])
        whole = whole and all({"reason", "media"} <= skip.keys() for skip in read_skipped(shard))
        return whole and all(np.array_equal(a, b) for a, b in zip(there, build_index(shard), strict=True))
    except (DataError, OSError, ValueError, KeyError, TypeError, AttributeError, tarfile.TarError):
        return False


def _tar_bytes(members: np.ndarray) -> int:
    """Size of a finished tar: two empty blocks after the last member, then filled up to whole records."""
    end = int(members[-1]["offset"] + members[-1]["size"]) if len(members) else 0
    blocks = -(-end // tarfile.BLOCKSIZE) + 2
    return -(-blocks * tarfile.BLOCKSIZE // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def _skipped_path(shard: Path) -> Path:
    return shard.with_suffix(".skipped.json")


def claim(out: Path, plan: str) -> None:
    """Mark ``out`` as holding this plan's shards; refuse another's."""
    mark = out / "plan.sha256"
    if not mark.is_file():
        write_whole(mark, f"{plan}\n".encode())
    elif mark.read_text().strip() != plan:
        raise DataError(f"{out} holds shards made from other records or settings; choose another --out or delete it")


def describe_tars(shards: Sequence[Path], *, digests: bool = True) -> list[dict[str, Any]]:
    """Entries of a manifest; without ``digests`` quickly, and of no use for one."""
    with ThreadPoolExecutor(usable_cores()) as pool:  # hashing releases Python's lock
        sums = list(pool.map(file_digest, shards)) if digests else [""] * len(shards)
    return [
        {
            "file": shard.name,
            "samples": len(np.load(index_paths(shard)[1], allow_pickle=False)),
            "bytes": shard.stat().st_size,
            "sha256": digest,
        }
        for shard, digest in zip(shards, sums, strict=True)
    ]


def complete_set(
    out: Path, shards: list[dict[str, Any]], plan: str, settings: dict[str, Any], more: dict[str, Any]
) -> None:
    """Write the manifest; from here on the set can be used."""
    sweep(out)
    total = sum(entry["samples"] for entry in shards)
    manifest = {"version": 1, "plan": plan, "settings": settings, "samples": total, "shards": shards}
    write_whole(out / MANIFEST, json.dumps(manifest | more, indent=1).encode())
