"""Shard sets at URLs (anything fsspec opens): index at once, each tar whole when it is first read, kept in a local folder.

A tar is read by offset like any other once it is here, so order and resuming are as exact as with local sets.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

from tstar.data.files import file_digest, write_whole
from tstar.errors import ConfigError, DataError, TstarError

ORIGIN = "origin.json"
FETCHES = 16
"""Small files fetched at once."""
TRIES = 3
WAIT_SECONDS = 2.0


class UnreachableError(TstarError):
    """A tar cannot be had now. No sample's fault: nothing takes its place, so that the order stays."""


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
            wanted = [name for name in names if known != now or not (local / name).is_file()]
            with ThreadPoolExecutor(FETCHES) as pool:
                for name, data in zip(wanted, pool.map(lambda n: _read(f"{url.rstrip('/')}/{n}"), wanted), strict=True):
                    write_whole(local / name, data)
            if known is not None and known != now:  # its tars are of another making
                for path in local.glob("*.tar"):
                    path.unlink(missing_ok=True)
            write_whole(local / ORIGIN, json.dumps({"url": url}).encode())
            write_whole(local / manifest, now)
        return local

    def check_room(self, size: int) -> None:
        """Refuse a limit that one run's sets do not fit into: in a shuffled order tars would be fetched again and again."""
        if self.max_bytes is not None and size > self.max_bytes:
            raise ConfigError(
                f"data.cache_gb is {self.max_bytes / 1e9:g} and the sets at URLs have {size / 1e9:.3g}; in a shuffled order every "
                "sample comes from another tar, so all must fit: raise it, or leave it out"
            )

    def open_tar(self, shard: Path, size: int, digest: str) -> int:
        """A descriptor of one tar of an opened set, which is brought here unless it is here.

        Raises:
            UnreachableError: it cannot be reached, or is not what the manifest says.
        """
        with FileLock(shard.with_suffix(".lock")):
            if not shard.is_file() or shard.stat().st_size != size:
                self._fetch(shard, size, digest)
            os.utime(shard)
            opened = os.open(shard, os.O_RDONLY)
        self._make_room(shard)
        return opened

    def _fetch(self, shard: Path, size: int, digest: str) -> None:
        url = f"{json.loads((shard.parent / ORIGIN).read_text())['url'].rstrip('/')}/{shard.name}"
        temporary = shard.with_suffix(".part")
        try:
            _download(url, temporary)
        except DataError as error:
            raise UnreachableError(str(error)) from error
        if temporary.stat().st_size != size or file_digest(temporary) != digest:
            temporary.unlink()
            raise UnreachableError(f"{url} is not what its manifest says (size or sha256 differs)")
        temporary.replace(shard)

    def _make_room(self, keep: Path) -> None:
        """Delete tars that were opened longest ago, of other sets' runs too; who has one open reads on."""
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
                path.unlink(missing_ok=True)
                total -= size


def upload(folder: Path, url: str, manifest: str, progress: Callable[[int, int], None] | None = None) -> None:
    """Copy a finished set to a URL, its manifest last. Tars that are there with the same sha256, by the manifest there, are left.

    Args:
        folder: of the set.
        url: where to.
        manifest: name of the file that lists its shards.
        progress: called with (files done, files in all).

    Raises:
        DataError: the place cannot be written.
    """
    target = url.rstrip("/")
    mine = json.loads((folder / manifest).read_text())
    tars = [entry["file"] for entry in mine["shards"]]
    stems = {Path(name).stem for name in tars}
    beside = sorted(p.name for p in folder.iterdir() if p.name.split(".")[0] in stems and p.suffix in (".npy", ".json"))
    lists = [p.name for p in sorted(folder.glob("*.jsonl"))] + [n for n in ("records.json",) if (folder / n).is_file()]
    try:
        system, path = fsspec.core.url_to_fs(target)
        system.makedirs(path, exist_ok=True)
        there = _entries(system, f"{path}/{manifest}")
        same = {entry["file"] for entry in mine["shards"] if there.get(entry["file"]) == entry["sha256"]}
        if there and set(there) != same:
            system.rm_file(f"{path}/{manifest}")  # nobody shall read old and new mixed
        names = [name for name in tars if name not in same] + beside + lists + [manifest]
        for done, name in enumerate(names, 1):
            system.put_file(str(folder / name), f"{path}/{name}")
            if progress:
                progress(done, len(names))
    except Exception as error:  # every protocol has types of its own
        raise DataError(f"cannot write {target} ({type(error).__name__}: {error})") from error


def _entries(system: Any, path: str) -> dict[str, str]:
    """sha256 of the tars of a set, by name; none if there is no set."""
    if not system.exists(path):
        return {}
    try:
        return {entry["file"]: entry["sha256"] for entry in json.loads(system.cat_file(path))["shards"]}
    except (ValueError, KeyError, TypeError):
        return {}


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
