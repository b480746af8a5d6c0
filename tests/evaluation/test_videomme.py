"""Video-MME: phrases deleted one after the other, then the first capital; what is unanswered leaves the denominator."""

import json
import random

import pytest

from tstar.errors import DataError
from tstar.evaluation import get_benchmark, score
from tstar.evaluation.statistics import wilson_interval
from tstar.evaluation.table import comparison_table


def record(number=417, question=2, **changes):
    row = {
        "video_id": f"{number:03d}",
        "duration": "medium",
        "domain": "Life Record",
        "sub_category": "Food",
        "url": "https://example.org",
        "videoID": f"abc{number}",
        "question_id": f"{number:03d}-{question}",
        "task_type": "Counting Problem",
        "question": "How many eggs are used?",
        "options": ["A. Two.", "B. Three.", "C. Four.", "D. Six."],
        "answer": "B",
    }
    return row | changes


def test_an_item_has_the_official_prompt(tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps(record()) + "\n\n" + json.dumps(record(418)) + "\n")
    item = get_benchmark("videomme").load(tmp_path)[0]
    assert (item.id, item.media, item.answer, item.cluster) == ("417-2", "data/abc417", "B", "417")
    assert (item.question, item.subtitles) == ("How many eggs are used?", "")
    assert item.options == ("Two.", "Three.", "Four.", "Six.")
    assert item.prompt == (
        "Select the best answer to the following multiple-choice question based on the video. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\n"
        "How many eggs are used?\nA. Two.\nB. Three.\nC. Four.\nD. Six.\nThe best answer is:"
    )


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        (" B. Three.", "B"),
        ("The best answer is: C", "C"),
        ("The correct answer is D", "D"),
        ("Answer: C", "C"),
        ("Option: D", "D"),
        ("Best answer: C", "B"),  # the list's missing comma
        ("Based on the video, C", "B"),
        ("As shown, D", "A"),
        ("the answer is b", None),
        ("", None),
        ("one two three four five six seven eight nine ten eleven", None),
        ("The correct option", None),
        ("The best option is C", "C"),
        ("The Answer: B", "B"),
    ],
)
def test_official_reading_of_a_letter(response, letter):
    report = score("videomme", [record()], {"417-2": response})
    assert report.items[0].extracted == letter
    assert report.aggregate["answered"] == float(letter is not None)
    assert report.aggregate["accuracy"] == float(letter == "B")


def test_unanswered_questions_leave_the_official_denominator_only():
    rows = [record(1, n) for n in range(1, 7)]
    answers = {"001-1": "B", "001-2": "C", "001-3": "", "001-4": None, "001-5": "B"}
    official, strict = (score("videomme", rows, answers, rules=rules) for rules in ("official", "strict"))
    assert official.aggregate["accuracy"] == 2 / 3
    assert official.aggregate["accuracy_all"] == 2 / 6
    assert official.aggregate["medium"] == official.aggregate["domain/Life Record"] == 2 / 3
    assert official.counts == {"n": 6, "answered": 3, "unparsed": 1, "failed": 1, "missing": 1}
    assert strict.aggregate["accuracy"] == strict.aggregate["accuracy_all"] == strict.aggregate["medium"] == 2 / 6
    assert official.chance == {"accuracy": 0.25, "accuracy_all": 0.25}


def test_nothing_answered_is_zero_and_not_a_crash():
    report = score("videomme", [record()], {})
    assert report.aggregate["accuracy"] == 0.0
    assert "accuracy" not in report.intervals
    assert report.intervals["accuracy_all"] == wilson_interval(0.0, 1)  # one video


def test_category_accuracies_equal_a_plain_loop():
    draw = random.Random(8)
    rows, answers = [], {}
    for number in range(1, 41):
        for question in range(1, 4):
            names = {
                "duration": draw.choice(["short", "medium", "long"]),
                "domain": draw.choice(["Knowledge", "Film & Television"]),
            }
            names |= {
                "sub_category": draw.choice("uvw"),
                "task_type": draw.choice(["OCR Problems", "Spatial Perception"]),
            }
            rows.append(record(number, question, answer=draw.choice("ABCD"), **names))
            answers[rows[-1]["question_id"]] = draw.choice(["A", "B", "the answer is C", "nothing", None])
    report = score("videomme", rows, answers)
    letters = {"A": "A", "B": "B", "the answer is C": "C", "nothing": None, None: None}
    for fieldname, prefix in [
        ("duration", ""),
        ("domain", "domain/"),
        ("sub_category", "sub_category/"),
        ("task_type", "task_type/"),
    ]:
        for value in {row[fieldname] for row in rows}:
            said = [(letters[answers[r["question_id"]]], r["answer"]) for r in rows if r[fieldname] == value]
            answered = [letter == wanted for letter, wanted in said if letter]
            assert report.aggregate[prefix + value] == pytest.approx(sum(answered) / len(answered))


def test_the_official_result_layout_is_read_without_flagged_videos(tmp_path):
    rows = [record(number, question) for number in (1, 2) for question in (1, 2, 3)]
    videos = []
    for number in (1, 2):
        own = [row for row in rows if row["video_id"] == f"{number:03d}"]
        questions = [{"question_id": row["question_id"], "response": "The best answer is B."} for row in own]
        videos.append(
            {"video_id": f"{number:03d}", "duration": "medium", "missing": number == 2, "questions": questions}
        )
    del videos[0]["questions"][2]["response"]
    videos[0]["questions"][1]["response"] = None
    path = tmp_path / "output.json"
    path.write_text(json.dumps(videos, indent=1))
    report = score("videomme", rows, path)
    assert report.counts == {"n": 6, "answered": 1, "unparsed": 0, "failed": 1, "missing": 4}
    assert report.aggregate["accuracy"] == 1.0
    videos[0]["questions"][0]["answer"] = rows[0]["answer"]
    assert score("videomme", rows, videos).aggregate["accuracy"] == 1.0
    videos[0]["questions"][0]["answer"] = "D"
    with pytest.raises(DataError, match="video 0, question 001-1: 'answer' is 'D' but the annotations say B"):
        score("videomme", rows, videos)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": ["Two.", "B. Three."]}, "field 'options' must start with their letters, got 'Two.' for A"),
        ({"answer": "b"}, "field 'answer' must be one of A, B, C, D, got 'b'"),
        ({"duration": "brief"}, "field 'duration' must be one of short, medium, long"),
    ],
)
def test_a_bad_row_is_named(changes, message, tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(f"{json.dumps(record(1))}\n{json.dumps(record(2) | changes)}\n")
    with pytest.raises(DataError, match=rf"row 1: {message}"):
        get_benchmark("videomme").load(path)


def test_parquet_is_read_or_its_remedy_told(tmp_path):
    path = tmp_path / "test-00000-of-00001.parquet"
    path.write_bytes(b"")
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        with pytest.raises(DataError, match="pip install pyarrow"):
            get_benchmark("videomme").load(tmp_path)
        return
    pq.write_table(pa.Table.from_pylist([record()]), path)
    assert get_benchmark("videomme").load(tmp_path)[0].options[1] == "Three."


def test_a_video_is_named_with_the_ending_that_it_has(tmp_path):
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(record(number)) + "\n" for number in (1, 2, 3)))
    (tmp_path / "data").mkdir()
    for name in ("abc1.MP4", "abc2.mkv"):
        (tmp_path / "data" / name).touch()
    items = get_benchmark("videomme").load(tmp_path)
    assert [item.media for item in items] == ["data/abc1.MP4", "data/abc2.mkv", "data/abc3"]
    assert [item.media for item in get_benchmark("videomme").load(tmp_path / "test.jsonl")] == [i.media for i in items]


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("Based on the video, C", "C"),
        ("As shown, D", "D"),
        ("Best answer: C", "C"),
        ("the answer is b", None),
        ("", None),
        ("<think>A? No.</think>\n\nB.", "B"),
        ("<think>(A)</think>the second", None),  # the harness removes thoughts before it scores
        ("(A) it seems</think> the second", None),  # also one whose beginning the prompt wrote
    ],
)
def test_lmms_eval_reads_with_its_own_reader_and_counts_the_unread_as_wrong(response, letter):
    report = score("videomme", [record(), record(418)], {"417-2": response, "418-2": "B"}, rules="lmms-eval")
    assert report.items[0].extracted == letter
    assert report.items[0].response == response
    assert report.aggregate["accuracy"] == report.aggregate["accuracy_all"] == (1.0 if letter == "B" else 0.5)
    assert report.counts["unparsed"] == (letter is None)


SRT = "1\n00:00:00,000 --> 00:00:05,000\nFirst, the flour.\n\n2\n00:00:05,000 --> 00:00:09,000\nNow three eggs.\n"


def test_with_subtitles_the_prompt_opens_with_what_is_said_at_the_frames(tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps(record()) + "\n" + json.dumps(record(418)) + "\n")
    (tmp_path / "subtitle").mkdir()
    (tmp_path / "subtitle" / "abc417.srt").write_text(SRT)
    suite = get_benchmark("videomme_subtitles")
    item, without = suite.load(tmp_path)
    assert (item.subtitles, without.subtitles) == ("subtitle/abc417.srt", "")
    assert get_benchmark("videomme").load(tmp_path)[0].subtitles == ""
    said = suite.score([item, without], {})
    assert said.beside == "subtitles of 1 of 2 videos"
    assert "; subtitles of 1 of 2 videos" in comparison_table({"videomme_subtitles": {"full": said}}).notes[0]
    assert suite.score([without], {}).beside == ""
    assert get_benchmark("videomme").score(get_benchmark("videomme").load(tmp_path), {}).beside == ""
    rest = "How many eggs are used?\nA. Two.\nB. Three.\nC. Four.\nD. Six.\nThe best answer is:"
    head = "Select the best answer to the following multiple-choice question based on the video"
    tail = ". Respond with only the letter (A, B, C, or D) of the correct option.\n"
    listed = "This video's subtitles are listed below:\n"
    both = f"{listed}First, the flour.\nNow three eggs.\n{head} and the subtitles{tail}{rest}"
    assert suite.prompt_for(item, tmp_path, [0.0, 4.0, 7.5]) == both
    assert suite.prompt_for(item, tmp_path, [6.0]) == f"{listed}Now three eggs.\n{head} and the subtitles{tail}{rest}"
    assert suite.prompt_for(item, tmp_path, [60.0]) == f"{head}{tail}{rest}"  # nothing is said then
    assert suite.prompt_for(without, tmp_path, [0.0]) == without.prompt == f"{head}{tail}{rest}"
    assert get_benchmark("videomme").prompt_for(item, tmp_path, [0.0]) == f"{head}{tail}{rest}"
    (tmp_path / "subtitle" / "abc417.srt").write_text("nothing of the kind")
    with pytest.raises(DataError, match=r"abc417\.srt, line 1: not an \.srt file"):
        suite.prompt_for(item, tmp_path, [0.0])


def test_with_subtitles_answers_are_scored_as_without():
    for rules in ("official", "strict", "lmms-eval"):
        reports = [score(name, [record()], {"417-2": "B."}, rules) for name in ("videomme", "videomme_subtitles")]
        assert reports[0].aggregate == reports[1].aggregate
        assert [report.benchmark for report in reports] == ["videomme", "videomme_subtitles"]


def test_the_complete_set_is_known_by_its_number():
    suite = get_benchmark("videomme")
    asked = [(number, question) for number in range(1, 901) for question in (1, 2, 3)]
    items = suite.load([record(*one, duration=("short", "medium", "long")[one[0] % 3]) for one in asked])
    assert suite.split_of(items) == "test"
    assert suite.split_of(items[:-1]) == ""
    assert suite.split_of(suite.load([record(*one) for one in asked])) == ""
