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
    assert item.question == "How many times does a kite appear?"
    assert get_benchmark("mlvu").load(tmp_path / "json" / "4_count.json")[1] == item


def test_of_equal_candidates_the_last_is_the_truth_and_an_absent_answer_is_nobody_s():
    options = (["2", "x", "2", "y"], ["a", "b", "c", "d"])
    rows = [record(kind="findNeedle", candidates=list(candidates)) for candidates in options]
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
    annotations = {
        stem: [record(f"{row // 3}.mp4", kind=stem[2:]) for row in range(count)] for stem, count in tables.items()
    }
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


def test_a_record_lies_in_the_one_file_of_its_task(tmp_path):
    load = get_benchmark("mlvu").load
    with pytest.raises(
        DataError, match=r"4_count, row 1: field 'question_type' is 'order', which is no .* task 'count'"
    ):
        load({"4_count": [record(), record(kind="order")]})
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([record()]))
    with pytest.raises(DataError, match=r"mine\.json, row 0: no task of MLVU is called 'mine'"):
        load(path)
    path.write_text(json.dumps([of_test_set()]))
    assert [item.categories["task"] for item in load(path)] == [of_test_set()["question_type"]]
    for name in ("4_count.json", "count.json"):
        (tmp_path / name).write_text(json.dumps([record()]))
    with pytest.raises(DataError, match=r"4_count\.json and .*/count\.json are both of MLVU's task 'count'"):
        load(tmp_path)


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


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("C) because", "C"),
        ("C.", "C"),
        (" C", "C"),
        ("The answer is C", "C"),
        ("C because", "C"),
        ("c", None),
        ("2", None),
        ("<think>Not A.</think>C", "C"),
        ("A dog flies it", "A"),
        ("E) none", None),
    ],
)
def test_lmms_eval_reads_letters_wherever_they_stand(response, letter):
    report = score("mlvu", {"4_count": [record()]}, {"4_count:0": response}, rules="lmms-eval")
    assert report.items[0].extracted == letter
    assert report.aggregate["m_avg"] == float(letter == "C")
    assert report.counts["unparsed"] == (letter is None)


def of_test_set(number=0, kind="sportsQA", **changes):
    letters = {"sportsQA": "SQA", "count": "AC", "order": "AO"}.get(kind, kind)
    candidates = ["a goal", "a foul", "a corner", "a throw", "a save", "a card"]
    row = record(f"test_{kind}_{number}.mp4", "a save", kind, question="What comes last?", candidates=candidates)
    return row | {"question_id": f"{letters}_{number}"} | changes


def test_the_test_set_is_one_list_of_six_options_with_ids_of_its_own(tmp_path):
    numbers = of_test_set(3, "count", candidates=[1, 2, 3, 4, 5, 6], answer=5)
    rows = [of_test_set(), of_test_set(1, "order", candidates=["x", "y", "z", "w"], answer="w"), numbers]
    (tmp_path / "test-ground-truth").mkdir()
    (tmp_path / "test_multi_choice_tasks.json").write_text("[]")
    (tmp_path / "test-ground-truth" / "test_ssc_gt.json").write_text("[]")
    (tmp_path / "test-ground-truth" / "test_mcq_gt.json").write_text(json.dumps(rows))
    items = get_benchmark("mlvu").load(tmp_path)
    assert [item.id for item in items] == ["SQA_0", "AO_1", "AC_3"]
    assert [item.answer for item in items] == ["E", "D", "E"]
    assert [item.categories["task"] for item in items] == ["sportsQA", "order", "count"]
    assert items[0].media == "MLVU_Test/video/test_sportsQA_0.mp4"
    assert items[0].prompt == (
        "Question: What comes last?\nOptions:\n(A) a goal\n(B) a foul\n(C) a corner\n(D) a throw\n(E) a save\n(F) a card\n"
        "Only give the best option."
    )
    assert items[2].options == ("1", "2", "3", "4", "5", "6")
    assert items[0].prefill == "Best Option: ("
    assert get_benchmark("mlvu").load(tmp_path / "test-ground-truth") == items
    assert get_benchmark("mlvu").load(rows) == items
    assert get_benchmark("mlvu").load({"test_mcq_gt": rows}) == items


def test_strict_reads_six_letters_and_lmms_eval_four():
    rows = [of_test_set(), of_test_set(1, answer="a foul")]
    answers = {"SQA_0": "E)", "SQA_1": "B)"}
    rates = {rules: score("mlvu", rows, answers, rules).aggregate for rules in ("official", "strict", "lmms-eval")}
    assert rates["official"]["m_avg"] == rates["strict"]["sportsQA"] == 1.0
    assert rates["lmms-eval"]["m_avg"] == 0.5
    assert score("mlvu", rows, answers, "lmms-eval").items[0].how == "unparsed"


def test_what_the_test_set_s_server_takes_is_read():
    lines = [
        {"question_id": f"SQA_{n}", "question_type": "sportsQA", "option": said} for n, said in enumerate(["E", None])
    ]
    report = score("mlvu", [of_test_set(), of_test_set(1)], lines)
    assert [item.correct for item in report.items] == [True, False]
    assert report.counts == {"n": 2, "answered": 1, "unparsed": 0, "failed": 1, "missing": 0}


def test_the_two_sets_are_told_apart_and_refused_together():
    suite = get_benchmark("mlvu")
    counts = {"1_plotQA": 539, "2_needle": 355, "3_ego": 352, "4_count": 206, "5_order": 259}
    counts |= {"6_anomaly_reco": 200, "7_topic_reasoning": 264}
    dev = {stem: [record(kind=stem[2:])] * count for stem, count in counts.items()}
    assert {name: split.questions for name, split in suite.published.items()} == {"dev": 2175, "test": 502}
    assert suite.split_of(suite.load(dev)) == "dev"
    assert score("mlvu", dev, {}).split == "dev"
    assert suite.split_of(suite.load(dev | {"4_count": [record()] * 205})) == ""
    # as the ids of the authors' example of a result file count them
    tested = {"plotQA": 50, "needleQA": 60, "ego": 53, "count": 60, "order": 70, "anomaly_reco": 39}
    tested |= {"topic_reasoning": 91, "sportsQA": 36, "tutorialQA": 43}
    rows = [of_test_set(number, kind) for kind, count in tested.items() for number in range(count)]
    assert suite.split_of(suite.load(rows)) == "test"
    assert suite.split_of(suite.load(rows[:-1])) == ""
    with pytest.raises(
        DataError, match=r"development and test set are scored apart.*4_count, row 0.*test_mcq_gt, row 0"
    ):
        suite.load({"4_count": [record()], "test_mcq_gt": [of_test_set()]})
    with pytest.raises(DataError, match="scored apart"):
        suite.load([record(), record(kind="tutorialQA")])
    with pytest.raises(DataError, match="scored apart"):
        suite.load({"4_count": [record(), record(candidates=["1", "2", "3", "4", "5", "6"])]})


def test_questions_of_the_test_set_without_answers_are_named():
    row = of_test_set()
    del row["answer"]
    with pytest.raises(DataError, match=r"row 0: field 'answer' is missing; test-ground-truth/test_mcq_gt\.json holds"):
        get_benchmark("mlvu").load([row])
