"""Differences to the baselines and the break-down by category, on answers whose numbers can be counted by hand."""

import pytest

from tstar.evaluation import JudgeReplies, get_benchmark, score
from tstar.evaluation.contrasts import baseline_differences, report_difference, suite_mean, suite_parts
from tstar.evaluation.prediction_store import MODE_LABELS, MODES
from tstar.evaluation.table import ROW_LABELS, category_rows, comparison_table
from tstar.reports.run_report import write_report

from .fixtures import ANNOTATIONS

ASPECTS = ("speed", "order")


def clips(name, right, videos=8):
    """Videos with a question of two aspects each; ``right`` is how many of each aspect's are answered rightly."""
    question = {"question": "Which?\nA. a\nB. b\nC. c", "answer": "A. a"}
    answers = {
        f"multi-choice:{n}:{aspect}:0": "A" if n < right[aspect] else "B" for n in range(videos) for aspect in ASPECTS
    }
    return score(name, {str(n): {aspect: [question] for aspect in ASPECTS} for n in range(videos)}, answers)


def needles(name, right):
    """A question of retrieval and one of counting, four tries each, of which so many are answered rightly."""
    rows, answers = [], {}
    for kind in ("ret_edit1", "cnt_edit1"):
        for n in range(4):
            fields = {"video": f"./VNBench/v_{kind}.mp4", "type": kind, "try": n, "question": "?"}
            rows.append(fields | {"options": ["1", "2", "3", "4"], "gt": "1", "gt_option": "A"})
            answers[f"v_{kind}_{n}"] = "A" if n < right[kind] else "B"
    return score(name, rows, answers)


def both():
    return {
        "mini-vnbench": {
            "full": needles("mini-vnbench", {"ret_edit1": 4, "cnt_edit1": 2}),
            "blind": needles("mini-vnbench", {"ret_edit1": 1, "cnt_edit1": 1}),
        },
        "mini-tempcompass": {
            "full": clips("mini-tempcompass", {"speed": 6, "order": 8}),
            "shuffled": clips("mini-tempcompass", {"speed": 6, "order": 2}),
            "blind": clips("mini-tempcompass", {"speed": 2, "order": 2}),
        },
    }


def test_differences_to_each_baseline_and_their_mean():
    found = baseline_differences(both())
    assert list(found) == ["shuffled", "blind"]
    assert found["shuffled"].keys() == {"mini-tempcompass"}  # a suite lacks it: there is no mean
    assert found["shuffled"]["mini-tempcompass"].difference == pytest.approx(14 / 16 - 8 / 16)
    blind = {name: one.difference for name, one in found["blind"].items()}
    expected = {"mini-vnbench": 6 / 8 - 2 / 8, "mini-tempcompass": 14 / 16 - 4 / 16}
    assert blind == pytest.approx(expected | {"mean": sum(expected.values()) / 2})
    low, high = found["blind"]["mean"].interval
    assert 0 < low < blind["mean"] < high < 1


def test_reports_on_other_questions_have_no_difference():
    three = {"mini-tempcompass": clips("mini-tempcompass", {"speed": 1, "order": 1})}
    more = {"mini-tempcompass": clips("mini-tempcompass", {"speed": 1, "order": 1}, videos=9)}
    assert report_difference(three, more) == {}
    assert report_difference(three, {}) == {}


def test_the_mean_over_suites():
    reports = both()
    mean, (low, high) = suite_mean({suite: modes["full"] for suite, modes in reports.items()})
    assert mean == pytest.approx((6 / 8 + 14 / 16) / 2)
    assert low < mean < high


def test_a_suite_without_counted_answers_leaves_the_mean_without_an_interval(tiny_world):
    benchmark = get_benchmark("mini-videomme")  # its official accuracy is of the answered questions only
    items = benchmark.load(tiny_world / "benchmarks" / "mini-videomme")
    silent = {"mini-videomme": benchmark.score(items, {item.id: "?" for item in items})}
    assert suite_mean(silent) == (0.0, None)
    reports = silent | {"mini-tempcompass": clips("mini-tempcompass", {"speed": 8, "order": 8})}
    assert suite_mean(reports) == (0.5, None)
    assert report_difference(reports, reports).keys() == {"mini-tempcompass"}


def test_categories_with_their_numbers_and_chance():
    reports = both()
    vnbench = suite_parts(reports["mini-vnbench"])
    assert [(p.label, p.n) for p in vnbench] == [
        ("retrieval, independent", 4),
        ("counting, independent", 4),
        ("retrieval, circular", 1),
        ("counting, circular", 1),
    ]
    assert [p.values for p in vnbench] == [
        {"full": 1.0, "blind": 0.25, "chance": 0.25},
        {"full": 0.5, "blind": 0.25, "chance": 0.25},
        {"full": 1.0, "blind": 0.0, "chance": pytest.approx(1 / 256)},
        {"full": 0.0, "blind": 0.0, "chance": pytest.approx(1 / 256)},
    ]
    header, rows = category_rows([*vnbench, *suite_parts(reports["mini-tempcompass"])])
    assert header == ["category", "n", "model", "shuffled frames", "blind (question only)", "chance"]
    assert rows[0] == ["mini-vnbench: retrieval, independent", "4", "100.0", "–", "25.0", "25.0"]
    assert rows[-1] == ["mini-tempcompass: order", "8", "100.0", "25.0", "25.0", "33.3"]


@pytest.mark.parametrize("name", ["vnbench", "mlvu", "videomme", "tempcompass"])
def test_every_benchmark_says_what_it_is_broken_down_by(name, tiny_world):
    benchmark = get_benchmark(f"mini-{name}")
    items = benchmark.load(tiny_world / "benchmarks" / f"mini-{name}")
    report = benchmark.score(items, {item.id: item.answer for item in items})
    parts = suite_parts({"full": report})
    assert len(parts) >= 3
    scores = len(benchmark.breakdown)
    tries = 1 + 1 / 4 if scores == 2 else 1  # circular counts groups of four
    assert sum(p.n for p in parts) == tries * len(items)


def test_tables_have_a_row_for_every_mode_from_the_least_to_the_most():
    assert list(ROW_LABELS) == ["chance", *reversed(MODES)]
    assert list(MODE_LABELS) == list(MODES)
    table = comparison_table(both())
    assert [label for label, _ in table.rows] == ["chance", "blind (question only)", "shuffled frames", "model"]
    (note,) = [note for note in table.notes if "minus" in note]
    assert note.startswith("model minus blind (question only): +56.2 [")


def test_the_report_of_a_run_has_the_categories(tmp_path):
    path, _ = write_report(tmp_path, "", both(), checkpoint="x.ckpt", sampling="4 frames")
    text = path.read_text()
    assert "**By category, accuracy in percent**" in text
    assert "| mini-tempcompass: order | 8 | 100.0 | 25.0 | 25.0 | 33.3 |" in text


def judged(said=""):
    """Two free answers; what a judge said of both."""
    rows = [
        {"question_id": f"v_{n}", "video_name": f"x{n}", "question": "what?", "answer": "red", "type": 4}
        for n in (0, 1)
    ]
    replies = JudgeReplies({f"v_{n}": [said] for n in (0, 1)}, "gpt") if said else None
    return score("activitynetqa", rows, {"v_0": "red", "v_1": "red"}, judge_replies=replies)


def diagrams(right):
    rows = [{"question": f"q{n}", "options": ["x", "y"], "answer": "1", "image": f"{n}.png"} for n in range(8)]
    return score("ai2d", rows, {str(n): "B" if n < right else "A" for n in range(8)})


def test_answers_that_wait_for_a_judge_are_no_numbers():
    waiting = {"activitynetqa": {mode: judged() for mode in ("full", "blind")}}
    alone, both_of_them = both(), both() | waiting
    table = comparison_table(both_of_them)
    place = table.columns.index("activitynetqa accuracy")
    assert {entries[place].value for _, entries in table.rows} == {None}
    assert [entries[-1] for _, entries in table.rows] == [entries[-1] for _, entries in comparison_table(alone).rows]
    assert not any("0.0" in note for note in table.notes if "activitynetqa" in note)
    (note,) = [note for note in table.notes if "wait" in note]
    assert note.startswith("activitynetqa: 2 answers wait for a judge: tstar score activitynetqa --annotations PATH ")
    assert "--responses predictions/activitynetqa/full.jsonl --judge-url URL" in note
    assert baseline_differences(both_of_them) == baseline_differences(alone)
    full = {suite: modes["full"] for suite, modes in both_of_them.items()}
    assert suite_mean(full) == suite_mean({suite: modes["full"] for suite, modes in alone.items()})
    assert suite_parts(waiting["activitynetqa"]) == []
    all_right = {"activitynetqa": {"full": judged("{'pred': 'yes', 'score': 5}")}}
    assert comparison_table(all_right).rows[-1][1][0].value == 100


def test_pictures_take_no_mean_from_the_rows_about_frames():
    clips_alone = {
        "tempcompass": {
            mode: clips("tempcompass", dict.fromkeys(ASPECTS, n))
            for mode, n in (("full", 7), ("shuffled", 4), ("blind", 2))
        }
    }
    pictures = {"ai2d": {"full": diagrams(8), "blind": diagrams(4)}}
    table = comparison_table(clips_alone | pictures)
    means = {label: entries[-1].value for label, entries in table.rows}
    assert means["shuffled frames"] == pytest.approx(50)
    assert means["model"] == pytest.approx((87.5 + 100) / 2)
    assert means["blind (question only)"] == pytest.approx((25 + 50) / 2)
    found = baseline_differences(clips_alone | pictures)
    assert found["shuffled"]["mean"].difference == pytest.approx(3 / 8)
    assert found["blind"]["mean"].difference == pytest.approx((5 / 8 + 4 / 8) / 2)
    assert any(
        "mean of shuffled frames: without ai2d, whose questions are about single pictures" in n for n in table.notes
    )
    assert any(
        n.startswith("model minus shuffled frames") and "mean over suites without ai2d" in n for n in table.notes
    )
    assert any(n.startswith("model minus blind") and "without" not in n for n in table.notes)
    assert not any("single pictures" in note for note in comparison_table(clips_alone).notes)


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_benchmarks_of_pictures_say_so(name):
    items = get_benchmark(name).load(ANNOTATIONS[name])
    assert get_benchmark(name).pictures_only == all(item.media_kind == "image" for item in items)
