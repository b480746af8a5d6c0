"""Work that is many commands, shared by the processes and machines that were started on one folder.

    FOLDER/jobs/NAME.json     of a finished job: seconds by step
           claims/NAME.json   who works on it now
           failed/NAME.json   why it failed the last time
           logs/NAME.log      what its commands said

A command that was stopped goes on where it was when the queue is run again, as far as the command itself can.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tstar.reports.claims import Claim, holder_of, take
from tstar.reports.durations import duration
from tstar.reports.parent_process import PARENT
from tstar.stages.checkpoint_io import write_atomically

WAIT_SECONDS = 5.0
"""Between two looks at work that others hold."""
TOLD_LINES = 3
"""Last lines of a failed command that are shown."""
LAUNCHER_NAMES = {
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NPROCS"),
}
LAUNCHER_PREFIXES = ("ROLE_", "TORCHELASTIC_", "OMPI_COMM_WORLD_", "PMI_", "PMIX_", "JSM_NAMESPACE_")
"""Variables by which torchrun, Slurm, MPI and LSF tell a process that it is one of several, and which."""


@dataclass(frozen=True)
class Step:
    """One command of a job."""

    name: str
    command: Callable[[], Sequence[str]]
    """What is to be run now; it may depend on what an earlier call has left."""
    finished: Callable[[], bool]
    """Whether it need not be run."""


@dataclass(frozen=True)
class Job:
    """Commands one after the other."""

    name: str
    """Of its files; unique."""
    steps: tuple[Step, ...]

    def finished(self) -> bool:
        """Whether nothing is left to run."""
        return all(step.finished() for step in self.steps)


@dataclass
class Outcome:
    """What became of the jobs."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Why, by job."""
    stopped: int = 0
    """Number of the signal that ended the work early."""


class JobQueue:
    """Runs jobs, as many at once as there are workers.

    Args:
        jobs: in the order in which they are begun.
        folder: where claims, records and logs are.
        workers: commands at once.
        environment: laid over this process's for every command, but for what a launcher has told this process of its place among
            others: every command is a run of its own.
        tell: called with lines for the user.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        folder: Path,
        *,
        workers: int = 1,
        environment: Mapping[str, str] | None = None,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.jobs, self.folder, self.workers, self._say = list(jobs), folder, workers, tell
        own = {
            name: value
            for name, value in os.environ.items()
            if name not in LAUNCHER_NAMES and not name.startswith(LAUNCHER_PREFIXES)
        }
        self.environment = {**own, **(environment or {}), PARENT: str(os.getpid())}
        self.outcome = Outcome()
        self._lock = threading.RLock()
        self._busy: set[str] = set()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def run(self) -> Outcome:
        """Work until every job is finished or has failed here, by this process or by others; or until a signal.

        Only from the main thread: SIGTERM and SIGINT are handed on to the commands, which save what they have.
        """
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        threads = [threading.Thread(target=self._work) for _ in range(min(self.workers, len(self.jobs)))]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():  # a join without an end would keep signals waiting
                    thread.join(0.2)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        for job in [] if self.outcome.stopped else self._open():  # a worker has died: nobody may take that for success
            self.outcome.failed[job.name] = "was not run; a worker ended early"
        return self.outcome

    def _work(self) -> None:
        told: set[str] = set()
        while not self.outcome.stopped:
            job, claim = self._next()
            if claim is not None:
                try:
                    self._do(job, claim)
                except Exception as error:  # a full disk, say: the other workers go on
                    self._fail(job, _said(error))
                finally:
                    with contextlib.suppress(OSError):  # then the claim is a dead one's when this process ends
                        claim.release()
                    with self._lock:
                        self._busy.discard(job.name)
                continue
            held = [one.name for one in self._open()]
            if not held:
                return
            for name in held:
                holder = holder_of(self._claim(name))
                if holder is not None and name not in told and name not in self._busy:
                    told.add(name)
                    self.tell(f"{name}: {holder} is at it")
            time.sleep(WAIT_SECONDS if len(held) > len(self._busy) else 0.2)

    def _open(self) -> list[Job]:
        """Jobs that are neither finished nor failed here."""
        return [job for job in self.jobs if job.name not in self.outcome.failed and job.name not in self.outcome.done]

    def _next(self) -> tuple[Job, Claim | None]:
        """A job that nobody is at, claimed; no claim if there is none."""
        with self._lock:
            for job in self._open():
                if job.name in self._busy:
                    continue
                try:
                    if job.finished():
                        self._done(job)
                        continue
                    claim = take(self._claim(job.name))
                except Exception as error:  # a damaged file, say: the other jobs go on
                    self._fail(job, _said(error))
                    continue
                if claim is not None:
                    self._busy.add(job.name)
                    return job, claim
        return self.jobs[0], None

    def _do(self, job: Job, claim: Claim) -> None:
        log = self.folder / "logs" / f"{job.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        record = self.folder / "jobs" / f"{job.name}.json"
        seconds = recorded_seconds(self.folder, job.name)
        self.tell(f"{job.name}: begun{self._time_left()}")
        for step in job.steps:
            if step.finished() or self.outcome.stopped:
                continue
            begun = time.monotonic()
            status = self._call(job, step, claim, log)
            if claim.lost.is_set():
                self.tell(
                    f"{job.name}: another process has taken it over while this one gave no sign of life; left to it"
                )
                return
            seconds[step.name] = round(seconds.get(step.name, 0.0) + time.monotonic() - begun, 1)
            record.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(record, json.dumps(seconds))
            if self.outcome.stopped:
                return
            if status or not step.finished():
                self._fail(job, f"{step.name} ended with status {status}: {_last_lines(log)} ({log})")
                return
        if not self.outcome.stopped:
            self._done(job)
            self.tell(f"{job.name}: done in {duration(sum(seconds.values()))}{self._time_left()}")

    def _call(self, job: Job, step: Step, claim: Claim, log: Path) -> int:
        command = list(step.command())
        with log.open("ab") as stream:
            stream.write(f"\n$ {' '.join(command)}\n".encode())
            stream.flush()
            with self._lock:
                if self.outcome.stopped:
                    return 0
                process = subprocess.Popen(  # a group of its own: Ctrl-C reaches it through this process, once
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,
                )
                self._running[job.name] = process
            try:
                claim.works_through(process.pid)
                while not claim.lost.is_set() and not _ended(process):
                    pass
            finally:
                if process.poll() is None:  # nobody would hear of it any more
                    _kill(process)
                    process.wait()
                with self._lock:
                    del self._running[job.name]
        return process.returncode

    def tell(self, text: str) -> None:
        """A line for the user; where nobody can be told, as on a terminal that is gone, the work goes on."""
        with contextlib.suppress(OSError, ValueError):
            self._say(text)

    def _done(self, job: Job) -> None:
        with self._lock:
            self.outcome.done.append(job.name)
        with contextlib.suppress(OSError):
            (self.folder / "failed" / f"{job.name}.json").unlink(missing_ok=True)

    def _fail(self, job: Job, reason: str) -> None:
        with self._lock:
            self.outcome.failed[job.name] = reason
        path = self.folder / "failed" / f"{job.name}.json"
        with contextlib.suppress(OSError):  # a full disk may be why it failed; that is told all the same
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps({"reason": reason}))
        self.tell(f"{job.name}: FAILED, the others go on; {reason}")

    def _stop(self, number: int, frame: object) -> None:
        again = bool(self.outcome.stopped)
        self.outcome.stopped = number
        with self._lock:  # whoever starts a command now has either seen the number, or entered the command here
            for process in self._running.values():
                if again:
                    _kill(process)
                else:
                    process.send_signal(signal.SIGTERM)

    def _time_left(self) -> str:
        """ ", 3 of 27 done, about 95 min left", from what the finished ones took."""
        took = []
        for job in self.jobs:
            seconds = recorded_seconds(self.folder, job.name) if job.name in self.outcome.done else {}
            if seconds:
                took.append(sum(seconds.values()))
        told = f", {len(self.outcome.done)} of {len(self.jobs)} done"
        left = self._open()
        if took and left:
            rounds = -(-len(left) // (self.workers + self._others(left)))
            told += f", about {duration(rounds * sum(took) / len(took))} left"
        return told

    def _others(self, jobs: Sequence[Job]) -> int:
        """Workers of other calls that are at one of these jobs, as far as can be seen."""
        try:
            holders = [holder_of(self._claim(job.name)) for job in jobs if job.name not in self._busy]
        except OSError:  # a file server that is away for a while
            return 0
        return sum(holder is not None and holder.alive for holder in holders)

    def _claim(self, name: str) -> Path:
        return self.folder / "claims" / f"{name}.json"


def recorded_seconds(folder: Path, name: str) -> dict[str, float]:
    """What a job's steps took, added up over its starts but those that were killed; {} where nothing readable says it."""
    try:
        found = json.loads((folder / "jobs" / f"{name}.json").read_text(encoding="utf-8"))
        return {str(step): float(seconds) for step, seconds in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended, after waiting for that a moment."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.5)
    return process.poll() is not None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End it and all it has started, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return " / ".join(line.strip() for line in [line for line in lines if line.strip()][-TOLD_LINES:])
