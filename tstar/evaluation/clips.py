"""Media of questions to what a vision encoder takes, ahead of their turn: in processes of their own, or in a thread.

Nothing here imports torch: a process that decodes starts in a fraction of a second and takes little memory.
Letters: M frames of a clip, S side of the encoder's square.
"""

import hashlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from tstar.data.aside import Aside
from tstar.data.decoding import T, Taken, take_frames
from tstar.data.frame_sampling import FrameChoice, MiddleFrame, Window
from tstar.data.images import decode_image, to_square
from tstar.errors import ConfigError, DataError
from tstar.evaluation.media import Media


@dataclass(frozen=True)
class Look:
    """How a model looks at media."""

    sampling: FrameChoice
    decoder: str
    side: int
    """S."""
    resized: str
    """How pictures become squares; see :func:`tstar.data.images.to_square`."""
    mode: str
    """One of :data:`tstar.evaluation.prediction_store.MODES`, but for blind."""


@dataclass(frozen=True)
class Wanted:
    """What is to be decoded."""

    name: str
    """Path of the media below its suite's folder; seeds the order of shuffled frames."""
    kind: str
    media: Media
    window: Window | None
    frame_rate: float | None


@dataclass(frozen=True)
class Pixels:
    """A clip as the encoder takes it."""

    frames: np.ndarray
    """uint8, [M, S, S, 3], in the order they are shown to the model."""
    timestamps: tuple[float, ...]
    """Seconds from the video's start, rising, [M]; of shuffled frames, too. None of a picture."""
    seconds: float
    """What decoding took."""


def decode_clip(asked: tuple[Wanted, Look]) -> Pixels:
    """Decode one clip as a model looks at it.

    Raises:
        DataError: it cannot be decoded, whatever the reason.
        ConfigError: a decoder or room on disk is not there.
    """
    begun = time.perf_counter()
    wanted, look = asked
    sampling = MiddleFrame(look.sampling) if look.mode == "single_frame" else look.sampling
    try:
        taken = take(wanted, sampling, look.decoder, lambda frame: to_square(frame, look.side, look.resized))
    except (DataError, ConfigError):
        raise
    except Exception as error:  # whatever a library does with odd bytes, they cost this clip and no other
        raise DataError(f"cannot decode {wanted.media.parts[0]} ({type(error).__name__}: {error})") from error
    order = list(range(len(taken.items)))
    if look.mode == "shuffled":
        seed = wanted.name if wanted.window is None else f"{wanted.name} {wanted.window}"
        order = shuffled_order(seed, taken.timestamps)
    frames = np.empty((len(taken.items), look.side, look.side, 3), dtype=np.uint8)
    for place, number in enumerate(order):
        frames[place] = taken.items[number]
    return Pixels(frames, taken.timestamps, round(time.perf_counter() - begun, 4))


def take(wanted: Wanted, sampling: FrameChoice, decoder: str, make: Callable[[np.ndarray], T]) -> Taken[T]:
    """What is made of the frames that ``sampling`` chooses from a video, a folder of pictures or a single one, in order of time.

    Args:
        wanted: what is decoded.
        sampling: which frames.
        decoder: of videos, as :func:`tstar.data.decoding.take_frames` takes it.
        make: called with each frame, uint8 [height, width, 3] RGB.
    """
    first = wanted.media.parts[0]
    if wanted.kind == "video":
        with first.file() as path:
            try:
                return take_frames(path, sampling, decoder, make, wanted.window)
            except DataError as error:  # of a temporary file only its origin says something
                raise DataError(str(error).replace(str(path), str(first))) from None
    if wanted.kind == "image":
        return Taken([make(decode_image(first.read(), str(first)))], (), 0.0, "pillow")
    assert wanted.frame_rate is not None, f"the benchmark gives no frame_rate for {wanted.name}"
    numbers = np.array(wanted.media.numbers)
    starts = (numbers - numbers[0]) / wanted.frame_rate
    duration = float(starts[-1]) + 1 / wanted.frame_rate
    try:
        chosen = sampling.choose(starts, duration, wanted.window, int(numbers[0]))
    except DataError as error:
        raise DataError(f"{wanted.name}: {error}") from None
    parts = [wanted.media.parts[number] for number in chosen]
    return Taken(
        [make(decode_image(p.read(), str(p))) for p in parts], tuple(starts[chosen].tolist()), duration, "pillow"
    )


class Decoders:
    """Decodes clips before their turn.

    Args:
        workers: processes; 0 decodes in a thread of this one, where nothing can stop a decoder that hangs or crashes.
        time_limit: seconds that a process may take for a clip.
    """

    def __init__(self, workers: int, time_limit: float | None) -> None:
        self.workers, self.time_limit = workers, time_limit
        self._pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="tstar-decoding")
        self._idle: SimpleQueue[Aside[tuple[Wanted, Look], Pixels]] = SimpleQueue()
        self._asides = [Aside(decode_clip, time_limit) for _ in range(workers)]
        for aside in self._asides:
            self._idle.put(aside)
        self._running: set[Future[Pixels]] = set()

    def clips(self, wanted: Iterable[Wanted], look: Look) -> Iterator[Pixels | DataError]:
        """The clips in their order, or why one could not be decoded.

        Beside the one in use at most one more than there are workers are in memory.
        """
        waiting = ((one, look) for one in wanted)
        ahead = deque(self._submit(one) for one in itertools.islice(waiting, max(1, self.workers) + 1))
        try:
            while ahead:
                future = ahead.popleft()
                try:
                    found: Pixels | DataError = future.result()
                except DataError as error:
                    found = error
                ahead.extend(self._submit(one) for one in itertools.islice(waiting, 1))
                yield found
        finally:
            for future in ahead:
                future.cancel()

    def decode(self, wanted: Wanted, look: Look) -> Pixels:
        """One clip at once; errors as :func:`decode_clip`, and DataError where it took too long or ended the process."""
        return self._decode((wanted, look))

    def _submit(self, asked: tuple[Wanted, Look]) -> "Future[Pixels]":
        future = self._pool.submit(self._decode, asked)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def _decode(self, asked: tuple[Wanted, Look]) -> Pixels:
        if not self.workers:
            return decode_clip(asked)
        aside = self._idle.get()
        try:
            return aside.answer(asked, str(asked[0].media.parts[0]))
        finally:
            self._idle.put(aside)

    def close(self) -> None:
        """End the processes, in the middle of their work if need be."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        while running := list(self._running):
            for aside in self._asides:
                aside.abandon()
            wait(running, timeout=0.1)
        for aside in self._asides:
            aside.close()

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def shuffled_order(seed: str, positions: Sequence[float]) -> list[int]:
    """A random order of a video's frames, the same in every run, that shows them otherwise than time does.

    Args:
        seed: path of the video below its suite's folder; its hash is the seed.
        positions: when each frame is shown, [M]. With fewer than three different ones any order may come, time's too.

    Returns:
        Indices of the frames, [M].
    """
    draw = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    order = draw.permutation(len(positions))
    while len(set(positions)) >= 3 and [positions[k] for k in order] == list(positions):
        order = draw.permutation(len(positions))
    return [int(k) for k in order]
