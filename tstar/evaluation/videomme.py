"""Video-MME without subtitles: 900 videos from seconds to an hour, three questions each.

Fu et al., "Video-MME", arXiv:2405.21075; one table, a row a question, published as parquet and read from JSON Lines
with the same fields too. The official accuracy counts answered questions only; ``accuracy_all`` counts all.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import DataError
from tstar.evaluation.base import Benchmark, item_cell, right_of_counted
from tstar.evaluation.extraction import UNPARSED
from tstar.evaluation.files import LETTERS, as_record, field, letter_of, read_json_or_lines, text_list
from tstar.evaluation.items import FAILED, MISSING, Item, ItemScore, Verdict
from tstar.evaluation.responses import ResponseLine, ResponseSet
from tstar.evaluation.statistics import Cell

DURATIONS = ("short", "medium", "long")
OPENING = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
# deleted one after the other; two entries are pairs run together, as in the published list, and hardly ever match
ANSWER_PHRASES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
    "Answer:",
    "Option:",
    "The correct answer",
    "The correct option",
)


class VideoMME(Benchmark):
    """``accuracy`` (official: of the answered), ``accuracy_all``, the official one by duration, domain, …"""

    main = "accuracy"
    main_values = ("accuracy", "accuracy_all")
    columns = ("accuracy",)
    in_mean = "accuracy"
    breakdown = (("duration", ""),)
    uncounted = frozenset({FAILED, MISSING, UNPARSED})
    counts = frozenset({"answered"})
    published = {"test": 2700}  # noqa: RUF012

    def read(self, annotations: Any) -> list[Item]:
        """Rows of a ``.jsonl``, ``.json`` or ``.parquet`` table; of a folder ``test.jsonl`` or else parquet."""
        where = "annotations"
        if isinstance(annotations, Path):
            annotations, where = _table(annotations), str(annotations)
        if isinstance(annotations, (str, Mapping)) or not isinstance(annotations, Iterable):
            raise DataError(f"{where}: must be a table of questions, got {type(annotations).__name__}")
        return [_item(row, f"{where}, row {number}") for number, row in enumerate(annotations)]

    def official(self, item: Item, line: ResponseLine) -> Verdict:
        """The first capital A to D once the answer phrases are gone; unread answers leave the denominator."""
        text = (line.response or "").strip()
        for phrase in ANSWER_PHRASES:
            text = text.replace(phrase, "")
        found = re.search("[ABCD]", text)
        if found is None:
            return Verdict(None, UNPARSED, False)
        return Verdict(found[0], "first", found[0] == item.answer)

    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """One stratum everywhere: all these accuracies are over questions."""
        tables = {"accuracy": [item_cell(item) for item in scores]}
        tables["accuracy_all"] = [Cell(item.cluster, "", float(item.correct), 1.0) for item in scores]
        tables |= right_of_counted(scores, "duration")
        for category in ("domain", "sub_category", "task_type"):
            tables |= right_of_counted(scores, category, f"{category}/")
        return tables

    def extra_values(self, scores: Sequence[ItemScore]) -> dict[str, float]:
        """How many questions were answered with a letter."""
        return {"answered": float(sum(item.how not in self.uncounted for item in scores))}

    def official_responses(self, data: Any, items: Sequence[Item], where: str) -> ResponseSet | None:
        """The official list of videos with their ``questions``; videos flagged ``missing`` are left out."""
        if not isinstance(data, Sequence) or not data or not isinstance(data[0], Mapping) or "questions" not in data[0]:
            return None
        lines = []
        for number, video in enumerate(data):
            place = f"{where}, video {number}"
            record = as_record(video, place)
            questions = field(record, "questions", list, place)
            if record.get("missing"):
                continue
            for row in questions:
                question = as_record(row, f"{place}, question")
                question_id = field(question, "question_id", str, f"{place}, question")
                if "response" in question:
                    text = field(question, "response", (str, type(None)), f"{place}, question {question_id}")
                    lines.append(ResponseLine(question_id, text))
        return ResponseSet(lines)


def _table(path: Path) -> Any:
    if path.is_dir():
        if (path / "test.jsonl").is_file():
            return read_json_or_lines(path / "test.jsonl")
        tables = sorted(path.glob("*.parquet")) or sorted(path.glob("*/*.parquet"))
        if not tables:
            raise DataError(f"{path}: holds neither test.jsonl nor a .parquet table")
        return [row for table in tables for row in _parquet(table)]
    return _parquet(path) if path.suffix == ".parquet" else read_json_or_lines(path)


def _parquet(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path}: reading parquet needs pyarrow: pip install pyarrow, or write the table as JSON Lines (test.jsonl)"
        ) from None
    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise DataError(f"{path}: not a readable parquet table ({error})") from None
    return rows


def _item(row: Any, where: str) -> Item:
    record = as_record(row, where)
    lines = text_list(record, "options", where)
    options = []
    for letter, line in zip(LETTERS, lines, strict=False):
        found = re.match(rf"\s*{letter}[.):]\s*", line)
        if not found:
            raise DataError(f"{where}: field 'options' must start with their letters, got {line!r} for {letter}")
        options.append(line[found.end() :])
    duration = field(record, "duration", str, where)
    if duration not in DURATIONS:
        raise DataError(f"{where}: field 'duration' must be one of {', '.join(DURATIONS)}, got {duration!r}")
    named = {name: field(record, name, str, where) for name in ("domain", "sub_category", "task_type")}
    question = field(record, "question", str, where)
    return Item(
        id=field(record, "question_id", str, where),
        media=f"data/{field(record, 'videoID', str, where)}.mp4",
        prompt="\n".join([OPENING, question, *lines, "The best answer is:"]),
        options=tuple(options),
        answer=letter_of(record, "answer", len(options), where),
        categories={"duration": duration, **named},
        cluster=field(record, "video_id", str, where),
    )
