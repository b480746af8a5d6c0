"""Every rule's report of one response set, where they part, and what each says of the others."""

import json
import random
from dataclasses import replace

import pytest

from tstar.errors import ConfigError
from tstar.evaluation import Report, differing, get_benchmark, list_benchmarks, score, score_all
from tstar.evaluation.collector import collector_paused
from tstar.evaluation.items import fingerprint
from tstar.evaluation.table import comparison_table

from .fixtures import ANNOTATIONS

CLIPS = {
    str(n): {"speed": [{"question": "Which?\nA. slowly\nB. very fast\nC. it stands", "answer": "B. very fast"}]}
    for n in range(8)
}
SAID = ["B", "(B) very fast", "very fast", "A. slowly", "(C)", None, "no idea"]
"""Official: letters and answer lines only; strict reads the second, third and fifth too. The last question is never asked."""

DIFFERING = ["multi-choice:1:speed:0", "multi-choice:2:speed:0"]


def responses():
    return {f"multi-choice:{n}:speed:0": text for n, text in enumerate(SAID)}


def test_all_rules_at_once_are_each_rule_alone():
    reports = score_all("tempcompass", CLIPS, responses())
    assert list(reports) == list(get_benchmark("tempcompass").rule_names)
    for rules, report in reports.items():
        alone = score("tempcompass", CLIPS, responses(), rules=rules)
        assert alone == report
    two = score_all("tempcompass", CLIPS, responses(), rules=("strict", "official"))
    assert list(two) == ["strict", "official"]
    with pytest.raises(ConfigError, match="unknown rules 'lax'"):
        score_all("tempcompass", CLIPS, responses(), rules=("official", "lax"))


def test_the_questions_on_which_rules_differ():
    reports = score_all("tempcompass", CLIPS, responses(), rules=("official", "strict"))
    assert reports["official"].aggregate["multi-choice/avg"] == 1 / 8
    assert reports["strict"].aggregate["multi-choice/avg"] == 3 / 8
    found = differing(reports)
    assert [one.id for one in found] == ["multi-choice:1:speed:0", "multi-choice:2:speed:0"]
    (first, second) = found
    assert (first.response, first.answer, first.answered) == ("(B) very fast", "B", True)
    assert {rules: (r.extracted, r.outcome) for rules, r in first.readings.items()} == {
        "official": (None, "wrong"),
        "strict": ("B", "right"),
    }
    assert second.readings["strict"].how == "4"
    assert differing({"official": reports["official"]}) == differing({}) == []


def test_left_out_and_wrong_are_different_verdicts():
    """Video-MME's official rule takes unanswered questions out of the denominator."""
    rows = ANNOTATIONS["videomme"]
    said = {"417-1": "A", "417-2": "who knows", "417-3": None}
    reports = score_all("videomme", rows, said, rules=("official", "strict"))
    found = {one.id: (one.answered, {k: r.outcome for k, r in one.readings.items()}) for one in differing(reports)}
    outcomes = {"official": "left out", "strict": "wrong"}
    assert found == {"417-2": (True, outcomes), "417-3": (False, outcomes)}


def test_a_report_says_what_the_other_rules_say():
    report = score("tempcompass", CLIPS, responses())
    assert report.other_rules == {
        "strict": {"aggregate": {"multi-choice/avg": 3 / 8}, "differ": 2, "differing": DIFFERING}
    }
    assert Report.from_json(report.to_json()) == report
    old = json.loads(report.to_json())
    del old["other_rules"]
    assert Report.from_data(old).other_rules == {}
    (note, *_) = comparison_table({"tempcompass": {"full": report}}).notes
    assert note.endswith("; strict rule: 37.5, another verdict on 2 questions")
    strict = score("tempcompass", CLIPS, responses(), rules="strict")
    assert strict.other_rules["official"] == {
        "aggregate": {"multi-choice/avg": 1 / 8},
        "differ": 2,
        "differing": DIFFERING,
    }


def test_several_values_and_one_question_in_the_table_s_note():
    items = get_benchmark("vnbench").load(ANNOTATIONS["vnbench"])
    said = {item.id: item.answer for item in items}
    said[items[0].id] = f"Rather than {'A' if items[0].answer != 'A' else 'B'} it is ({items[0].answer})."
    report = get_benchmark("vnbench").score(items, said)
    (note, *_) = comparison_table({"vnbench": {"full": report}}).notes
    assert note.endswith("; strict rule: independent 100.0 circular 100.0, another verdict on 1 question")


def test_judges_do_not_share_a_table():
    one = score("tempcompass", CLIPS, responses())
    two = Report.from_data(json.loads(one.to_json()) | {"benchmark": "mini-tempcompass", "judge": "b"})
    comparison_table({"tempcompass": {"full": one}, "mini-tempcompass": {"full": two}})
    three = Report.from_data(json.loads(one.to_json()) | {"judge": "a"})
    with pytest.raises(
        ConfigError, match="one table has one judge, these reports have a, b; score them again with one"
    ):
        comparison_table({"tempcompass": {"full": three}, "mini-tempcompass": {"full": two}})


def marked(score_of):
    """A report of the judged benchmark whose value is a mark."""
    from tstar.evaluation import JudgeReplies

    rows = ANNOTATIONS["chat_temporal"]
    items = get_benchmark("chat_temporal").load(rows)
    said = {item.id: "something" for item in items}
    replies = JudgeReplies({item.id: [f"{{'score': {mark}}}"] for item, mark in zip(items, score_of, strict=True)}, "j")
    return get_benchmark("chat_temporal").score(items, said, replies=replies)


def test_marks_are_no_percentages_and_not_in_the_mean():
    clips = score("tempcompass", CLIPS, responses())
    table = comparison_table({"chat_temporal": {"full": marked([4, 3, 5])}, "tempcompass": {"full": clips}})
    assert table.columns == ("chat_temporal (0-5)", "tempcompass", "mean")
    rows = dict(table.rows)
    assert str(rows["model"][0]).startswith("4.00 [")
    assert str(rows["model"][2]) == "12.5"
    assert "mean: without chat_temporal, whose value is a mark and no share of questions" in table.notes
    alone = comparison_table({"chat_temporal": {"full": marked([4, 4, 4])}})
    low, high = dict(alone.rows)["model"][0].interval
    assert 0 < low < 4 < high < 5
    assert str(dict(alone.rows)["model"][1]) == "–"


@pytest.mark.parametrize("name", [name for name in list_benchmarks() if not name.startswith("mini-")])
def test_every_benchmark_has_intervals_and_the_other_rules(name):
    benchmark = get_benchmark(name)
    items = benchmark.load(ANNOTATIONS[name])
    reports = benchmark.score_all(items, {item.id: item.answer for item in items})
    for rules, report in reports.items():
        assert report.other_rules.keys() == {"official", "strict"} - {rules}
        for value, (low, high) in report.intervals.items():
            assert low <= report.aggregate[value] <= high
            assert low < high, value  # a few questions say nothing for certain


def test_the_fingerprint_tells_questions_and_not_their_order():
    items = get_benchmark("mlvu").load(ANNOTATIONS["mlvu"])
    mixed = random.Random(0).sample(items, len(items))
    assert fingerprint(items) == fingerprint(mixed)
    other = get_benchmark("mlvu").load(
        {"4_count": [ANNOTATIONS["mlvu"]["4_count"][0] | {"answer": "7"}], "2_needle": ANNOTATIONS["mlvu"]["2_needle"]}
    )
    assert fingerprint(other) != fingerprint(items)


def test_the_fingerprint_tells_videos_windows_and_what_is_said_beside_the_question():
    (item, *_) = get_benchmark("mvbench").load({"action_sequence": ANNOTATIONS["mvbench"]["action_sequence"]})
    first = fingerprint([item])
    for changes in (
        {"media": "star/Charades_v1_480/B.mp4"},
        {"window": (7.0, 9.0), "annotated_window": (7.0, 9.0)},
        {"system": "Look."},
        {"prefill": ""},
        {"categories": {"task": "action_prediction"}},
    ):
        assert fingerprint([replace(item, **changes)]) != first
    stem = item.media.rsplit("/", 1)[1].removesuffix(".mp4")
    for changes in (
        {"media": f"video/star/Charades_segment/{stem}.mkv", "window": None},
        {"media": f"elsewhere/{stem}"},
    ):
        assert fingerprint([replace(item, **changes)]) == first


def test_the_fingerprint_of_cut_clips_is_that_of_whole_videos(tmp_path):
    rows = {"action_sequence": ANNOTATIONS["mvbench"]["action_sequence"]}
    (tmp_path / "action_sequence.json").write_text(json.dumps(rows["action_sequence"]))
    clip = tmp_path / "star" / "Charades_segment" / rows["action_sequence"][0]["video"]
    clip.parent.mkdir(parents=True)
    clip.touch()
    clips, whole = get_benchmark("mvbench").load(tmp_path, tmp_path), get_benchmark("mvbench").load(rows)
    assert clips[0].window is None is not whole[0].window
    assert fingerprint(clips) == fingerprint(whole)


def test_the_collector_is_paused_and_back_again():
    import gc

    def broken():
        with collector_paused():
            raise ValueError(f"collector {'on' if gc.isenabled() else 'off'}")

    assert gc.isenabled()
    with pytest.raises(ValueError, match="collector off"):
        broken()
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()  # who has it off keeps it off
    finally:
        gc.enable()
