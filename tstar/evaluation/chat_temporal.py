"""Video-ChatGPT's benchmark, its temporal part: free answers about the order of events, marked 0 to 5 by a judge.

Maaz et al., "Video-ChatGPT: Towards Detailed Video Understanding via Large Vision and Language Models", arXiv:2306.05424;
``temporal_qa.json``. An item is named after its video and its place among that video's rows, as in the official scorer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import DataError
from tstar.evaluation.files import as_record, field, table_rows
from tstar.evaluation.items import UNJUDGED, Item, ItemScore, Verdict
from tstar.evaluation.judge_readings import MARKS, Reading, read_official, read_score_or_zero, read_strictly
from tstar.evaluation.judged import JUDGED, JudgedBenchmark
from tstar.evaluation.judging import JudgePrompt
from tstar.evaluation.responses import ResponseLine, ResponseSet
from tstar.evaluation.splits import Split
from tstar.evaluation.statistics import Cell

ANNOTATION_FILE = "temporal_qa.json"
PROMPT = JudgePrompt(
    system=(
        "You grade how well answers about videos get the order of events. You are shown a question, its correct answer and a "
        "model's answer. What counts is whether the model's answer has the events, and has them in the order of the correct "
        "answer; synonyms and other wordings are fine as long as the order is kept."
    ),
    user=(
        "Question: {question}\nCorrect answer: {answer}\nModel's answer: {prediction}\n\n"
        "Reply with one Python dictionary and nothing else. 'score' is the temporal accuracy of the model's answer, a whole "
        "number from 0 (the order is wrong or missing) to 5 (fully right). For example: {'score': 2}"
    ),
)


class ChatTemporal(JudgedBenchmark):
    """``score``, the mean mark. An item counts as correct, where one asks for that, if its mark is the best."""

    main = "score"
    main_values = ("score",)
    columns = ("score",)
    in_mean = "score"
    ratings = frozenset({"score"})
    published = {"test": Split(499)}  # noqa: RUF012
    max_new_tokens = 1024
    judge_prompt = PROMPT

    def read(self, annotations: Any, media: Path | None = None) -> list[Item]:
        """Rows of ``temporal_qa.json``, of the folder it lies in, or parsed."""
        rows, where = table_rows(annotations, (ANNOTATION_FILE,))
        seen: dict[str, int] = {}
        return [_item(row, seen, f"{where}, row {number}") for number, row in enumerate(rows)]

    def read_reply(self, rules: str, reply: str) -> Reading | None:
        """The mark; lmms-eval takes a dictionary without one for a 0."""
        if rules == "lmms-eval":
            return read_score_or_zero(reply)
        return read_strictly(reply, verdict=False) if rules == "strict" else read_official(reply, verdict=False)

    def verdict(self, reading: Reading) -> Verdict:
        """The mark alone."""
        return Verdict(str(reading.mark), JUDGED, reading.mark >= MARKS[-1], float(reading.mark))

    def lmms_eval(self, item: Item, line: ResponseLine) -> Verdict:
        """The first reply that is not empty decides; a mark that cannot be read is a 0 there."""
        said = tuple(reply for reply in line.replies if reply.strip())
        found = super().lmms_eval(item, line._replace(replies=said[:1]))
        return found if found.how == JUDGED else Verdict(None, UNJUDGED, False, 0.0)

    def merit(self, item: ItemScore) -> float:
        """The mark."""
        return item.rating or 0.0

    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """One stratum: the mean is over questions."""
        return {"score": [self.mark_cell(item) for item in scores]}

    def official_responses(self, data: Any, items: Sequence[Item], where: str) -> ResponseSet | None:
        """The annotations' rows with ``pred``. Rows may be missing: a row is known by its video and question."""
        if not isinstance(data, Sequence) or not data or not isinstance(data[0], Mapping) or "pred" not in data[0]:
            return None
        waiting: dict[tuple[str, str], list[str]] = {}
        for item in items:
            waiting.setdefault((item.cluster, item.question), []).append(item.id)
        lines = []
        for number, row in enumerate(data):
            place = f"{where}, row {number}"
            record = as_record(row, place)
            key = field(record, "video_name", str, place), field(record, "Q", str, place)
            if not waiting.get(key):
                raise DataError(
                    f"{place}: the annotations have no such question about {key[0]}, or not that often: {key[1]!r}"
                )
            lines.append(ResponseLine(waiting[key].pop(0), field(record, "pred", (str, type(None)), place)))
        return ResponseSet(lines)


def _item(row: Any, seen: dict[str, int], where: str) -> Item:
    record = as_record(row, where)
    video, question = field(record, "video_name", str, where), field(record, "Q", str, where)
    answer = field(record, "A", str, where)
    if not answer:
        raise DataError(f"{where}: field 'A' is empty")
    seen[video] = seen.get(video, -1) + 1
    return Item(
        id=f"{video}_{seen[video]}",
        media=f"Test_Videos/{video}.mp4",
        question=question,
        prompt=question,
        options=(),
        answer=answer,
        cluster=video,
    )
