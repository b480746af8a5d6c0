"""TempCompass' other tasks: yes/no, caption matching and captions; the judge of all four, and sets of several tasks."""

import json
import random

import pytest

from tstar.errors import DataError
from tstar.evaluation import JudgeReplies, get_benchmark, score
from tstar.evaluation.tempcompass_tasks import chosen, is_correct

LIFT = "1021488277"
SPEED = "How fast does the lift move?\nA. slowly\nB. very fast\nC. it stands still"
CAPTIONS = "Which caption matches the video better?\nCaption A: The lift is slow.\nCaption B: It moves: very fast."
NUMBERED = "Which description is a more suitable match?\nOption 1: A dog comes first.\nOption 2: Rain comes first."
DESCRIBE = "Write a caption.\nInformation A: slow\nInformation B: fast\nGenerated Caption:"


def one(task, question, answer, **more):
    return {task: {LIFT: {"speed": [{"question": question, "answer": answer} | more]}}}


def yes_no(answer="no"):
    return one("yes_no", "Is the lift slow?", answer)


def captions():
    return one("caption_matching", CAPTIONS, "Caption B: It moves: very fast.")


def numbered():
    return one("caption_matching", NUMBERED, "Option 2: Rain comes first.")


def captioning(**more):
    return one("captioning", DESCRIBE, "B. very fast", mc_question=SPEED, mc_answer="B. very fast", **more)


def verdict(annotations, response, rules="official", replies=None):
    (task,) = annotations
    item_id = f"{task}:{LIFT}:speed:0"
    said = None if replies is None else JudgeReplies({item_id: replies}, "made up")
    (entry,) = score("tempcompass", annotations, {item_id: response}, rules, said).items
    return entry


def test_items_of_the_other_tasks():
    suite = get_benchmark("tempcompass")
    (item,) = suite.load(yes_no("yes"))
    assert item.id == f"yes_no:{LIFT}:speed:0"
    assert item.prompt == "Is the lift slow?\nPlease answer yes or no:"
    assert (item.question, item.options, item.answer, item.chance) == ("Is the lift slow?", ("yes", "no"), "yes", 0.5)
    (item,) = suite.load(captions())
    assert item.prompt == f"{CAPTIONS}\nPlease directly give the best option:"
    assert (item.question, item.answer, item.chance) == (CAPTIONS, "B", 0.5)
    assert item.options == ("The lift is slow.", "It moves: very fast.")
    (item,) = suite.load(captioning())
    assert (item.prompt, item.question, item.judge_question) == (DESCRIBE, DESCRIBE, SPEED)
    assert (item.options, item.answer, item.truth, item.chance) == ((), "B. very fast", "B. very fast", 0.0)


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("no", "no"),
        ("No.", "no"),
        ("NO, it is fast", "no"),
        ("not sure", "no"),
        ("none", "no"),
        ("nothing", "no"),
        ("yes", "yes"),
        ("Yesterday", "yes"),
        (" </s>yes, no", "yes"),
        ("The answer is no", None),
        ("It is not", None),
        ("(no)", None),
        ("", None),
    ],
)
def test_yes_and_no_are_read_at_the_start(response, said):
    entry = verdict(yes_no(), response)
    assert entry.extracted == said
    assert entry.correct == (said == "no")
    assert (entry.how == "unparsed") == (said is None)


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("Caption B: It moves: very fast.", True),  # the line
        ("Caption A: The lift is slow.", False),
        ("Caption B", True),  # the label
        ("Caption B.", True),
        ("Caption. B", True),  # all full stops are deleted
        ("Caption A", False),
        ("B", True),  # the bare index
        ("B.", True),
        ("A", False),
        ("It moves", True),  # the sentence ends at the next colon
        ("The lift is slow.", False),
        ("(B) It moves", True),  # behind the first bracket
        ("Surely) It moves) or not", True),  # between the first two
        ("Surely) The lift is slow.", False),
        ("(B)It moves", None),
        ("It moves: very fast.", None),
        ("Caption B: It moves", None),
        ("Caption B:", None),
        ("caption B", None),
        ("b", None),
        ("(B)", None),
        ("", None),
    ],
)
def test_captions_are_matched_by_line_sentence_label_or_index(response, right):
    entry = verdict(captions(), response)
    assert entry.correct == bool(right)
    assert (entry.how == "unparsed") == (right is None)


def test_a_label_overrides_a_sentence_and_numbers_are_indices():
    for response, right in (
        ("2", True),
        ("1", False),
        ("Option 2", True),
        ("Option 2.", True),
        ("1) Rain comes first.", True),
    ):
        assert verdict(numbered(), response).correct is right
    lines = "Which?\nOption 1: Option 2\nOption 2: Rain."  # a sentence that is another's label
    entry = verdict(one("caption_matching", lines, "Option 2: Rain."), "Option 2")
    assert (entry.correct, entry.how) == (True, "label")
    entry = verdict(one("caption_matching", lines, "Option 1: Option 2"), "Option 2")
    assert (entry.correct, entry.how) == (True, "label")  # it equals the true sentence too


@pytest.mark.parametrize(
    ("annotations", "response", "right"),
    [
        (yes_no(), "The answer is no", True),
        (yes_no(), "**No**", True),
        (yes_no(), "not sure", False),
        (yes_no(), "none", False),
        (yes_no(), "B", False),  # no letters were shown
        (yes_no(), "no, yes", False),
        (yes_no(), "No, it is fast.", True),
        (yes_no(), "I have no idea.", False),
        (yes_no(), "There is no way to tell", False),
        (yes_no(), "I'm not sure, there is no information.", False),
        (yes_no(), "Sorry, no video was provided.", False),
        (captions(), "I can't tell whether it moves: very fast", False),
        (captions(), "Caption A and Caption B are both right.", False),
        (captions(), "Caption B is not right.", False),
        (captions(), "Caption B", True),
        (captions(), "(B)", True),
        (captions(), "b", True),
        (captions(), "I choose caption B here", True),
        (captions(), "It moves: very fast", True),
        (captions(), "A lift", False),
        (numbered(), "2", True),
        (numbered(), "(2)", True),
        (numbered(), "2. Rain comes first.", True),
        (numbered(), "Option 2", True),
        (numbered(), "The answer is 2.", True),
        (numbered(), "It must be (2) then", True),
        (numbered(), "2 dogs", False),
        (numbered(), "2. Rain comes first.\n1. A dog comes first.", False),
        (numbered(), "The answer is 2 or 1", False),
        (numbered(), "option 3", False),
        (numbered(), "rain comes first", True),
    ],
)
def test_the_strict_rule_knows_the_labels_that_were_shown(annotations, response, right):
    assert verdict(annotations, response, "strict").correct is right


def test_lmms_eval_leaves_the_end_mark_in():
    for annotations, response in (
        (yes_no(), "no"),
        (captions(), "B"),
        (one("multi-choice", SPEED, "B. very fast"), "B"),
    ):
        assert verdict(annotations, f" {response}\n", "lmms-eval").correct
        assert verdict(annotations, f"<think>A</think>{response}", "lmms-eval").correct
        assert verdict(annotations, f"{response}</s>", "official").correct
    assert verdict(captions(), "B</s>", "lmms-eval").how == "unparsed"
    assert verdict(yes_no(), "no</s>", "lmms-eval").correct  # starts with no


@pytest.mark.parametrize(
    ("reply", "correct"),
    [
        ("Correct", True),
        ("Correct, not Incorrect", True),
        ("Incorrect", False),
        ("Incorrect: Correct is B", False),
        ("The answer is Correct.", True),
        ("The answer is Incorrect, not Correct", False),
        ("correct", None),
        ("yes", None),
        ("", None),
    ],
)
def test_a_judge_s_word_on_an_answer(reply, correct):
    assert is_correct(reply) is correct
    assert get_benchmark("tempcompass").readable(reply) is (correct is not None)
    for annotations in (yes_no(), captions(), one("multi-choice", SPEED, "B. very fast")):
        for rules in ("official", "lmms-eval"):
            entry = verdict(annotations, "It is hard to tell", rules, [f" {reply}\n"])
            assert entry.correct is bool(correct)
            assert entry.how == ("unparsed" if correct is None else "judge")
        assert not verdict(annotations, "It is hard to tell", "strict", [reply]).correct


def test_the_first_readable_reply_counts_and_rules_come_before_the_judge():
    assert verdict(yes_no(), "hm", replies=["no idea", "Correct", "Incorrect"]).correct
    assert not verdict(yes_no(), "hm", replies=["Incorrect", "Correct"]).correct
    assert not verdict(yes_no(), "Yes", replies=["Correct"]).correct
    assert verdict(yes_no(), None, replies=["Correct"]).how == "failed"
    report = score("tempcompass", yes_no(), {f"yes_no:{LIFT}:speed:0": "hm"}, "official", JudgeReplies({}, "m"))
    assert report.aggregate == {"yes_no/avg": 0.0, "yes_no/match_rate": 0.0, "yes_no/speed": 0.0}


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("Reasoning: it is fast.\nAnswer: B. very fast", True),
        ("Answer: B. something else", True),
        ("Answer: B", False),  # no letter with a full stop
        ("Answer: A. slowly", False),
        ("Answer: A. slowly\nAnswer: B. very fast", True),
        ("Answer: B. very fast, not A. slowly", False),
        ("B. very fast", True),
        ("I say B. very fast", False),
        ("Answer: None of the choices are correct", False),
        ("Answer: B. very fast\nThis Answer: is sure", False),
        ("  Answer:   B. very fast  ", True),
    ],
)
def test_what_a_judge_chose_by_a_caption(reply, right):
    assert chosen(reply.strip(), "B. very fast")[1] is right
    for rules in ("official", "strict", "lmms-eval"):
        entry = verdict(captioning(), "A lift races up.", rules, [reply])
        assert (entry.correct, entry.rating, entry.how) == (right, float(right), "judge")


def test_a_judge_that_fails_on_a_caption_takes_one_away_officially():
    rows = [captioning()["captioning"][LIFT]["speed"][0]] * 4
    annotations = {"captioning": {LIFT: {"speed": rows}}}
    ids = [f"captioning:{LIFT}:speed:{number}" for number in range(4)]
    replies = {
        ids[0]: ["Answer: B. very fast"],
        ids[1]: ["Answer: B. very fast"],
        ids[2]: ["", "invalid_request_error"],
    }
    answers = {ids[0]: "x", ids[1]: "y", ids[2]: "z", ids[3]: None}
    rates = {
        rules: score("tempcompass", annotations, answers, rules, JudgeReplies(replies, "made up"))
        for rules in ("official", "lmms-eval", "strict")
    }
    assert rates["official"].aggregate["captioning/avg"] == rates["official"].aggregate["captioning/speed"] == 1 / 4
    assert rates["official"].items[2].rating == -1.0
    assert rates["official"].items[2].correct is False
    assert rates["lmms-eval"].aggregate["captioning/avg"] == 2 / 4
    assert rates["strict"].aggregate["captioning/avg"] == 2 / 3
    assert rates["strict"].named("unjudged") == [ids[2]]
    assert {report.judge for report in rates.values()} == {"made up"}
    assert rates["official"].aggregate["captioning/match_rate"] == 0.0


def test_captions_without_a_judge_are_listed_and_not_counted():
    answers = {f"captioning:{LIFT}:speed:0": "A lift races up."}
    for rules in ("official", "lmms-eval", "strict"):
        report = score("tempcompass", captioning(), answers, rules)
        assert report.named("unjudged") == list(answers)
        assert report.counts["unjudged"] == 1
        assert report.counts["answered"] == 0
        assert "captioning/avg" not in report.aggregate
        assert not report.items[0].counted
    assert score("tempcompass", captioning(), {}).aggregate["captioning/avg"] == 0.0  # never asked: wrong, and counted


def test_a_judge_is_asked_about_captions_and_about_what_no_rule_matches():
    annotations = yes_no() | captions() | captioning() | one("multi-choice", SPEED, "B. very fast")
    suite = get_benchmark("tempcompass")
    items = suite.load(annotations)
    ids = {item.categories["task"]: item.id for item in items}
    answers = {ids["yes_no"]: "hard to say", ids["caption_matching"]: "B", ids["captioning"]: "A lift</s> races.\n"}
    requests = {request.id: request for request in suite.judge_requests(items, answers | {ids["multi-choice"]: None})}
    assert list(requests) == [ids["yes_no"], ids["captioning"]]
    settings = {"temperature": 1.0, "max_tokens": 128, "top_p": 1, "presence_penalty": 1}
    assert all(request.parameters == settings for request in requests.values())
    checked = requests[ids["yes_no"]].messages[-1]["content"]
    for part in ("Is the lift slow?", "True answer: no", "answer: hard to say", '"Correct"', '"Incorrect"', "yes/no"):
        assert part in checked
    described = requests[ids["captioning"]].messages[-1]["content"]
    for part in (SPEED, "Description: A lift races.\n", "None of the choices are correct", "Answer: (letter"):
        assert part in described
    assert "B. very fast" not in described.replace(SPEED, "")  # the truth is not told
    assert [message["role"] for message in requests[ids["yes_no"]].messages] == ["system", "user"]
    (asked,) = suite.judge_requests(items, {ids["multi-choice"]: "{odd} %s answer"})
    assert "{odd} %s answer" in asked.messages[-1]["content"]


def folder_of_all(path):
    for task, table in (yes_no() | captions() | captioning() | one("multi-choice", SPEED, "B. very fast")).items():
        (path / f"{task}.json").write_text(json.dumps(table))
    meta = {LIFT: {"eval_dim": {"speed": {"type": "absolute speed"}}}}
    (path / "meta_info.json").write_text(json.dumps(meta))
    return path


def test_a_folder_holds_up_to_four_tasks_and_each_has_its_values(tmp_path):
    items = get_benchmark("tempcompass").load(folder_of_all(tmp_path))
    assert [item.categories["task"] for item in items] == ["multi-choice", "yes_no", "caption_matching", "captioning"]
    assert {item.categories["type"] for item in items} == {"absolute speed"}
    answers = {item.id: said for item, said in zip(items, ["B", "no", "hm", "fast"], strict=True)}
    replies = JudgeReplies({items[2].id: ["Correct"], items[3].id: ["Answer: B. very fast"]}, "made up")
    report = score("tempcompass", tmp_path, answers, "official", replies)
    names = ("avg", "speed", "fine/absolute speed", "match_rate")
    assert set(report.aggregate) == {f"{item.categories['task']}/{name}" for item in items for name in names}
    values = {name: report.aggregate[name] for name in report.aggregate if not name.endswith("match_rate")}
    assert set(values.values()) == {1.0}
    assert [report.aggregate[f"{i.categories['task']}/match_rate"] for i in items] == [1.0, 1.0, 0.0, 0.0]
    assert report.chance == {
        "multi-choice/avg": pytest.approx(1 / 3),
        "yes_no/avg": 0.5,
        "caption_matching/avg": 0.5,
        "captioning/avg": 0.0,
    }
    assert get_benchmark("tempcompass").compare(report, report).differences["yes_no/avg"].difference == 0.0
    assert get_benchmark("tempcompass").load(tmp_path / "yes_no.json") == [items[1]]


def test_the_files_may_lie_in_a_folder_of_questions_below_meta_info(tmp_path):
    (tmp_path / "questions").mkdir()
    folder_of_all(tmp_path / "questions")
    (tmp_path / "questions" / "meta_info.json").rename(tmp_path / "meta_info.json")
    items = get_benchmark("tempcompass").load(tmp_path)
    assert len(items) == 4
    assert items[0].categories["type"] == "absolute speed"


def test_the_task_of_a_file_of_another_name_is_told_by_its_records(tmp_path):
    for annotations in (yes_no(), captions(), numbered(), captioning(), one("multi-choice", SPEED, "B. very fast")):
        ((task, table),) = annotations.items()
        (tmp_path / "mine.json").write_text(json.dumps(table))
        for source in (tmp_path / "mine.json", table, annotations):
            (item,) = get_benchmark("tempcompass").load(source)
            assert item.id == f"{task}:{LIFT}:speed:0"


def test_a_caption_is_judged_by_the_first_multiple_choice_question_where_it_names_none(tmp_path):
    folder_of_all(tmp_path)
    (tmp_path / "captioning.json").write_text(json.dumps(one("captioning", DESCRIBE, "B. very fast")["captioning"]))
    item = get_benchmark("tempcompass").load(tmp_path)[3]
    assert (item.judge_question, item.truth) == (SPEED, "B. very fast")
    with pytest.raises(
        DataError, match=r"captioning\.json.*row 0: field 'mc_question' is missing, and there is no multi"
    ):
        get_benchmark("tempcompass").load(tmp_path / "captioning.json")


def results(annotations, **said):
    (task,) = annotations
    table = json.loads(json.dumps(annotations[task]))
    table[LIFT]["speed"][0] |= said
    return table


def test_official_result_files_are_read_one_by_one_by_tasks_or_a_folder_of_them(tmp_path):
    annotations = yes_no() | captions()
    said = {"yes_no": results(yes_no(), prediction="no"), "caption_matching": results(captions(), response="B")}
    for task, table in said.items():
        (tmp_path / f"{task}.json").write_text(json.dumps(table))
    for source in (said, tmp_path, str(tmp_path)):
        report = score("tempcompass", annotations, source)
        assert (report.aggregate["yes_no/avg"], report.aggregate["caption_matching/avg"]) == (1.0, 1.0)
    for task in said:
        report = score("tempcompass", annotations, tmp_path / f"{task}.json")
        assert report.counts["missing"] == 1
        assert report.aggregate[f"{task}/avg"] == 1.0
        report = score("tempcompass", annotations, said[task])  # told by its questions
        assert report.aggregate[f"{task}/avg"] == 1.0
    said["yes_no"][LIFT]["speed"][0]["question"] = "Is it late?"
    with pytest.raises(DataError, match=r"not the one that the annotations have at this place \(yes_no"):
        score("tempcompass", annotations, said)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: is a folder, and holds none of yes_no\.json, caption_matching\.json"):
        score("tempcompass", annotations, tmp_path / "empty")


def test_complete_tasks_are_known_by_their_numbers():
    suite = get_benchmark("tempcompass")
    assert suite.published["multi-choice"].questions == 1580
    assert suite.published["all tasks"].questions == 1580 + 2453 + 1503 + 2004
    row = {"question": "Is the lift slow?", "answer": "no"}
    counts = {"action": 592, "direction": 494, "speed": 537, "order": 382, "attribute_change": 448}
    rows = {aspect: [row] * count for aspect, count in counts.items()}
    assert suite.split_of(suite.load({"yes_no": {LIFT: rows}})) == "yes_no"
    assert suite.split_of(suite.load({"yes_no": {LIFT: {"speed": [row] * 2453}}})) == ""


def test_averages_with_a_judge_equal_a_plain_loop():
    draw = random.Random(6)
    table, replies, marks = {}, {}, []
    for number in range(40):
        aspect = draw.choice(["action", "order"])
        row = captioning()["captioning"][LIFT]["speed"][0]
        table.setdefault(f"v{number}", {})[aspect] = [row]
        reply = draw.choice(["Answer: B. very fast", "Answer: A. slowly", ""])
        replies[f"captioning:v{number}:{aspect}:0"] = [reply]
        marks.append((aspect, {"Answer: B. very fast": 1, "Answer: A. slowly": 0, "": -1}[reply]))
    answers = dict.fromkeys(replies, "A lift.")
    report = score("tempcompass", {"captioning": table}, answers, "official", JudgeReplies(replies, "made up"))
    assert report.aggregate["captioning/avg"] == pytest.approx(sum(mark for _, mark in marks) / 40)
    for aspect in ("action", "order"):
        own = [mark for a, mark in marks if a == aspect]
        assert report.aggregate[f"captioning/{aspect}"] == pytest.approx(sum(own) / len(own))
    low, high = report.intervals["captioning/avg"]
    assert low < report.aggregate["captioning/avg"] < high


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (yes_no("maybe"), "field 'answer' must be yes or no, in small letters, got 'maybe'"),
        (yes_no("Yes"), "field 'answer' must be yes or no, in small letters, got 'Yes'"),
        (one("caption_matching", "Which?\nCaption A: x", "Caption A: x"), "must go on with two or more option lines"),
        (
            one("caption_matching", "Which?\nCaption A: x\nCaption B", "Caption A: x"),
            "must go on with two or more option",
        ),
        (one("caption_matching", CAPTIONS, "Caption B"), "field 'answer' must be an option line"),
        (
            one("captioning", DESCRIBE, "", mc_question=3),
            "'mc_question' must be str",
        ),
        (one("captioning", DESCRIBE, "", mc_question=SPEED), "field 'mc_answer' is missing"),
        ({"yes_no": {LIFT: {"speed": {}}}}, "must be a list of questions, got dict"),
    ],
)
def test_bad_annotations_of_the_other_tasks_are_named(bad, message):
    with pytest.raises(DataError, match=message):
        get_benchmark("tempcompass").load(bad)


def test_a_caption_answer_that_is_no_option_is_nobody_s():
    (item,) = get_benchmark("tempcompass").load(one("caption_matching", CAPTIONS, "Caption C: The lift falls."))
    assert (item.answer, item.chance) == ("@", 0.0)
