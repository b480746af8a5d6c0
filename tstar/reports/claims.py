"""Who works on what in a folder that several processes or machines share: one small file a piece of work.

A claim is made by creating its file, which a file system lets only one do. Its holder touches it while it works; one that has
not been touched for long, or whose processes on this machine are gone, may be taken over.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEAT_SECONDS = 10.0
STALE_SECONDS = 300.0
"""A holder on another machine that has been silent for so long is taken for dead. Clocks may differ by much less than this."""


@dataclass(frozen=True)
class Holder:
    """Who holds a claim."""

    host: str
    processes: dict[str, str]
    """Of this holder: when each started, by its number."""
    silent: float
    """Seconds since its last sign of life."""

    @property
    def alive(self) -> bool:
        if self.host == socket.gethostname():
            return any(_born(int(pid)) == born for pid, born in self.processes.items())
        return self.silent < STALE_SECONDS

    def __str__(self) -> str:
        return f"process {next(iter(self.processes), '?')} on {self.host}"


class Claim:
    """A piece of work that is held by this process until :meth:`release`.

    Args:
        path: the claim's file, which :func:`take` has made.
        token: what tells this holder from one that takes the claim over.
    """

    def __init__(self, path: Path, token: str) -> None:
        self.path, self.token = path, token
        self._over = threading.Event()
        self._beat = threading.Thread(target=self._keep, daemon=True)
        self._beat.start()

    def works_through(self, pid: int) -> None:
        """Name a child process: while it lives the claim is held, even if this process dies."""
        fresh = _written(self.path, self.token, (os.getpid(), pid))
        fresh.replace(self.path)

    def release(self) -> None:
        """Give the work back, done or not."""
        self._over.set()
        self._beat.join()
        if _content(self.path).get("token") == self.token:
            self.path.unlink(missing_ok=True)

    def _keep(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self.path)


def take(path: Path) -> Claim | None:
    """Claim the work that ``path`` stands for; None if a living holder has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    if not _create(path, token):
        _clear_away_dead(path)
        if not _create(path, token):
            return None
    return Claim(path, token)


def holder_of(path: Path) -> Holder | None:
    """Who holds ``path``, None if nobody does."""
    try:
        silent = max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return None
    content = _content(path)
    return Holder(str(content.get("host", "an unknown machine")), dict(content.get("processes", {})), silent)


def _create(path: Path, token: str) -> bool:
    """Make the file with all that is in it in one step, unless it is there: a hard link to a finished one."""
    fresh = _written(path, token, (os.getpid(),))
    try:
        os.link(fresh, path)
    except FileExistsError:
        return False
    finally:
        fresh.unlink()
    return True


def _written(path: Path, token: str, pids: tuple[int, ...]) -> Path:
    fresh = path.with_name(f"{path.name}.{token}")
    processes = {str(pid): _born(pid) for pid in pids}
    fresh.write_text(json.dumps({"host": socket.gethostname(), "processes": processes, "token": token}))
    return fresh


def _clear_away_dead(path: Path) -> None:
    """Delete a dead holder's file. Whoever does so holds a second file meanwhile, lest a new holder's be deleted instead."""
    guard = path.with_name(f"{path.name}.takeover")
    guarding = holder_of(guard)
    if guarding is not None and not guarding.alive:
        guard.unlink(missing_ok=True)  # it died within these few lines
    token = uuid.uuid4().hex
    if not _create(guard, token):
        return
    holder = holder_of(path)
    if holder is not None and not holder.alive:
        path.unlink(missing_ok=True)
    guard.unlink(missing_ok=True)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _born(pid: int) -> str:
    """When a process started, in the machine's own ticks, so that a number that is used again is not taken for the old one.

    "gone" if there is none, "unknown" where the system does not say.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    state, *rest = stat.rpartition(")")[2].split()
    return "gone" if state == "Z" else rest[18]
