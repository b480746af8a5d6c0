"""ActivityNet-QA: two files joined, and numbers that equal the published scorer's written down anew."""

import ast
import json
import random

import pytest

from tstar.errors import DataError
from tstar.evaluation import JudgeReplies, get_benchmark, score

from .fixtures import ANNOTATIONS

BOTH = ANNOTATIONS["activitynetqa"]
FIRST, SECOND = "v_abcDEF12345_0", "v_abcDEF12345_1"


def test_an_item_has_question_prompt_and_type(tmp_path):
    for name, rows in BOTH.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    benchmark = get_benchmark("activitynetqa")
    first, second = benchmark.load(tmp_path)
    assert (first.id, first.media, first.cluster) == (FIRST, "v_abcDEF12345", "abcDEF12345")
    assert first.question == "does the man in blue hold a rake"
    assert first.prompt == "Does the man in blue hold a rake? Answer the question using a single word or phrase."
    assert (first.answer, first.options, first.chance) == ("yes", (), 0)
    assert (first.categories, second.categories) == ({"type": "yes_no"}, {"type": "colour"})
    assert benchmark.load(tmp_path / "test_q.json") == benchmark.load(tmp_path / "test_a.json") == [first, second]
    answers = {row["question_id"]: row for row in BOTH["test_a"]}
    joined = [row | answers[row["question_id"]] for row in BOTH["test_q"]]
    joined[0]["type"] = "3"  # as the hub's table has it
    (tmp_path / "both.jsonl").write_text("\n".join(map(json.dumps, joined)))
    assert benchmark.load(joined) == benchmark.load(tmp_path / "both.jsonl") == [first, second]
    assert benchmark.split_of([first]) == ""


def test_types_have_the_published_order_and_names():
    names = [
        "motion",
        "spatial_relation",
        "temporal_relation",
        "yes_no",
        "colour",
        "object",
        "location",
        "number",
        "other",
    ]
    for kind, name in enumerate(names):
        answers = [row | {"type": kind} for row in BOTH["test_a"]]
        assert {i.categories["type"] for i in get_benchmark("activitynetqa").load(BOTH | {"test_a": answers})} == {name}


def made_up(count):
    draw = random.Random(5)
    ids = [f"v_{number // 4}_{number % 4}" for number in range(count)]
    asked = [{"video_name": f"{n // 4}", "question": f"what is {n}", "question_id": key} for n, key in enumerate(ids)]
    known = [{"answer": "x", "type": draw.randrange(9), "question_id": key} for key in ids]
    return {"test_q": asked, "test_a": known}


REPLIES = [
    "{'pred': 'yes', 'score': 5}",
    '{"pred": "no", "score": 1}',
    "{'pred': 'Yes', 'score': '4'}",
    "{'pred': 'yes', 'score': 4.8}",
    "{'pred': 'maybe', 'score': 3}",
    "{'pred': 'no', 'score': -1}",
    "{'pred': 'yes', 'score': 9}",
    "{'pred': 'no', 'score': True}",
    "```{'pred': 'yes', 'score': 5}```",
    "I cannot say.",
    "",
]


def published_scorer(replies):
    """Each item's first reply that is a literal; then int of the mark, and a search for yes, else no."""
    stored = {}
    for key, attempts in replies.items():
        for text in attempts:
            try:
                stored[key] = json.loads(json.dumps(ast.literal_eval(text)))
                break
            except Exception:
                continue
    marks = {key: int(said["score"]) for key, said in stored.items()}
    yes = {key for key, said in stored.items() if "yes" in said["pred"].lower()}
    no = {key for key, said in stored.items() if key not in yes and "no" in said["pred"].lower()}
    return marks, yes, no


def test_the_official_numbers_equal_the_published_scorer():
    annotations, draw = made_up(200), random.Random(6)
    ids = [row["question_id"] for row in annotations["test_q"]]
    replies = {key: draw.choices(REPLIES, k=draw.randint(1, 3)) for key in ids[:-3]}
    responses = dict.fromkeys(ids, "an answer")
    report = score("activitynetqa", annotations, responses, judge_replies=JudgeReplies(replies, "j"))
    marks, yes, no = published_scorer(replies)
    assert report.aggregate["accuracy"] == pytest.approx(len(yes) / len(yes | no))
    assert report.aggregate["score"] == pytest.approx(sum(marks.values()) / len(marks))
    assert {item.id for item in report.items if item.correct} == yes
    assert report.aggregate["neither"] == len(marks) - len(yes | no) > 0
    assert set(report.named("unjudged")) == set(ids) - marks.keys()
    assert report.counts["unjudged"] == len(ids) - len(marks) > 3
    types = {row["question_id"]: row["type"] for row in annotations["test_a"]}
    for kind, name in ((0, "motion"), (3, "yes_no"), (8, "other")):
        own = {key for key in marks if types[key] == kind}
        assert report.aggregate[f"accuracy/{name}"] == pytest.approx(len(own & yes) / len(own & (yes | no)))
        assert report.aggregate[f"score/{name}"] == pytest.approx(sum(marks[key] for key in own) / len(own))
    low, high = report.intervals["score"]
    assert low < report.aggregate["score"] < high


def outcome(responses, replies, rules):
    report = score("activitynetqa", BOTH, responses, rules, JudgeReplies(replies, "j"))
    return report.aggregate["accuracy"], report.aggregate["score"]


@pytest.mark.parametrize(
    ("responses", "replies", "official", "strict", "harness"),
    [
        ({FIRST: "a", SECOND: "b"}, ["{'pred': 'yes', 'score': 5}", "{'pred': 'no', 'score': 2}"], *[(0.5, 3.5)] * 3),
        # no readable reply: in no mean, but wrong and 0 under strict; lmms-eval itself would end here
        ({FIRST: "a", SECOND: "b"}, ["{'pred': 'yes', 'score': 5}", "?"], (1, 5), (0.5, 2.5), (1, 5)),
        # in a fence
        ({FIRST: "a", SECOND: "b"}, ["`{'pred': 'yes', 'score': 5}`", "?"], (0, 0), (0.5, 2.5), (1, 5)),
        # a mark that is none: official keeps it
        ({FIRST: "a", SECOND: "b"}, ["{'pred': 'yes', 'score': 7}", "?"], (1, 7), (0, 0), (1, 7)),
        # neither yes nor no: the mark counts, the verdict does not
        (
            {FIRST: "a", SECOND: "b"},
            ["{'pred': 'eh', 'score': 2}", "{'pred': 'yes', 'score': 4}"],
            (1, 3),
            (0.5, 2),
            (1, 3),
        ),
        # failed and missing: only official leaves them out
        ({FIRST: "a"}, ["{'pred': 'yes', 'score': 5}"], (1, 5), (0.5, 2.5), (0.5, 2.5)),
        ({FIRST: "a", SECOND: None}, ["{'pred': 'yes', 'score': 5}"], (1, 5), (0.5, 2.5), (0.5, 2.5)),
        # an empty answer is judged like another
        ({FIRST: "a", SECOND: ""}, ["{'pred': 'yes', 'score': 5}", "{'pred': 'no', 'score': 0}"], *[(0.5, 2.5)] * 3),
        ({}, [], (0, 0), (0, 0), (0, 0)),
    ],
)
def test_what_counts_under_each_rule(responses, replies, official, strict, harness):
    said = {key: [reply] for key, reply in zip((FIRST, SECOND), replies, strict=False)}
    assert outcome(responses, said, "official") == official
    assert outcome(responses, said, "strict") == strict
    assert outcome(responses, said, "lmms-eval") == harness


def test_every_rule_takes_the_first_reply_that_it_can_read():
    said = {FIRST: ["{'pred': 'no', 'score': 9}", "`{'pred': 'yes', 'score': 3}`", "{'pred': 'no', 'score': 1}"]}
    for rules, mark in (("official", 9), ("strict", 3), ("lmms-eval", 9)):
        report = score("activitynetqa", BOTH, {FIRST: "a", SECOND: "b"}, rules, JudgeReplies(said, "j"))
        assert report.items[0].rating == mark
    assert report.judge == "j"


def test_the_judge_is_asked_about_every_response_but_none():
    benchmark = get_benchmark("activitynetqa")
    items = benchmark.load(BOTH)
    (request,) = benchmark.judge_requests(items, {FIRST: "He {does} {answer}", SECOND: None})
    assert request.id == FIRST
    user = request.messages[1]["content"]
    assert [message["role"] for message in request.messages] == ["system", "user"]
    assert (
        "Question: does the man in blue hold a rake\nCorrect answer: yes\nModel's answer: He {does} {answer}\n" in user
    )
    assert benchmark.readable(user.rpartition("For example: ")[2])  # the prompt's example is what is asked for
    assert len(benchmark.judge_requests(items, {FIRST: "", SECOND: "green"})) == 2
    assert benchmark.readable("{'pred': 'yes', 'score': 4}")
    for reply in (
        "{'pred': 'yes', 'score': 4.8}",
        "`{'pred': 'yes', 'score': 4}`",
        "{'pred': 'eh', 'score': 4}",
        "yes",
    ):
        assert not benchmark.readable(reply)  # by one of the rules


def test_result_files_of_video_chatgpt_and_lmms_eval_are_read(tmp_path):
    said = {FIRST: ["{'pred': 'yes', 'score': 5}"], SECOND: ["{'pred': 'no', 'score': 1}"]}
    for name in ("id", "question_id"):
        rows = [{name: FIRST, "question": "q", "answer": "yes", "pred": "yes"}, {name: SECOND, "pred": None}]
        (tmp_path / "preds.json").write_text(json.dumps(rows))
        report = score("activitynetqa", BOTH, tmp_path / "preds.json", judge_replies=JudgeReplies(said))
        assert (report.aggregate["accuracy"], report.counts["failed"]) == (1, 1)


def test_replies_to_other_questions_are_refused():
    with pytest.raises(DataError, match="1 judge's reply ids are not in the annotations \\(first: x\\)"):
        score("activitynetqa", BOTH, {FIRST: "a"}, judge_replies=JudgeReplies({"x": ["{}"]}))


def test_reports_of_different_judges_are_not_compared():
    said = {FIRST: ["{'pred': 'yes', 'score': 5}"], SECOND: ["{'pred': 'no', 'score': 1}"]}
    first, second = (
        score("activitynetqa", BOTH, {FIRST: "a", SECOND: "b"}, judge_replies=JudgeReplies(said, j)) for j in "xy"
    )
    with pytest.raises(DataError, match=r"different: judge$"):
        get_benchmark("activitynetqa").compare(first, second)
    same = get_benchmark("activitynetqa").compare(first, first)
    assert same.differences["score"].difference == 0


def changed(file, number, **values):
    rows = [dict(row) for row in BOTH[file]]
    rows[number] |= values
    return BOTH | {file: rows}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            BOTH | {"test_a": BOTH["test_a"][:1]},
            f"test_q, row 0: {FIRST} has no answer in test_a; are both files of one split",
        ),
        (BOTH | {"test_a": BOTH["test_a"] * 2}, f"test_a, row 2: a second answer to {SECOND}"),
        (BOTH | {"test_q": BOTH["test_q"] * 2}, "2 ids occur more than once"),
        ({"test_q": BOTH["test_q"]}, "must have test_q and test_a, test_a is missing"),
        (BOTH["test_q"], "row 0: field 'answer' is missing"),
        (changed("test_a", 0, type=9), "row 1: field 'type' must be a whole number from 0 to 8, got 9"),
        (changed("test_a", 0, type="colour"), "row 1: field 'type' must be a whole number"),
        (changed("test_a", 1, answer=""), "row 0: field 'answer' is empty"),
        (changed("test_a", 1, answer=3), "row 0: field 'answer' must be str, got int"),
        (changed("test_q", 0, question=None), "row 0: field 'question' must be str"),
        (changed("test_q", 0, question_id=3), "row 0: field 'question_id' must be str, got int"),
        (BOTH | {"test_a": ["x"]}, "row 0: must be an object with named fields"),
        ([], "holds no activitynetqa questions"),
        ({}, "must have test_q and test_a"),
        (3, "must be a table of questions, got int"),
    ],
)
def test_bad_annotations_are_named(bad, message):
    with pytest.raises(DataError, match=message):
        get_benchmark("activitynetqa").load(bad)


def test_a_folder_without_its_second_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"holds neither test_q\.json, test\.jsonl nor"):
        get_benchmark("activitynetqa").load(tmp_path)
    (tmp_path / "test_q.json").write_text(json.dumps(BOTH["test_q"]))
    for path in (tmp_path, tmp_path / "test_q.json"):
        with pytest.raises(DataError, match=r"test_a\.json: no such file"):
            get_benchmark("activitynetqa").load(path)
