"""AI2D, test: questions about school-book diagrams whose labels are replaced by letters.

Kembhavi et al., "A Diagram Is Worth A Dozen Images", arXiv:1603.07396; the copy of 3,088 rows that harnesses use. There
is no scorer for generated text, so the official rule here is lmms-eval's.
"""

import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tstar.evaluation.cells import item_cell
from tstar.evaluation.extraction import UNPARSED
from tstar.evaluation.files import (
    LETTERS,
    as_record,
    field,
    letter_of,
    lettered_columns,
    number_in,
    picture_of,
    table_rows,
    text_list,
    with_pictures,
)
from tstar.evaluation.harness_benchmark import HarnessBenchmark
from tstar.evaluation.items import Item, ItemScore, Verdict
from tstar.evaluation.letters import INSTRUCTION, letter_lines
from tstar.evaluation.responses import ResponseLine
from tstar.evaluation.splits import Split
from tstar.evaluation.statistics import Cell

TABLES = ("ai2d.jsonl", "test.jsonl", "AI2D_TEST.tsv")
WITHOUT_MARKS = str.maketrans("", "", string.punctuation)


class AI2D(HarnessBenchmark):
    """Accuracy over questions."""

    main = "accuracy"
    main_values = ("accuracy",)
    columns = ("accuracy",)
    in_mean = "accuracy"
    pictures_only = True
    published = {"test": Split(3088)}  # noqa: RUF012

    def read(self, annotations: Any, media: Path | None = None) -> list[Item]:
        """Rows of the parquet table, of the same as JSON Lines, or of a folder that holds one; ids are row numbers."""
        rows, where = table_rows(annotations, TABLES)
        return [_item(row, number, f"{where}, row {number}") for number, row in enumerate(with_pictures(rows, where))]

    def lmms_eval(self, item: Item, line: ResponseLine) -> Verdict:
        """The whole text, but for its case and ASCII punctuation."""
        said = (line.response or "").translate(WITHOUT_MARKS).lower()
        read = len(said) == 1 and said.upper() in LETTERS[: len(item.options)]
        return Verdict(said.upper() if read else None, "whole" if read else UNPARSED, said == item.answer.lower())

    def harness_text(self, response: str) -> str:
        """The letter of a ``B.`` at the start, before any thoughts; without one the text that all scorers are given."""
        found = re.match(r"\s*([A-Z])\.", response)
        return super().harness_text(found[1] if found else response)

    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """One stratum."""
        return {"accuracy": [item_cell(item) for item in scores]}


def _item(row: Any, number: int, where: str) -> Item:
    record = as_record(row, where)
    question, columns = field(record, "question", str, where), lettered_columns(record, where)
    options = columns or text_list(record, "options", where)
    if columns:  # the copy for VLMEvalKit has options apart, and letters for answers
        answer = letter_of(record, "answer", len(options), where)
    else:
        answer = LETTERS[number_in(record, "answer", range(len(options)), where)]
    media, picture = picture_of(record, str(number))
    return Item(
        id=str(number),
        media=media,
        media_kind="image",
        question=question,
        prompt=f"{question}\n{letter_lines(options)}\n{INSTRUCTION}",
        options=options,
        answer=answer,
        cluster=picture,
    )
