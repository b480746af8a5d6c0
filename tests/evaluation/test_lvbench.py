"""LVBench: letters cut out of answers, what has no answer left out, a question in each of its labels."""

import json

import pytest

from tstar.errors import DataError
from tstar.evaluation import get_benchmark, score

QUESTION = "Who serves first in the second set?\n(A) the left player\n(B) the right player\n(C) nobody\n(D) the coach"


def entry(uid="1203", answer="B", labels=("event understanding", "key information retrieval"), **changes):
    row = {"uid": uid, "question": QUESTION, "answer": answer, "question_type": list(labels)}
    return row | {"time_reference": "22:10-24:05"} | changes


def video(*entries, key="abcDEF12345", **changes):
    row = {"key": key, "type": "sport", "video_info": {"duration_minutes": 71, "fps": 25.0}, "qa": list(entries)}
    return row | changes


def test_an_item_has_the_harness_s_prompt(tmp_path):
    (tmp_path / "video_info.meta.jsonl").write_text(json.dumps(video(entry(), entry(7))) + "\n\n")
    item, other = get_benchmark("lvbench").load(tmp_path)
    assert (item.id, item.media, item.answer, item.cluster) == ("1203", "abcDEF12345.mp4", "B", "abcDEF12345")
    assert item.question == "Who serves first in the second set?"
    assert item.options == ("the left player", "the right player", "nobody", "the coach")
    assert item.prompt == f"{QUESTION}\nAnswer the question with the option letter"
    assert (item.system, item.prefill, other.id) == ("", "", "7")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "abcDEF12345.mp4").touch()
    assert get_benchmark("lvbench").load(tmp_path, tmp_path)[0].media == "videos/abcDEF12345.mp4"
    (tmp_path / "data").mkdir()
    (tmp_path / "video_info.meta.jsonl").rename(tmp_path / "data" / "video_info.meta.jsonl")
    assert len(get_benchmark("lvbench").load(tmp_path)) == 2


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("B) x", "B"),
        ("(B) x", "B"),
        ("The answer is (B)", "B"),
        ("The answer is B", "T"),
        ("Because of (x) it is (B)", "x"),
        ("(C (B)", "C"),
        (") B", None),
        ("((B)", None),
        ("B\nbecause", "B"),
        ("  (B)", "B"),
        ("b", "b"),
        ("", None),
    ],
)
def test_official_reading_of_a_letter(response, letter):
    report = score("lvbench", [video(entry())], {"1203": response})
    assert report.items[0].extracted == letter
    assert report.items[0].counted
    assert report.aggregate["accuracy"] == float(letter == "B")


def test_what_has_no_answer_leaves_the_official_denominators_only():
    rows = [video(*(entry(f"{n}", labels=["reasoning", "summarization"][: 1 + n % 2]) for n in range(6)))]
    answers = {"0": "B", "1": "A", "2": "", "3": None}
    official, strict, harness = (score("lvbench", rows, answers, rules=r) for r in ("official", "strict", "lmms-eval"))
    assert official.aggregate == {"accuracy": 1 / 4, "reasoning": 1 / 4, "summarization": 0.0}
    assert strict.aggregate == harness.aggregate == {"accuracy": 1 / 6, "reasoning": 1 / 6, "summarization": 0.0}
    assert official.counts == {"n": 6, "answered": 2, "unparsed": 1, "failed": 1, "missing": 2}
    assert official.chance == {"accuracy": 0.25}


def test_the_harness_reads_what_the_official_helper_cannot():
    answers = {"The answer is B": True, "I think B": True, "b": False, "It is B and not D here": False}
    for response, right in answers.items():
        assert score("lvbench", [video(entry())], {"1203": response}, rules="lmms-eval").items[0].correct is right


def test_the_official_result_file_and_the_split(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"1": "B", "2": "C"}))
    rows = [video(entry("1"), entry("2"))]
    assert score("lvbench", rows, path).aggregate["accuracy"] == 0.5
    rows = [video(*(entry(f"{v}:{n}") for n in range(15)), key=f"v{v}") for v in range(103)]
    rows[0]["qa"].extend(entry(f"more {n}") for n in range(4))
    assert score("lvbench", rows, {}).split == "test"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "E"}, "row 1, question 1: field 'answer' must be one of A, B, C, D, got 'E'"),
        ({"question": "Who?"}, "row 1, question 1: field 'question' must end in options behind .A."),
        ({"question_type": "reasoning"}, "row 1, question 1: field 'question_type' must be a list of texts"),
        (
            {"question_type": ["accuracy"]},
            "row 1, question 1: field 'question_type' must hold some of .*, got 'accuracy'",
        ),
        ({"uid": None}, "row 1, question 1: field 'uid' must be str or int"),
        ({"uid": "1"}, "1 ids occur more than once .first: 1.$"),
    ],
)
def test_a_bad_question_is_named(changes, message, tmp_path):
    path = tmp_path / "video_info.meta.jsonl"
    rows = [video(entry("1")), video(entry("2"), entry("3") | changes)]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=message) as caught:
        get_benchmark("lvbench").load(tmp_path)
    assert str(path) in str(caught.value) or "more than once" in message


def test_a_cut_file_is_named(tmp_path):
    path = tmp_path / "video_info.meta.jsonl"
    path.write_text((json.dumps(video(entry("1"))) + "\n" + json.dumps(video(entry("2"))))[:-9])
    with pytest.raises(DataError, match=r"video_info\.meta\.jsonl: line 2 is not valid JSON"):
        get_benchmark("lvbench").load(path)
    with pytest.raises(DataError, match="row 0: field 'qa' is missing"):
        get_benchmark("lvbench").load([{"key": "x", "type": "sport"}])
