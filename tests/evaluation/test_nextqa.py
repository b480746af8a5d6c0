"""NExT-QA: a CSV table, five options, a reader of text that the harness ends with a random draw, seven kinds in three groups."""

import csv
import json
import random

import pytest

from tstar.errors import DataError
from tstar.evaluation import get_benchmark, score
from tstar.evaluation.nextqa import parse_choice

HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
LINE = (
    "4010069381,369,640,480,why did the boy clap at the end,3,6,CW,"
    "to scare a bird,to warm his hands,to call a dog,the song was over,he saw a friend"
)
OPTIONS = ("to scare a bird", "to warm his hands", "to call a dog", "the song was over", "he saw a friend")


def record(video=4010069381, qid=6, answer=3, kind="CW", **changes):
    row = {"video": video, "frame_count": 369, "width": 640, "height": 480, "answer": answer, "qid": qid, "type": kind}
    row["question"] = "why did the boy clap at the end"
    return row | {f"a{n}": text for n, text in enumerate(OPTIONS)} | changes


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_item_has_the_harness_s_prompt(tmp_path, form):
    rows = f"{HEADER}\n{LINE}\n" if form == "csv" else json.dumps(record()) + "\n"
    (tmp_path / f"test.{form}").write_text(rows)
    item = get_benchmark("nextqa").load(tmp_path)[0]
    assert (item.id, item.media, item.answer, item.cluster) == ("4010069381_6", "4010069381.mp4", "D", "4010069381")
    assert item.options == OPTIONS
    assert item.prompt == (
        "why did the boy clap at the end\nA. to scare a bird\nB. to warm his hands\nC. to call a dog\n"
        "D. the song was over\nE. he saw a friend"
    )
    assert item.question == "why did the boy clap at the end"
    assert get_benchmark("nextqa").load([record()])[0] == item
    assert get_benchmark("nextqa").load(tmp_path, tmp_path)[0] == item
    (tmp_path / "NExTVideo").mkdir()
    (tmp_path / "NExTVideo" / "4010069381.mp4").touch()
    assert get_benchmark("nextqa").load(tmp_path, tmp_path)[0].media == "NExTVideo/4010069381.mp4"


@pytest.mark.parametrize(
    ("response", "letter", "how"),
    [
        ("D", "D", "space"),
        ("D. the song was over", "D", "full stop"),
        ("(D) the song", "D", "brackets"),
        ("B or (D)", "D", "brackets"),  # brackets before all else
        ("(B) or (D) or (A) I mean (B)", "B", "brackets"),
        ("A and B C", "C", "space"),
        ("B. is it D.", "D", "space"),  # the last full stop is stripped, which leaves "D "
        ("see A. then B. later", "A", "full stop"),  # neither stands between spaces: the first
        ("NASA launched it", "A", "space"),
        ("NASA and D it is", "D", "space"),  # one at the end of a word has no place
        ("NASA and FBI AND B", "B", "space"),
        ("USA.com or MAD.com", "A", "full stop"),
        ("d", None, "unparsed"),
        ("", None, "unparsed"),
        ("the song was over", None, "unparsed"),  # four words are too few for the options' texts
        ("it is that The Song was over", "D", "option text"),
        ("to call a dog, no, to scare a bird", "A", "option text"),
        ("'B'", "B", "space"),
        ("answer:B", "B", "space"),
        ("?!B!?", None, "unparsed"),  # one kind of mark after the other: "!B!" stays
        ("!?B?!", "B", "space"),
        ("B\n", "B", "space"),
    ],
)
def test_official_reading_of_a_letter(response, letter, how):
    assert parse_choice(response, OPTIONS) == (letter, how)
    for rules in ("official", "lmms-eval"):
        report = score("nextqa", [record()], {"4010069381_6": f"<think>(E)</think> {response}"}, rules=rules)
        assert report.items[0].correct is (letter == "D")
        assert report.aggregate["unparsed"] == float(letter is None)


def test_equal_options_are_told_by_the_letter_and_not_by_their_text():
    twins = record(a0="he saw a friend")
    for rules, response, right in [
        ("strict", "he saw a friend", False),
        ("strict", "the song was over", True),
        ("strict", "E", False),
        ("official", "because of this: he saw a friend", False),
    ]:
        assert score("nextqa", [twins], {"4010069381_6": response}, rules=rules).items[0].correct is right
    assert (
        parse_choice("because of this: he saw a friend", list(OPTIONS[4:] + OPTIONS[1:]))[0] == "A"
    )  # of two the first


def test_groups_equal_a_plain_loop_and_after_is_counted_with_before():
    draw = random.Random(3)
    rows, answers = [], {}
    for number in range(300):
        rows.append(record(number, 0, draw.randrange(5), draw.choice(["CW", "CH", "TN", "TP", "TC", "DC", "DL", "DO"])))
        answers[f"{number}_0"] = draw.choice(["A", "(B)", "nothing", None])
    report = score("nextqa", rows, answers)
    names = {"Why": ["CW"], "How": ["CH"], "Bef&Aft": ["TN", "TP"], "When": ["TC"], "Cnt": ["DC"], "Loc": ["DL"]}
    names |= {"Other": ["DO"], "acc_c": ["CW", "CH"], "acc_t": ["TN", "TP", "TC"], "acc_d": ["DC", "DL", "DO"]}
    names["accuracy"] = [kind for kinds in list(names.values())[:7] for kind in kinds]
    truths = {"A": 0, "(B)": 1}
    for name, kinds in names.items():
        own = [row for row in rows if row["type"] in kinds]
        right = [truths.get(answers[f"{row['video']}_0"]) == row["answer"] for row in own]
        assert report.aggregate[name] == pytest.approx(sum(right) / len(own))
    assert report.aggregate["unparsed"] == list(answers.values()).count("nothing") == report.counts["unparsed"]
    assert set(report.aggregate) == {*names, "unparsed"}
    assert report.chance == {"accuracy": pytest.approx(0.2)}


def test_the_official_result_file_is_read(tmp_path):
    rows = [record(1), record(2), record(3), record(4)]
    data = {f"{n}_6": {"prediction": said, "answer": 3} for n, said in ((1, 3), (2, 0), (3, -1))}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(data, indent=4))
    for rules in ("official", "strict", "lmms-eval"):
        report = score("nextqa", rows, path, rules=rules)
        assert [item.how in ("failed", "missing") for item in report.items] == [False, False, True, True]
        assert report.counts == {"n": 4, "answered": 2, "unparsed": 0, "failed": 1, "missing": 1}
        assert report.aggregate["accuracy"] == 0.25
    with pytest.raises(DataError, match="2_6: 'answer' is C but the annotations say D"):
        score("nextqa", rows, {"2_6": {"prediction": 1, "answer": 2}})
    with pytest.raises(DataError, match="1_6: field 'prediction' must be int or null, got str"):
        score("nextqa", rows, {"1_6": {"prediction": "1", "answer": 3}})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LINE.replace(",3,6,CW", ",5,6,CW"), "row 1: field 'answer' must be a whole number from 0 to 4, got '5'"),
        (LINE.replace("CW", "XY"), "row 1: field 'type' must be one of CW, CH, TN, TP, TC, DC, DL, DO, got 'XY'"),
        (LINE[:60], "row 1: has fewer cells than the header"),
        (LINE.replace(",6,CW", ",7,CW"), "1 ids occur more than once .first: 4010069381_7"),
    ],
)
def test_a_bad_row_is_named(line, message, tmp_path):
    (tmp_path / "test.csv").write_text("\n".join([HEADER, LINE.replace(",6,CW", ",7,CW"), line]))
    with pytest.raises(DataError, match=message) as caught:
        get_benchmark("nextqa").load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_table_without_a_column_is_named(tmp_path):
    rows = [record()]
    del rows[0]["a4"]
    with (tmp_path / "val.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(DataError, match=r"val\.csv, row 0: field 'a4' is missing"):
        get_benchmark("nextqa").load(tmp_path / "val.csv")
    with pytest.raises(DataError, match=r"holds neither test\.csv, test\.jsonl nor a \.parquet table"):
        get_benchmark("nextqa").load(tmp_path)
