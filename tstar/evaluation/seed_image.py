"""SEED-Bench, its image part: nine kinds of questions about single pictures, four options.

Li et al., "SEED-Bench: Benchmarking Multimodal LLMs with Generative Comprehension", arXiv:2307.16125;
``SEED-Bench.json``, whose questions about videos are passed over. The official scorer ranks the options by likelihood;
papers report generated letters, read by lmms-eval's rule, which is the official one here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import DataError
from tstar.evaluation.cells import item_cell, right_of_counted
from tstar.evaluation.extraction import UNPARSED
from tstar.evaluation.files import as_record, field, identifier, letter_of, number_in, table_rows
from tstar.evaluation.harness_benchmark import HarnessBenchmark
from tstar.evaluation.items import Item, ItemScore, Verdict
from tstar.evaluation.letters import INSTRUCTION, letter_lines
from tstar.evaluation.responses import ResponseLine, ResponseSet
from tstar.evaluation.splits import Split
from tstar.evaluation.statistics import Cell

TABLES = ("SEED-Bench.json", "SEED-Bench.jsonl", "test.jsonl")
TYPES = (
    "scene",
    "identity",
    "attributes",
    "location",
    "counting",
    "spatial relation",
    "interaction",
    "reasoning",
    "text",
)
"""Kinds of questions about pictures, ``question_type_id`` 1 to 9."""
IMAGE, VIDEO = "image", "video"


class SeedImage(HarnessBenchmark):
    """Accuracy over the questions about pictures, and by kind."""

    main = "accuracy"
    main_values = ("accuracy",)
    columns = ("accuracy",)
    in_mean = "accuracy"
    pictures_only = True
    breakdown = (("question type", ""),)
    published = {"image": Split(14232), "image, hub copy": Split(14233)}  # noqa: RUF012

    def read(self, annotations: Any, media: Path | None = None) -> list[Item]:
        """Questions of the official file, of the same as JSON Lines or parquet, or of a folder that holds one."""
        rows, where = table_rows(annotations, TABLES, within="questions")
        found = (_item(row, f"{where}, row {number}") for number, row in enumerate(rows))
        return [item for item in found if item is not None]

    def lmms_eval(self, item: Item, line: ResponseLine) -> Verdict:
        """The first character, small or capital, whatever comes after it."""
        said = (line.response or "").strip()[:1].lower()
        read = len(said) == 1 and said in "abcd"
        return Verdict(said.upper() if read else None, "first" if read else UNPARSED, said == item.answer.lower())

    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """One stratum everywhere."""
        return {"accuracy": [item_cell(item) for item in scores]} | right_of_counted(scores, "question type")

    def official_responses(self, data: Any, items: Sequence[Item], where: str) -> ResponseSet | None:
        """Lines of the official script, ``{"q_id", "prediction", …}``, or of a submission, with ``question_id``."""
        if (
            not isinstance(data, Sequence)
            or not data
            or not isinstance(data[0], Mapping)
            or "prediction" not in data[0]
        ):
            return None
        lines = []
        for number, row in enumerate(data):
            place = f"{where}, row {number}"
            record = as_record(row, place)
            item_id = identifier(record, "q_id" if "q_id" in record else "question_id", place)
            lines.append(ResponseLine(item_id, field(record, "prediction", (str, type(None)), place)))
        return ResponseSet(lines)


def _item(row: Any, where: str) -> Item | None:
    record = as_record(row, where)
    kind = field(record, "data_type", str, where)
    if kind not in (IMAGE, VIDEO):
        raise DataError(f"{where}: field 'data_type' must be {IMAGE} or {VIDEO}, got {kind!r}")
    if kind == VIDEO:
        return None
    options = tuple(field(record, f"choice_{letter}", str, where) for letter in "abcd")
    question, image = field(record, "question", str, where), field(record, "data_id", str, where)
    return Item(
        id=identifier(record, "question_id", where),
        media=f"SEED-Bench-image/{image}",
        media_kind="image",
        question=question,
        prompt=f"{question}\n{letter_lines(options)}\n{INSTRUCTION}",
        options=options,
        answer=letter_of(record, "answer", len(options), where),
        categories={"question type": TYPES[number_in(record, "question_type_id", range(1, len(TYPES) + 1), where) - 1]},
        cluster=image,
    )
