"""Annotations and media to shards: videos decoded, their frames stored as JPEG or WebP beside a JSON.

Shards are independent, so they are made in parallel, on one machine or several, and survive a kill: a tar is written under a
temporary name, synced and renamed, its index comes last, and a shard that agrees with its index is not made again. Equal input
gives equal bytes.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

from tstar.data.annotations import Record
from tstar.data.aside import MOST_SECONDS
from tstar.data.cores import usable_cores
from tstar.data.files import write_whole
from tstar.data.quarantine import MARK, QUARANTINE, quarantine_lines
from tstar.data.remote_shards import upload
from tstar.data.shard_index import FRAMES_OF, MANIFEST, index_paths
from tstar.data.shard_plan import ShardPlan
from tstar.data.shard_writing import claim, complete_set, describe_tars, is_whole, read_skipped, write_tar
from tstar.data.sharding_settings import CODECS, ShardSettings
from tstar.data.stored_media import MediaReader, PassingError, StoredMedia
from tstar.errors import ConfigError, DataError

Progress = Callable[[int, int], None]
JOBS_AHEAD = 2
"""Shards handed to each process before it asks for them: not all, for their records would have to be in memory."""


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """How shards are made; what they hold does not depend on it."""

    workers: int | None = None
    """Processes; None is one a core."""
    time_limit: float | None = None
    """Seconds that reading one file may take, in a process of its own; None reads without limit in the process that writes."""
    max_bad_fraction: float = 1.0
    """Records whose media cannot be used, as a share of all; more is an error when all shards are made."""
    part: tuple[int, int] = (1, 1)
    """Which share of the shards is made here, of how many: (2, 4) on the second of four machines."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers must be at least 1, got {self.workers}")
        if self.time_limit is not None and not 0 < self.time_limit <= MOST_SECONDS:
            raise ConfigError(f"time_limit must be above 0 and at most {MOST_SECONDS:,} seconds, got {self.time_limit}")
        if not 1 <= self.part[0] <= self.part[1]:
            raise ConfigError(f"part must be i/n with 1 <= i <= n, got {self.part[0]}/{self.part[1]}")


@dataclass(frozen=True)
class ShardSummary:
    """What came of one call."""

    out: str
    records: int
    samples: int
    shards: int
    bytes: int
    skipped: tuple[dict[str, str], ...]
    """Records left out: id, media, reason and kind ("unusable", "missing", "passing", "quarantine") of each."""
    kept: int
    """Shards that were already there."""
    missing: int = 0
    """Shards that other parts have still to make; the set cannot be used before."""


def write_shards(
    plan: ShardPlan,
    work: ShardWork | None = None,
    *,
    progress: Progress | None = None,
    about: dict[str, Any] | None = None,
) -> ShardSummary:
    """Make the shards of a plan, or the share of them that is made here.

    Args:
        plan: an earlier, killed call with the same plan goes on where it stopped.
        work: how.
        progress: called with (samples done, samples in all), of this part.
        about: what else the manifest is to say about the records.

    Raises:
        DataError: ``plan.out`` holds shards of other input, or not one record could be used.
    """
    work = work or ShardWork()
    part, parts = work.part
    plan.out.mkdir(parents=True, exist_ok=True)
    claim(plan.out, plan.digest)
    mine = range(part - 1, len(plan.names), parts)
    sizes = {number: len(range(len(plan.records))[plan.bounds(number)]) for number in mine}
    done = kept = 0
    jobs = ((number, plan.job(number, work.time_limit)) for number in mine)
    try:
        for number, was_there in _make(jobs, min(work.workers or usable_cores(), max(1, len(mine)))):
            done += sizes[number]
            kept += was_there
            if progress:
                progress(done, sum(sizes.values()))
    finally:
        _close_reader()
    return _finish(plan, kept, work.max_bad_fraction, about)


def _make(jobs: Iterable[tuple[int, tuple]], workers: int) -> Iterator[tuple[int, bool]]:
    """Run :func:`make_shard` on each job's arguments; the number of each is yielded when it is done, and what came of it."""
    if workers == 1:
        for number, arguments in jobs:
            yield number, make_shard(*arguments)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        running: dict[Future[bool], int] = {}
        try:
            for number, arguments in jobs:
                running[pool.submit(make_shard, *arguments)] = number
                if len(running) >= JOBS_AHEAD * workers:
                    yield from _done(running)
            while running:
                yield from _done(running)
        except BrokenProcessPool as error:
            raise DataError(
                "a process that made shards died, by lack of memory or a decoder's crash; finished shards are kept, "
                "with one worker the same command shows where"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _done(running: dict[Future[bool], int]) -> Iterator[tuple[int, bool]]:
    """Wait for one at least of the running jobs; their numbers and results."""
    for job in wait(running, return_when=FIRST_COMPLETED).done:
        yield running.pop(job), job.result()


def _end_with_parent() -> None:
    """A worker does not outlive a command that was killed."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def make_shard(
    records: Sequence[Record],
    media_root: Path,
    shard: Path,
    settings: ShardSettings,
    keys: Sequence[str],
    time_limit: float | None = None,
    quarantine: Mapping[str, str] | None = None,
) -> bool:
    """Write one tar with its index, unless it is there whole and nothing that it lacks can be had now.

    Args:
        records: what goes in.
        media_root: folder that ``Record.media`` is relative to.
        shard: the tar's final name.
        settings: sampling and coding.
        keys: of the records.
        time_limit: seconds for one file; None reads in this process.
        quarantine: unusable media and why.

    Returns:
        Whether it was there.
    """
    if _finished(shard, media_root):
        return True
    skipped: list[dict[str, str]] = []
    media = _reader(settings, time_limit)
    later = _next_media(records, quarantine or {})
    written: dict[tuple[str, str], dict[str, Any]] = {}

    def samples() -> Iterator[dict[str, Any]]:
        for record, key, soon in zip(records, keys, later, strict=True):
            sample = None
            try:
                if quarantine and record.media in quarantine:
                    raise QuarantineError(f"{MARK}{quarantine[record.media]}")
                sample = make_sample(record, key, media_root, media, written)
            except DataError as error:
                skipped.append({"id": record.id, "media": record.media, "reason": str(error), "kind": _kind(error)})
            if soon is not None and (soon.media, soon.modality) not in written:
                media.ask(media_root / soon.media, soon.modality)
            if sample is not None:
                yield sample

    write_tar(shard, samples(), skipped)
    return False


_readers: list[MediaReader] = []
"""The one of this process, kept from shard to shard: starting the process that it may have takes as long as some videos."""


def _reader(settings: ShardSettings, time_limit: float | None) -> MediaReader:
    if not _readers or (_readers[0].settings, _readers[0].time_limit) != (settings, time_limit):
        _close_reader()
        _readers.append(MediaReader(settings, time_limit))
    return _readers[0]


def _close_reader() -> None:
    while _readers:
        _readers.pop().close()


def _next_media(records: Sequence[Record], quarantine: Mapping[str, str]) -> list[Record | None]:
    """For every record the first later one about another medium that is to be read."""
    found: list[Record | None] = []
    nearest: Record | None = None
    beyond: Record | None = None
    for record in reversed(records):
        found.append(beyond if nearest is not None and nearest.media == record.media else nearest)
        if record.media and record.media not in quarantine and (nearest is None or nearest.media != record.media):
            nearest, beyond = record, nearest
    return found[::-1]


def make_sample(
    record: Record, key: str, media_root: Path, reader: MediaReader, written: dict[tuple[str, str], dict[str, Any]]
) -> dict[str, Any]:
    """One sample as :func:`tstar.data.shard_writing.write_tar` takes it.

    Args:
        record: what it is made of.
        key: its name in the tar.
        media_root: folder that ``record.media`` is relative to.
        reader: reads media.
        written: what JSONs of this shard say of the media that it holds already; is added to.
    """
    settings, medium = reader.settings, (record.media, record.modality)
    frames: dict[str, bytes] = {}
    if settings.share_frames and medium in written:
        of_medium = written[medium]
    else:
        stored = reader.read(media_root / record.media, record.modality) if record.media else StoredMedia((), (), 0.0)
        frames = {f"{n:04d}.{CODECS[settings.codec]}": data for n, data in enumerate(stored.frames)}
        of_medium = {
            "timestamps": [round(t, 6) for t in stored.timestamps],
            "duration": round(stored.duration, 6),
            "checksum": hashlib.sha256(b"".join(stored.frames)).hexdigest(),
        }
        if frames:
            written[medium] = of_medium | {FRAMES_OF: key}
    meta = {
        "id": record.id,
        "modality": record.modality,
        "source": record.media,
        "conversations": list(record.conversations),
        **of_medium,
    }
    return {"__key__": key, "json": json.dumps(meta, ensure_ascii=False).encode()} | frames


class QuarantineError(DataError):
    """A file is on the list of those that cannot be used."""


def _kind(error: DataError) -> str:
    """What is to be done about a file: "missing" and "passing" ones are looked for again by the next call."""
    if isinstance(error, QuarantineError):
        return "quarantine"
    return (
        "passing" if isinstance(error, PassingError) else "missing" if str(error).startswith("no such ") else "unusable"
    )


def _finished(shard: Path, media_root: Path) -> bool:
    """Whether a shard is whole and nothing that it lacks can be had now."""
    return is_whole(shard) and not any(
        skip.get("kind") == "passing" or (skip.get("kind") == "missing" and (media_root / skip["media"]).is_file())
        for skip in read_skipped(shard)
    )


def _finish(plan: ShardPlan, kept: int, max_bad_fraction: float, about: dict[str, Any] | None) -> ShardSummary:
    """Write the manifest if every shard is there, whoever made it; the last part to end does."""
    there = [name for name in plan.names if index_paths(name)[1].is_file()]  # written last
    missing = len(plan.names) - len(there)
    skipped = [skip for name in there for skip in read_skipped(name)]
    shards = describe_tars(there, digests=not missing)
    total, size = (sum(int(s[column]) for s in shards) for column in ("samples", "bytes"))
    summary = ShardSummary(str(plan.out), len(plan.records), total, len(there), size, tuple(skipped), kept, missing)
    if missing:
        return summary
    if not total:
        reason = skipped[0]["reason"] if skipped else "there were no records"
        raise DataError(f"not one of {len(plan.records)} records could be used; the first: {reason}")
    bad = [skip for skip in skipped if skip.get("kind") != "quarantine"]
    if len(bad) > max_bad_fraction * len(plan.records):
        raise DataError(
            f"{len(bad)} of {len(plan.records)} records could not be used, more than max_bad_fraction {max_bad_fraction}; the "
            f"first: {bad[0]['reason']}; the shards are kept: raise --max-bad-fraction to complete the set without them"
        )
    write_whole(plan.out / QUARANTINE, quarantine_lines(skipped).encode())
    complete_set(plan.out, shards, plan.digest, asdict(plan.settings), {"records": about} if about else {})
    return summary


def upload_shards(folder: Path, url: str, progress: Progress | None = None) -> None:
    """Copy a finished set to a URL; see :func:`tstar.data.remote_shards.upload`."""
    upload(folder, url, MANIFEST, progress)
