"""One picture or video as a shard stores it: sampled, shrunk, coded; in this process, or in one that may be stopped."""

import contextlib
from collections import OrderedDict
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tstar.data.decoding import take_frames
from tstar.data.frame_sampling import FrameSampling
from tstar.data.images import bound_short_side, encode_image, read_image
from tstar.data.sharding_settings import ShardSettings
from tstar.errors import ConfigError, DataError

REMEMBERED = 8
"""Media whose coded frames are kept: annotations ask several questions about one video in a row."""
START_SECONDS = 120.0
TRIES = 2
"""Of a file on which the process that reads it ends: the system may have ended it for lack of memory."""


@dataclass(frozen=True)
class StoredMedia:
    """Coded frames of one picture or video."""

    frames: tuple[bytes, ...]
    timestamps: tuple[float, ...]
    """Seconds from the start, one a frame; 0 for a picture."""
    duration: float
    """Seconds; 0 for a picture."""


class PassingError(DataError):
    """A file could not be read this time, by no fault of its own: a disk or network that fails, memory that is short."""


def store_media(path: Path, modality: str, settings: ShardSettings) -> StoredMedia:
    """Read a file and code its frames; holds a few decoded frames at a time, however long a video is.

    Raises:
        DataError: the file is missing or cannot be decoded, or a frame is too large for the codec.
        PassingError: it could not be read this time.
    """
    try:
        return _store(path, modality, settings)
    except (DataError, ConfigError):
        raise
    except (OSError, MemoryError) as error:
        raise PassingError(f"cannot read {path} ({type(error).__name__}: {error})") from error
    except Exception as error:  # whatever a library does with odd bytes, they cost this file and no other
        raise DataError(f"cannot decode {path} ({type(error).__name__}: {error})") from error


def _store(path: Path, modality: str, settings: ShardSettings) -> StoredMedia:
    def code(pixels: np.ndarray) -> bytes:
        return encode_image(bound_short_side(pixels, settings.short_side), settings.codec, settings.quality)

    if modality == "image":
        return StoredMedia((code(read_image(path)),), (0.0,), 0.0)
    sampling = FrameSampling(fps=settings.fps, max_frames=settings.max_frames)
    taken = take_frames(path, sampling, settings.decoder, code)
    return StoredMedia(tuple(taken.items), taken.timestamps, taken.duration)


class MediaReader:
    """Stores media one after the other; one that is asked for again soon is not read again.

    Args:
        settings: sampling and coding.
        time_limit: seconds for one file, which is then read in a process of its own, so that a decoder that hangs or crashes
            costs this file and nothing else; None reads in this process.
    """

    def __init__(self, settings: ShardSettings, time_limit: float | None = None) -> None:
        self.settings, self.time_limit = settings, time_limit
        self._known: OrderedDict[tuple[Path, str], StoredMedia | DataError] = OrderedDict()
        self._asked: tuple[Path, str] | None = None
        self._child: Any = None
        self._pipe: Connection | None = None

    def start(self) -> None:
        """Start the other process now, where there is one; otherwise the first file does."""
        if self.time_limit is not None:
            self._started()

    def ask(self, path: Path, modality: str) -> None:
        """Let the other process, where there is one, begin with what will be read next, while this one does something else."""
        if self.time_limit is None or self._asked is not None or (path, modality) in self._known:
            return
        with contextlib.suppress(ConnectionError):  # :meth:`read` finds out
            self._started().send((path, modality))
            self._asked = (path, modality)

    def read(self, path: Path, modality: str) -> StoredMedia:
        """What a shard stores of one file; errors as :func:`store_media`, and :class:`DataError` where it takes too long."""
        asked = (path, modality)
        if asked not in self._known:
            while len(self._known) >= REMEMBERED:
                self._known.popitem(last=False)
            try:
                self._known[asked] = self._read(path, modality)
            except DataError as error:
                self._known[asked] = error
        self._known.move_to_end(asked)
        found = self._known[asked]
        if isinstance(found, DataError):
            raise found
        return found

    def _read(self, path: Path, modality: str) -> StoredMedia:
        if self.time_limit is None:
            return store_media(path, modality, self.settings)
        if self._asked not in (None, (path, modality)):
            self._stop()  # another was begun with than is wanted
        for _ in range(TRIES):
            pipe = self._started()
            try:
                if self._asked is None:
                    pipe.send((path, modality))
                self._asked = None
                if not pipe.poll(self.time_limit):
                    raise DataError(f"reading {path} took longer than {self.time_limit:g} s and was stopped")
                answer = pipe.recv()
            except (EOFError, ConnectionError):
                code = self._stop()
                continue
            except BaseException:
                self._stop()
                raise
            if isinstance(answer, Exception):
                raise answer
            return answer
        raise DataError(f"the decoder crashed on {path}, {TRIES} times (exit status {code})")

    def _started(self) -> Connection:
        if self._child is not None and not self._child.is_alive():  # killed while it had nothing to do
            self._stop()
        if self._pipe is None:
            context = get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._child = context.Process(target=_serve, args=(theirs, self.settings), daemon=True)
            self._child.start()
            theirs.close()
            if not self._pipe.poll(START_SECONDS) or self._pipe.recv() != "ready":
                self._stop()
                raise ConfigError("a process that reads media did not start")
        return self._pipe

    def _stop(self) -> int | None:
        """End the child; its exit status."""
        child, self._child, self._asked = self._child, None, None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if child is None:
            return None
        child.join(1.0)  # one that crashed has a status of its own
        if child.is_alive():
            child.kill()
            child.join()
        return child.exitcode

    def close(self) -> None:
        """End the other process, where there is one."""
        self._stop()

    def __enter__(self) -> "MediaReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _serve(pipe: Connection, settings: ShardSettings) -> None:
    """Read what is asked for until nobody asks any more."""
    pipe.send("ready")
    while True:
        try:
            path, modality = pipe.recv()
        except (EOFError, ConnectionError, KeyboardInterrupt):
            return
        try:
            answer: StoredMedia | Exception = store_media(path, modality, settings)
        except (DataError, ConfigError) as error:
            answer = type(error)(str(error))  # without what it was raised from, which may not be picklable
        pipe.send(answer)
