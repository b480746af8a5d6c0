"""MLVU, multiple choice: seven tasks of the development set or nine of the test set, over videos of minutes to hours.

Zhou et al., "MLVU: Benchmarking Multi-task Long Video Understanding", arXiv:2406.04264. The headline ``m_avg`` is the mean
of the task accuracies. The generative tasks (``8_sub_scene`` and ``9_summary``; the test set's ``test_ssc_gt.json`` and
``test_vs_gt.json``) are no part of it and are passed over.

- Development set: one JSON list a task, named ``4_count.json`` and so on, four options, ids ``4_count:17``.
- Test set: one JSON list of all tasks, ``test-ground-truth/test_mcq_gt.json``. As its authors' template script and example
  of a result file show, records have a ``question_id`` (``AR_0``), which is the id here, tasks and counts are those of
  :data:`TEST_COUNTS`, and prompt, system text and the beginning of the answer are the development set's. Reported by those
  who read the file: the answer is an option's text, there are up to six options, those of counting are numbers, and the
  videos lie in one folder. The authors' server compares letters; how, is not public: the development set's rule is used.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import DataError, suggest
from tstar.evaluation.base import Benchmark
from tstar.evaluation.cells import item_cell, right_of_counted
from tstar.evaluation.extraction import UNPARSED
from tstar.evaluation.files import LETTERS, as_record, field, read_json, text_list
from tstar.evaluation.harness_rules import mcq_verdict
from tstar.evaluation.items import Item, ItemScore, Verdict
from tstar.evaluation.letters import NO_OPTION, letter_lines
from tstar.evaluation.responses import ResponseLine, ResponseSet
from tstar.evaluation.splits import whole
from tstar.evaluation.statistics import Cell

STEMS = ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning")
DEV_COUNTS = {
    "plotQA": 539,
    "needle": 355,
    "ego": 352,
    "count": 206,
    "order": 259,
    "anomaly_reco": 200,
    "topic_reasoning": 264,
}
TEST_COUNTS = {
    "plotQA": 50,
    "needleQA": 60,
    "ego": 53,
    "count": 60,
    "order": 70,
    "anomaly_reco": 39,
    "topic_reasoning": 91,
    "sportsQA": 36,
    "tutorialQA": 43,
}
OTHER_NAMES = {"findNeedle": "needle"}
"""What records call a task, where it is not what the file is called."""
TEST_STEM = "test_mcq_gt"
TEST_PLACES = (f"test-ground-truth/{TEST_STEM}.json", f"{TEST_STEM}.json")
DEV_OPTIONS = 4
"""More options than these has only the test set."""
SYSTEM = (
    "Carefully watch this video and pay attention to every detail. "
    "Based on your observations, select the best option that accurately addresses the question."
)
PREFILL = "Best Option: ("


class MLVU(Benchmark):
    """Mean of the task accuracies (``m_avg``), each task, and the mean over questions (``micro``)."""

    main = "m_avg"
    main_values = ("m_avg",)
    columns = ("m_avg",)
    in_mean = "m_avg"
    breakdown = (("task", ""),)
    rule_names = ("official", "strict", "lmms-eval")
    published = {"dev": whole("task", DEV_COUNTS), "test": whole("task", TEST_COUNTS)}  # noqa: RUF012

    def read(self, annotations: Any, media: Path | None = None) -> list[Item]:
        """Items of one file, of a folder of either set (or its ``json`` or ``test-ground-truth``), or of parsed lists.

        A mapping has the file stems as keys; in one flat list ``question_type`` tells the file that a record of the
        development set belongs to, and rows are counted within it.
        """
        if isinstance(annotations, Path):
            paths = _files(annotations) if annotations.is_dir() else [annotations]
            tables = {path.stem: (read_json(path), str(path)) for path in paths}
        elif isinstance(annotations, Mapping):
            tables = {str(stem): (rows, f"annotations, {stem}") for stem, rows in annotations.items()}
        else:
            tables = {stem: (rows, f"annotations, {stem}") for stem, rows in _by_question_type(annotations).items()}
        items: list[Item] = []
        places: dict[str, str] = {}
        files: dict[str, str] = {}
        for stem, (_, where) in tables.items():
            if (first := files.setdefault(task_of(stem), where)) != where:
                raise DataError(f"{first} and {where} are both of MLVU's task {task_of(stem)!r}; take one of them away")
        for stem, (rows, where) in tables.items():
            if not isinstance(rows, Sequence) or isinstance(rows, str):
                raise DataError(f"{where}: must be one list of questions, got {type(rows).__name__}")
            for number, row in enumerate(rows):
                place = f"{where}, row {number}"
                record = as_record(row, place)
                split = _split_of(record, stem, place)
                if split == "dev":
                    _check_task(record, stem, place)
                places.setdefault(split, place)
                items.append(_item(record, stem, number, split, place))
        if len(places) > 1:
            raise DataError(
                "MLVU's development and test set are scored apart, got questions of both "
                f"({places['dev']} is of the first, {places['test']} of the second); give the files of one"
            )
        return items

    def official(self, item: Item, line: ResponseLine) -> Verdict:
        """The one character before the first ``)``, or the whole text as it stands where there is none."""
        text = line.response or ""
        before, bracket, _ = text.partition(")")
        said = before[-1:] if bracket else text
        read = len(said) == 1 and said in LETTERS[: len(item.options)]
        how = UNPARSED if not read else "bracket" if bracket else "whole"
        return Verdict(said, how, said == item.answer)

    def lmms_eval(self, item: Item, line: ResponseLine) -> Verdict:
        """The harness's reader of letters, which knows A to D also where there are six options."""
        return mcq_verdict(item, line.response or "")

    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """Strata of ``m_avg`` are the tasks that are present."""
        tables = {"m_avg": [item_cell(item, item.categories["task"]) for item in scores]}
        tables["micro"] = [item_cell(item) for item in scores]
        return tables | right_of_counted(scores, "task")

    def official_responses(self, data: Any, items: Sequence[Item], where: str) -> ResponseSet | None:
        """What the test set's server takes: a list of ``question_id`` and ``option``."""
        if not isinstance(data, Sequence) or not data or not isinstance(data[0], Mapping):
            return None
        if not {"question_id", "option"} <= data[0].keys():
            return None
        lines = []
        for number, row in enumerate(data):
            place = f"{where}, row {number}"
            record = as_record(row, place)
            text = field(record, "option", (str, type(None)), place)
            lines.append(ResponseLine(field(record, "question_id", str, place), text))
        return ResponseSet(lines)


def task_of(stem: str) -> str:
    """Task of an annotation file of the development set: ``4_count`` gives ``count``."""
    return re.sub(r"^\d+_", "", stem)


def _files(folder: Path) -> list[Path]:
    tasks = [task_of(stem) for stem in STEMS]
    for place in (folder, folder / "json"):
        found = [path for path in sorted(place.glob("*.json")) if task_of(path.stem) in tasks]
        if found:
            return found
    for name in TEST_PLACES:
        if (folder / name).is_file():
            return [folder / name]
    raise DataError(
        f"{folder}: holds none of {', '.join(f'{stem}.json' for stem in STEMS)}, nor does its folder json/, "
        f"and no {' or '.join(TEST_PLACES)} of the test set"
    )


def _by_question_type(rows: Any) -> dict[str, list[Any]]:
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise DataError(f"annotations: must be a list of questions or a mapping of lists, got {type(rows).__name__}")
    stems = {task_of(stem): stem for stem in STEMS}
    stems |= {name: stems[task] for name, task in OTHER_NAMES.items()}
    tables: dict[str, list[Any]] = {}
    for number, row in enumerate(rows):
        where = f"annotations, row {number}"
        record = as_record(row, where)
        kind = field(record, "question_type", str, where)
        if kind not in stems | TEST_COUNTS.keys():
            known = [*stems, *(name for name in TEST_COUNTS if name not in stems)]
            raise DataError(f"{where}: field 'question_type' must be one of {', '.join(known)}, got {kind!r}")
        of_test = "question_id" in record or kind not in stems
        tables.setdefault(TEST_STEM if of_test else stems[kind], []).append(row)
    return tables


def _split_of(record: Mapping[str, Any], stem: str, where: str) -> str:
    """``test`` for a record with what only the test set's have: an id, a task, a fifth option."""
    kind = field(record, "question_type", str, where) if "question_type" in record else task_of(stem)
    more = isinstance(candidates := record.get("candidates"), Sequence) and len(candidates) > DEV_OPTIONS
    only_there = kind in TEST_COUNTS and kind not in DEV_COUNTS
    return "test" if "question_id" in record or only_there or more or stem == TEST_STEM else "dev"


def _check_task(record: Mapping[str, Any], stem: str, where: str) -> None:
    """DataError unless a record of the development set lies in a file of its task."""
    task = task_of(stem)
    if task not in DEV_COUNTS:
        raise DataError(f"{where}: no task of MLVU is called {task!r}{suggest(task, DEV_COUNTS)}")
    kind = field(record, "question_type", str, where) if "question_type" in record else task
    if OTHER_NAMES.get(kind, kind) != task:
        raise DataError(f"{where}: field 'question_type' is {kind!r}, which is no question of the task {task!r}")


def _item(record: Mapping[str, Any], stem: str, number: int, split: str, where: str) -> Item:
    video, question = field(record, "video", str, where), field(record, "question", str, where)
    if split == "test":
        record = _numbers_as_texts(record, where)
    options = text_list(record, "candidates", where)
    lettered = letter_lines(options, "({letter}) {text}")
    truth = field(record, "answer", str, where)
    places = [index for index, option in enumerate(options) if option == truth]
    task, media, item_id = task_of(stem), f"video/{stem}/{video}", f"{stem}:{number}"
    if split == "test":
        media = f"MLVU_Test/video/{video}"
        task = field(record, "question_type", str, where)
        item_id = field(record, "question_id", str, where) if "question_id" in record else item_id
    return Item(
        id=item_id,
        media=media,
        question=question,
        prompt=f"Question: {question}\nOptions:\n{lettered}\nOnly give the best option.",
        system=SYSTEM,
        prefill=PREFILL,
        options=options,
        answer=LETTERS[places[-1]] if places else NO_OPTION,  # of equal candidates the official truth is the last
        truth=truth,
        categories={"task": task},
        cluster=video,
    )


def _numbers_as_texts(record: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    if "answer" not in record:
        raise DataError(
            f"{where}: field 'answer' is missing; {TEST_PLACES[0]} holds the test set's questions with answers"
        )
    texts = dict(record)
    candidates = record.get("candidates")
    if isinstance(candidates, Sequence) and all(type(one) in (int, float) for one in candidates):
        texts["candidates"] = [str(one) for one in candidates]
    if type(record["answer"]) in (int, float):
        texts["answer"] = str(record["answer"])
    return texts
