"""AI2D: row numbers for ids, and an answer that has to be the letter and little else."""

import json

import pytest

from tstar.errors import DataError
from tstar.evaluation import get_benchmark, score


def record(answer="1", **changes):
    row = {"question": "Which part absorbs water?", "options": ["leaf", "root", "stem", "petal"], "answer": answer}
    return row | {"image": "3.png"} | changes


def test_an_item_has_the_harness_s_prompt(tmp_path):
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, [record(), record("3", image="…")])))
    first, second = get_benchmark("ai2d").load(tmp_path)
    assert (first.id, first.media, first.media_kind, first.cluster) == ("0", "3.png", "image", "3.png")
    assert (second.id, second.media, second.answer, second.cluster) == ("1", "images/1", "D", "1")
    assert first.prompt == (
        "Which part absorbs water?\nA. leaf\nB. root\nC. stem\nD. petal\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (first.question, first.options) == ("Which part absorbs water?", ("leaf", "root", "stem", "petal"))


def test_a_tsv_table_with_columns_for_the_options(tmp_path):
    rows = ["index\tquestion\tA\tB\tC\tD\tanswer\timage", f"0\tWhich?\tleaf\troot\tstem\tpetal\tB\t{'A' * 300}"]
    (tmp_path / "AI2D_TEST.tsv").write_text("\n".join(rows))
    item = get_benchmark("ai2d").load(tmp_path)[0]
    assert (item.id, item.answer, item.options) == ("0", "B", ("leaf", "root", "stem", "petal"))
    assert item.cluster.startswith("sha256:")


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B. root", "B"),
        (" \nB. root", "B"),
        ("B.root", "B"),
        ("'b'!", "B"),
        ("**B**", "B"),
        ("C. stem", "C"),
        ("b. root", None),
        ("B) root", None),
        ("B root", None),
        ("( B )", None),
        ("B .", None),
        ("root", None),
        ("The answer is B", None),
        ("「B」", None),
        ("E.", None),
        ("<think>C?</think> (B)", "B"),
        ("<think>C?</think> B. root", None),  # the full stop is looked for before thoughts are removed
        ("B. <think>C?", "B"),
        ("", None),
    ],
)
def test_official_reading_of_a_letter(response, letter):
    for rules in ("official", "lmms-eval"):
        report = score("ai2d", [record()], {"0": response}, rules=rules)
        assert report.items[0].extracted == letter
        assert report.items[0].correct is (letter == "B")


def test_the_strict_rule_reads_more_and_nothing_is_left_out():
    rows = [record() for _ in range(6)]
    answers = {"0": "B) root", "1": "root", "2": "The answer is B", "3": "B", "4": None}
    official, strict = (score("ai2d", rows, answers, rules=rules) for rules in ("official", "strict"))
    assert official.aggregate == {"accuracy": 1 / 6}
    assert strict.aggregate == {"accuracy": 4 / 6}
    assert official.counts == {"n": 6, "answered": 1, "unparsed": 3, "failed": 1, "missing": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "4"}, "field 'answer' must be a whole number from 0 to 3, got '4'"),
        ({"answer": "B"}, "field 'answer' must be a whole number from 0 to 3, got 'B'"),
        ({"options": "leaf, root"}, "field 'options' must be a list of texts, got str"),
        ({"question": 3}, "field 'question' must be str, got int"),
    ],
)
def test_a_bad_row_is_named(changes, message, tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(f"{json.dumps(record())}\n{json.dumps(record() | changes)}\n")
    with pytest.raises(DataError, match=rf"test\.jsonl, row 1: {message}"):
        get_benchmark("ai2d").load(tmp_path)


def test_a_tsv_table_refers_to_the_row_that_has_the_picture(tmp_path):
    head = "index\tquestion\tA\tB\tanswer\timage\n"
    rows = [f"{n}\tWhich?\tx\ty\tB\t{image}\n" for n, image in ((0, "A" * 400), (1, "0"), (2, "B" * 400))]
    (tmp_path / "AI2D_TEST.tsv").write_text(head + "".join(rows))
    first, second, third = get_benchmark("ai2d").load(tmp_path)
    assert first.cluster == second.cluster != third.cluster
    assert second.media == "images/1"
    (tmp_path / "AI2D_TEST.tsv").write_text(head + "".join(rows[1:]))
    with pytest.raises(DataError, match=r"AI2D_TEST\.tsv, row 0: field 'image' is '0', neither a path"):
        get_benchmark("ai2d").load(tmp_path)
