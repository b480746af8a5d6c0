"""TempCompass: do short clips, often played backwards or joined, change the answer? Four tasks over the same clips.

Liu et al., "TempCompass: Do Video LLMs Really Understand Videos?", arXiv:2403.00476; a file a task, ``multi-choice.json``
and so on, maps video id to aspect to questions, ``meta_info.json`` (optional) gives the fine-grained types. An answer that
no rule matches goes to a judge; without the judge's replies it is wrong, as with the official ``--disable_llm``, and
``match_rate`` says how many were matched. Captions are for the judge alone: without its replies they are unjudged, and not
counted.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import DataError
from tstar.evaluation.base import Benchmark
from tstar.evaluation.cells import item_cell
from tstar.evaluation.extraction import UNPARSED, normalise
from tstar.evaluation.files import LETTERS, as_record, field, read_json
from tstar.evaluation.items import FAILED, MISSING, UNJUDGED, Item, ItemScore, Verdict
from tstar.evaluation.judging import JudgeRequest
from tstar.evaluation.letters import NO_OPTION
from tstar.evaluation.responses import ResponseLine, ResponseSet
from tstar.evaluation.splits import Split, whole
from tstar.evaluation.statistics import Cell
from tstar.evaluation.tempcompass_tasks import (
    CAPTION_MATCHING,
    CAPTIONING,
    JUDGE,
    JUDGE_FAILED,
    MULTI_CHOICE,
    TASKS,
    YES_NO,
    is_correct,
    judge_request,
    judged,
    match,
    option_lines,
    strict,
)

ASPECTS = ("action", "direction", "speed", "order", "attribute_change")
INSTRUCTION = "Please directly give the best option:"
INSTRUCTIONS = {MULTI_CHOICE: INSTRUCTION, YES_NO: "Please answer yes or no:", CAPTION_MATCHING: INSTRUCTION}
META = "meta_info.json"
END = "</s>"
COUNTS = {
    MULTI_CHOICE: (338, 335, 317, 302, 288),
    YES_NO: (592, 494, 537, 382, 448),
    CAPTION_MATCHING: (297, 327, 291, 300, 288),
    CAPTIONING: (396, 436, 388, 400, 384),
}
"""Published questions on each of the :data:`ASPECTS`."""
_TASK_COUNTS = {task: sum(counts) for task, counts in COUNTS.items()}
SPLITS = {
    task: Split(
        _TASK_COUNTS[task], {"task": {task: _TASK_COUNTS[task]}, "aspect": dict(zip(ASPECTS, counts, strict=True))}
    )
    for task, counts in COUNTS.items()
} | {"all tasks": whole("task", _TASK_COUNTS)}


class TempCompass(Benchmark):
    """Accuracy over questions (``<task>/avg``), by aspect and fine-grained type, and the match rate, of every task.

    A set without the multiple-choice questions has no headline.
    """

    main = f"{MULTI_CHOICE}/avg"
    main_values = (f"{MULTI_CHOICE}/avg",)
    columns = (f"{MULTI_CHOICE}/avg",)
    in_mean = f"{MULTI_CHOICE}/avg"
    breakdown = (("aspect", f"{MULTI_CHOICE}/"),)
    rule_names = ("official", "strict", "lmms-eval")
    published = SPLITS

    def read(self, annotations: Any, media: Path | None = None) -> list[Item]:
        """Items of a task's file, of the folder that the files lie in (or its ``questions``), or of parsed content.

        Parsed content is one file's, or a mapping from tasks to theirs; the task of a file of another name, or of content
        without one, is told by its records. ``meta_info.json`` is read where it lies beside the files or above them.
        """
        tables: list[tuple[str, Any, str]] = [("", annotations, "annotations")]
        meta: tuple[Mapping[str, Any], str] = ({}, META)
        if isinstance(annotations, Path):
            paths = _files(annotations) if annotations.is_dir() else [annotations]
            tables = [(path.stem if path.stem in TASKS else "", read_json(path), str(path)) for path in paths]
            for file in (paths[0].with_name(META), paths[0].parent.parent / META):
                if file.is_file():
                    meta = as_record(read_json(file), str(file)), str(file)
                    break
        elif isinstance(annotations, Mapping) and annotations and annotations.keys() <= {*TASKS}:
            tables = [(str(task), table, f"annotations, {task}") for task, table in annotations.items()]
        choices: Any = next((table for task, table, _ in tables if task == MULTI_CHOICE), {})
        items = []
        for task, table, where in tables:
            for video, aspect, number, row, place in _records(table, where):
                kind = task or _task_of(row)
                fine = _fine_type(*meta, video, aspect)
                items.append(_item((kind, video, aspect, number), row, fine, place, choices))
        return items

    def official(self, item: Item, line: ResponseLine) -> Verdict:
        """The task's rules on the answer without ``</s>``, else the judge, whose failure on a caption takes one away."""
        return _decided(
            item, cleaned(line.response or ""), line.replies, Verdict(None, JUDGE_FAILED, False, rating=-1.0)
        )

    def lmms_eval(self, item: Item, line: ResponseLine) -> Verdict:
        """The same with ``</s>`` left in, and a judge's failure that is no more than wrong."""
        return _decided(item, line.response or "", line.replies, Verdict(None, JUDGE_FAILED, False))

    def strict(self, item: Item, line: ResponseLine) -> Verdict:
        """The strict rule; captions are judged, and unjudged where no reply can be read."""
        if item.categories["task"] == CAPTIONING:
            return judged(item, line.replies, failed=Verdict(None, UNJUDGED, False))
        return strict(item, line.response or "")

    def counts_in(self, rules: str, response: str | None, verdict: Verdict) -> bool:
        """All but captions that nobody judged."""
        return verdict.how != UNJUDGED

    def judge_request(self, item: Item, response: str) -> JudgeRequest | None:
        """Whether an unmatched answer is correct, or what follows from a caption."""
        return judge_request(item, cleaned(response))

    def readable(self, reply: str) -> bool:
        """Whether it says Correct or Incorrect, or gives an answer to a caption's question."""
        return is_correct(reply) is not None or "Answer" in reply

    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """One stratum everywhere: the official average is over questions. What nothing is counted of is left out."""
        tables: dict[str, list[Cell]] = {self.main: []}
        for task in TASKS:
            own = [score for score in scores if score.categories["task"] == task]
            if not own:
                continue
            counted = [score for score in own if score.counted]
            tables |= {f"{task}/avg": [_cell(score) for score in counted]} if counted else {}
            tables[f"{task}/match_rate"] = [Cell(i.cluster, "", float(i.how not in _UNMATCHED), 1.0) for i in own]
            for category, prefix in (("aspect", f"{task}/"), ("type", f"{task}/fine/")):
                for score in counted:
                    if category in score.categories:
                        tables.setdefault(prefix + score.categories[category], []).append(_cell(score))
        return tables

    def headlines(self, tables: Mapping[str, Sequence[Cell]]) -> Sequence[str]:
        """The averages of all tasks that are there."""
        return [name for task in TASKS if tables.get(name := f"{task}/avg")]

    def responses(self, source: Any, items: Sequence[Item]) -> ResponseSet:
        """As for every benchmark; also a folder of the official result files, one a task."""
        folder = Path(source) if isinstance(source, (str, Path)) else None
        if folder is None or not folder.is_dir():
            return super().responses(source, items)
        tasks = {item.categories["task"] for item in items}
        paths = [folder / f"{task}.json" for task in TASKS if task in tasks and (folder / f"{task}.json").is_file()]
        if not paths:
            names = ", ".join(f"{task}.json" for task in TASKS if task in tasks)
            raise DataError(f"{folder}: is a folder, and holds none of {names}")
        lines: list[ResponseLine] = []
        for path in paths:
            answers = super().responses(path, items)
            lines += [line for item_id in answers for line in answers.lines(item_id)]
        return ResponseSet(lines)

    def official_responses(self, data: Any, items: Sequence[Item], where: str) -> ResponseSet | None:
        """The annotations' nesting with a ``prediction`` (or ``response``) in each record, of one task or by tasks."""
        if not isinstance(data, Mapping) or not data or not all(isinstance(value, Mapping) for value in data.values()):
            return None
        tasks = {item.categories["task"] for item in items}
        named = next(iter(tasks)) if len(tasks) == 1 else Path(where).stem if Path(where).stem in tasks else ""
        tables = data.items() if data.keys() <= {*TASKS} else [(named, data)]
        prompts = {item.id: item.prompt for item in items}
        lines = []
        for task, table in tables:
            for video, aspect, number, record, place in _records(table, where):
                name = "prediction" if "prediction" in record else "response"
                text = field(record, name, (str, type(None)), place)
                rest = f"{video}:{aspect}:{number}"
                asked = record.get("question")
                kind = task or _task_asked(asked, rest, prompts) or _task_of(record)
                item_id = f"{kind}:{rest}"
                if isinstance(asked, str) and item_id in prompts and prompts[item_id] != _prompt(kind, asked):
                    raise DataError(
                        f"{place}: its question is not the one that the annotations have at this place ({item_id})"
                    )
                lines.append(ResponseLine(item_id, text))
        return ResponseSet(lines)


_UNMATCHED = (UNPARSED, FAILED, MISSING, UNJUDGED, JUDGE, JUDGE_FAILED)


def cleaned(response: str) -> str:
    """Without ``</s>``, wherever it stands, and outer white space."""
    return response.replace(END, "").strip()


def _decided(item: Item, text: str, replies: Sequence[str], failed: Verdict) -> Verdict:
    return match(item, text) or judged(item, replies, failed=failed)


def _cell(score: ItemScore) -> Cell:
    """As for any item, but that a failure of the judge is summed as the mark it has."""
    cell = item_cell(score)
    return Cell(cell.cluster, "", score.rating, cell.trials) if score.rating == -1.0 else cell


def _files(folder: Path) -> list[Path]:
    for place in (folder, folder / "questions"):
        found = [place / f"{task}.json" for task in TASKS if (place / f"{task}.json").is_file()]
        if found:
            return found
    others = ", ".join(f"{task}.json" for task in TASKS[1:])
    raise DataError(f"{folder / MULTI_CHOICE}.json: no such file, nor is there one of {others}")


def _records(data: Any, where: str) -> Iterator[tuple[str, str, int, Mapping[str, Any], str]]:
    """Video, aspect, number within their list, record and place of every record in the official nesting."""
    for video, aspects in as_record(data, where).items():
        for aspect, rows in as_record(aspects, f"{where}, video {video!r}").items():
            place = f"{where}, video {video!r}, {aspect}"
            if aspect not in ASPECTS:
                raise DataError(f"{where}, video {video!r}: aspect must be one of {', '.join(ASPECTS)}, got {aspect!r}")
            if not isinstance(rows, Sequence) or isinstance(rows, str):
                raise DataError(f"{place}: must be a list of questions, got {type(rows).__name__}")
            for number, row in enumerate(rows):
                spot = f"{place}, row {number}"
                yield str(video), str(aspect), number, as_record(row, spot), spot


def _task_of(record: Mapping[str, Any]) -> str:
    """Task of a record that no file's name tells."""
    question, answer = str(record.get("question")), str(record.get("answer"))
    if "mc_question" in record or question.rstrip().endswith("Generated Caption:"):
        return CAPTIONING
    if answer.lower() in ("yes", "no"):
        return YES_NO
    lines = option_lines(question)
    return CAPTION_MATCHING if answer in lines and all(re.match(r"\w+ \w+: ", line) for line in lines) else MULTI_CHOICE


def _task_asked(asked: Any, rest: str, prompts: Mapping[str, str]) -> str:
    """The task that asks this question at this place; "" if none or several do."""
    if not isinstance(asked, str):
        return ""
    found = [task for task in TASKS if prompts.get(f"{task}:{rest}") == _prompt(task, asked)]
    return found[0] if len(found) == 1 else ""


def _prompt(task: str, question: str) -> str:
    return f"{question}\n{INSTRUCTIONS[task]}" if task in INSTRUCTIONS else question


def _fine_type(meta: Mapping[str, Any], where: str, video: str, aspect: str) -> str | None:
    """Fine-grained type of a video's aspect; ``order`` has no finer ones, and unlisted videos have no type."""
    if not meta or aspect == "order":
        return aspect if meta else None
    if video not in meta:
        return None
    place = f"{where}, video {video!r}"
    dimensions = as_record(field(as_record(meta[video], place), "eval_dim", dict, place), place)
    if not dimensions.get(aspect):
        return None
    return str(field(as_record(dimensions[aspect], f"{place}, {aspect}"), "type", str, f"{place}, {aspect}"))


def _item(
    place: tuple[str, str, str, int], record: Mapping[str, Any], fine: str | None, where: str, choices: Any
) -> Item:
    """The item of a record.

    Args:
        place: task, video, aspect, number within their list.
        record: as published.
        fine: its fine-grained type.
        where: place for messages.
        choices: the multiple-choice questions, whose first of the same aspect is asked about a caption.
    """
    task, video, aspect, number = place
    question = field(record, "question", str, where)
    judge_question = ""
    options: tuple[str, ...] = ()
    if task == CAPTIONING:
        judge_question, truth = _about_caption(record, choices, video, aspect, where)
        answer = truth
    else:
        read_options = {MULTI_CHOICE: _choices, YES_NO: _yes_or_no, CAPTION_MATCHING: _captions}[task]
        truth = field(record, "answer", str, where)
        options, answer = read_options(question, truth, where)
    return Item(
        id=f"{task}:{video}:{aspect}:{number}",
        media=f"videos/{video}.mp4",
        question=question,
        judge_question=judge_question,
        prompt=_prompt(task, question),
        options=options,
        answer=answer,
        truth=truth,
        categories={"task": task, "aspect": aspect} | ({"type": fine} if fine else {}),
        cluster=video,
    )


_CHOICE = re.compile(r"\s*([A-Z])[.):]\s*(.*?)\s*$")


def _choices(question: str, truth: str, where: str) -> tuple[tuple[str, ...], str]:
    """Texts of the option lines, which carry the letters from A on, in order; and the letter of the truth."""
    options: list[str] = []
    for line in question.splitlines():
        found = _CHOICE.match(line)
        if found and found[1] == LETTERS[len(options)]:
            options.append(found[2])
    if len(options) < 2:
        raise DataError(f"{where}: field 'question' must end in two or more option lines (A. …), got {question!r}")
    letters = LETTERS[: len(options)]
    if not re.match(rf"[{letters}](?:[.):]|$)", truth):
        raise DataError(f"{where}: field 'answer' must start with a letter of {letters} and a full stop, got {truth!r}")
    text = truth[1:].lstrip(".):").strip()
    if text and normalise(text) != normalise(options[LETTERS.index(truth[0])]):
        raise DataError(
            f"{where}: field 'answer' ({truth!r}) is not option {truth[0]} ({options[LETTERS.index(truth[0])]!r})"
        )
    return tuple(options), truth[0]


def _yes_or_no(question: str, truth: str, where: str) -> tuple[tuple[str, ...], str]:
    options = ("yes", "no")
    if truth not in options:  # the official rule never takes another spelling for right
        raise DataError(f"{where}: field 'answer' must be yes or no, in small letters, got {truth!r}")
    return options, truth


def _captions(question: str, truth: str, where: str) -> tuple[tuple[str, ...], str]:
    """Sentences of the option lines, and the letter of the true one by its place."""
    lines = option_lines(question)
    if len(lines) < 2 or not all(": " in line for line in lines):
        raise DataError(
            f"{where}: field 'question' must go on with two or more option lines (Caption A: …), got {question!r}"
        )
    if ": " not in truth:
        raise DataError(f"{where}: field 'answer' must be an option line (Caption A: …), got {truth!r}")
    letter = LETTERS[lines.index(truth)] if truth in lines else NO_OPTION
    return tuple(line.split(": ", 1)[1] for line in lines), letter


def _about_caption(record: Mapping[str, Any], choices: Any, video: str, aspect: str, where: str) -> tuple[str, str]:
    """What the judge is asked about a caption, and the true answer: the record's own, or those of the multiple-choice file."""
    if "mc_question" in record or "mc_answer" in record:
        return field(record, "mc_question", str, where), field(record, "mc_answer", str, where)
    try:
        first = choices[video][aspect][0]
        return str(first["question"]), str(first["answer"])
    except (KeyError, IndexError, TypeError):
        raise DataError(
            f"{where}: field 'mc_question' is missing, and there is no {MULTI_CHOICE}.json with a question on {aspect} "
            f"of video {video!r}"
        ) from None
