"""MLVU: the last of equal candidates is true, the character before the first bracket is read, tasks weigh alike."""

import json
import random

import pytest

from tstar.errors import DataError
from tstar.evaluation import get_benchmark, score


def record(video="count_77.mp4", answer="2", kind="count", **changes):
    row = {
        "video": video,
        "duration": 612.4,
        "question": "How many times does a kite appear?",
        "candidates": ["1", "4", "2", "7"],
        "answer": answer,
        "question_type": kind,
    }
    return row | changes


def test_an_item_has_the_official_prompt_system_text_and_prefill(tmp_path):
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "4_count.json").write_text(json.dumps([record("a.mp4"), record()]))
    (tmp_path / "json" / "9_summary.json").write_text(
        json.dumps([{"video": "s.mp4", "question": "?", "answer": "text"}])
    )
    item = get_benchmark("mlvu").load(tmp_path)[1]
    assert (item.id, item.media, item.answer) == ("4_count:1", "video/4_count/count_77.mp4", "C")
    assert item.prompt == (
        "Question: How many times does a kite appear?\nOptions:\n(A) 1\n(B) 4\n(C) 2\n(D) 7\nOnly give the best option."
    )
    assert item.system.startswith("Carefully watch this video and pay attention to every detail. Based on your")
    assert item.prefill == "Best Option: ("
    assert item.categories == {"task": "count"}
    assert get_benchmark("mlvu").load(tmp_path / "json" / "4_count.json")[1] == item


def test_of_equal_candidates_the_last_is_the_truth_and_an_absent_answer_is_nobody_s():
    rows = [record(candidates=["2", "x", "2", "y"]), record(candidates=["a", "b", "c", "d"])]
    items = get_benchmark("mlvu").load({"2_needle": rows})
    assert [item.answer for item in items] == ["C", "@"]
    assert [item.chance for item in items] == [0.25, 0.0]
    report = score("mlvu", {"2_needle": rows}, {"2_needle:0": "C)", "2_needle:1": "A)"})
    assert [item.correct for item in report.items] == [True, False]


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("C", True),
        ("C) because", True),
        ("C) x", True),
        ("(C) x", True),
        ("C.", False),
        (" C", False),
        ("c", False),
        ("C because", False),
        ("The answer is C", False),
        ("I think it is C) not B)", True),
        ("B) and (C)", False),
        (")C", False),
        ("", False),
        (None, False),
    ],
)
def test_official_reading_of_an_option(response, right):
    report = score("mlvu", {"4_count": [record()]}, {"4_count:0": response})
    assert report.items[0].correct is right
    assert report.aggregate["m_avg"] == float(right)


def test_strict_reads_what_the_official_rule_cannot():
    for response in ("C.", " C", "c", "The answer is C", "2"):
        assert score("mlvu", {"4_count": [record()]}, {"4_count:0": response}, rules="strict").aggregate["m_avg"] == 1.0


def test_the_headline_weighs_tasks_alike_also_when_only_some_are_there():
    draw = random.Random(5)
    tables = {"1_plotQA": 40, "4_count": 9, "5_order": 5}
    annotations = {stem: [record(f"{row // 3}.mp4") for row in range(count)] for stem, count in tables.items()}
    answers = {
        f"{stem}:{row}": draw.choice(["C)", "A)", None]) for stem, count in tables.items() for row in range(count)
    }
    del answers["5_order:4"]
    report = score("mlvu", annotations, answers)
    rates = []
    for stem, count in tables.items():
        rates.append(sum(answers.get(f"{stem}:{row}") == "C)" for row in range(count)) / count)
    assert report.aggregate["m_avg"] == pytest.approx(sum(rates) / 3)
    assert report.aggregate["micro"] == pytest.approx(
        sum(r * c for r, c in zip(rates, tables.values(), strict=True)) / 54
    )
    assert [report.aggregate[task] for task in ("plotQA", "count", "order")] == pytest.approx(rates)
    assert "ego" not in report.aggregate
    assert report.counts["missing"] == 1


def test_one_flat_list_is_told_apart_by_question_type():
    rows = [record(kind="findNeedle"), record(), record(kind="findNeedle")]
    assert [item.id for item in get_benchmark("mlvu").load(rows)] == ["2_needle:0", "2_needle:1", "4_count:0"]
    with pytest.raises(DataError, match="row 0: field 'question_type' must be one of"):
        get_benchmark("mlvu").load([record(kind="summary")])


def test_bad_input_is_named(tmp_path):
    with pytest.raises(DataError, match=r"holds none of 1_plotQA\.json"):
        get_benchmark("mlvu").load(tmp_path)
    path = tmp_path / "4_count.json"
    path.write_text(json.dumps([record(), record(candidates=["1", 2])]))
    with pytest.raises(DataError, match=r"4_count\.json, row 1: field 'candidates' must be a list of texts"):
        get_benchmark("mlvu").load(tmp_path)
    path.write_text('[{"video": "a.mp4",\n "question"')
    with pytest.raises(DataError, match=r"4_count\.json: broken JSON at line 2"):
        get_benchmark("mlvu").load(tmp_path)
