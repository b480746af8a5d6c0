"""TempCompass, multiple choice: do short clips, often played backwards or joined, change the answer?

Liu et al., "TempCompass: Do Video LLMs Really Understand Videos?", arXiv:2403.00476; ``multi-choice.json`` maps video
id to aspect to questions, ``meta_info.json`` (optional) gives the fine-grained types. Scored as with the official
``--disable_llm``: an answer that no rule matches is wrong, and ``match_rate`` says how many were matched.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import DataError
from tstar.evaluation.base import Benchmark, item_cell, right_of_counted
from tstar.evaluation.extraction import UNPARSED
from tstar.evaluation.files import LETTERS, as_record, field, read_json
from tstar.evaluation.items import FAILED, MISSING, Item, ItemScore, Verdict
from tstar.evaluation.responses import ResponseLine, ResponseSet
from tstar.evaluation.statistics import Cell

TASK = "multi-choice"
ASPECTS = ("action", "direction", "speed", "order", "attribute_change")
INSTRUCTION = "Please directly give the best option:"
END = "</s>"


class TempCompass(Benchmark):
    """Accuracy over questions (``multi-choice/avg``), by aspect and fine-grained type, and the match rate."""

    main = f"{TASK}/avg"
    main_values = (f"{TASK}/avg",)
    columns = (f"{TASK}/avg",)
    in_mean = f"{TASK}/avg"
    breakdown = (("aspect", f"{TASK}/"),)

    def read(self, annotations: Any) -> list[Item]:
        """Items of ``multi-choice.json``, of the folder it lies in, or of its parsed content.

        ``meta_info.json`` is read where it lies beside the annotation file.
        """
        where, meta_where = "annotations", "meta_info.json"
        meta: Mapping[str, Any] = {}
        if isinstance(annotations, Path):
            path = annotations / f"{TASK}.json" if annotations.is_dir() else annotations
            annotations, where = read_json(path), str(path)
            beside = path.with_name("meta_info.json")
            if beside.is_file():
                meta, meta_where = as_record(read_json(beside), str(beside)), str(beside)
        items = []
        for item_id, video, aspect, row, place in _records(annotations, where):
            items.append(_item(item_id, video, aspect, row, _fine_type(meta, video, aspect, meta_where), place))
        return items

    def official(self, item: Item, line: ResponseLine) -> Verdict:
        """Whole answer line, bare capital letter, ``A.``… or ``A)``… at the start; anything else is unmatched."""
        text = (line.response or "").replace(END, "").strip()
        letter = item.truth[:1]
        if text == item.truth:
            return Verdict(letter, "answer line", True)
        if text in ("A", "B", "C", "D"):
            return Verdict(text, "letter", text == letter)
        for mark, how in ((".", "letter and full stop"), (")", "letter and bracket")):
            if text.startswith(tuple(f"{one}{mark}" for one in "ABCD")):
                return Verdict(text[0], how, text[0] == letter)
        return Verdict(None, UNPARSED, False)

    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """One stratum everywhere: the official average is over questions."""
        unmatched = (UNPARSED, FAILED, MISSING)
        tables = {self.main: [item_cell(item) for item in scores]}
        tables[f"{TASK}/match_rate"] = [Cell(i.cluster, "", float(i.how not in unmatched), 1.0) for i in scores]
        tables |= right_of_counted(scores, "aspect", f"{TASK}/")
        return tables | right_of_counted(scores, "type", f"{TASK}/fine/")

    def official_responses(self, data: Any, items: Sequence[Item], where: str) -> ResponseSet | None:
        """The annotations' nesting with a ``prediction`` (or ``response``) in each record."""
        if not isinstance(data, Mapping) or not data or not all(isinstance(value, Mapping) for value in data.values()):
            return None
        questions = {item.id: item.prompt for item in items}
        lines = []
        for item_id, _, _, record, place in _records(data, where):
            name = "prediction" if "prediction" in record else "response"
            text = field(record, name, (str, type(None)), place)
            asked = record.get("question")
            if isinstance(asked, str) and item_id in questions and questions[item_id] != _prompt(asked):
                raise DataError(
                    f"{place}: its question is not the one that the annotations have at this place ({item_id})"
                )
            lines.append(ResponseLine(item_id, text))
        return ResponseSet(lines)


def _records(data: Any, where: str) -> Iterator[tuple[str, str, str, Mapping[str, Any], str]]:
    """Id, video, aspect, record and place of every record in the official nesting."""
    for video, aspects in as_record(data, where).items():
        for aspect, rows in as_record(aspects, f"{where}, video {video!r}").items():
            place = f"{where}, video {video!r}, {aspect}"
            if aspect not in ASPECTS:
                raise DataError(f"{where}, video {video!r}: aspect must be one of {', '.join(ASPECTS)}, got {aspect!r}")
            if not isinstance(rows, Sequence) or isinstance(rows, str):
                raise DataError(f"{place}: must be a list of questions, got {type(rows).__name__}")
            for number, row in enumerate(rows):
                spot = f"{place}, row {number}"
                yield f"{TASK}:{video}:{aspect}:{number}", str(video), str(aspect), as_record(row, spot), spot


def _prompt(question: str) -> str:
    return f"{question}\n{INSTRUCTION}"


def _fine_type(meta: Mapping[str, Any], video: str, aspect: str, where: str) -> str | None:
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


def _options(question: str, where: str) -> tuple[str, ...]:
    """Texts of the option lines, which carry the letters from A on, in order."""
    options: list[str] = []
    for line in question.splitlines():
        found = re.match(rf"\s*{LETTERS[len(options)]}[.):]\s*(.*?)\s*$", line)
        if found:
            options.append(found[1])
    if len(options) < 2:
        raise DataError(f"{where}: field 'question' must end in two or more option lines (A. …), got {question!r}")
    return tuple(options)


def _item(item_id: str, video: str, aspect: str, record: Mapping[str, Any], fine: str | None, where: str) -> Item:
    question, truth = field(record, "question", str, where), field(record, "answer", str, where)
    options = _options(question, where)
    letters = LETTERS[: len(options)]
    if not re.match(rf"[{letters}](?:[.):]|$)", truth):
        raise DataError(f"{where}: field 'answer' must start with a letter of {letters} and a full stop, got {truth!r}")
    return Item(
        id=item_id,
        media=f"videos/{video}.mp4",
        prompt=_prompt(question),
        options=options,
        answer=truth[0],
        truth=truth,
        categories={"task": TASK, "aspect": aspect} | ({"type": fine} if fine else {}),
        cluster=video,
    )
