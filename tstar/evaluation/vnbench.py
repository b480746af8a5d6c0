"""VNBench: synthetic needles in videos, every question asked four times with its options rearranged.

Zhao et al., "Needle In A Video Haystack", arXiv:2406.09367; annotations ``VNBench-main-4try.json``. A group of four
counts as right only when all four are (``circular``, the official score); ``independent`` is the plain mean over the
tries, as in the paper's compressor table. An item's ``type`` is the annotation's: the two retrieval-insert names are
crossed in the file names, which therefore say nothing about it.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import DataError
from tstar.evaluation.base import Benchmark
from tstar.evaluation.cells import item_cell, right_of_counted
from tstar.evaluation.extraction import UNPARSED
from tstar.evaluation.files import LETTERS, as_record, field, letter_of, read_json, text_list
from tstar.evaluation.items import FAILED, MISSING, Item, ItemScore, Verdict
from tstar.evaluation.letters import INSTRUCTION, letter_lines
from tstar.evaluation.responses import ResponseLine, ResponseSet
from tstar.evaluation.splits import whole
from tstar.evaluation.statistics import Cell, exactly

ANNOTATION_FILE = "VNBench-main-4try.json"
TRIES = 4
FAMILIES = ("cnt", "ord", "ret")
TYPES = (
    *("cnt_edit1", "cnt_edit2", "cnt_insert1"),
    *("ord_edit1", "ord_insert1", "ord_insert2"),
    *("ret_edit1", "ret_insert1", "ret_insert2"),
)


class VNBench(Benchmark):
    """Retrieval, ordering and counting of needles; aggregates ``circular`` and ``independent``, overall and by type."""

    main = "circular"
    main_values = ("circular", "independent")
    columns = ("independent", "circular")
    in_mean = "independent"
    breakdown = (("family", "independent/"), ("family", "circular/"))
    category_names = {"ret": "retrieval", "ord": "ordering", "cnt": "counting"}  # noqa: RUF012
    uncounted = frozenset({FAILED, MISSING})  # the scorer skips lines without a prediction
    published = {"main": whole("type", dict.fromkeys(TYPES, 600))}  # noqa: RUF012

    def read(self, annotations: Any, media: Path | None = None) -> list[Item]:
        """Rows of the official list; a folder is searched for ``VNBench-main-4try.json``."""
        where = "annotations"
        if isinstance(annotations, Path):
            path = annotations / ANNOTATION_FILE if annotations.is_dir() else annotations
            annotations, where = read_json(path), str(path)
        if not isinstance(annotations, Sequence) or isinstance(annotations, str):
            raise DataError(f"{where}: must be one list of questions, got {type(annotations).__name__}")
        return [_item(row, f"{where}, row {number}") for number, row in enumerate(annotations)]

    def official(self, item: Item, line: ResponseLine) -> Verdict:
        """The first of A, B, C, D that occurs anywhere before the first full stop; by letter, not by position."""
        if line.judge is not None:
            return Verdict(None, "judge", line.judge[:1] == "1")
        text = (line.response or "").split(".")[0]
        letter = next((letter for letter in "ABCD" if letter in text), None)
        said = text if letter is None else letter
        return Verdict(said, UNPARSED if letter is None else "contains", said == item.answer)

    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """Groups for ``circular`` (strata: types), tries for ``independent`` (one stratum)."""
        groups: dict[str, list[ItemScore]] = {}
        for item in scores:
            groups.setdefault(item.cluster, []).append(item)
        whole = [(tries[0].categories, _group_cell(cluster, tries)) for cluster, tries in groups.items()]
        tables: dict[str, list[Cell]] = {"circular": [cell for _, cell in whole]}
        tables["independent"] = [item_cell(item) for item in scores]
        for categories, cell in whole:
            tables.setdefault(f"circular/{categories['type']}", []).append(cell)
        for categories, cell in whole:
            tables.setdefault(f"circular/{categories['family']}", []).append(cell)
        tables |= right_of_counted(scores, "type", "independent/")
        return tables | right_of_counted(scores, "family", "independent/")

    def official_responses(self, data: Any, items: Sequence[Item], where: str) -> ResponseSet | None:
        """Result lines of either published scorer, known by ``question_id`` or ``video_path`` beside ``pred``."""
        if isinstance(data, Mapping) and "pred" in data:
            data = [data]  # a JSON Lines file of one line
        if not isinstance(data, Sequence) or not data or not isinstance(data[0], Mapping) or "pred" not in data[0]:
            return None
        truths = {item.id: item.answer for item in items}
        lines = [_result_line(row, truths, f"{where}, row {number}") for number, row in enumerate(data)]
        return ResponseSet(lines, keep_repeats=True)


def haystack_of(video: str) -> str:
    """File stem without its needle: ``./VNBench/video0042_ord_insert1.mp4`` gives ``video0042``."""
    name = video.rpartition("/")[2]
    return _NEEDLE.sub("", name.rpartition(".")[0] or name)


_NEEDLE = re.compile(r"_(?:ret|ord|cnt)_(?:edit|insert)\d$")


def _item(row: Any, where: str) -> Item:
    record = as_record(row, where)
    video, kind = field(record, "video", str, where), field(record, "type", str, where)
    options = text_list(record, "options", where)
    answer = letter_of(record, "gt_option", len(options), where)
    truth, attempt = field(record, "gt", str, where), field(record, "try", int, where)
    if options[LETTERS.index(answer)] != truth:
        raise DataError(f"{where}: field 'gt' ({truth!r}) is not option {answer} ({options[LETTERS.index(answer)]!r})")
    if attempt not in range(TRIES):
        raise DataError(f"{where}: field 'try' must be 0 to {TRIES - 1}, got {attempt}")
    family = kind.split("_")[0]
    if family not in FAMILIES:
        raise DataError(f"{where}: field 'type' must start with one of {', '.join(FAMILIES)}, got {kind!r}")
    group, question = f"{haystack_of(video)}_{kind}", field(record, "question", str, where)
    return Item(
        id=f"{group}_{attempt}",
        media=video.removeprefix("./"),
        question=question,
        prompt=f"{question}\n{letter_lines(options)}\n{INSTRUCTION}",
        options=options,
        answer=answer,
        truth=truth,
        categories={"type": kind, "family": family},
        cluster=group,
    )


def _group_cell(cluster: str, tries: Sequence[ItemScore]) -> Cell:
    """Right iff exactly four lines are: three are too few, a repeated line makes five. Guesses: expected value."""
    seen = [item for item in tries if item.counted]
    right = exactly([float(item.correct) for item in seen], TRIES)
    return Cell(cluster, tries[0].categories["type"], right, float(bool(seen)))


def _result_line(row: Any, truths: Mapping[str, str], where: str) -> ResponseLine:
    record = as_record(row, where)
    if "question_id" in record:
        item_id = field(record, "question_id", str, where)
    else:
        kind, attempt = field(record, "task_type", str, where), field(record, "try", int, where)
        item_id = f"{haystack_of(field(record, 'video_path', str, where))}_{kind}_{attempt}"
    if "gt" in record:
        given = field(record, "gt", (str, int), where)
        letter = LETTERS[given] if isinstance(given, int) and 0 <= given < TRIES else str(given)
        if truths.get(item_id, letter) != letter:
            raise DataError(f"{where}: 'gt' is {letter} but the annotations say {truths[item_id]} for {item_id}")
    judge = record.get("gpt_judge")
    return ResponseLine(item_id, field(record, "pred", (str, type(None)), where), None if judge is None else str(judge))
