"""Files written whole or not at all, their digests, and what killed processes leave behind."""

import fcntl
import hashlib
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tstar.errors import DataError

STALE_SECONDS = 86_400
_TEMPORARY = re.compile(r"\.([^.]*)-(\d+)-[0-9a-f]{8}\.tmp$")


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other process takes, on this machine or another, and that :func:`sweep` knows."""
    host = re.sub(r"[^\w-]", "_", socket.gethostname())
    return path.with_name(f"{path.name}.{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A name of this process's own to write ``path`` under; it takes its place when the block ends well, and else is deleted."""
    temporary = temporary_name(path)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write under another name, sync, rename: after a kill there is the old file or the new one."""
    with written_beside(path) as temporary, temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def text_of(path: Path) -> str:
    """A text file; DataError where it cannot be read or is not in UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


@contextmanager
def damage_named(folder: Path) -> Iterator[None]:
    """Make a DataError that names ``folder`` of what its files bring about where they hold other things than were written."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, OSError, RecursionError) as error:
        raise DataError(
            f"{folder}: a file in it is damaged ({type(error).__name__}: {error}); restore it, or delete the folder"
        ) from error


def json_object(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no file, DataError where it holds anything else."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: broken JSON ({error})") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: must be a JSON object, got {type(found).__name__}")
    return found


def append_lines(path: Path, lines: bytes, *, durable: bool = False) -> None:
    """Add lines at the end of a file, by one write. One that a killed process left half written stays alone and swallows none.

    Args:
        path: the file; it and its folder are made if need be.
        lines: with the line break of the last.
        durable: return only when they would be there after a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        end = stream.seek(0, os.SEEK_END)
        if end:
            stream.seek(end - 1)
            lines = lines if stream.read(1) == b"\n" else b"\n" + lines
        stream.write(lines)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    if durable and not end:
        sync_folder(path.parent)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Let other processes of this machine wait that want the same; if this one dies, the system ends their wait.

    Args:
        folder: what is to be changed by one process at a time; it is made if need be, and no file of it is touched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a rename or a new file in ``folder`` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Delete temporary files of processes that are gone: dead ones of this machine, others' after a day."""
    host = re.sub(r"[^\w-]", "_", socket.gethostname())
    for path in folder.glob("*.tmp"):
        name = _TEMPORARY.search(path.name)
        try:
            dead = name is not None and name[1] == host and not _is_alive(int(name[2]))
            if dead or time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
        except FileNotFoundError:
            continue


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
