"""LVBench: 103 videos of half an hour and more, 1,549 questions.

Wang et al., "LVBench: An Extreme Long Video Understanding Benchmark", arXiv:2406.08035; ``video_info.meta.jsonl``, one
line a video with all its questions. A question counts once in each of its one to three labels. Its scorer compares
letters and leaves out of every denominator what it has no answer to.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import DataError
from tstar.evaluation.base import Benchmark
from tstar.evaluation.cells import item_cell, right_of_counted
from tstar.evaluation.extraction import UNPARSED
from tstar.evaluation.files import (
    as_record,
    field,
    identifier,
    letter_of,
    marked_options,
    read_json_lines,
    text_list,
)
from tstar.evaluation.harness_rules import mcq_verdict
from tstar.evaluation.items import MISSING, Item, ItemScore, MediaPlace, Verdict
from tstar.evaluation.responses import ResponseLine
from tstar.evaluation.splits import Split
from tstar.evaluation.statistics import Cell

ANNOTATION_FILE = "video_info.meta.jsonl"
LABELS = (
    "entity recognition",
    "event understanding",
    "key information retrieval",
    "temporal grounding",
    "reasoning",
    "summarization",
)
INSTRUCTION = "Answer the question with the option letter"


class LVBench(Benchmark):
    """Accuracy over questions and over those of each label."""

    main = "accuracy"
    main_values = ("accuracy",)
    columns = ("accuracy",)
    in_mean = "accuracy"
    breakdown = tuple((label, "") for label in LABELS)
    uncounted = frozenset({MISSING})
    rule_names = ("official", "strict", "lmms-eval")
    published = {"test": Split(1549, clusters=103), "test, cleaned copy": Split(1519, clusters=101)}  # noqa: RUF012

    def read(self, annotations: Any, media: Path | None = None) -> list[Item]:
        """Questions of the official file, of a folder that holds it (or of its ``data``), or of parsed lines."""
        where = "annotations"
        if isinstance(annotations, Path):
            path = annotations
            if path.is_dir():
                path = next((p for p in (path, path / "data") if (p / ANNOTATION_FILE).is_file()), path)
                path /= ANNOTATION_FILE
            annotations, where = read_json_lines(path), str(path)
        if not isinstance(annotations, Sequence) or isinstance(annotations, str):
            raise DataError(f"{where}: must be one list of videos, got {type(annotations).__name__}")
        items = []
        for number, row in enumerate(annotations):
            place = f"{where}, row {number}"
            record = as_record(row, place)
            for question, entry in enumerate(field(record, "qa", list, place)):
                items.append(_item(record, entry, f"{place}, question {question}"))
        return items

    def official(self, item: Item, line: ResponseLine) -> Verdict:
        """First character of what follows the first ``(``, or of the text, both before the first ``)``."""
        text = (line.response or "").strip().split(")")[0].strip()
        if "(" in text:
            text = text.split("(")[1].strip()
        said = text.split(" ")[0][:1]
        how = "first" if "A" <= said <= "Z" else UNPARSED
        return Verdict(said or None, how, said == item.answer)

    def lmms_eval(self, item: Item, line: ResponseLine) -> Verdict:
        """The harness's extractor, four letters."""
        return mcq_verdict(item, line.response or "")

    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """One stratum everywhere; a question is in the table of each of its labels."""
        tables = {"accuracy": [item_cell(item) for item in scores]}
        for label in dict.fromkeys(name for item in scores for name in item.categories if name != "video type"):
            tables |= right_of_counted(scores, label)
        return tables


def _item(video: Mapping[str, Any], row: Any, where: str) -> Item:
    record, key = as_record(row, where), field(video, "key", str, where)
    text = field(record, "question", str, where)
    question, options = marked_options(text, r"\({}\)")
    labels = text_list(record, "question_type", where)
    for label in labels:
        if label not in LABELS:
            raise DataError(f"{where}: field 'question_type' must hold some of {', '.join(LABELS)}, got {label!r}")
    if len(options) < 2:
        raise DataError(f"{where}: field 'question' must end in options behind (A), (B), …, got {text!r}")
    return Item(
        id=identifier(record, "uid", where),
        media=f"{key}.mp4",
        elsewhere=(MediaPlace(f"videos/{key}.mp4"),),
        question=question,
        prompt=f"{text}\n{INSTRUCTION}",
        options=options,
        answer=letter_of(record, "answer", len(options), where),
        categories={"video type": field(video, "type", str, where)} | {label: label for label in labels},
        cluster=key,
    )
