"""MLVU, development set, multiple choice: seven tasks over videos of minutes to hours.

Zhou et al., "MLVU: Benchmarking Multi-task Long Video Understanding", arXiv:2406.04264; one JSON list a task, named
``4_count.json`` and so on. The headline ``m_avg`` is the mean of the task accuracies. The two generative tasks
(``8_sub_scene``, ``9_summary``) are no part of it and are passed over.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import DataError
from tstar.evaluation.base import Benchmark, item_cell, letter_lines, right_of_counted
from tstar.evaluation.extraction import UNPARSED
from tstar.evaluation.files import LETTERS, as_record, field, read_json, text_list
from tstar.evaluation.items import Item, ItemScore, Verdict
from tstar.evaluation.responses import ResponseLine
from tstar.evaluation.statistics import Cell

STEMS = ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning")
SYSTEM = (
    "Carefully watch this video and pay attention to every detail. "
    "Based on your observations, select the best option that accurately addresses the question."
)
PREFILL = "Best Option: ("
NO_OPTION = "@"
"""Letter of an answer that is none of its candidates; two needle items have it."""


class MLVU(Benchmark):
    """Mean of the task accuracies (``m_avg``), each task, and the mean over questions (``micro``)."""

    main = "m_avg"
    main_values = ("m_avg",)
    columns = ("m_avg",)
    in_mean = "m_avg"
    breakdown = (("task", ""),)

    def read(self, annotations: Any) -> list[Item]:
        """Items of one task file, of a folder of them (or its ``json`` folder), or of parsed lists.

        A mapping has the file stems as keys; in one flat list ``question_type`` tells the file a record belongs to, and
        rows are counted within it.
        """
        if isinstance(annotations, Path):
            paths = _task_files(annotations) if annotations.is_dir() else [annotations]
            tables = {path.stem: (read_json(path), str(path)) for path in paths}
        elif isinstance(annotations, Mapping):
            tables = {str(stem): (rows, f"annotations, {stem}") for stem, rows in annotations.items()}
        else:
            tables = {stem: (rows, f"annotations, {stem}") for stem, rows in _by_question_type(annotations).items()}
        items = []
        for stem, (rows, where) in tables.items():
            if not isinstance(rows, Sequence) or isinstance(rows, str):
                raise DataError(f"{where}: must be one list of questions, got {type(rows).__name__}")
            items += [_item(row, stem, number, f"{where}, row {number}") for number, row in enumerate(rows)]
        return items

    def official(self, item: Item, line: ResponseLine) -> Verdict:
        """The one character before the first ``)``, or the whole text as it stands where there is none."""
        text = line.response or ""
        before, bracket, _ = text.partition(")")
        said = before[-1:] if bracket else text
        read = len(said) == 1 and said in LETTERS[: len(item.options)]
        how = UNPARSED if not read else "bracket" if bracket else "whole"
        return Verdict(said, how, said == item.answer)

    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """Strata of ``m_avg`` are the tasks that are present."""
        tables = {"m_avg": [item_cell(item, item.categories["task"]) for item in scores]}
        tables["micro"] = [item_cell(item) for item in scores]
        return tables | right_of_counted(scores, "task")


def task_of(stem: str) -> str:
    """Task of an annotation file: ``4_count`` gives ``count``."""
    return re.sub(r"^\d+_", "", stem)


def _task_files(folder: Path) -> list[Path]:
    tasks = [task_of(stem) for stem in STEMS]
    for place in (folder, folder / "json"):
        found = [path for path in sorted(place.glob("*.json")) if task_of(path.stem) in tasks]
        if found:
            return found
    raise DataError(f"{folder}: holds none of {', '.join(f'{stem}.json' for stem in STEMS)}, nor does its folder json/")


def _by_question_type(rows: Any) -> dict[str, list[Any]]:
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise DataError(f"annotations: must be a list of questions or a mapping of lists, got {type(rows).__name__}")
    stems = {task_of(stem): stem for stem in STEMS} | {"findNeedle": "2_needle"}
    tables: dict[str, list[Any]] = {}
    for number, row in enumerate(rows):
        where = f"annotations, row {number}"
        kind = field(as_record(row, where), "question_type", str, where)
        if kind not in stems:
            raise DataError(f"{where}: field 'question_type' must be one of {', '.join(stems)}, got {kind!r}")
        tables.setdefault(stems[kind], []).append(row)
    return tables


def _item(row: Any, stem: str, number: int, where: str) -> Item:
    record = as_record(row, where)
    video, question = field(record, "video", str, where), field(record, "question", str, where)
    options = text_list(record, "candidates", where)
    lettered = letter_lines(options, "({letter}) {text}")
    truth = field(record, "answer", str, where)
    places = [index for index, option in enumerate(options) if option == truth]
    return Item(
        id=f"{stem}:{number}",
        media=f"video/{stem}/{video}",
        prompt=f"Question: {question}\nOptions:\n{lettered}\nOnly give the best option.",
        system=SYSTEM,
        prefill=PREFILL,
        options=options,
        answer=LETTERS[places[-1]] if places else NO_OPTION,  # of equal candidates the official truth is the last
        truth=truth,
        categories={"task": task_of(stem)},
        cluster=video,
    )
