"""Video-ChatGPT's temporal part: ids by the order of the file, and the mean of marks that are cut to whole numbers."""

import ast
import json
import random

import pytest

from tstar.errors import DataError
from tstar.evaluation import JudgeReplies, Report, get_benchmark, score

from .fixtures import ANNOTATIONS

ROWS = ANNOTATIONS["chat_temporal"]
IDS = ["v_abcDEF12345_0", "v_abcDEF12345_1", "v_ghi_1_0"]


def test_an_item_is_named_after_its_video_and_its_place_there(tmp_path):
    (tmp_path / "temporal_qa.json").write_text(json.dumps(ROWS))
    benchmark = get_benchmark("chat_temporal")
    items = benchmark.load(tmp_path)
    assert [item.id for item in items] == IDS
    assert [item.cluster for item in items] == ["v_abcDEF12345", "v_abcDEF12345", "v_ghi_1"]
    assert (items[1].media, items[1].prompt) == ("Test_Videos/v_abcDEF12345.mp4", "What happens last?")
    assert (items[1].question, items[1].answer, items[1].options) == ("What happens last?", "She bows {to all}.", ())
    assert benchmark.load(tmp_path / "temporal_qa.json") == benchmark.load(ROWS) == items
    between = [ROWS[0], ROWS[2], ROWS[1]]
    assert [item.id for item in benchmark.load(between)] == [IDS[0], IDS[2], IDS[1]]


REPLIES = ["{'score': 5}", '{"score": 0}', "{'score': 4.8}", "{'score': '3'}", "{'score': True}", "{'score': 8}"]
REPLIES += ["```{'score': 2}```", "{''score': 4.8}", "5", "", "{'pred': 'yes'}"]


def published_scorer(replies):
    marks = {}
    for key, attempts in replies.items():
        for text in attempts:
            try:
                said = ast.literal_eval(text)
            except Exception:
                continue
            if isinstance(said, dict) and "score" in said:  # the published one would stop for good at others
                marks[key] = int(said["score"])
                break
    return marks


def harness(replies, ids):
    """What lmms-eval makes of the first reply that is not empty: int of the mark, 0 if that fails."""
    marks = {}
    for key in ids:
        text = next((text.strip() for text in replies.get(key, []) if text.strip()), "")
        try:
            marks[key] = int(ast.literal_eval(text).get("score", 0))
        except Exception:
            marks[key] = 0
    return marks


def test_numbers_equal_the_scorers_written_down_anew():
    draw = random.Random(3)
    rows = [{"Q": f"q{n}", "A": "a", "video_name": f"v_{n // 2}"} for n in range(90)]
    ids = [f"v_{n // 2}_{n % 2}" for n in range(90)]
    replies = {key: draw.choices(REPLIES, k=draw.randint(1, 3)) for key in ids[:-2]}
    responses = dict.fromkeys(ids, "an answer")
    report = score("chat_temporal", rows, responses, judge_replies=JudgeReplies(replies, "j", "2026-11-28"))
    marks = published_scorer(replies)
    assert report.aggregate == {"score": pytest.approx(sum(marks.values()) / len(marks))}
    assert set(report.named("unjudged")) == set(ids) - marks.keys()
    assert (report.judge, report.judge_dates) == ("j", "2026-11-28")
    assert {item.id for item in report.items if item.correct} == {key for key, mark in marks.items() if mark >= 5}
    assert Report.from_json(report.to_json()) == report
    theirs = harness(replies, ids)
    report = score("chat_temporal", rows, responses, "lmms-eval", JudgeReplies(replies, "j"))
    assert report.aggregate["score"] == pytest.approx(sum(theirs.values()) / len(ids))


@pytest.mark.parametrize(
    ("responses", "replies", "official", "strict", "harness"),
    [
        (["a", "b", "c"], [["{'score': 5}"], ["{'score': 2}"], ["{'score': 2}"]], 3, 3, 3),
        (["a", "b", "c"], [["{'score': 5}"], ["?"], []], 5, 5 / 3, 5 / 3),
        (["a", "b", "c"], [["?", "{'score': 4}"], ["{'score': 2}"], ["{'score': 3}"]], 3, 3, 5 / 3),
        (["a", "b", "c"], [["", "{'score': 4}"], ["{'score': 2}"], ["{'score': 3}"]], 3, 3, 3),
        (["a", "b", "c"], [["{'score': 9}"], ["`{'score': 3}`"], ["{'score': 0}"]], 4.5, 1, 3),
        (["a", None], [["{'score': 3}"]], 3, 1, 1),
        ([], [], 0, 0, 0),
    ],
)
def test_what_counts_under_each_rule(responses, replies, official, strict, harness):
    answers, said = dict(zip(IDS, responses, strict=False)), dict(zip(IDS, replies, strict=False))
    for rules, mean in (("official", official), ("strict", strict), ("lmms-eval", harness)):
        assert score("chat_temporal", ROWS, answers, rules, JudgeReplies(said, "j")).aggregate[
            "score"
        ] == pytest.approx(mean)


def test_paired_comparison_asks_which_mark_is_higher():
    answers = dict.fromkeys(IDS, "a")
    first, second = (
        score(
            "chat_temporal",
            ROWS,
            answers,
            judge_replies=JudgeReplies({k: [f"{{'score': {m}}}"] for k, m in zip(IDS, marks, strict=True)}),
        )
        for marks in ((1, 4, 5), (3, 4, 2))
    )
    compared = get_benchmark("chat_temporal").compare(first, second)
    assert (compared.only_first, compared.only_second, compared.p_value) == (1, 1, 1.0)
    assert compared.differences["score"].difference == pytest.approx(-1 / 3)


def test_the_judge_sees_question_answer_and_response():
    benchmark = get_benchmark("chat_temporal")
    requests = benchmark.judge_requests(benchmark.load(ROWS), {IDS[1]: "She {question}s.", IDS[2]: None})
    user = requests[0].messages[1]["content"]
    assert [request.id for request in requests] == [IDS[1]]
    assert user.startswith(
        "Question: What happens last?\nCorrect answer: She bows {to all}.\nModel's answer: She {question}s.\n"
    )
    assert benchmark.readable(user.rpartition("For example: ")[2])
    assert not benchmark.readable("{'score': 4.8}")


def test_the_published_result_file_is_read_also_where_rows_are_missing():
    said = JudgeReplies({key: ["{'score': 3}"] for key in IDS})
    result = [ROWS[2] | {"pred": "rain"}, ROWS[1] | {"pred": "a bow"}]
    report = score("chat_temporal", ROWS, result, judge_replies=said)
    assert {item.id: item.response for item in report.items} == {IDS[0]: None, IDS[1]: "a bow", IDS[2]: "rain"}
    assert report.counts["missing"] == 1
    for wrong in ([ROWS[0] | {"pred": "x", "Q": "Which?"}], [ROWS[1] | {"pred": "x"}] * 2):
        with pytest.raises(DataError, match="the annotations have no such question about v_abcDEF12345"):
            score("chat_temporal", ROWS, wrong)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([ROWS[0] | {"A": ""}], "row 0: field 'A' is empty"),
        ([ROWS[0] | {"Q": 3}], "row 0: field 'Q' must be str, got int"),
        ([{"Q": "x", "A": "y"}], "row 0: field 'video_name' is missing"),
        ([], "holds no chat_temporal questions"),
        ({"rows": []}, "must be a table of questions, got dict"),
    ],
)
def test_bad_annotations_are_named(bad, message):
    with pytest.raises(DataError, match=message):
        get_benchmark("chat_temporal").load(bad)
