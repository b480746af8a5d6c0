"""Responses in the files that harnesses leave: lmms-eval's samples and VLMEvalKit's result tables.

Both name a question by its row in their own copy of the data, which may be another one than ours. So a line is joined by an id
where it carries one of ours and by its row otherwise, and either way it has to show the question that we have there: its text,
its options in their order, and its letter. A file that does not is refused with its first line that does not fit.

A harness counts rows within a task. Where our ids have the form ``<part>:…`` (MLVU's and MVBench's files, TempCompass's tasks),
rows are those of the whole set or of one part, whichever fits.
"""

import ast
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tstar.errors import DataError
from tstar.evaluation.files import LETTERS, as_record, field
from tstar.evaluation.items import Item
from tstar.evaluation.responses import ResponseLine, ResponseSet, cell_text

FAILURE = "Failed to obtain answer"
"""How the prediction of a failed question begins in VLMEvalKit's tables."""
IDS = ("question_id", "id", "uid")
"""Fields that may hold a question's own id."""
OPTION_LISTS = ("candidates", "options", "choices")
"""Columns that may hold all options of a question as one list."""


@dataclass(frozen=True)
class LoggedAnswer:
    """One line of a harness's file, before it is known which question it answers."""

    place: str
    """File and line, for messages."""
    row: int
    """Of the question in the harness's data, from 0."""
    ids: tuple[str, ...]
    """What may be the question's id."""
    shown: str
    """All that the line shows of the question."""
    options_shown: bool
    """Whether that includes the options, where a prompt has any."""
    truth: str
    """What it holds as the answer; "" for nothing."""
    response: str | None
    task: str = ""
    """What it calls the part of the benchmark that the question is of; "" where it does not say."""
    video: str = ""
    """Name of the video's file, perhaps without its ending; "" where it does not say."""


def harness_responses(data: Any, items: Sequence[Item], where: str) -> ResponseSet | None:
    """Responses of a harness's file joined to their questions, None if ``data`` is in no such layout.

    Raises:
        DataError: a line lacks a field, or does not show the question that it should answer.
    """
    if isinstance(data, Mapping):
        data = [data]  # a JSON Lines file of one line
    if not isinstance(data, Sequence) or isinstance(data, str) or not data or not isinstance(data[0], Mapping):
        return None
    first = data[0]
    if "doc_id" in first and ("filtered_resps" in first or "resps" in first):
        read = _lmms_eval_line
    elif "index" in first and "prediction" in first and "response" not in first:
        read = _vlmevalkit_row
    else:
        return None
    places = [f"{where}, line {number}" for number in range(1, len(data) + 1)]
    answers = [read(as_record(row, place), place) for row, place in zip(data, places, strict=True)]
    return ResponseSet(
        ResponseLine(item.id, answer.response) for item, answer in zip(_joined(answers, items), answers, strict=True)
    )


def _lmms_eval_line(row: Mapping[str, Any], place: str) -> LoggedAnswer:
    name = "resps" if "resps" in row else "filtered_resps"  # what the model wrote, where a filter changed it
    said = field(row, name, (list, str), place)
    while isinstance(said, list) and len(said) == 1:
        said = said[0]
    if not isinstance(said, str):
        raise DataError(f"{place}: field '{name}' must hold one answer, got {str(said)[:60]!r}")
    parts = [value for value in row.values() if isinstance(value, Mapping)]
    target = row.get("target", "")
    return LoggedAnswer(
        place=place,
        row=field(row, "doc_id", int, place),
        ids=tuple(str(part[key]) for part in parts for key in IDS if key in part),
        shown=field(row, "input", str, place),
        options_shown=True,
        truth=target if isinstance(target, str) else "",
        response=said,
    )


def _vlmevalkit_row(row: Mapping[str, Any], place: str) -> LoggedAnswer:
    if "prediction" not in row:
        field(row, "prediction", str, place)
    text, index = cell_text(row["prediction"]), cell_text(row.get("index")) or ""
    if not index.isdecimal():
        raise DataError(f"{place}: field 'index' must be a whole number from 0, got {index!r}")
    options: Sequence[Any] = list(itertools.takewhile(bool, (cell_text(row.get(letter)) for letter in LETTERS)))
    for name in OPTION_LISTS if not options else ():
        options = options or _listed(row, name, place)
    return LoggedAnswer(
        place=place,
        row=int(index),
        ids=tuple(cell_text(row[key]) or "" for key in IDS if key in row),
        shown="\n".join([cell_text(row.get("question")) or "", *map(str, options)]),
        options_shown=bool(options),
        truth=cell_text(row.get("answer")) or "",
        response=None if text is None or text.startswith(FAILURE) or text.lower() == "nan" else text,
        task=cell_text(row.get("task_type")) or "",
        video=cell_text(row.get("video")) or "",
    )


def _listed(row: Mapping[str, Any], name: str, place: str) -> Sequence[Any]:
    """A column that holds a list, also one in Python's writing, as tables do; [] where it is empty or not there."""
    value = row.get(name)
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise DataError(f"{place}: field '{name}' must be a list, got {value[:60]!r}") from None
    return value if isinstance(value, Sequence) and not isinstance(value, str) else []


def _joined(answers: Sequence[LoggedAnswer], items: Sequence[Item]) -> list[Item]:
    """The question of every answer; DataError naming the first line that shows another one."""
    questions = _questions(items)
    furthest, worst = -1, ""
    for joins in _joins(answers, items):
        fitting: dict[tuple[str, ...], list[Item]] = {}
        for found in joins:
            number, fault = _first_misfit(answers, found, questions)
            if fault is None:
                known = [item for item in found if item]
                fitting.setdefault(tuple(item.id for item in known), known)
            elif number > furthest:
                furthest, worst = number, fault
        if len(fitting) > 1:
            one, two, *_ = (ids[0] for ids in fitting)
            raise DataError(
                f"{answers[0].place}: may be {one} or {two}, which ask the same; give the responses by id and response"
            )
        if fitting:
            return next(iter(fitting.values()))
    raise DataError(f"{answers[furthest].place}: {worst}; is it of another version or part of the benchmark?")


def _first_misfit(
    answers: Sequence[LoggedAnswer], found: Sequence[Item | None], questions: Mapping[str, str]
) -> tuple[int, str | None]:
    for number, (answer, item) in enumerate(zip(answers, found, strict=True)):
        fault = (
            _misfit(answer, item, questions) if item else f"has row {answer.row}, of which the annotations have none"
        )
        if fault:
            return number, fault
    return len(answers), None


def _joins(answers: Sequence[LoggedAnswer], items: Sequence[Item]) -> Iterator[list[list[Item | None]]]:
    """The ways in which the answers may belong to the items, by id where there is one and by row otherwise.

    First rows of the whole set, then those that are ids themselves, then rows within parts, several ways at once.
    """
    by_id = {item.id: item for item in items}
    named = [next((by_id[key] for key in answer.ids if key in by_id), None) for answer in answers]

    def by_row(part: Sequence[Item]) -> list[Item | None]:
        return [own or _at(part, answer.row) for answer, own in zip(answers, named, strict=True)]

    yield [by_row(items)]
    if None not in named:
        return
    if all(str(answer.row) in by_id for answer in answers):
        yield [[by_id[str(answer.row)] for answer in answers]]
    if not all(":" in item.id for item in items):
        return
    parts = {name: list(own) for name, own in itertools.groupby(items, key=lambda item: item.id.split(":")[0])}
    of_task = {_task_name(name): own for name, own in parts.items()}
    tasks = [_task_name(answer.task) for answer in answers]
    if set(tasks) <= set(of_task):  # one file of several parts, in an order of its own
        first: dict[str, int] = {}
        for task, answer in zip(tasks, answers, strict=True):
            first[task] = min(answer.row, first.get(task, answer.row))
        rows = ((of_task[task], answer.row - first[task]) for task, answer in zip(tasks, answers, strict=True))
        yield [[own or _at(part, row) for own, (part, row) in zip(named, rows, strict=True)]]
    yield [by_row(part) for part in parts.values()]


def _at(part: Sequence[Item], row: int) -> Item | None:
    return part[row] if 0 <= row < len(part) else None


def _task_name(text: str) -> str:
    """``4_count`` and ``Count`` are one task."""
    return re.sub(r"[^a-z]+", "_", text.lower()).strip("_")


def _misfit(answer: LoggedAnswer, item: Item, questions: Mapping[str, str]) -> str | None:
    """What is wrong if ``answer`` is to answer ``item``; None if nothing is."""
    shown, question = _plain(answer.shown), questions[item.id]
    place = shown.find(question)
    if place < 0:
        asked = " ".join((item.question or question).split())
        return f"does not show the question of {item.id} ({asked[:80]!r})"
    if answer.video and not {answer.video, _stem(answer.video)} & {PurePosixPath(item.media).name, _stem(item.media)}:
        return f"is about the video {answer.video}, {item.id} about {item.media}"
    prompt = _plain(item.prompt)
    expected = answer.options_shown and all(_plain(option) in prompt for option in item.options)
    for letter, option in zip(LETTERS, item.options if expected else (), strict=False):
        begin = shown.find(text := _plain(option), place)
        if begin < 0:
            return f"does not show the options of {item.id} in their order ({letter} is {option[:60]!r})"
        place = begin + len(text)
    if len(answer.truth) == 1 and answer.truth in LETTERS and item.answer in LETTERS and answer.truth != item.answer:
        return f"has {answer.truth} as the answer of {item.id}, the annotations have {item.answer}"
    return None


def _stem(path: str) -> str:
    return PurePosixPath(path).stem


def _questions(items: Sequence[Item]) -> dict[str, str]:
    """What a line about each item has to show: its question, or else those lines of its prompt that others have not."""
    lines = {item.id: [_plain(line) for line in item.prompt.splitlines()] for item in items if not item.question}
    shared = Counter(line for own in lines.values() for line in set(own))
    questions = {}
    for item in items:
        if item.question:
            questions[item.id] = _plain(item.question)
            continue
        options = [_plain(option) for option in item.options]
        own = [line for line in lines[item.id] if shared[line] < len(lines) and not line.endswith(tuple(options))]
        questions[item.id] = max((line.removeprefix("question: ") for line in own), key=len, default="")
    return questions


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
