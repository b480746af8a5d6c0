"""ActivityNet-QA, test: short free answers about everyday videos, judged yes or no and marked 0 to 5.

Yu et al., "ActivityNet-QA: A Dataset for Understanding Complex Web Videos via Question Answering", arXiv:1906.02467;
``test_q.json`` and ``test_a.json``, joined by ``question_id``. The official rule is the scorer of Video-ChatGPT (Maaz et al.,
arXiv:2306.05424), which papers on language models report, and not the data set's own exact match. The prompt is lmms-eval's.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import DataError
from tstar.evaluation.files import as_record, field, number_in, table_rows
from tstar.evaluation.items import Item, ItemScore, Verdict
from tstar.evaluation.judge_readings import Reading, read_first_braces, read_official, read_strictly
from tstar.evaluation.judged import JUDGED, NEITHER, JudgedBenchmark
from tstar.evaluation.judging import JudgePrompt
from tstar.evaluation.responses import ResponseLine, ResponseSet
from tstar.evaluation.splits import whole
from tstar.evaluation.statistics import Cell

QUESTIONS, ANSWERS = "test_q", "test_a"
INSTRUCTION = "Answer the question using a single word or phrase."
TYPES = (
    "motion",
    "spatial_relation",
    "temporal_relation",
    "yes_no",
    "colour",
    "object",
    "location",
    "number",
    "other",
)
"""What the annotations number from 0 on."""
TEST_COUNTS = dict(zip(TYPES, (800, 800, 800, 2094, 697, 318, 386, 606, 1499), strict=True))
PROMPT = JudgePrompt(
    system=(
        "You grade answers to questions about videos. You are shown a question, its correct answer and a model's answer, and "
        "decide whether the model's answer means what the correct one means. Synonyms and other wordings of the same thing "
        "match. Go by the correct answer alone, not by what seems likely to you."
    ),
    user=(
        "Question: {question}\nCorrect answer: {answer}\nModel's answer: {prediction}\n\n"
        "Reply with one Python dictionary and nothing else. 'pred' is the string 'yes' if the model's answer matches, and "
        "'no' if it does not. 'score' is a whole number from 0 (does not match at all) to 5 (matches fully). "
        "For example: {'pred': 'no', 'score': 1}"
    ),
)


class ActivityNetQA(JudgedBenchmark):
    """``accuracy`` (yes of yes and no) and ``score`` (mean mark, 0 to 5), both also by type of question."""

    main = "accuracy"
    main_values = ("accuracy", "score")
    columns = ("accuracy", "score")
    in_mean = "accuracy"
    breakdown = (("type", "accuracy/"),)
    category_names = {"yes_no": "yes/no"}  # noqa: RUF012
    counts = frozenset({NEITHER})
    ratings = frozenset({"score", *(f"score/{name}" for name in TYPES)})
    published = {"test": whole("type", TEST_COUNTS)._replace(clusters=800)}  # noqa: RUF012
    max_new_tokens = 64
    judge_prompt = PROMPT

    def read(self, annotations: Any, media: Path | None = None) -> list[Item]:
        """Items of the folder of both files, of either file beside the other, or of one table that has all fields.

        Parsed, the two are a mapping with the files' stems as keys, and a table is a list.
        """
        questions, answers, where = _both(annotations)
        if answers is None:
            return [_item(row, row, f"{where}, row {number}") for number, row in enumerate(questions)]
        by_id: dict[str, Mapping[str, Any]] = {}
        for number, row in enumerate(answers):
            place = f"{where}, {ANSWERS}, row {number}"
            key = field(as_record(row, place), "question_id", str, place)
            if key in by_id:
                raise DataError(f"{place}: a second answer to {key}")
            by_id[key] = row
        items = []
        for number, row in enumerate(questions):
            place = f"{where}, {QUESTIONS}, row {number}"
            key = field(as_record(row, place), "question_id", str, place)
            if key not in by_id:
                raise DataError(f"{place}: {key} has no answer in {ANSWERS}; are both files of one split?")
            items.append(_item(row, by_id[key], place))
        return items

    def read_reply(self, rules: str, reply: str) -> Reading | None:
        """Mark and yes or no; lmms-eval cuts the dictionary out of what stands round it, and can read nothing else."""
        if rules == "lmms-eval":
            return read_first_braces(reply)
        return read_strictly(reply, verdict=True) if rules == "strict" else read_official(reply, verdict=True)

    def verdict(self, reading: Reading) -> Verdict:
        """Right if the judge says yes."""
        how = JUDGED if reading.verdict else NEITHER
        return Verdict(reading.verdict or None, how, reading.verdict == "yes", float(reading.mark))

    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """One stratum everywhere. Accuracy is of what has a yes or no, the score of what has a mark."""
        tables: dict[str, list[Cell]] = {"accuracy": [], "score": []}
        for item in scores:
            kind = item.categories["type"]
            right = Cell(item.cluster, "", float(item.correct) if item.counted else 0.0, float(item.counted))
            for name, cell in (("accuracy", right), ("score", self.mark_cell(item))):
                tables[name].append(cell)
                tables.setdefault(f"{name}/{kind}", []).append(cell)
        return tables

    def extra_values(self, scores: Sequence[ItemScore]) -> dict[str, float]:
        """How many replies have a mark, but neither yes nor no."""
        return {NEITHER: float(sum(item.how == NEITHER for item in scores))}

    def official_responses(self, data: Any, items: Sequence[Item], where: str) -> ResponseSet | None:
        """What Video-ChatGPT's inference and lmms-eval write: rows with ``pred`` beside ``id`` or ``question_id``."""
        if not isinstance(data, Sequence) or not data or not isinstance(data[0], Mapping) or "pred" not in data[0]:
            return None
        lines = []
        for number, row in enumerate(data):
            place = f"{where}, row {number}"
            record = as_record(row, place)
            key = field(record, "question_id" if "question_id" in record else "id", str, place)
            lines.append(ResponseLine(key, field(record, "pred", (str, type(None)), place)))
        return ResponseSet(lines)


def _both(annotations: Any) -> tuple[list[Any], list[Any] | None, str]:
    """Questions, answers and their place; answers None where the questions are a table that has them too."""
    if isinstance(annotations, Mapping):
        missing = [name for name in (QUESTIONS, ANSWERS) if name not in annotations]
        if missing:
            raise DataError(f"annotations: must have {QUESTIONS} and {ANSWERS}, {missing[0]} is missing")
        return table_rows(annotations[QUESTIONS], ())[0], table_rows(annotations[ANSWERS], ())[0], "annotations"
    if isinstance(annotations, Path):
        folder = annotations if annotations.is_dir() else annotations.parent
        files = [folder / f"{name}.json" for name in (QUESTIONS, ANSWERS)]
        there = [path for path in files if path.is_file()]
        if there and (annotations.is_dir() or annotations in files):
            return table_rows(files[0], ())[0], table_rows(files[1], ())[0], str(folder)
    rows, where = table_rows(annotations, (f"{QUESTIONS}.json", "test.jsonl"))
    return rows, None, where


def _item(row: Any, answered: Any, where: str) -> Item:
    asked, known = as_record(row, where), as_record(answered, where)
    video, question = field(asked, "video_name", str, where), field(asked, "question", str, where)
    answer = field(known, "answer", str, where)
    if not answer:
        raise DataError(f"{where}: field 'answer' is empty")
    return Item(
        id=field(asked, "question_id", str, where),
        media=f"v_{video}",
        question=question,
        prompt=f"{question.capitalize()}? {INSTRUCTION}",
        options=(),
        answer=answer,
        categories={"type": TYPES[number_in(known, "type", range(len(TYPES)), where)]},
        cluster=video,
    )
