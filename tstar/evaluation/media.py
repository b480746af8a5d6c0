"""Where the media of a suite lie: files as published, folders of numbered pictures, and members of tars.

A tar stands for what unpacking it would leave, in the folder where it lies or in one of its own name there. It is not unpacked:
members are read where they are, a video by way of a temporary file. Names come from annotations and tars, which others wrote.
Nothing here imports torch: processes that decode do not need it.
"""

import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

from tstar.data.annotations import check_path
from tstar.errors import ConfigError, DataError
from tstar.evaluation.items import Item

VIDEO_ENDINGS = (".mp4", ".webm", ".mkv", ".avi", ".MP4")
"""Tried in this order where annotations give a video without its ending."""
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
LARGEST_VIDEO = 64 * 2**30
"""Bytes that a member of a tar may have to be copied into a temporary file."""
LARGEST_PICTURE = 256 * 2**20
"""Bytes of a picture in a tar, which is read into memory."""
BLOCK = 512
"""Of a tar."""
NAMED = 3
"""Missing files that an error names."""

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """The bytes of a file, or of a member of a tar."""

    path: Path
    member: str = ""
    offset: int = 0
    size: int = 0

    def __str__(self) -> str:
        return f"{self.path}: {self.member}" if self.member else str(self.path)

    def read(self) -> bytes:
        """All bytes, of a picture; DataError if they cannot be read or are too many."""
        self._check_size(LARGEST_PICTURE)
        try:
            if not self.member:
                return self.path.read_bytes()
            with self.path.open("rb") as stream:
                stream.seek(self.offset)
                return stream.read(self.size)
        except OSError as error:
            raise DataError(f"cannot read {self} ({error.strerror})") from None

    @contextmanager
    def file(self) -> Iterator[Path]:
        """The bytes as a file of their own; those of a member in a temporary one, which a kill does not leave behind.

        Raises:
            ConfigError: there is no room for it.
        """
        if not self.member:
            yield self.path
            return
        self._check_size(LARGEST_VIDEO)
        with _temporary() as (copy, path):
            try:
                _copy(self, copy)
            except OSError as error:
                raise ConfigError(
                    f"cannot copy {self} into {tempfile.gettempdir()} ({error.strerror}); set TMPDIR to a folder with room"
                ) from None
            yield path

    def _check_size(self, most: int) -> None:
        if self.size > most:
            raise DataError(
                f"{self} has {self.size} bytes, more than the {most} that are taken out of a tar; unpack it"
            )


@contextmanager
def _temporary() -> Iterator[tuple[IO[bytes], Path]]:
    """A temporary file and a path that opens it: without a name of its own where the system shows open files as paths."""
    if Path("/proc/self/fd").is_dir():
        with tempfile.TemporaryFile(buffering=0) as file:
            yield file, Path(f"/proc/self/fd/{file.fileno()}")
    else:
        with tempfile.NamedTemporaryFile(prefix="tstar-", buffering=0) as named:
            yield named, Path(named.name)


def _copy(part: Part, into: IO[bytes]) -> None:
    left = part.size
    with part.path.open("rb") as stream:
        stream.seek(part.offset)
        while left and (data := stream.read(min(left, 1 << 20))):
            left -= len(data)
            while data:
                data = data[into.write(data) :]


@dataclass(frozen=True)
class Media:
    """What an item is about, found."""

    parts: tuple[Part, ...]
    """The file; of a folder of pictures every one, in order of their numbers."""
    numbers: tuple[int, ...] = ()
    """Of the pictures of a folder, rising."""


class SuiteMedia:
    """Finds media below a folder, or in one tar. What was looked up in a tar is remembered.

    Args:
        root: the folder that items' paths start from, or the tar.

    Raises:
        DataError: there is no such folder or tar.
    """

    def __init__(self, root: Path) -> None:
        if not root.exists():
            raise DataError(f"no media in {root}: there is no such folder or tar")
        self.root = root
        self._tars: dict[Path, list[Path]] = {}
        self._members: dict[Path, dict[str, Part]] = {}
        self._folders: dict[Path, dict[str, dict[str, Part]]] = {}

    def find(self, item: Item) -> Media | None:
        """The media of an item, None if they are not there.

        Raises:
            DataError: the path leads out of the folder, two tars hold it, or a tar or a folder of pictures is damaged.
        """
        check_path(item.media, f"media of {item.id}")
        if item.media_kind == "frames":
            pictures = self._pictures(item.media)
            return _numbered(pictures, item.media) if pictures else None
        endings = VIDEO_ENDINGS if item.media_kind == "video" else PICTURE_ENDINGS
        bare = PurePosixPath(item.media).suffix.lower() not in endings
        for name in (item.media, *(item.media + ending for ending in endings if bare)):
            part = self._file(name)
            if part is not None:
                return Media((part,))
        return None

    def placed(self, items: Sequence[Item]) -> list[Item]:
        """The items with the first of their media's places that holds them; where none does, with what they had."""
        return [self._placed(item) if item.elsewhere else item for item in items]

    def _placed(self, item: Item) -> Item:
        others = (replace(item, elsewhere=(), **place._asdict()) for place in item.elsewhere)
        return next((one for one in (item, *others) if self.find(one) is not None), item)

    def find_all(self, items: Sequence[Item]) -> dict[tuple[str, str], Media | None]:
        """What :meth:`find` says, by path and kind of media."""
        found: dict[tuple[str, str], Media | None] = {}
        for item in items:
            key = media_key(item)
            if key not in found:
                found[key] = self.find(item)
        return found

    def _file(self, name: str) -> Part | None:
        if self.root.is_dir() and _is_file(self.root / name):
            return Part(self.root / name)
        found = {tar: part for tar, inner in self._tars_with(name) if (part := self._index(tar).get(inner))}
        return _only(found, name)

    def _pictures(self, name: str) -> dict[str, Part]:
        """Pictures of a folder by file name; empty if there is none."""
        folder = self.root / name
        if self.root.is_dir() and folder.is_dir():
            own = {path.name: Part(path) for path in folder.iterdir() if path.suffix.lower() in PICTURE_ENDINGS}
            if own:
                return own
        found: dict[Path, dict[str, Part]] = {}
        for tar, inner in self._tars_with(f"{name}/-"):
            self._index(tar)
            pictures = self._folders[tar].get(str(PurePosixPath(inner).parent))
            if pictures:
                found[tar] = pictures
        return _only(found, name) or {}

    def _tars_with(self, name: str) -> Iterator[tuple[Path, str]]:
        """Tars that may hold a path, and what they would call it."""
        if not self.root.is_dir():
            yield self.root, name
            return
        path = PurePosixPath(name)
        for above in path.parents:
            inner = path.relative_to(above)
            for tar in self._tars_in(self.root / above):
                yield tar, str(inner)
                if len(inner.parts) > 1 and inner.parts[0] == tar.stem:
                    yield tar, str(inner.relative_to(tar.stem))

    def _tars_in(self, folder: Path) -> list[Path]:
        if folder not in self._tars:
            self._tars[folder] = sorted(folder.glob("*.tar")) if folder.is_dir() else []
        return self._tars[folder]

    def _index(self, tar: Path) -> dict[str, Part]:
        if tar not in self._members:
            self._members[tar] = members = read_members(tar)
            folders = self._folders[tar] = {}
            for name, part in members.items():
                path = PurePosixPath(name)
                if path.suffix.lower() in PICTURE_ENDINGS:
                    folders.setdefault(str(path.parent), {})[path.name] = part
        return self._members[tar]


def read_members(tar: Path) -> dict[str, Part]:
    """The plain files of a tar by their paths in it; of two by one name the later, as unpacking would leave it.

    Raises:
        DataError: it is no tar, compressed, damaged, or ends early.
    """
    members: dict[str, Part] = {}
    total = tar.stat().st_size
    try:
        with tarfile.open(tar, "r:") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would remember them all
                if info.offset_data + info.size > total and info.isreg():
                    raise DataError(f"{tar} ends early, within {info.name}; fetch it again")
                if info.isreg() and not info.issparse():
                    name = str(PurePosixPath(info.name))
                    members[name] = Part(tar, name, info.offset_data, info.size)
            end = archive.offset
        with tar.open("rb") as stream:
            stream.seek(end)
            rest = stream.read(BLOCK)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise DataError(
            f"{tar} is no plain tar, or a damaged one ({error}); compressed ones have to be unpacked"
        ) from None
    if rest.strip(b"\0"):  # a damaged header passes for the end
        raise DataError(f"{tar} is damaged at byte {end}; fetch it again")
    return members


def media_key(item: Item) -> tuple[str, str]:
    """What tells an item's media from others."""
    return item.media, item.media_kind


def missing_media(
    name: str, root: Path, items: Sequence[Item], missing: Sequence[Item], listing: Path | None = None
) -> str:
    """What is missing of a suite, and what can be done, in one line.

    Args:
        name: of the suite.
        root: where its media were looked for.
        items: all that are to be asked.
        missing: those whose media are not there.
        listing: file that names all of them.
    """
    files = list(dict.fromkeys(item.media for item in missing))
    shown = ", ".join(files[:NAMED]) + (", ..." if len(files) > NAMED else "")
    shown += f" (all in {listing})" if listing else ""
    total = len({item.media for item in items})
    return (
        f"{name}: the media of {len(missing)} of {len(items)} questions are missing ({len(files)} of {total} files), below {root}: "
        f"{shown}; name their folder in evaluation.benchmarks.{name}.media, or set evaluation.missing_media: score_rest to ask "
        "the other questions"
    )


def _only(found: Mapping[Path, T], name: str) -> T | None:
    if len(found) > 1:
        first, second, *_ = found
        raise DataError(f"{name} is in {first} and in {second}; take one of them away")
    return next(iter(found.values()), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no file has so long a name
        return False


def _numbered(pictures: dict[str, Part], folder: str) -> Media:
    """Pictures in the order of the numbers that their names end with."""
    by_number: dict[int, Part] = {}
    for name, part in pictures.items():
        digits = re.search(r"(\d+)$", PurePosixPath(name).stem)
        if digits is None:
            raise DataError(f"picture {part} of {folder} has no number at the end of its name; frames need one")
        number = int(digits[1])
        if number in by_number:
            raise DataError(f"{folder} has two pictures of number {number}: {by_number[number]} and {part}")
        by_number[number] = part
    numbers = tuple(sorted(by_number))
    return Media(tuple(by_number[number] for number in numbers), numbers)
