"""What is asked of a suite: its questions with their media, clip by clip, in shares and in batches. No model, no torch."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from tstar.data.files import write_whole
from tstar.errors import DataError
from tstar.evaluation import Benchmark, Item, get_benchmark
from tstar.evaluation.clips import Wanted
from tstar.evaluation.media import Media, SuiteMedia, media_key, missing_media
from tstar.evaluation.settings import EvaluationConfig, Place

WAITING_BATCHES = 16
"""So many batches' questions may wait for others of equal numbers of frames."""

C = TypeVar("C")


@dataclass(frozen=True)
class Clip:
    """Questions about the same seconds of the same medium."""

    items: tuple[Item, ...]

    def wanted(self, media: Media) -> Wanted:
        """What has to be decoded for them."""
        first = self.items[0]
        return Wanted(first.media, first.media_kind, media, first.window, first.frame_rate)


@dataclass(frozen=True)
class Suite:
    """A benchmark with its questions and media."""

    benchmark: Benchmark
    place: Place
    items: list[Item]
    missing: list[Item]
    """Those whose media are not there; they are not asked."""
    media: dict[tuple[str, str], Media] = field(repr=False)
    """By :func:`tstar.evaluation.media.media_key`."""

    @property
    def asked(self) -> list[Item]:
        """The other ones."""
        missing = {item.id for item in self.missing}
        return [item for item in self.items if item.id not in missing]


def open_suite(name: str, config: EvaluationConfig, limit: int | None = None, listing: Path | None = None) -> Suite:
    """Read a suite's questions and find their media.

    Args:
        name: of the suite.
        config: where it lies, and what is done where media are missing.
        limit: at most about so many questions.
        listing: text file that media are listed in, one a line, where some are missing.

    Raises:
        DataError: annotations are not there or not as published, or media or all subtitles are missing that must not be.
    """
    benchmark, place = get_benchmark(name), config.place(name)
    if not place.annotations.exists():
        raise DataError(
            f"no suite in {place.annotations} (evaluation.benchmarks.{name}); `tstar miniature` makes the miniature's"
        )
    questions = benchmark.load(place.annotations, place.media)
    if lacking := benchmark.lacks(questions, place.media):
        raise DataError(f"{name}: {lacking}")
    items = subset(questions, limit)
    found = SuiteMedia(place.media).find_all(items)
    media = {key: medium for key, medium in found.items() if medium is not None}
    missing = [item for item in items if media_key(item) not in media]
    if missing and listing:
        listing.parent.mkdir(parents=True, exist_ok=True)
        write_whole(listing, "".join(f"{path}\n" for path in dict.fromkeys(i.media for i in missing)).encode())
    if missing and config.missing_media == "stop":
        raise DataError(missing_media(name, place.media, items, missing, listing))
    return Suite(benchmark, place, items, missing, media)


def subset(items: list[Item], limit: int | None) -> list[Item]:
    """About ``limit`` items, spread evenly over the suite and without tearing a video's questions apart."""
    if limit is None or limit >= len(items):
        return items
    clusters: dict[str, list[Item]] = {}
    for item in items:
        clusters.setdefault(item.cluster, []).append(item)
    wanted = max(1, round(len(clusters) * limit / len(items)))
    names = list(clusters)
    chosen = {names[i * len(names) // wanted] for i in range(wanted)}
    return [item for item in items if item.cluster in chosen]


def share(items: Sequence[Item], process: int, processes: int) -> list[Clip]:
    """The clips that one of several processes asks about, in the order of their paths: whole media, with equally many questions.

    A medium goes to the process that has the fewest so far, so that whatever is asked first, all have as much left.
    """
    by_media: dict[tuple[str, str], list[Item]] = {}
    for item in sorted(items, key=lambda i: (*media_key(i), i.window or ())):
        by_media.setdefault(media_key(item), []).append(item)
    loads = [0] * processes
    clips: list[Clip] = []
    for own in by_media.values():
        least = loads.index(min(loads))
        loads[least] += len(own)
        if least == process:
            clips += _clips(own)
    return clips


def _clips(items: Sequence[Item]) -> list[Clip]:
    """Items of one medium by what of it they are about."""
    by_window: dict[Hashable, list[Item]] = {}
    for item in items:
        by_window.setdefault((item.window, item.frame_rate), []).append(item)
    return [Clip(tuple(own)) for own in by_window.values()]


class Batches(Generic[C]):
    """Whole clips of equal numbers of frames, put together until they have as many questions as a batch may.

    Which clips share a batch depends on the clips alone, in their order, so that an interrupted evaluation puts the same ones
    together as an uninterrupted one. A clip of more questions than a batch may have is one by itself.

    Args:
        size: most questions of a batch.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._waiting: dict[int, list[tuple[C, int]]] = {}

    def add(self, clip: C, questions: int, frames: int) -> Iterator[list[C]]:
        """Take a clip in; the batches that are complete by that."""
        if self._count(frames) + questions > self.size:
            yield from self._take(frames)
        self._waiting.setdefault(frames, []).append((clip, questions))
        if self._count(frames) >= self.size:
            yield from self._take(frames)
        while sum(map(self._count, self._waiting)) > WAITING_BATCHES * self.size:
            yield from self._take(max(self._waiting, key=lambda frames: (self._count(frames), frames)))

    def rest(self) -> Iterator[list[C]]:
        """What is left, at the end."""
        for frames in list(self._waiting):
            yield from self._take(frames)

    def _count(self, frames: int) -> int:
        return sum(questions for _, questions in self._waiting.get(frames, ()))

    def _take(self, frames: int) -> Iterator[list[C]]:
        clips = [clip for clip, _ in self._waiting.pop(frames, ())]
        if clips:
            yield clips
