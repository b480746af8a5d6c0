"""TempCompass multi-choice: five matching rules in their order, micro averages, and how often a rule matched."""

import json
import random

import pytest

from tstar.errors import DataError
from tstar.evaluation import get_benchmark, score

QUESTION = "How fast does the lift move?\nA. slowly\nB. very fast\nC. it stands still"


def annotations(answer="B. very fast"):
    return {"1021488277": {"speed": [{"question": QUESTION, "answer": answer}]}}


ID = "multi-choice:1021488277:speed:0"


def test_an_item_has_id_prompt_and_fine_grained_type(tmp_path):
    clips = annotations() | {"7_reverse": {"order": [{"question": QUESTION, "answer": "A. slowly"}]}}
    (tmp_path / "multi-choice.json").write_text(json.dumps(clips))
    meta = {"1021488277": {"eval_dim": {"speed": {"type": "absolute speed"}, "order": None}}}
    (tmp_path / "meta_info.json").write_text(json.dumps(meta))
    first, second = get_benchmark("tempcompass").load(tmp_path)
    assert (first.id, first.media, first.answer) == (ID, "videos/1021488277.mp4", "B")
    assert first.prompt == QUESTION + "\nPlease directly give the best option:"
    assert first.options == ("slowly", "very fast", "it stands still")
    assert first.chance == 1 / 3
    assert first.categories == {"task": "multi-choice", "aspect": "speed", "type": "absolute speed"}
    assert second.id == "multi-choice:7_reverse:order:0"
    assert second.categories["type"] == "order"
    assert "type" not in get_benchmark("tempcompass").load(clips)[0].categories


@pytest.mark.parametrize(
    ("response", "right", "matched"),
    [
        ("B. very fast", True, True),
        (" B. very fast</s>\n", True, True),
        ("B", True, True),
        ("B</s>", True, True),
        ("C", False, True),
        ("D", False, True),  # a letter the question does not have
        ("B. something else", True, True),
        ("A. very fast", False, True),
        ("B) very fast", True, True),
        ("C) very fast", False, True),
        ("(B) very fast", False, False),
        ("b", False, False),
        ("B very fast", False, False),
        ("very fast", False, False),
        ("B: very fast", False, False),
        ("", False, False),
        (None, False, False),
    ],
)
def test_official_matching_without_a_judge(response, right, matched):
    report = score("tempcompass", annotations(), {ID: response})
    assert report.items[0].correct is right
    assert report.aggregate["multi-choice/avg"] == float(right)
    assert report.aggregate["multi-choice/match_rate"] == float(matched)


def test_strict_keeps_to_the_letters_a_question_has():
    assert score("tempcompass", annotations(), {ID: "D"}, rules="strict").counts["unparsed"] == 1
    for response in ("(B) very fast", "b", "very fast", "It is very fast."):
        assert score("tempcompass", annotations(), {ID: response}, rules="strict").aggregate["multi-choice/avg"] == 1.0
    assert score("tempcompass", annotations(), {ID: "B very fast"}, rules="strict").items[0].how == "4"


def test_averages_are_over_questions_and_equal_a_plain_loop():
    draw = random.Random(2)
    clips, said = {}, {}
    for number in range(30):
        video = f"{number}_reverse" if number % 3 else str(number)
        clips[video] = {}
        for aspect in draw.sample(["action", "direction", "speed", "order", "attribute_change"], 2):
            clips[video][aspect] = [
                {"question": QUESTION, "answer": draw.choice(["A. slowly", "B. very fast"])} for _ in range(3)
            ]
            for n in range(3):
                said[video, aspect, n] = draw.choice(["A", "B.", "very fast", None])
    report = score("tempcompass", clips, {f"multi-choice:{v}:{a}:{n}": text for (v, a, n), text in said.items()})
    verdicts = {
        key: text in ("A", "B.") and text[0] == clips[key[0]][key[1]][key[2]]["answer"][0] for key, text in said.items()
    }
    assert report.aggregate["multi-choice/avg"] == pytest.approx(sum(verdicts.values()) / len(verdicts))
    for aspect in ("action", "direction", "speed", "order", "attribute_change"):
        own = [right for (_, a, _), right in verdicts.items() if a == aspect]
        assert report.aggregate[f"multi-choice/{aspect}"] == pytest.approx(sum(own) / len(own))
    assert report.aggregate["multi-choice/match_rate"] == sum(t in ("A", "B.") for t in said.values()) / len(said)


def test_the_official_result_layout_is_read_and_its_questions_checked():
    result = annotations()
    result["1021488277"]["speed"][0]["prediction"] = "B"
    assert score("tempcompass", annotations(), result).aggregate["multi-choice/avg"] == 1.0
    result["1021488277"]["speed"][0]["question"] = "Another one?\nA. x\nB. y"
    with pytest.raises(DataError, match="its question is not the one that the annotations have"):
        score("tempcompass", annotations(), result)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"7": {"speed": [{"question": "How fast?", "answer": "A. x"}]}},
            "field 'question' must end in two or more option lines",
        ),
        (
            {"7": {"speed": [{"question": QUESTION, "answer": "D. x"}]}},
            "field 'answer' must start with a letter of ABC",
        ),
        (
            {"7": {"speed": [{"question": QUESTION, "answer": "B. quick"}]}},
            r"row 0: field 'answer' \('B. quick'\) is not option B \('",
        ),
        ({"7": {"speed": [{"question": QUESTION}]}}, "'7', speed, row 0: field 'answer' is missing"),
        ({"7": {"tempo": []}}, "aspect must be one of action"),
        ({"7": {"speed": {"question": ""}}}, "must be a list of questions, got dict"),
        ([], "must be an object with named fields"),
        ({}, "holds no tempcompass questions"),
    ],
)
def test_bad_annotations_are_named(bad, message):
    with pytest.raises(DataError, match=message):
        get_benchmark("tempcompass").load(bad)
