"""One picture or video as a shard stores it: sampled, shrunk, coded; in this process, or in one that may be stopped."""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tstar.data.aside import Aside
from tstar.data.decoding import take_frames
from tstar.data.frame_sampling import FrameSampling
from tstar.data.images import bound_short_side, encode_image, read_image
from tstar.data.sharding_settings import ShardSettings
from tstar.errors import ConfigError, DataError

REMEMBERED = 8
"""Media whose coded frames are kept: annotations ask several questions about one video in a row."""


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


class MediaReader(Aside[tuple[Path, str], StoredMedia]):
    """Stores media one after the other; one that is asked for again soon is not read again.

    Args:
        settings: sampling and coding.
        time_limit: seconds for one file, which is then read in a process of its own, so that a decoder that hangs or crashes
            costs this file and nothing else; None reads in this process.
    """

    def __init__(self, settings: ShardSettings, time_limit: float | None = None) -> None:
        super().__init__(partial(_store_asked, settings), time_limit)
        self.settings = settings
        self._known: OrderedDict[tuple[Path, str], StoredMedia | DataError] = OrderedDict()

    def start(self) -> None:
        """Start the other process now, where there is one; otherwise the first file does."""
        if self.time_limit is not None:
            super().start()

    def ask(self, path: Path, modality: str) -> None:
        """Let the other process, where there is one, begin with what will be read next, while this one does something else."""
        if self.time_limit is not None and (path, modality) not in self._known:
            self.begin((path, modality))

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
        return self.answer((path, modality), str(path))

    def __enter__(self) -> "MediaReader":
        return self


def _store_asked(settings: ShardSettings, asked: tuple[Path, str]) -> StoredMedia:
    path, modality = asked
    return store_media(path, modality, settings)
