"""Whether training clips show what a benchmark's videos show: by their frames' perceptual hashes.

The benchmark's videos are hashed densely and held together; training clips come shard by shard, a few frames each, and are
compared with all of them. What counts is the longest chain of matching frames in which time runs the same way, or the opposite
one, in both, as a share of the frames of the shorter of the two: a clip cut out of a longer video is found by its own frames.
Nothing is decoded twice: hashes are kept in a folder, a file a shard and a file a video.
"""

import hashlib
import io
import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from tstar.data.decoding import take_frames
from tstar.data.files import sweep, write_whole
from tstar.data.frame_hashes import BITS, COLOUR_SIDE, FRAME, MARGIN, detail, hash_frames
from tstar.data.frame_sampling import FrameSampling, nearest_frames
from tstar.data.images import decode_image
from tstar.data.shard_index import MODALITIES
from tstar.data.shard_set import ShardSet
from tstar.errors import ConfigError, DataError
from tstar.evaluation.media import PICTURE_ENDINGS

VIDEO_ENDINGS = frozenset({".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg"})
Progress = Callable[[str, int, int], None]
BLOCK = 1 << 14
"""Frames of the benchmark that a clip's are compared with at once."""
CLIPS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class DuplicateSettings:
    """What is looked at, and what counts as a match."""

    threshold: float = 0.4
    """A pair is reported from this share of matching frames on, of the clip's or the video's, whichever has fewer."""
    max_bits: int = 12
    """Two frames match if at most so many of their bits differ …"""
    max_colour: float = 6.0
    """… and their colours by at most so many levels of 255 in the mean."""
    min_detail: int = 6
    """Frames with fewer bits set are passed over."""
    min_matches: int = 4
    """Frames that have to match at least, if there are so many."""
    fps: float = 2.0
    """Frames a second, of clips and videos."""
    clip_frames: int = 64
    """Most frames of a training clip, evenly spread."""
    max_frames: int = 512
    """Most frames of a video."""

    def __post_init__(self) -> None:
        FrameSampling(fps=self.fps, max_frames=self.max_frames)
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"--threshold must be above 0 and at most 1, got {self.threshold:g}")
        for name in ("clip_frames", "min_matches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.max_bits < BITS // 2:
            raise ConfigError(f"--max-bits must be 0 to {BITS // 2 - 1}, got {self.max_bits}")


@dataclass(frozen=True)
class Pair:
    """A training sample and a video that seem to show the same."""

    sample: str
    """Its id."""
    shard: str
    key: str
    """Its name in the shard."""
    video: str
    """Path below the benchmark's folder."""
    matches: int
    """Frames in the chain."""
    clip_frames: int
    """Frames of the clip that were compared."""
    video_frames: int
    score: float
    """Matches as a share of the fewer frames."""


@dataclass
class DuplicateReport:
    """What a search found, and how much it could see."""

    pairs: list[Pair] = field(default_factory=list)
    """The highest scores first."""
    videos: int = 0
    clips: int = 0
    plain_videos: list[str] = field(default_factory=list)
    """Videos of which too few frames could be told apart to find any copy."""
    plain_clips: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    """Videos and samples that could not be read, with the reason."""
    passed_over: list[str] = field(default_factory=list)
    """Tars and folders of pictures among the videos, which are not looked into."""
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The whole report as one JSON object."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)


class _Clip(NamedTuple):
    name: str
    """Path of a video; id of a sample."""
    key: str
    error: str
    """Why it could not be read; "" if it could."""
    hashes: np.ndarray
    """[M] of ``FRAME``."""


class HashCache:
    """Hashes in a folder, a file an entry, so that a killed search goes on where it stopped.

    Args:
        folder: made with the first entry.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.is_file():
            raise ConfigError(f"--cache must be a folder, got the file {folder}")
        if folder.is_dir():
            sweep(folder)

    def get(self, key: str, make: Callable[[], list[_Clip]]) -> list[_Clip]:
        """The entry of that key, made where there is none, or none that can be read."""
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                hashes, names = stored["hashes"], json.loads(stored["names"].tobytes())
                bounds = pairwise(np.cumsum([0, *stored["counts"]]))
                return [_Clip(n, k, e, hashes[a:b]) for (n, k, e), (a, b) in zip(names, bounds, strict=True)]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            path.unlink(missing_ok=True)
        clips = make()
        buffer = io.BytesIO()
        names = np.frombuffer(json.dumps([clip[:3] for clip in clips]).encode(), np.uint8)
        hashes = np.concatenate([np.empty(0, FRAME), *(clip.hashes for clip in clips)])
        np.savez(buffer, counts=np.array([len(clip.hashes) for clip in clips], np.int64), names=names, hashes=hashes)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, buffer.getvalue())
        return clips


def find_videos(place: Path) -> list[Path]:
    """Video files in a folder and all below it, or the one file; DataError if there are none."""
    if place.is_file():
        return [place]
    found = sorted(p for p in place.rglob("*") if p.suffix.lower() in VIDEO_ENDINGS and p.is_file())
    if not found:
        what = "no videos" if place.is_dir() else "no such folder or file"
        unpack = "; tars have to be unpacked" if place.is_dir() and not_videos(place) else ""
        raise DataError(f"--videos {place}: {what} ({', '.join(sorted(VIDEO_ENDINGS))}){unpack}")
    return found


def not_videos(place: Path) -> list[str]:
    """Paths below a folder of tars, and of folders that hold pictures, which may be a video's frames."""
    looked_for = {".tar", *PICTURE_ENDINGS}
    found = [path for path in place.rglob("*") if path.suffix.lower() in looked_for]
    return sorted({str((p if p.suffix.lower() == ".tar" else p.parent).relative_to(place)) for p in found})


def find_duplicates(
    shards: Sequence[str | Path],
    videos: Path,
    settings: DuplicateSettings = DuplicateSettings(),
    cache: Path | None = None,
    progress: Progress | None = None,
) -> DuplicateReport:
    """Search training shards for what a benchmark's videos show.

    Args:
        shards: folders of training shards that hold frames.
        videos: folder of a benchmark, or one video.
        settings: what is looked at, and what counts as a match.
        cache: folder of the hashes.
        progress: called with (what, done, in all).

    Raises:
        DataError: a folder holds no shards or no videos, no video can be read, or shards hold features in place of frames.
        ConfigError: ``cache`` is a file.
    """
    say = progress or (lambda what, done, total: None)
    report = DuplicateReport(settings=asdict(settings))
    paths = find_videos(videos)
    report.passed_over = not_videos(videos) if videos.is_dir() else []
    training = ShardSet(shards)
    if training.encoders != {""}:
        raise DataError(
            f"{', '.join(map(str, shards))}: holds an encoder's features, not frames; give the set it was made of"
        )
    store = HashCache(cache) if cache is not None else None
    reference = _Reference(_video_hashes(paths, videos, settings, store, report, say), settings)
    if not reference.names:
        first = next(iter(report.unreadable.items()), ("", ""))
        raise DataError(
            f"--videos {videos}: none of its {len(paths)} videos can be read (first: {first[0]}: {first[1]})"
        )
    report.videos, report.plain_videos = len(reference.names), reference.plain
    for shard, clips in _shard_hashes(training, settings, store, report, say):
        for start in range(0, len(clips), CLIPS_AT_ONCE):
            report.pairs += reference.pairs(clips[start : start + CLIPS_AT_ONCE], shard, report)
    training.close()
    report.pairs.sort(key=lambda pair: (-pair.score, -pair.matches, pair.video, pair.shard, pair.key))
    return report


def _video_hashes(
    paths: Sequence[Path],
    root: Path,
    settings: DuplicateSettings,
    store: HashCache | None,
    report: DuplicateReport,
    say: Progress,
) -> Iterator[_Clip]:
    """Every video that can be read, with its frames' hashes."""
    sampling = FrameSampling(fps=settings.fps, max_frames=settings.max_frames)
    for done, path in enumerate(paths, start=1):
        name = str(path.relative_to(root)) if root.is_dir() else path.name

        def make(path: Path = path, name: str = name) -> list[_Clip]:
            taken = take_frames(path, sampling, "auto", lambda frame: hash_frames([frame])[0])
            return [_Clip(name, "", "", np.array(taken.items, dtype=FRAME))]

        state = path.stat()
        key = f"video {path.resolve()} {state.st_size} {state.st_mtime_ns} {sampling} {_version()}"
        try:
            (clip,) = store.get(key, make) if store else make()
            yield clip._replace(name=name)
        except DataError as error:
            report.unreadable[name] = str(error)
        say("videos hashed", done, len(paths))


def _shard_hashes(
    training: ShardSet, settings: DuplicateSettings, store: HashCache | None, report: DuplicateReport, say: Progress
) -> Iterator[tuple[str, list[_Clip]]]:
    """The video clips of every shard, with the hashes of a few frames each."""
    modalities = training.column("modality")
    for part in training.parts():
        numbers = [n for n in part.numbers if modalities[n] == MODALITIES.index("video")]
        shard = str(training.locate(part.numbers[0])[0])

        def make(numbers: list[int] = numbers) -> list[_Clip]:
            return list(_clips(training, numbers, settings))

        key = f"shard {part.digest} {settings.clip_frames} {settings.fps} {_version()}"
        found = store.get(key, make) if store else make()
        report.unreadable |= {f"{shard}/{clip.key}": clip.error for clip in found if clip.error}
        clips = [clip for clip in found if not clip.error]
        report.clips += len(clips)
        yield shard, clips
        say("training samples compared", part.numbers[-1] + 1, len(training))


def _clips(training: ShardSet, numbers: Sequence[int], settings: DuplicateSettings) -> Iterator[_Clip]:
    """Samples by number; of several in a row about the same frames the first."""
    before: tuple[bytes, ...] = ()
    for number in numbers:
        _, key = training.locate(number)
        try:
            raw = training.read(number)
            frames = raw.frames
            if frames == before:
                continue
            before = frames
            chosen = thinned(raw.meta["timestamps"], settings.fps, settings.clip_frames)
            hashes = hash_frames(decode_image(frames[j], f"frame {j} of {key}") for j in chosen)
        except (DataError, OSError, ValueError, LookupError) as error:  # what damaged bytes raise
            yield _Clip(key, key, str(error) or type(error).__name__, np.empty(0, FRAME))
            continue
        yield _Clip(str(raw.meta["id"]), key, "", hashes)


def thinned(times: Sequence[float], fps: float, most: int) -> list[int]:
    """Which frames are looked at: those nearest to every 1 / ``fps`` seconds, then at most ``most`` of them, evenly.

    Args:
        times: of the frames in seconds, rising, [M].
        fps: frames a second.
        most: upper bound.
    """
    if not times:
        return []
    starts = np.array(times) - times[0]
    wanted = np.arange(int(starts[-1] * fps + 1e-6) + 1) / fps
    kept = np.unique(nearest_frames(wanted, starts)).tolist()
    return kept if len(kept) <= most else [kept[j * len(kept) // most] for j in range(most)]


def longest_chain(pairs: Iterable[tuple[int, int]]) -> int:
    """How many pairs there are at most in a row of which both numbers rise, or the first rise and the second fall."""
    pairs, longest = set(pairs), 0
    for sign in (1, -1):
        ends: list[int] = []  # ends[k]: smallest second number that a chain of k + 1 pairs can end with
        for _, negative in sorted(
            (first, -sign * second) for first, second in pairs
        ):  # of one first, the largest second first
            place = bisect_left(ends, -negative)
            ends[place : place + 1] = [-negative]
        longest = max(longest, len(ends))
    return longest


def _version() -> str:
    """What a stored hash depends on beside its source."""
    return f"{BITS} {COLOUR_SIDE} {MARGIN}"


class _Reference:
    """All frames of a benchmark that can be told apart, ready to be compared with."""

    def __init__(self, videos: Iterator[_Clip], settings: DuplicateSettings) -> None:
        self.settings = settings
        self.names: list[str] = []
        self.plain: list[str] = []
        kept: list[np.ndarray] = [np.empty(0, FRAME)]
        owners: list[np.ndarray] = [np.empty(0, np.int64)]
        counts: list[int] = []
        for video in videos:
            frames = _telling(video.hashes, settings)
            if len(frames) < settings.min_matches:
                self.plain.append(video.name)
            owners.append(np.full(len(frames), len(self.names)))
            kept.append(frames)
            counts.append(len(frames))
            self.names.append(video.name)
        frames = np.concatenate(kept)
        self.owners, self.counts = np.concatenate(owners), np.array(counts)
        """Number of the video that each frame is of; how many frames each has."""
        self.signs, self.colours = _signs(frames), _colours(frames)

    def pairs(self, clips: Sequence[_Clip], shard: str, report: DuplicateReport) -> list[Pair]:
        """Clips that share enough with a video."""
        kept = [_telling(clip.hashes, self.settings) for clip in clips]
        report.plain_clips += sum(len(frames) < self.settings.min_matches for frames in kept)
        frames = np.concatenate([np.empty(0, FRAME), *kept])
        owners = np.repeat(np.arange(len(clips)), [len(own) for own in kept])
        hits = self._hits(frames)  # [hits, 2]: frame of a clip, frame of the benchmark
        found = []
        between = owners[hits[:, 0]] * len(self.names) + self.owners[hits[:, 1]]
        for pair in np.unique(between):
            clip, video = divmod(int(pair), len(self.names))
            sizes = len(kept[clip]), int(self.counts[video])
            matches = longest_chain((int(mine), int(theirs)) for mine, theirs in hits[between == pair])
            score = matches / min(sizes)
            if score >= self.settings.threshold and matches >= min(self.settings.min_matches, *sizes):
                own = clips[clip]
                found.append(Pair(own.name, shard, own.key, self.names[video], matches, *sizes, round(score, 4)))
        return found

    def _hits(self, frames: np.ndarray) -> np.ndarray:
        """Pairs of matching frames, [hits, 2]."""
        signs, colours = _signs(frames), _colours(frames)
        hits = [np.empty((0, 2), np.int64)]
        least = BITS - 2 * self.settings.max_bits  # a product of signs is the bits that agree less those that do not
        for start in range(0, len(self.signs), BLOCK):
            mine, theirs = np.nonzero(signs @ self.signs[start : start + BLOCK].T >= least)
            apart = np.abs(colours[mine] - self.colours[start + theirs]).mean(axis=1)
            near = apart <= self.settings.max_colour
            hits.append(np.stack([mine[near], start + theirs[near]], axis=1))
        return np.concatenate(hits)


def _telling(hashes: np.ndarray, settings: DuplicateSettings) -> np.ndarray:
    """Frames that show enough to be told apart, in order."""
    return hashes[detail(hashes) >= settings.min_detail]


def _signs(hashes: np.ndarray) -> np.ndarray:
    """Bits as -1 and 1, [M, bits]."""
    return np.unpackbits(hashes["bits"], axis=1).astype(np.float32) * 2 - 1


def _colours(hashes: np.ndarray) -> np.ndarray:
    return hashes["colours"].reshape(len(hashes), COLOUR_SIDE * COLOUR_SIDE * 3).astype(np.int16)
