"""Annotations and media to shards: every video decoded once, its frames stored as JPEG or WebP beside a JSON.

Shards are independent, so they are made in parallel and survive a kill: a tar is written under a temporary name, synced and
renamed, its index comes last, and a shard that agrees with its index is not made again. Equal input gives equal bytes.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from tstar.data.annotations import Record
from tstar.data.decoding import read_video
from tstar.data.frame_sampling import FrameSampling
from tstar.data.images import bound_short_side, encode_image, read_image
from tstar.data.shard_index import MANIFEST, build_index, index_paths, load_index
from tstar.data.sharding_settings import CODECS, ShardSettings
from tstar.errors import ConfigError, DataError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ShardSummary:
    """What came of one call."""

    out: str
    records: int
    samples: int
    shards: int
    bytes: int
    skipped: tuple[dict[str, str], ...]
    """Records left out: id, media and reason of each."""
    kept: int
    """Shards that were already there."""


def write_shards(
    records: Sequence[Record],
    media_root: Path,
    out: Path,
    settings: ShardSettings,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ShardSummary:
    """Write ``records`` as shards into ``out``.

    Args:
        records: conversations; their order is the order in the shards.
        media_root: folder that ``Record.media`` is relative to.
        out: folder of the shards; an earlier, killed call with the same input goes on where it stopped.
        settings: sampling and coding.
        workers: processes; default one a core.
        progress: called with (samples done, samples in all).

    Raises:
        DataError: ``out`` holds shards of other input, or not one record could be used.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    if any(r.media for r in records) and not media_root.is_dir():
        raise DataError(f"no such media folder: {media_root}")
    out.mkdir(parents=True, exist_ok=True)
    plan = hashlib.sha256(json.dumps([asdict(settings), [asdict(r) for r in records]], sort_keys=True).encode())
    _claim(out, plan.hexdigest())
    size = settings.samples_per_shard
    parts = [records[i : i + size] for i in range(0, len(records), size)]
    keys = sample_keys(records)
    names = [out / f"shard-{number:05d}.tar" for number in range(len(parts))]
    todo = [n for n, name in enumerate(names) if not _finished(name, media_root)]
    kept = len(parts) - len(todo)
    done = len(records) - sum(len(parts[n]) for n in todo)
    for n in _make([(n, (parts[n], media_root, names[n], settings, keys[n * size :][:size])) for n in todo], workers):
        done += len(parts[n])
        if progress:
            progress(done, len(records))
    return _finish(out, names, len(records), settings, plan.hexdigest(), kept)


def _make(jobs: list[tuple[int, tuple]], workers: int | None) -> Iterator[int]:
    """Run :func:`write_shard` on each job's arguments; the number of each is yielded when it is done."""
    workers = min(workers or os.cpu_count() or 1, max(1, len(jobs)))
    if workers == 1:
        for number, arguments in jobs:
            write_shard(*arguments)
            yield number
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(write_shard, *arguments): number for number, arguments in jobs}
        try:
            for job in as_completed(running):
                job.result()
                yield running[job]
        except BrokenProcessPool as error:
            raise DataError(
                "a process that made shards died, by lack of memory or a decoder's crash; finished shards are kept, "
                "with one worker the same command shows where"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def write_shard(
    records: Sequence[Record],
    media_root: Path,
    shard: Path,
    settings: ShardSettings,
    keys: Sequence[str] | None = None,
) -> None:
    """Write one tar, the list of what it had to leave out, and its index, in this order.

    Args:
        records: what goes in.
        media_root: folder that ``Record.media`` is relative to.
        shard: the tar's final name.
        settings: sampling and coding.
        keys: of the records; default those that they would get alone.
    """
    temporary = shard.with_suffix(f".tar.{os.getpid()}.tmp")
    skipped = []
    try:
        with temporary.open("wb") as stream:
            writer = wds.TarWriter(stream, encoder=False, mtime=0, user="tstar", group="tstar")
            for record, key in zip(records, keys or sample_keys(records), strict=True):
                try:
                    sample = _sample(record, key, media_root, settings)
                except (DataError, OSError) as error:
                    skipped.append({"id": record.id, "media": record.media, "reason": str(error)})
                else:
                    writer.write(sample)
            writer.close()
            stream.flush()
            os.fsync(stream.fileno())
        members, samples = build_index(temporary)
        temporary.replace(shard)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _write(_skipped_path(shard), json.dumps(skipped, indent=1).encode())
    for path, array in zip(index_paths(shard), (members, samples), strict=True):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        _write(path, buffer.getvalue())


def _sample(record: Record, key: str, media_root: Path, settings: ShardSettings) -> dict[str, Any]:
    timestamps: tuple[float, ...] = ()
    duration = 0.0
    pixels: list[np.ndarray] = []
    if record.modality == "image":
        pixels, timestamps = [read_image(media_root / record.media)], (0.0,)
    elif record.modality == "video":
        sampling = FrameSampling(fps=settings.fps, max_frames=settings.max_frames)
        clip = read_video(media_root / record.media, sampling, settings.decoder)
        pixels, timestamps, duration = list(clip.frames), clip.timestamps, clip.duration
    coded = [encode_image(bound_short_side(p, settings.short_side), settings.codec, settings.quality) for p in pixels]
    meta = {
        "id": record.id,
        "modality": record.modality,
        "source": record.media,
        "timestamps": [round(t, 6) for t in timestamps],
        "duration": round(duration, 6),
        "conversations": list(record.conversations),
        "checksum": hashlib.sha256(b"".join(coded)).hexdigest(),
    }
    sample = {"__key__": key, "json": json.dumps(meta, ensure_ascii=False).encode()}
    return sample | {f"{n:04d}.{CODECS[settings.codec]}": data for n, data in enumerate(coded)}


def sample_keys(records: Sequence[Record]) -> list[str]:
    """Records' ids as WebDataset keys: no dots (they start the extension), no folders, and no two alike.

    Published annotations repeat ids, and different ids may lose their difference with their dots: the second of a kind gets
    "-2" and so on. The id itself stays as it is, in the sample's JSON.
    """
    keys: list[str] = []
    taken: set[str] = set()
    seen: dict[str, int] = {}
    for record in records:
        plain = "".join(c if c.isalnum() or c in "_-" else "_" for c in record.id) or "_"
        key = plain
        while key in taken:
            seen[plain] = seen.get(plain, 1) + 1
            key = f"{plain}-{seen[plain]}"
        taken.add(key)
        keys.append(key)
    return keys


def _finished(shard: Path, media_root: Path) -> bool:
    """Whether a shard is whole: the tar is what its index says, byte by byte, and nothing it lacked has come since."""
    try:
        there = load_index(shard)
        skipped = json.loads(_skipped_path(shard).read_text())
        whole = shard.stat().st_size == _tar_bytes(there[0])
        whole = whole and all(np.array_equal(a, b) for a, b in zip(there, build_index(shard), strict=True))
        return whole and not any(
            skip["reason"].startswith("no such ") and (media_root / skip["media"]).is_file() for skip in skipped
        )
    except (DataError, OSError, ValueError, KeyError, TypeError, tarfile.TarError):
        return False


def _tar_bytes(members: np.ndarray) -> int:
    """Size of a finished tar: two empty blocks after the last member, then filled up to whole records."""
    end = int(members[-1]["offset"] + members[-1]["size"]) if len(members) else 0
    blocks = -(-end // tarfile.BLOCKSIZE) + 2
    return -(-blocks * tarfile.BLOCKSIZE // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def _skipped_path(shard: Path) -> Path:
    return shard.with_suffix(".skipped.json")


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _claim(out: Path, plan: str) -> None:
    """Mark ``out`` as holding this plan's shards; refuse another's."""
    claim = out / "plan.sha256"
    if claim.is_file() and claim.read_text().strip() != plan:
        raise DataError(f"{out} holds shards made from other records or settings; choose another --out or delete it")
    _write(claim, f"{plan}\n".encode())


def _finish(out: Path, names: list[Path], records: int, settings: ShardSettings, plan: str, kept: int) -> ShardSummary:
    shards: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for name in names:
        samples = len(np.load(index_paths(name)[1], allow_pickle=False))
        shards.append({"file": name.name, "samples": samples, "bytes": name.stat().st_size, "sha256": _digest(name)})
        skipped += json.loads(_skipped_path(name).read_text())
    for leftover in out.glob("*.tmp"):  # of a killed call
        leftover.unlink(missing_ok=True)
    total = sum(int(s["samples"]) for s in shards)
    if not total:
        reason = skipped[0]["reason"] if skipped else "there were no records"
        raise DataError(f"not one of {records} records could be used; the first: {reason}")
    manifest = {"version": 1, "plan": plan, "settings": asdict(settings), "samples": total, "shards": shards}
    _write(out / MANIFEST, json.dumps(manifest, indent=1).encode())
    size = sum(s["bytes"] for s in shards)
    return ShardSummary(str(out), records, total, len(shards), size, tuple(skipped), kept)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
