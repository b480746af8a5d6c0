"""NExT-QA, multiple choice: why, how, when and what in everyday videos, five options.

Xiao et al., "NExT-QA: Next Phase of Question-Answering to Explaining Temporal Actions", arXiv:2105.08276; ``test.csv``.
Its own scorer compares whole numbers and reads no text, so the rule for text is lmms-eval's, which draws a letter at
random where it finds none: such an answer counts as wrong here and in ``unparsed``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tstar.errors import DataError
from tstar.evaluation.cells import item_cell, right_of_counted
from tstar.evaluation.extraction import UNPARSED
from tstar.evaluation.files import (
    LETTERS,
    as_record,
    field,
    identifier,
    number_in,
    table_rows,
)
from tstar.evaluation.harness_benchmark import HarnessBenchmark
from tstar.evaluation.items import Item, ItemScore, MediaPlace, Verdict
from tstar.evaluation.letters import letter_lines
from tstar.evaluation.responses import ResponseLine, ResponseSet
from tstar.evaluation.splits import whole
from tstar.evaluation.statistics import Cell

TABLES = ("test.csv", "test.jsonl")
HUB_TABLES = ("MC/test*.parquet", "test*.parquet", "data/test*.parquet")
OPTIONS = 5
KINDS = {
    "CW": "Why",
    "CH": "How",
    "TN": "Bef&Aft",
    "TP": "Bef&Aft",
    "TC": "When",
    "DC": "Cnt",
    "DL": "Loc",
    "DO": "Other",
}
"""What the official scorer calls each type; before and after are one."""
TEST_COUNTS = {"CW": 3329, "CH": 1173, "TN": 1399, "TC": 1165, "TP": 93, "DO": 600, "DL": 483, "DC": 322}
VAL_COUNTS = {"c": 2607, "t": 1612, "d": 777}
FORMS = (("({})", "({})", "brackets"), ("{} ", " {} ", "space"), ("{}.", " {} ", "full stop"))
"""How a letter may be written, what its place is searched by if there are several, and the form's name. One at the end of
a word ("NASA ") is a letter too, but has no place: any other comes after it."""


class NextQA(HarnessBenchmark):
    """Accuracy over questions, by kind (``Why``, ``When``, …) and by group (``acc_c``, ``acc_t``, ``acc_d``)."""

    main = "accuracy"
    main_values = ("accuracy",)
    columns = ("accuracy",)
    in_mean = "accuracy"
    breakdown = (("group", "acc_"), ("kind", ""))
    category_names = {"c": "causal", "t": "temporal", "d": "descriptive"}  # noqa: RUF012
    counts = frozenset({"unparsed"})
    published = {  # noqa: RUF012
        "test": whole("type", TEST_COUNTS)._replace(clusters=1000),
        "val": whole("group", VAL_COUNTS)._replace(clusters=570),
    }

    def read(self, annotations: Any, media: Path | None = None) -> list[Item]:
        """Rows of the official CSV file, of the same as JSON Lines or parquet, or of a folder that holds ``test``."""
        rows, where = table_rows(annotations, TABLES, HUB_TABLES)
        return [_item(row, f"{where}, row {number}") for number, row in enumerate(rows)]

    def lmms_eval(self, item: Item, line: ResponseLine) -> Verdict:
        """The last of the letters found in the clearest form that occurs, else of the options' texts."""
        letter, how = parse_choice(line.response or "", item.options)
        return Verdict(letter, how, letter == item.answer)

    def cells(self, scores: Sequence[ItemScore]) -> dict[str, list[Cell]]:
        """One stratum everywhere: all these accuracies are over questions."""
        tables = {"accuracy": [item_cell(item) for item in scores]}
        return tables | right_of_counted(scores, "group", "acc_") | right_of_counted(scores, "kind")

    def extra_values(self, scores: Sequence[ItemScore]) -> dict[str, float]:
        """For how many answers the harness would draw a letter."""
        return {"unparsed": float(sum(item.how == UNPARSED for item in scores))}

    def official_responses(self, data: Any, items: Sequence[Item], where: str) -> ResponseSet | None:
        """The official dictionary, ``{"<video>_<qid>": {"prediction": 0 to 4, "answer": 0 to 4}}``."""
        if not isinstance(data, Mapping) or not data or not all(isinstance(value, Mapping) for value in data.values()):
            return None
        truths = {item.id: item.answer for item in items}
        lines = []
        for key, value in data.items():
            place = f"{where}, {key}"
            truth = LETTERS[number_in(value, "answer", range(OPTIONS), place)]
            if truths.get(key, truth) != truth:
                raise DataError(f"{place}: 'answer' is {truth} but the annotations say {truths[key]}")
            said = field(value, "prediction", (int, type(None)), place)
            # a number that is no option's, say -1, is how scripts write that there was no answer
            lines.append(ResponseLine(str(key), LETTERS[said] if said in range(OPTIONS) else None))
        return ResponseSet(lines)


def parse_choice(response: str, options: Sequence[str]) -> tuple[str | None, str]:
    """lmms-eval's reading of an answer, which it has from MMMU: a letter and how it was found.

    The first of these forms that occurs decides: ``(B)``, ``B`` and a space, ``B.``, and in texts of more than five
    words an option's text. Of several letters the one that stands last is taken.
    """
    text = response.strip()
    for character in ",.!?;:'":
        text = text.strip(character)
    text = f" {text} "
    letters = LETTERS[: len(options)]
    for form, place, how in FORMS:
        found = [letter for letter in letters if form.format(letter) in text]
        if found:
            return _latest(found, [text.rfind(place.format(letter)) for letter in found]), how
    lower, wanted = text.lower(), [option.lower() for option in options]
    found = [letter for letter, option in zip(letters, wanted, strict=True) if option in lower]
    if not found or len(text.split()) <= 5:
        return None, UNPARSED
    return _latest(found, [lower.rfind(option) for option in wanted if option in lower]), "option text"


def _latest(letters: Sequence[str], positions: Sequence[int]) -> str:
    return letters[positions.index(max(positions))]


def _item(row: Any, where: str) -> Item:
    record = as_record(row, where)
    video = identifier(record, "video", where)
    options = tuple(field(record, f"a{number}", str, where).strip() for number in range(OPTIONS))
    kind = field(record, "type", str, where)
    if kind not in KINDS:
        raise DataError(f"{where}: field 'type' must be one of {', '.join(KINDS)}, got {kind!r}")
    question = field(record, "question", str, where).strip()
    return Item(
        id=f"{video}_{identifier(record, 'qid', where)}",
        media=f"{video}.mp4",
        elsewhere=(MediaPlace(f"NExTVideo/{video}.mp4"), MediaPlace(f"videos/{video}.mp4")),
        question=question,
        prompt=f"{question}\n{letter_lines(options)}",
        options=options,
        answer=LETTERS[number_in(record, "answer", range(OPTIONS), where)],
        categories={"type": kind, "kind": KINDS[kind], "group": kind[0].lower()},
        cluster=video,
    )
