"""Checkpoints that are whole or absent, known by their checksum, and load as data only.

A checkpoint is written beside its final name, synced and renamed; then its size, checksum and step go into ``manifest.json`` the
same way. A kill or a full disk at any moment leaves the earlier ones usable.
"""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from tstar.data.files import append_lines, file_digest, sync_folder, write_whole
from tstar.errors import DataError

MANIFEST = "manifest.json"


class VerifiedCheckpointIO(CheckpointIO):
    """Lightning's reading and writing of checkpoint files, made safe."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write atomically and enter it in the manifest; :class:`DataError` when the disk is full."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(".*.ckpt.tmp"):  # by a killed run
            left.unlink()
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            entry = {
                "bytes": temporary.stat().st_size,
                "sha256": file_digest(temporary),
                "step": int(checkpoint.get("global_step", 0)),
            }
            self._put(temporary, path, entry)
        except (OSError, RuntimeError) as error:
            free = shutil.disk_usage(path.parent).free  # asked before the half-written file goes
            temporary.unlink(missing_ok=True)
            if _disk_full(error) or free < 1 << 20:
                raise DataError(
                    f"disk full: {path} needs {_tensor_bytes(checkpoint) / 1e6:.1f} MB and {free / 1e6:.1f} MB are free; "
                    "the earlier checkpoints are unharmed: make room and resume"
                ) from error
            raise

    def _put(self, temporary: Path, path: Path, entry: dict[str, Any]) -> None:
        """Rename into place. An old file of that name leaves the manifest first: its entry would call the new one damaged."""
        others = {name: e for name, e in read_manifest(path.parent).items() if name != path.name}
        if path.exists():
            write_manifest(path.parent, others)
        temporary.replace(path)
        sync_folder(path.parent)
        write_manifest(path.parent, {**others, path.name: entry})

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> dict:
        """Read a checkpoint as data: no code in it can run, whatever the caller asks."""
        return load_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint and its entry."""
        path = Path(path)
        manifest = read_manifest(path.parent)
        if manifest.pop(path.name, None):
            write_manifest(path.parent, manifest)
        path.unlink(missing_ok=True)


def load_checkpoint(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Load a checkpoint onto the CPU; :class:`DataError` if it is missing, damaged or not plain data.

    Args:
        path: of the file.
        mmap: leave tensors in the file until they are read.
    """
    if not path.is_file():
        raise DataError(f"no such checkpoint: {path}")
    problem = _problem(path, read_manifest(path.parent).get(path.name))
    if problem:
        raise DataError(f"checkpoint {path} {problem}; take another one from its folder")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # whatever a file that is no checkpoint brings about
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(f"checkpoint {path} cannot be read ({reason})") from error
    if not isinstance(checkpoint, dict):
        raise DataError(f"checkpoint {path} cannot be read (it holds a {type(checkpoint).__name__})")
    return checkpoint


def newest_verified(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a folder that is what its manifest says, and a sentence for each newer one that is not.

    Where none is, the newest file that the manifest does not know and that can be read: of a kill just before its entry was
    written, or because the manifest was deleted.
    """
    manifest = read_manifest(folder)
    passed_over: list[str] = []
    for name, entry in sorted(manifest.items(), key=lambda item: item[1]["step"], reverse=True):
        problem = _problem(folder / name, entry)
        if problem is None:
            return folder / name, passed_over
        passed_over.append(f"{folder / name} {problem}")
    unknown = [path for path in folder.glob("*.ckpt") if path.name not in manifest]
    for path in sorted(unknown, key=lambda p: p.stat().st_mtime_ns, reverse=True):
        try:
            load_checkpoint(path)
        except DataError as error:
            passed_over.append(str(error))
        else:
            return path, passed_over
    return None, passed_over


def _disk_full(error: BaseException | None) -> bool:
    """Whether it, or what brought it about, is for want of space."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(_tensor_bytes, inner))


def _problem(path: Path, entry: Mapping[str, Any] | None) -> str | None:
    if not path.is_file():
        return "is missing"
    if entry is None:
        return None
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"has {size} bytes where {entry['bytes']} were written"
    if file_digest(path) != entry["sha256"]:
        return "is damaged (its checksum differs)"
    return None


def read_manifest(folder: Path) -> dict[str, Any]:
    """Entries of the checkpoints in ``folder``; empty where there are none."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text())
        return {n: e for n, e in entries.items() if {"bytes", "sha256", "step"} <= e.keys()}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it to use the checkpoints unverified") from error


def write_manifest(folder: Path, entries: Mapping[str, Any]) -> None:
    """Replace the manifest of ``folder``."""
    write_atomically(folder / MANIFEST, json.dumps(entries, indent=1))


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that it is there whole or not at all."""
    write_whole(path, text.encode("utf-8", "backslashreplace"))
    sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file. One that a killed run left half written stays alone and does not swallow this one."""
    append_lines(path, f"{line}\n".encode())
