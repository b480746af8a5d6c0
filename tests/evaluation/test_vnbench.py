"""VNBench: four tries a group, the scorer's reading of letters, and what it does with irregular lines."""

import json
import random

import pytest

from tstar.errors import ConfigError, DataError
from tstar.evaluation import get_benchmark, score
from tstar.evaluation.vnbench import haystack_of

# position of option 0..3 of try 0 in each try, as published
ARRANGEMENTS = ("ABCD", "ACDB", "DACB", "CDBA")
TYPES = [f"{family}_{kind}" for family in ("ret", "ord") for kind in ("edit1", "insert1", "insert2")]
TYPES += ["cnt_edit1", "cnt_edit2", "cnt_insert1"]


def record(attempt=0, haystack="video0042", kind="ord_insert1", base=1, **changes):
    words = ["pear", "lemon", "mango", "peach"]
    options = [""] * 4
    for word, letter in zip(words, ARRANGEMENTS[attempt], strict=True):
        options["ABCD".index(letter)] = word
    row = {
        "video": f"./VNBench/{haystack}_{kind}.mp4",
        "question": "What is the order of fruits appearing in the video?",
        "options": options,
        "gt": words[base],
        "gt_option": ARRANGEMENTS[attempt][base],
        "type": kind,
        "try": attempt,
        "length": 31.4,
        "needle_time": [3.2, 9.9],
    }
    return row | changes


def group(**kwargs):
    return [record(attempt, **kwargs) for attempt in range(4)]


def truth(rows):
    return {item.id: item.answer for item in get_benchmark("vnbench").load(rows)}


def official_lines(rows, **changes):
    lines = []
    for row in rows:
        name = f"{haystack_of(row['video'])}_{row['type']}_{row['try']}"
        lines.append(
            {"question_id": name, "pred": row["gt_option"], "gt": row["gt_option"], "type": row["type"]} | changes
        )
    return lines


def test_an_item_has_the_official_id_prompt_and_place():
    (item,) = get_benchmark("vnbench").load([record(attempt=2)])
    assert item.id == "video0042_ord_insert1_2"
    assert item.question == "What is the order of fruits appearing in the video?"
    assert item.media == "VNBench/video0042_ord_insert1.mp4"
    assert item.prompt == (
        "What is the order of fruits appearing in the video?\nA. lemon\nB. peach\nC. mango\nD. pear\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (item.answer, item.chance, item.cluster, item.system, item.prefill) == (
        "A",
        0.25,
        "video0042_ord_insert1",
        "",
        "",
    )


@pytest.mark.parametrize(("base", "letters"), enumerate(["AADC", "BCAD", "CDCB", "DBBA"]))
def test_right_letters_over_the_tries_are_the_published_ones(base, letters):
    assert "".join(truth(group(base=base)).values()) == letters


def test_the_type_is_the_annotation_s_although_file_names_cross_two_of_them():
    (item,) = get_benchmark("vnbench").load([record(kind="ret_insert1", video="./VNBench/v_a-b_ret_insert2.mp4")])
    assert item.id == "v_a-b_ret_insert1_0"
    assert item.categories["type"] == "ret_insert1"
    assert item.media.endswith("_ret_insert2.mp4")


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B or A", "A"),
        ("BAD", "A"),
        ("Answer: C", "A"),
        ("(C)", "C"),
        ("D. lemon", "D"),
        ("b", None),
        ("", None),
        ("because. A", None),  # only the part before the first full stop
        (".A", None),
        (" C", "C"),
    ],
)
def test_official_reading_of_a_letter(response, letter):
    for base, attempt in [(1, 0), (2, 0), (3, 0), (0, 0)]:
        rows = [record(attempt, base=base)]
        (entry,) = score("vnbench", rows, {"video0042_ord_insert1_0": response}).items
        assert entry.correct is (letter == rows[0]["gt_option"])
        assert (entry.how == "unparsed") is (letter is None)
        assert letter is None or entry.extracted == letter


def test_a_group_counts_only_with_four_of_four():
    rows = group() + group(haystack="7001")
    answers = truth(rows)
    answers["7001_ord_insert1_3"] = "A" if answers["7001_ord_insert1_3"] != "A" else "B"
    report = score("vnbench", rows, answers)
    assert report.aggregate["circular"] == 0.5
    assert report.aggregate["independent"] == 7 / 8
    assert report.aggregate["circular/ord"] == report.aggregate["circular/ord_insert1"] == 0.5


def test_a_null_line_spoils_its_group_and_an_all_null_group_disappears():
    rows = group() + group(haystack="a") + group(haystack="b")
    answers = truth(rows)
    answers["a_ord_insert1_0"] = None
    answers |= dict.fromkeys((f"b_ord_insert1_{attempt}" for attempt in range(4)), None)
    official, strict = (score("vnbench", rows, answers, rules=rules) for rules in ("official", "strict"))
    assert official.aggregate["circular"] == 1 / 2
    assert official.aggregate["independent"] == 1.0  # seven lines seen, seven right
    assert strict.aggregate["circular"] == 1 / 3
    assert strict.aggregate["independent"] == 7 / 12
    assert official.counts == strict.counts == {"n": 12, "answered": 7, "unparsed": 0, "failed": 5, "missing": 0}
    assert len(strict.named("failed")) == 5


def test_missing_lines_act_as_null_ones_but_are_counted_apart():
    rows = group() + group(haystack="a")
    answers = {key: value for key, value in truth(rows).items() if not key.startswith("a_")}
    report = score("vnbench", rows, answers)
    assert report.aggregate["circular"] == 1.0
    assert report.counts["missing"] == 4
    assert report.counts["failed"] == 0


def test_five_right_lines_fail_and_four_of_five_count():
    rows = group()
    lines = official_lines(rows)
    five = score("vnbench", rows, [*lines, lines[0]])
    assert five.aggregate["circular"] == 0.0
    assert five.aggregate["independent"] == 1.0
    assert five.counts["repeated"] == 1
    assert five.counts["n"] == 4
    four = score("vnbench", rows, [*lines, lines[0] | {"pred": "Z"}])
    assert four.aggregate["circular"] == 1.0
    assert score("vnbench", rows, [*lines, lines[0] | {"pred": "Z"}], rules="strict").aggregate["circular"] == 0.0


def test_in_the_plain_layout_the_last_line_of_an_id_wins():
    rows = group()
    lines = [{"id": key, "response": "Z"} for key in truth(rows)] + [
        {"id": k, "response": v} for k, v in truth(rows).items()
    ]
    report = score("vnbench", rows, lines)
    assert report.aggregate["circular"] == 1.0
    assert report.counts["repeated"] == 4


def test_both_official_layouts_and_number_truths_are_read(tmp_path):
    rows = group(kind="ret_insert1", video="./VNBench/x_ret_insert2.mp4")
    first = official_lines(rows)
    for line in first:
        line["gt"] = "ABCD".index(line["gt"])
    second = [
        {
            "video_path": row["video"],
            "task_type": row["type"],
            "try": row["try"],
            "pred": row["gt_option"],
            "gt": row["gt_option"],
        }
        for row in rows
    ]
    for number, lines in enumerate((first, second)):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert score("vnbench", rows, path).aggregate["circular"] == 1.0


def test_a_judge_s_verdict_overrides_the_prediction_but_not_a_null():
    rows = group()
    wrong_but_passed = official_lines(rows, pred="Z", gpt_judge="1 (right)")
    assert score("vnbench", rows, wrong_but_passed).aggregate["circular"] == 1.0
    assert score("vnbench", rows, official_lines(rows, gpt_judge="0")).aggregate["independent"] == 0.0
    assert score("vnbench", rows, official_lines(rows, pred=None, gpt_judge="1")).counts["failed"] == 4
    assert score("vnbench", rows, wrong_but_passed, rules="strict").aggregate["independent"] == 0.0


def test_a_result_file_made_with_other_annotations_is_refused():
    rows = group()
    lines = official_lines(rows)
    lines[2]["gt"] = "B"
    with pytest.raises(DataError, match=r"row 2: 'gt' is B but the annotations say A"):
        score("vnbench", rows, lines)


def test_a_constant_letter_never_passes_a_group_and_chance_is_the_product():
    rows = [row for base in range(4) for row in group(haystack=str(base), base=base)]
    for letter in "ABCD":
        report = score("vnbench", rows, dict.fromkeys(truth(rows), letter))
        assert report.aggregate["circular"] == 0.0
        assert report.aggregate["independent"] == 0.25
    assert report.chance == {"circular": pytest.approx(0.25**4), "independent": 0.25}


def plain_scores(lines):
    """The published scorer as a loop: lines are (group, type, prediction or None, truth)."""
    right, kinds = {}, {}
    singles = []
    for name, kind, said, wanted in lines:
        if said is None:
            continue
        said = said.split(".")[0]
        for letter in "ABCD":
            if letter in said:
                said = letter
                break
        right[name] = right.get(name, 0) + (said == wanted)
        kinds[name] = kind
        singles.append(said == wanted)
    by_kind = {}
    for name, count in right.items():
        by_kind.setdefault(kinds[name], []).append(count == 4)
    rates = {kind: sum(passed) / len(passed) for kind, passed in by_kind.items()}
    return sum(rates.values()) / len(rates), sum(singles) / len(singles), rates


def test_aggregates_equal_a_plain_loop_over_random_answers():
    draw = random.Random(3)
    rows, answers, lines = [], {}, []
    for kind in TYPES:
        for haystack in range(draw.randint(1, 7)):
            for row in group(haystack=f"v_{haystack}", kind=kind, base=draw.randrange(4)):
                right = row["gt_option"]
                said = draw.choice([right] * 12 + ["B", "", None, f"{right}. pear", "none"])
                rows.append(row)
                answers[f"v_{haystack}_{kind}_{row['try']}"] = said
                lines.append(((haystack, kind), kind, said, right))
    circular, independent, rates = plain_scores(lines)
    report = score("vnbench", rows, answers)
    assert report.aggregate["circular"] == pytest.approx(circular)
    assert report.aggregate["independent"] == pytest.approx(independent)
    assert {f"circular/{kind}": rate for kind, rate in rates.items()}.items() <= report.aggregate.items()
    families = [report.aggregate[f"circular/{family}"] for family in ("cnt", "ord", "ret")]
    assert sum(families) / 3 == pytest.approx(circular)  # three types each: the second scorer's overall
    low, high = report.intervals["circular"]
    assert 0 < low < circular < high < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gt_option": "E"}, "field 'gt_option' must be one of A, B, C, D, got 'E'"),
        ({"gt": "plum"}, "field 'gt' .'plum'. is not option B"),
        ({"try": 4}, "field 'try' must be 0 to 3"),
        ({"try": True}, "field 'try' must be int, got bool"),
        ({"type": "sort_edit1"}, "field 'type' must start with one of cnt, ord, ret"),
        ({"options": "A"}, "field 'options' must be a list of texts"),
        ({"question": None}, "field 'question' must be str, got NoneType"),
    ],
)
def test_a_bad_record_is_named(changes, message, tmp_path):
    path = tmp_path / "VNBench-main-4try.json"
    path.write_text(
        json.dumps([record(), record(1) | changes]) if "try" in changes else json.dumps([record(3), record() | changes])
    )
    with pytest.raises(DataError, match=rf"4try\.json, row 1: {message}"):
        get_benchmark("vnbench").load(tmp_path)


def test_a_repeated_question_and_a_missing_field_are_named():
    with pytest.raises(DataError, match=r"1 ids occur more than once .first: video0042_ord_insert1_0"):
        get_benchmark("vnbench").load([record(), record()])
    row = record()
    del row["video"]
    with pytest.raises(DataError, match="row 0: field 'video' is missing"):
        get_benchmark("vnbench").load([row])


def test_the_complete_set_is_known_by_its_number_and_lmms_eval_has_no_rules_for_it():
    suite = get_benchmark("vnbench")
    rows = [row for kind in TYPES for haystack in range(150) for row in group(haystack=f"v_{haystack}", kind=kind)]
    assert suite.split_of(suite.load(rows)) == "main"
    assert suite.split_of(suite.load(rows[:-4])) == ""
    rows = [row for haystack in range(1350) for row in group(haystack=f"v_{haystack}", kind="ret_edit1")]
    assert suite.split_of(suite.load(rows)) == ""
    with pytest.raises(ConfigError, match="vnbench has no rules 'lmms-eval'; it has official, strict"):
        score("vnbench", group(), {}, rules="lmms-eval")
