"""MMStar: options within the question, letters after a few openings, micro beside macro over the parts."""

import csv
import json
import random

import pytest

from tstar.errors import DataError
from tstar.evaluation import get_benchmark, score

QUESTION = "Which room is it?\nOptions: A: a kitchen, B: a hall, with stairs, C: a cellar, D: none"
SPLIT = ("a kitchen", "a hall, with stairs", "a cellar", "none")


def record(index=7, answer="B", category="coarse perception", part="image scene and topic", **changes):
    row = {"index": index, "question": QUESTION, "image": "images/7.jpg", "answer": answer, "category": category}
    return row | {"l2_category": part, "meta_info": {"source": "MMBench"}} | changes


def write_tsv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


def test_an_item_has_the_harness_s_prompt(tmp_path):
    (tmp_path / "mmstar.jsonl").write_text(json.dumps(record()) + "\n")
    item = get_benchmark("mmstar").load(tmp_path)[0]
    assert (item.id, item.media, item.media_kind, item.answer) == ("7", "images/7.jpg", "image", "B")
    assert item.prompt == f"{QUESTION}\nAnswer with the option's letter from the given choices directly"
    assert (item.question, item.options) == ("Which room is it?", SPLIT)
    assert item.categories == {"category": "coarse perception", "l2_category": "image scene and topic"}


def test_a_tsv_table_with_pictures_and_columns_for_the_options(tmp_path):
    rows = [record(n, question="Which room is it?", image="A" * 300_000) for n in (7, 8)]
    write_tsv(tmp_path / "MMStar.tsv", [row | dict(zip("ABCD", SPLIT, strict=True)) for row in rows])
    first, second = get_benchmark("mmstar").load(tmp_path)
    assert (first.question, first.options) == ("Which room is it?", SPLIT)
    assert first.prompt == f"{QUESTION}\nAnswer with the option's letter from the given choices directly"
    assert (first.media, second.media) == ("images/7", "images/8")
    assert first.cluster == second.cluster  # one picture
    write_tsv(tmp_path / "MMStar.tsv", [row | {"question": QUESTION} for row in rows])
    assert get_benchmark("mmstar").load(tmp_path)[0].options == SPLIT


def test_a_short_cell_is_the_index_of_the_row_that_has_the_picture(tmp_path):
    rows = [
        record(n, question=QUESTION, image=image) for n, image in ((7, "A" * 300), (8, "7"), (9, "B" * 300), (10, "9"))
    ]
    write_tsv(tmp_path / "MMStar.tsv", rows)
    items = get_benchmark("mmstar").load(tmp_path)
    assert [item.media for item in items] == [f"images/{n}" for n in (7, 8, 9, 10)]
    assert items[0].cluster == items[1].cluster != items[2].cluster == items[3].cluster
    for image, place in (("11", 4), ("8", 4)):  # of no row; of one that has only a reference itself
        write_tsv(tmp_path / "MMStar.tsv", [*rows, record(12, image=image)])
        with pytest.raises(DataError, match=rf"row {place}: field 'image' is '{image}', neither a path"):
            get_benchmark("mmstar").load(tmp_path)


def test_impossible_columns_are_refused(tmp_path):
    columns = dict(zip("ABC", SPLIT, strict=False))
    with pytest.raises(DataError, match=r"row 0: field 'answer' must be one of A, B, C, got 'D'"):
        get_benchmark("mmstar").load([record(answer="D", question="Which?", **columns)])
    with pytest.raises(DataError, match=r"row 0: columns A, B, C must hold two or more options without a gap"):
        get_benchmark("mmstar").load([record(answer="A", question="Which?", **columns | {"B": ""})])


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Day?\nOptions: A: yes, B: no", ("yes", "no")),
        ("Day?\nOptions: A: 1, 2, B: 3, 4, C: A: B, D: x,", ("1, 2", "3, 4", "A: B", "x")),
        ("Day?\nOptions:\nA: yes\nB: no\nC: E:", ("yes", "no", "E:")),
        ("Options: are many\nOptions: (A) yes (B) no (C) x", ("yes", "no", "x")),
        ("Day?\nA. yes\nB. no", ("yes", "no")),
        ("Day?", ("", "", "", "")),
    ],
)
def test_options_are_found_in_the_question(question, options):
    item = get_benchmark("mmstar").load([record(question=question)])[0]
    assert item.options == options
    assert score("mmstar", [record(question=question)], {"7": "The answer is B."}, "strict").items[0].correct


def test_letters_count_where_the_question_does_not_tell_the_options_apart():
    row = record(question="Day?\nOptions: A: yes, B: no", answer="D")
    item = get_benchmark("mmstar").load([row])[0]
    assert item.options == ("", "", "", "")
    assert score("mmstar", [row], {"7": "D"}, "strict").aggregate["micro"] == 1.0
    assert score("mmstar", [row], {"7": ""}, "strict").aggregate["micro"] == 0.0


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("banana", "B"),
        (" B: a hall", "B"),
        ("(B)", "B"),
        ("(b", "B"),
        ("Option B", "B"),
        ("option\nbecause", "B"),
        ("The answer is\nB", "B"),
        ("the answer is (B)", None),
        ("The answer is: B", None),
        ("A", "A"),
        ("(", None),
        ("option ", None),
        ("the answer is ", None),
        ("Answer: B", "A"),
        ("My answer: B", None),
        ("Ｂ", None),
        ("", None),
        (" \n ", None),
    ],
)
def test_official_reading_of_a_letter(response, letter):
    report = score("mmstar", [record()], {"7": response})
    assert report.items[0].extracted == letter
    assert report.aggregate["micro"] == report.aggregate["macro"] == float(letter == "B")


def test_the_harness_reads_capitals_anywhere():
    for response, right in [
        ("The answer is (B)", True),
        ("b", False),
        ("It is B or D", False),
        ("", False),
        ("Answer: B", True),
    ]:
        assert score("mmstar", [record()], {"7": response}, rules="lmms-eval").items[0].correct is right


def test_micro_is_over_questions_and_macro_over_the_parts_that_are_there():
    draw = random.Random(4)
    parts = {"geometry": ("math", 30), "statistical reasoning": ("math", 7), "localization": ("fine", 3)}
    rows = [
        record(len(parts) * 100 + n, draw.choice("ABCD"), c, p) for p, (c, count) in parts.items() for n in range(count)
    ]
    rows = [row | {"index": index} for index, row in enumerate(rows)]
    answers = {str(index): draw.choice(["A", "B", "(C)", None]) for index in range(len(rows))}
    report = score("mmstar", rows, answers)
    right = {str(row["index"]): (answers[str(row["index"])] or "").strip("()") == row["answer"] for row in rows}

    def rate(name, value):
        own = [right[str(row["index"])] for row in rows if row[name] == value]
        return sum(own) / len(own)

    rates = {part: rate("l2_category", part) for part in parts}
    assert report.aggregate == {
        "micro": pytest.approx(sum(right.values()) / 40),
        "macro": pytest.approx(sum(rates.values()) / 3),
        "math": pytest.approx(rate("category", "math")),
        "fine": pytest.approx(rate("category", "fine")),
    } | {part: pytest.approx(value) for part, value in rates.items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "E"}, "row 1: field 'answer' must be one of A, B, C, D, got 'E'"),
        ({"l2_category": None}, "row 1: field 'l2_category' must be str, got NoneType"),
        ({"index": ""}, "row 1: field 'index' is empty"),
        ({"index": 7}, "1 ids occur more than once .first: 7"),
    ],
)
def test_a_bad_row_is_named(changes, message, tmp_path):
    path = tmp_path / "mmstar.jsonl"
    path.write_text(f"{json.dumps(record())}\n{json.dumps(record(8) | changes)}\n")
    with pytest.raises(DataError, match=message) as caught:
        get_benchmark("mmstar").load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_table_that_is_cut_off_is_named(tmp_path):
    write_tsv(tmp_path / "MMStar.tsv", [record(), record(8)])
    text = (tmp_path / "MMStar.tsv").read_text()
    (tmp_path / "MMStar.tsv").write_text(text[:-40])
    with pytest.raises(DataError, match=r"MMStar\.tsv, row 1: "):
        get_benchmark("mmstar").load(tmp_path)
