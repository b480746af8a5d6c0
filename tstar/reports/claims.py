"""Who works on what in a folder that several processes or machines share: one small file a piece of work.

A claim is made by creating its file, which a file system lets only one do. Its holder touches it while it works. Where the
holder's processes can be seen from here they decide whether it lives; else its silence does, by this process's own clock. Who
takes a dead holder's work over first claims the right to do so, a file of that holder's own that again only one can create, and
then puts its file in the dead one's place in one step: the place is never empty meanwhile. A holder that wakes up finds that its
file is another's, or gone, and has lost the work.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

BEAT_SECONDS = 10.0
STALE_SECONDS = 300.0
"""A holder whose processes cannot be seen from here and that has been silent for so long is taken for dead."""
_seen: dict[Path, tuple[object, float]] = {}
"""Last sign of life of others' claims, and when it was first seen by this process's clock."""


@dataclass(frozen=True)
class Holder:
    """Who holds a claim."""

    host: str
    here: bool
    """Whether its processes can be seen from this one: the same start of the same machine, and the same container."""
    processes: dict[str, str]
    """Of this holder: when each started, by its number."""
    silent: float
    """Seconds for which it has given no sign of life, as far as this process has watched it."""
    token: str | None
    """What tells it from others; None in a damaged file."""

    @property
    def alive(self) -> bool:
        if self.here:
            return any(born != "gone" and _born(int(pid)) == born for pid, born in self.processes.items())
        return self.silent < STALE_SECONDS

    def __str__(self) -> str:
        return f"process {next(iter(self.processes), '?')} on {self.host}"


class Claim:
    """A piece of work that is held by this process until :meth:`release`, or until it is lost.

    Args:
        path: the claim's file, which :func:`take` has made.
        token: what tells this holder from one that takes the claim over.
    """

    def __init__(self, path: Path, token: str) -> None:
        self.path, self.token = path, token
        self.lost = threading.Event()
        """Set once another has taken the claim over, as after a long sleep of this machine."""
        self._pids = [os.getpid()]
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._beat = threading.Thread(target=self._keep, daemon=True)
        self._beat.start()

    def works_through(self, pid: int) -> None:
        """Name a child process: while it lives the claim is held, even if this process dies."""
        with self._lock:
            self._pids = [os.getpid(), pid]
            if self._held():
                _written(self.path, self.token, self._pids).replace(self.path)

    def release(self) -> None:
        """Give the work back, done or not."""
        self._over.set()
        self._beat.join()
        _remove(self.path, self.token)

    def _keep(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with self._lock, contextlib.suppress(OSError):  # a file server that is away for a while
                if not self._held():
                    return
                os.utime(self.path)

    def _held(self) -> bool:
        """Whether the file is still this holder's. One that is there and cannot be read now is looked at by the next beat."""
        token = _content(self.path).get("token", self.token)
        if token != self.token or not _there(self.path):
            self.lost.set()
        return not self.lost.is_set()


def take(path: Path) -> Claim | None:
    """Claim the work that ``path`` stands for; None if a living holder has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    return Claim(path, token) if _create(path, token) or _take_over(path, token) else None


def holder_of(path: Path) -> Holder | None:
    """Who holds ``path``, None if nobody does."""
    try:
        stamp = path.stat()
    except FileNotFoundError:
        _seen.pop(path, None)
        return None
    content = _content(path)
    token = _token(content)
    life = (token, stamp.st_mtime_ns, stamp.st_ino)
    before, since = _seen.get(path, (None, 0.0))
    now = time.monotonic()
    if before != life:
        _seen[path] = life, (since := now)
    known = content.get("processes")
    processes = {str(pid): str(born) for pid, born in known.items()} if isinstance(known, dict) else {}
    own = _machine()
    here = bool(own["boot"] and own["container"]) and all(content.get(key) == value for key, value in own.items())
    return Holder(
        str(content.get("host", "an unknown machine")),
        here,
        {pid: born for pid, born in processes.items() if pid.isdecimal()},
        now - since,
        token,
    )


def _there(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def _machine() -> dict[str, str]:
    """What processes that see one another have in common; "" where the system does not say."""
    boot = container = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        container = os.readlink("/proc/self/ns/pid")
    return {"boot": boot, "container": container}


def _create(path: Path, token: str) -> bool:
    """Make the file with all that is in it in one step, unless it is there: a hard link to a finished one."""
    fresh = _written(path, token, [os.getpid()])
    try:
        os.link(fresh, path)
    except FileExistsError:
        return False
    finally:
        fresh.unlink()
    return True


def _take_over(path: Path, token: str) -> bool:
    """Put a file of one's own in the place of a dead holder's; False if it lives or another is quicker.

    The right to do it is a claim too, named after the dead holder, so that who died while it took over is taken over in turn. Its
    winner looks again: by then an earlier one may have finished.
    """
    holder = holder_of(path)
    if holder is None:
        return _create(path, token)
    if holder.alive:
        return False
    right = path.with_name(f"{path.name}.{sha256(str(holder.token).encode()).hexdigest()[:16]}")
    if not _create(right, token) and not _take_over(right, token):
        return False
    try:
        mine = _there(path) and _token(_content(path)) == holder.token
        if mine:
            _written(path, token, [os.getpid()]).replace(path)
        return mine
    finally:
        _remove(right, token)


def _remove(path: Path, token: str) -> None:
    """Delete the file if it is still this holder's."""
    if _content(path).get("token") == token:
        path.unlink(missing_ok=True)


def _written(path: Path, token: str, pids: list[int]) -> Path:
    fresh = path.with_name(f"{path.name}.{token}")
    processes = {str(pid): _born(pid) for pid in pids}
    content = {"host": socket.gethostname(), **_machine(), "processes": processes, "token": token}
    fresh.write_text(json.dumps(content))
    return fresh


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _token(content: dict[str, Any]) -> str | None:
    token = content.get("token")
    return token if isinstance(token, str) else None


def _born(pid: int) -> str:
    """When a process started, in the machine's own ticks, so that a number that is used again is not taken for the old one.

    "gone" if there is none, "unknown" where the system does not say.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return "gone"
    except PermissionError:
        pass
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    state, *rest = stat.rpartition(")")[2].split()
    return "gone" if state == "Z" else rest[18]
