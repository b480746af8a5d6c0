"""Work that may hang or crash, in a process of its own: it costs one answer and nothing else."""

import contextlib
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Generic, TypeVar

from tstar.errors import ConfigError, DataError

START_SECONDS = 120.0
MOST_SECONDS = 86_400
"""Of a time limit; the system does not wait for any number."""
TRIES = 2
"""Of a question on which the process ends: the system may have ended it for lack of memory."""

Q = TypeVar("Q")
A = TypeVar("A")


class Aside(Generic[Q, A]):
    """Calls a function in another process, question by question. The process is started by the first one, and again after its end.

    Args:
        work: the function; it and its questions and answers have to be picklable, its module is imported in the process. What it
            raises beside ConfigError and DataError ends the process.
        time_limit: seconds for one answer; None is no limit.
    """

    def __init__(self, work: Callable[[Q], A], time_limit: float | None = None) -> None:
        self.work, self.time_limit = work, time_limit
        self._asked: Q | None = None
        self._child: Any = None
        self._pipe: Connection | None = None
        self._closed = False

    def start(self) -> None:
        """Start the process now."""
        self._started()

    def begin(self, question: Q) -> None:
        """Let the process begin with what will be asked next, while this one does something else."""
        if self._asked is None:
            with contextlib.suppress(ConnectionError):  # :meth:`answer` finds out
                self._started().send(question)
                self._asked = question

    def answer(self, question: Q, name: str) -> A:
        """What the function says.

        Args:
            question: its argument.
            name: what an error calls it, a file's path.

        Raises:
            ConfigError: as the function raises it.
            DataError: as the function raises it, or it took too long, or ended the process again and again.
        """
        if self._asked not in (None, question):
            self._stop()  # another was begun with than is wanted
        for _ in range(TRIES):
            pipe = self._started()
            try:
                if self._asked is None:
                    pipe.send(question)
                self._asked = None
                if not pipe.poll(self.time_limit):
                    raise DataError(f"reading {name} took longer than {self.time_limit:g} s and was stopped")
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
        raise DataError(f"the decoder crashed on {name}, {TRIES} times (exit status {code})")

    def _started(self) -> Connection:
        if self._closed:
            raise ConfigError("a process that reads media was closed")
        if self._child is not None and not self._child.is_alive():  # killed while it had nothing to do
            self._stop()
        if self._pipe is None:
            context = get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._child = context.Process(target=_serve, args=(theirs, self.work), daemon=True)
            self._child.start()
            theirs.close()
            if not self._is_ready(self._pipe):
                self._stop()
                raise ConfigError(
                    "a process that reads media did not start; in a script of your own, what starts it has to stand below "
                    "`if __name__ == '__main__':`"
                )
        return self._pipe

    def _is_ready(self, pipe: Connection) -> bool:
        try:
            return pipe.poll(START_SECONDS) and pipe.recv() == "ready"
        except (EOFError, ConnectionError):  # it ended before it was
            return False

    def _stop(self) -> int | None:
        """End the process; its exit status."""
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
        """End the process, where there is one."""
        self._stop()

    def abandon(self) -> None:
        """End the process at once, also from another thread than the one that waits for it, which then gets an error."""
        self._closed = True
        child = self._child
        if child is not None:
            child.kill()

    def __enter__(self) -> "Aside[Q, A]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    """Answer until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the asking process too, which ends this one
    pipe.send("ready")
    while True:
        try:
            question = pipe.recv()
        except (EOFError, ConnectionError):
            return
        try:
            answer = work(question)
        except (DataError, ConfigError) as error:
            answer = type(error)(str(error))  # without what it was raised from, which may not be picklable
        try:
            pipe.send(answer)
        except ConnectionError:  # who asked is gone
            return
