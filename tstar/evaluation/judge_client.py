"""Asking a judge about responses: several requests at once, every reply kept in a file the moment it is there.

A scoring that was stopped goes on where it was: what the file holds is not asked again. Nothing is sent anywhere unless an
address is configured, by a setting or in ``TSTAR_JUDGE_URL``.
"""

import datetime
import hashlib
import itertools
import json
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tstar.data.files import append_lines
from tstar.errors import ConfigError, DataError, TstarError
from tstar.evaluation.base import Benchmark
from tstar.evaluation.items import Item
from tstar.evaluation.judge_endpoint import Answer, Endpoint, JudgeSettings, NoAnswerError
from tstar.evaluation.judging import JudgeReplies, JudgeRequest, days_of, one_judge, read_prompt

Progress = Callable[[int, int], None]
IN_A_ROW = 4
"""Requests that end without an answer one after the other before the server is given up; one for each that is sent at once."""


class JudgeError(TstarError):
    """The judge cannot be had now, or is not who it was. Replies so far are kept."""


def judge_with(
    benchmark: Benchmark,
    items: Sequence[Item],
    responses: Mapping[str, str | None],
    settings: JudgeSettings,
    cache: str | Path,
    progress: Progress | None = None,
) -> JudgeReplies:
    """What a judge says about responses; what it said before, to the same question, is taken from ``cache``.

    Args:
        benchmark: writes the requests, and tells whether a reply can be read.
        items: its questions.
        responses: by item id, as :meth:`Benchmark.responses` gives them.
        settings: which judge, and how persistently it is asked.
        cache: JSON Lines file of all replies ever; made if need be.
        progress: called with (questions done, questions in all).

    Raises:
        ConfigError: no judge is configured, or it refuses what it is asked.
        DataError: the cache is no such file, or holds replies of another judge to these questions.
        JudgeError: the server stopped answering, or another model answers than before.
    """
    requests = _requests(benchmark, items, responses, settings)
    if not requests:
        return JudgeReplies({})
    if not settings.model:
        raise ConfigError("no judge model is named; give --judge-model, as the server calls it")
    book = ReplyCache(cache)
    keys = {request.id: request_key(request, settings) for request in requests}
    dialogue = _Dialogue(benchmark, settings, book, {keys[request.id]: request for request in requests})
    trouble = dialogue.run(progress or (lambda done, total: None))
    rows = {item_id: book.rows(key) for item_id, key in keys.items()}
    used = [row for own in rows.values() for row in own]
    return JudgeReplies(
        {item_id: [row["reply"] for row in own] for item_id, own in rows.items() if own},
        one_judge([row["model"] for row in used], str(cache)),
        days_of([row["date"] for row in used]),
        {item_id: trouble[key] for item_id, key in keys.items() if key in trouble},
    )


def request_key(request: JudgeRequest, settings: JudgeSettings) -> str:
    """sha256 over messages, parameters and the model that is asked for; questions that have it in common share a reply."""
    asked = [[dict(message) for message in request.messages], settings.parameters_of(request), settings.model]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class ReplyCache:
    """Replies in a file of JSON Lines that only grows, each synced before the next question.

    Args:
        path: the file; it and its folder are made with the first reply.

    Raises:
        DataError: it cannot be read, or is a file of something else.
    """

    FIELDS = ("request", "id", "asked", "model", "reply", "finish", "date")

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: dict[str, list[dict[str, Any]]] = {}
        try:
            lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        except OSError as error:
            raise DataError(f"{self.path}: the judge's cache cannot be read ({error.strerror})") from None
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):  # empty, or what a killed process left
                continue
            if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in self.FIELDS):
                raise DataError(
                    f"{self.path}: line {number} is no reply of a judge; is this another file? Give its own path"
                )
            self._rows.setdefault(row["request"], []).append(row)

    def rows(self, key: str) -> list[dict[str, Any]]:
        """Replies to one request, in the order they came."""
        return self._rows.get(key, [])

    def add(self, key: str, request: JudgeRequest, asked: str, answer: Answer) -> None:
        """Keep one reply, on the disk when this returns."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        values = (key, request.id, asked, answer.model, answer.reply, answer.finish, now)
        row = dict(zip(self.FIELDS, values, strict=True))
        try:
            append_lines(self.path, json.dumps(row).encode() + b"\n", durable=True)
        except OSError as error:
            raise DataError(f"{self.path}: the judge's cache cannot be written ({error.strerror})") from None
        self._rows.setdefault(key, []).append(row)


class _Dialogue:
    """The questions of one scoring that have no readable reply yet, and what comes of asking them."""

    def __init__(
        self, benchmark: Benchmark, settings: JudgeSettings, book: ReplyCache, requests: Mapping[str, JudgeRequest]
    ) -> None:
        self.benchmark, self.settings, self.book, self.requests = benchmark, settings, book, requests
        self.model = one_judge([row["model"] for key in requests for row in book.rows(key)], str(book.path))

    def run(self, progress: Progress) -> dict[str, str]:
        """Ask until every question has a reply that can be read or was asked often enough.

        Returns:
            What came instead of an answer, by the keys of requests that got none.
        """
        todo = [key for key in self.requests if self._open(key)]
        done, total = len(self.requests) - len(todo), len(self.requests)
        progress(done, total)
        trouble: dict[str, str] = {}
        if not todo:
            return trouble
        endpoint = Endpoint(self.settings)
        in_a_row = 0
        with _Askers(endpoint, min(self.settings.parallel, len(todo))) as askers:
            waiting = iter(todo)
            for key in itertools.islice(waiting, self.settings.parallel):
                askers.ask(key, self.requests[key])
            while askers.waiting:
                key, came = askers.next()
                if isinstance(came, NoAnswerError):
                    trouble[key] = str(came)
                    in_a_row += not (came.remedy and self.model)  # who answered others so refuses this question alone
                    if in_a_row >= max(IN_A_ROW, self.settings.parallel) or in_a_row == total:
                        self._keep(askers.arrived(), endpoint)
                        raise self._given_up(endpoint, in_a_row, came)
                elif isinstance(came, BaseException):
                    self._keep(askers.arrived(), endpoint)
                    raise came
                else:
                    in_a_row = 0
                    self._take(key, came, endpoint)
                    if self._open(key):
                        askers.ask(key, self.requests[key])
                        continue
                done += 1
                progress(done, total)
                for key in itertools.islice(waiting, 1):  # no sooner: the reply before it is on the disk
                    askers.ask(key, self.requests[key])
        return trouble

    def _open(self, key: str) -> bool:
        rows = self.book.rows(key)
        return len(rows) < self.settings.attempts and not any(self.benchmark.readable(row["reply"]) for row in rows)

    def _take(self, key: str, answer: Answer, endpoint: Endpoint) -> None:
        if self.model and answer.model != self.model:
            raise JudgeError(
                f"the judge at {endpoint.name} was {self.model} and now is {answer.model}; one table has one judge: ask for a "
                f"model by its full name, or judge everything anew with another cache than {self.book.path}"
            )
        self.model = answer.model
        self.book.add(key, self.requests[key], self.settings.model, answer)

    def _keep(self, arrived: Iterator[tuple[str, Answer | BaseException]], endpoint: Endpoint) -> None:
        """Take what came beside an error that ends the asking."""
        for key, came in arrived:
            if isinstance(came, Answer):
                self._take(key, came, endpoint)

    def _given_up(self, endpoint: Endpoint, count: int, last: NoAnswerError) -> TstarError:
        if last.remedy and not self.model:
            return ConfigError(
                f"the judge at {endpoint.name} answered none of {count} questions, lastly with {last}: {last.remedy}"
            )
        return JudgeError(
            f"the judge at {endpoint.name} gave no answer to the last {count} questions it was asked (lastly: {last}); "
            f"replies so far are in {self.book.path}, and the same command goes on from there"
        )


class _Askers:
    """Threads that ask; they end with the process, so that nobody waits for a server that hangs."""

    def __init__(self, endpoint: Endpoint, count: int) -> None:
        self._endpoint, self._count = endpoint, count
        self._jobs: queue.SimpleQueue[tuple[str, JudgeRequest] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[str, Answer | BaseException]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self.waiting = 0
        """Questions that were asked and not answered yet."""

    def __enter__(self) -> "_Askers":
        for _ in range(self._count):
            threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._stop.set()
        for _ in range(self._count):
            self._jobs.put(None)

    def ask(self, key: str, request: JudgeRequest) -> None:
        self.waiting += 1
        self._jobs.put((key, request))

    def next(self) -> tuple[str, Answer | BaseException]:
        """The next answer, or what went wrong."""
        result = self._results.get()
        self.waiting -= 1
        return result

    def arrived(self) -> Iterator[tuple[str, Answer | BaseException]]:
        """What there is already of :meth:`next`."""
        while not self._results.empty():
            yield self.next()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stop.is_set():
            key, request = job
            try:
                self._results.put((key, self._endpoint.ask(request, self._stop)))
            except BaseException as error:  # the thread that scores decides what it means
                self._results.put((key, error))


def _requests(
    benchmark: Benchmark, items: Sequence[Item], responses: Mapping[str, str | None], settings: JudgeSettings
) -> list[JudgeRequest]:
    """The benchmark's requests, in the words of the user's template if there is one."""
    requests = benchmark.judge_requests(items, responses)
    if settings.template is None:
        return requests
    prompt = read_prompt(settings.template)
    if not benchmark.judged:
        raise ConfigError(f"{benchmark.name} asks its judge several kinds of questions; leave judge.template out")
    of = {item.id: item for item in items}
    return [
        replace(r, messages=prompt.messages(of[r.id].question, of[r.id].answer, responses[r.id] or ""))
        for r in requests
    ]
