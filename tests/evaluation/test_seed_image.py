"""SEED-Bench, images: questions about videos passed over, the first character read."""

import json

import pytest

from tstar.errors import DataError
from tstar.evaluation import get_benchmark, score
from tstar.evaluation.seed_image import TYPES


def record(number=104512, answer="C", kind=5, **changes):
    row = {"question_id": str(number), "question": "How many cups are on the shelf?", "answer": answer}
    row |= {f"choice_{letter}": text for letter, text in zip("abcd", ("One", "Two", "Four", "Six"), strict=True)}
    return row | {"data_id": "1454426_2591111986", "data_type": "image", "question_type_id": kind} | changes


VIDEO = record(9, data_type="video", kind=10, data_id="94328.webm")


@pytest.mark.parametrize("form", ["json", "jsonl", "rows"])
def test_an_item_has_the_harness_s_prompt(tmp_path, form):
    rows = [VIDEO, record()]
    (tmp_path / "SEED-Bench.json").write_text(json.dumps({"questions": rows, "question_type": {"Scene": 1}}))
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"json": tmp_path, "jsonl": tmp_path / "x.jsonl", "rows": rows}[form]
    (item,) = get_benchmark("seed_image").load(source)
    assert (item.id, item.media, item.media_kind) == ("104512", "SEED-Bench-image/1454426_2591111986", "image")
    assert (item.answer, item.cluster, item.options) == ("C", "1454426_2591111986", ("One", "Two", "Four", "Six"))
    assert item.prompt == (
        "How many cups are on the shelf?\nA. One\nB. Two\nC. Four\nD. Six\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (item.question, item.categories) == ("How many cups are on the shelf?", {"question type": "counting"})


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("C", "C"),
        ("c", "C"),
        (" C. Four", "C"),
        ("Cups", "C"),
        ("Apple", "A"),
        ("can't say", "C"),
        ("(C)", None),
        ("The answer is C", None),
        ("Four", None),
        ("E", None),
        ("Ｃ", None),
        ("", None),
        (" \n", None),
        ("<think>A?</think>c", "C"),
        ("it is A</think>c", "C"),
        ("<think>C", None),
    ],
)
def test_official_reading_of_a_letter(response, letter):
    for rules in ("official", "lmms-eval"):
        report = score("seed_image", [record()], {"104512": response}, rules=rules)
        assert report.items[0].extracted == letter
        assert report.aggregate["accuracy"] == report.aggregate["counting"] == float(letter == "C")


def test_accuracies_by_type():
    rows = [record(number, kind=1 + number % 9) for number in range(27)]
    answers = {str(number): "C" if number < 9 or number % 9 == 5 else None for number in range(27)}
    report = score("seed_image", rows, answers)
    assert report.aggregate == {"accuracy": 11 / 27} | {
        name: 1.0 if index == 5 else 1 / 3 for index, name in enumerate(TYPES)
    }
    assert report.counts == {"n": 27, "answered": 11, "unparsed": 0, "failed": 16, "missing": 0}
    assert score("seed_image", rows, {"0": "The answer is C."}, rules="strict").aggregate["accuracy"] == 1 / 27


@pytest.mark.parametrize("name", ["q_id", "question_id"])
def test_result_files_are_read(tmp_path, name):
    path = tmp_path / "results.json"
    path.write_text("\n".join(json.dumps({name: str(n), "prediction": "C", "gt": "C"}) for n in (1, 2)))
    report = score("seed_image", [record(1), record(2, "A"), record(3)], path)
    assert [item.correct for item in report.items] == [True, False, False]
    assert report.named("missing") == ["3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "c"}, "field 'answer' must be one of A, B, C, D, got 'c'"),
        ({"question_type_id": 10}, "field 'question_type_id' must be a whole number from 1 to 9, got 10"),
        ({"data_type": "audio"}, "field 'data_type' must be image or video, got 'audio'"),
        ({"choice_d": None}, "field 'choice_d' must be str, got NoneType"),
    ],
)
def test_a_bad_row_is_named(changes, message, tmp_path):
    path = tmp_path / "SEED-Bench.json"
    path.write_text(json.dumps({"questions": [VIDEO, record(), record(1) | changes]}))
    with pytest.raises(DataError, match=rf"SEED-Bench\.json, row 2: {message}"):
        get_benchmark("seed_image").load(path)
    path.write_text(json.dumps({"questions": [VIDEO]}))
    with pytest.raises(DataError, match="holds no seed_image questions"):
        get_benchmark("seed_image").load(path)
    path.write_text(path.read_text()[:-9])
    with pytest.raises(DataError, match=r"SEED-Bench\.json: broken JSON"):
        get_benchmark("seed_image").load(path)
