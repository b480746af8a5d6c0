"""Shard sets at URLs (anything fsspec opens): index at once, each tar whole when it is first read, kept in a local folder.

A tar is read by offset like any other once it is here, so order and resuming are as exact as with local sets.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

from tstar.data.files import file_digest, write_whole
from tstar.errors import ConfigError, DataError

ORIGIN = "origin.json"
TRIES = 3
WAIT_SECONDS = 2.0


def is_remote(folder: str | Path) -> bool:
    """Whether this is a URL and not a path."""
    return "://" in str(folder)


@dataclass(frozen=True)
class ShardCache:
    """Where tars of remote sets are kept.

    Args:
        folder: local; several runs and processes may share it.
        max_bytes: of all tars in it; those that were opened longest ago make room. None keeps all.
    """

    folder: Path
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.max_bytes is not None and self.max_bytes <= 0:
            raise ConfigError(f"data.cache_gb must be above 0, got {self.max_bytes / 1e9:g}")

    def open_set(self, url: str, manifest: str, others: Callable[[dict[str, Any]], list[str]]) -> Path:
        """The local folder of a remote set, with its manifest as it is now and its small files.

        Args:
            url: of the set.
            manifest: name of the file that lists its shards.
            others: given the manifest, names of the small files that are wanted at once.

        Raises:
            DataError: the set cannot be reached, or its manifest is not JSON.
        """
        local = self.folder / hashlib.sha256(url.encode()).hexdigest()[:16]
        local.mkdir(parents=True, exist_ok=True)
        with FileLock(local / "lock"):
            now = _read(f"{url.rstrip('/')}/{manifest}")
            try:
                names = others(json.loads(now))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{url}/{manifest} is damaged ({type(error).__name__}: {error})") from error
            known = (local / manifest).read_bytes() if (local / manifest).is_file() else None
            for name in names:
                if known != now or not (local / name).is_file():
                    write_whole(local / name, _read(f"{url.rstrip('/')}/{name}"))
            if known is not None and known != now:  # its tars are of another making
                for path in local.glob("*.tar"):
                    path.unlink(missing_ok=True)
            write_whole(local / ORIGIN, json.dumps({"url": url}).encode())
            write_whole(local / manifest, now)
        return local

    def fetch(self, shard: Path, size: int, digest: str) -> None:
        """Bring one tar of an opened set here, unless it is here.

        Raises:
            DataError: it cannot be reached, or is not what the manifest says.
        """
        with FileLock(shard.with_suffix(".lock")):
            if shard.is_file() and shard.stat().st_size == size:
                os.utime(shard)
                return
            url = f"{json.loads((shard.parent / ORIGIN).read_text())['url'].rstrip('/')}/{shard.name}"
            temporary = shard.with_suffix(".part")
            _download(url, temporary)
            if temporary.stat().st_size != size or file_digest(temporary) != digest:
                temporary.unlink()
                raise DataError(f"{url} is not what its manifest says (size or sha256 differs)")
            temporary.replace(shard)
        self._make_room(shard)

    def _make_room(self, keep: Path) -> None:
        if self.max_bytes is None:
            return
        tars = []
        for path in self.folder.glob("*/*.tar"):
            with contextlib.suppress(FileNotFoundError):
                tars.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in tars)
        for _, size, path in sorted(tars):
            if total <= self.max_bytes:
                return
            if path != keep:
                path.unlink(missing_ok=True)  # a process that has it open reads on
                total -= size


def upload(
    folder: Path, url: str, names: list[str], last: str, progress: Callable[[int, int], None] | None = None
) -> None:
    """Copy files of a folder to a URL, one of them last; those that are there in full size are left.

    Raises:
        DataError: the place cannot be written.
    """
    target = url.rstrip("/")
    try:
        system, path = fsspec.core.url_to_fs(target)
        system.makedirs(path, exist_ok=True)
        for done, name in enumerate([*(n for n in names if n != last), last], 1):
            size = (folder / name).stat().st_size
            if name == last or not system.exists(f"{path}/{name}") or system.size(f"{path}/{name}") != size:
                system.put_file(str(folder / name), f"{path}/{name}")
            if progress:
                progress(done, len(names))
    except Exception as error:  # every protocol has types of its own
        raise DataError(f"cannot write {target} ({type(error).__name__}: {error})") from error


def _read(url: str) -> bytes:
    return _tried(url, lambda: fsspec.open(url, "rb").open().read())


def _download(url: str, path: Path) -> None:
    def copy() -> None:
        with fsspec.open(url, "rb") as source, path.open("wb") as target:
            while block := source.read(1 << 22):
                target.write(block)
            target.flush()
            os.fsync(target.fileno())

    _tried(url, copy)


def _tried(url: str, work: Callable[[], Any]) -> Any:
    """``work``, again after a while where it fails by the network."""
    for attempt in range(TRIES):
        try:
            return work()
        except FileNotFoundError as error:
            raise DataError(f"no such file: {url}") from error
        except (ImportError, ValueError) as error:  # a protocol without its package, or none at all
            raise ConfigError(f"cannot open {url} ({error})") from error
        except Exception as error:  # every protocol has types of its own
            if attempt == TRIES - 1:
                raise DataError(f"cannot read {url} ({type(error).__name__}: {error})") from error
            time.sleep(WAIT_SECONDS * 2**attempt)
    raise AssertionError
