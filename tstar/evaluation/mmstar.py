"""MMStar: 1,500 questions that cannot be answered without their picture, six abilities in eighteen parts.

Chen et al., "Are We on the Right Way for Evaluating Large Vision-Language Models?", arXiv:2403.20330; one table. The
official score is over questions (``micro``), lmms-eval's is the mean of the eighteen parts (``macro``).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tstar.evaluation.base import Benchmark
from tstar.evaluation.cells import item_cell, right_of_counted
from tstar.evaluation.extraction import UNPARSED
from tstar.evaluation.files import (
    LETTERS,
    as_record,
    field,
    identifier,
    letter_of,
    lettered_columns,
    marked_options,
    picture_of,
    table_rows,
    with_pictures,
)
from tstar.evaluation.harness_rules import mcq_verdict
from tstar.evaluation.items import Item, ItemScore, Verdict
from tstar.evaluation.letters import INSTRUCTION
from tstar.evaluation.responses import ResponseLine
from tstar.evaluation.splits import whole
from tstar.evaluation.statistics import Cell

TABLES = ("mmstar.jsonl", "MMStar.jsonl", "MMStar.tsv", "mmstar.parquet")
CATEGORIES = (
    "coarse perception",
    "fine-grained perception",
    "instance reasoning",
    "logical reasoning",
    "math",
    "science & technology",
)
OPENINGS = ("", "(", "option ", "the answer is ")
"""What may stand before the letter, in the official order."""
HEADING = "Options:"
OPTIONS = 4
UNTOLD = ("",) * OPTIONS
"""Options that a question does not tell apart: answers are then read by letters only."""


class MMStar(Benchmark):
    """``micro`` (official), ``macro`` (lmms-eval), each category and each of its three parts."""

    main = "micro"
    main_values = ("micro", "macro")
    columns = ("micro", "macro")
    in_mean = "micro"
    pictures_only = True
    breakdown = (("category", ""), ("l2_category", ""))
    rule_names = ("official", "strict", "lmms-eval")
    published = {"val": whole("category", dict.fromkeys(CATEGORIES, 250))}  # noqa: RUF012

    def read(self, annotations: Any, media: Path | None = None) -> list[Item]:
        """Rows of the parquet or TSV table, of the same as JSON Lines, or of a folder that holds one."""
        rows, where = table_rows(annotations, TABLES)
        return [_item(row, f"{where}, row {number}") for number, row in enumerate(with_pictures(rows, where))]

    def official(self, item: Item, line: ResponseLine) -> Verdict:
        """The letter at the start, or right behind ``(``, "option " or "the answer is ", whatever comes after it."""
        text = (line.response or "").lower().strip().replace("\n", " ")
        for opening in OPENINGS:
            said = text[len(opening) : len(opening) + 1]
            if text.startswith(opening) and said and said in LETTERS[:OPTIONS].lower():
                return Verdict(said.upper(), f"behind {opening!r}" if opening else "first", said.upper() == item.answer)
        return Verdict(None, UNPARSED, False)

    def lmms_eval(self, item: Item, line: ResponseLine) -> Verdict:
        """The harness's extractor, four letters."""
        return mcq_verdict(item, line.response or "")

    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """Strata of ``macro`` are the parts that are present."""
        tables = {"micro": [item_cell(item) for item in scores]}
        tables["macro"] = [item_cell(item, item.categories["l2_category"]) for item in scores]
        return tables | right_of_counted(scores, "category") | right_of_counted(scores, "l2_category")


def _item(row: Any, where: str) -> Item:
    record = as_record(row, where)
    index, text = identifier(record, "index", where), field(record, "question", str, where).strip()
    columns = lettered_columns(record, where)
    if columns:  # the copy for VLMEvalKit has them apart
        text += f"\n{HEADING} " + ", ".join(f"{a}: {option}" for a, option in zip(LETTERS, columns, strict=False))
    question, options = _options(text)
    answer = letter_of(record, "answer", len(columns) or OPTIONS, where)
    if LETTERS.index(answer) >= len(options):
        options = UNTOLD
    media, picture = picture_of(record, index)
    return Item(
        id=index,
        media=media,
        media_kind="image",
        question=question,
        prompt=f"{text}\n{INSTRUCTION.removesuffix('.')}",  # as lmms-eval has it
        options=columns or options,
        answer=answer,
        categories={name: field(record, name, str, where) for name in ("category", "l2_category")},
        cluster=picture,
    )


def _options(text: str) -> tuple[str, tuple[str, ...]]:
    head, heading, tail = text.rpartition(HEADING)
    for mark in (r"{}:\s*", r"\({}\)\s*", r"{}\.\s+"):
        question, options = marked_options(tail, mark)
        if len(options) >= 2:
            return (head if heading else question).rstrip(), tuple(option.rstrip(", ") for option in options)
    return (head if heading else text).rstrip(), UNTOLD
