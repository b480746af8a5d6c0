"""MVBench: windows or cut clips, one to five options, a scorer to which an empty answer is right, and the harness's reader."""

import json

import pytest

from tstar.errors import DataError
from tstar.evaluation import get_benchmark, score
from tstar.evaluation.mvbench import TASKS, first_free_letter

OPTIONS = ["Sat down.", "Ate it.", "Closed it.", "Threw it."]


def record(video="AB12C.mp4", answer="Ate it.", candidates=OPTIONS, **changes):
    row = {"video": video, "question": "What happened next?", "candidates": list(candidates), "answer": answer}
    return row | {"start": 4.1, "end": 17.9} | changes


def load(task, row):
    return get_benchmark("mvbench").load({task: [row]})[0]


def test_an_item_has_the_official_prompt_system_text_and_prefill(tmp_path):
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "action_sequence.json").write_text(json.dumps([record("a.mp4"), record()]))
    item = get_benchmark("mvbench").load(tmp_path)[1]
    assert (item.id, item.media, item.media_kind) == ("action_sequence:1", "star/Charades_v1_480/AB12C.mp4", "video")
    assert (item.answer, item.truth, item.window) == ("B", "Ate it.", (4.1, 17.9))
    assert item.prompt == (
        "Question: What happened next?\nOptions:\n(A) Sat down.\n(B) Ate it.\n(C) Closed it.\n(D) Threw it.\n"
        "Only give the best option."
    )
    assert item.system.startswith(
        "Carefully watch the video and pay attention to the cause and sequence of events, the"
    )
    assert item.system.endswith("select the best option that accurately addresses the question.\n")
    assert item.prefill == "Best option:("
    assert item.question == "What happened next?"
    assert get_benchmark("mvbench").load(tmp_path / "json" / "action_sequence.json")[1] == item


def test_five_tasks_have_a_window_and_one_of_them_frames():
    items = get_benchmark("mvbench").load({task: [record("x.mp4")] for task in TASKS})
    windowed = {item.categories["task"] for item in items if item.window}
    assert windowed == {
        "action_sequence",
        "action_prediction",
        "object_interaction",
        "action_localization",
        "episodic_reasoning",
    }
    frames = [item for item in items if item.media_kind == "frames"]
    assert [(item.id, item.media, item.frame_rate) for item in frames] == [
        ("episodic_reasoning:0", "tvqa/frames_fps3_hq/x.mp4", 3.0)
    ]
    assert len(items) == 20
    assert load("scene_transition", {k: v for k, v in record().items() if k not in ("start", "end")}).window is None


def test_clips_that_are_cut_already_have_no_window(tmp_path):
    for task in ("action_sequence", "episodic_reasoning", "action_localization"):
        (tmp_path / f"{task}.json").write_text(json.dumps([record()]))
    (tmp_path / "star" / "Charades_v1_480").mkdir(parents=True)  # empty
    for name in (
        "star/Charades_segment/AB12C.mp4",
        "video/tvqa/video_fps3_hq_segment/AB12C.mp4",
        "video/sta/sta_video/AB12C.mp4",
        "video/sta/sta_video_segment/AB12C.mp4",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    items = {item.categories["task"]: item for item in get_benchmark("mvbench").load(tmp_path, tmp_path)}
    places = {task: (item.media, item.window, item.media_kind) for task, item in items.items()}
    assert places == {
        "action_sequence": ("star/Charades_segment/AB12C.mp4", None, "video"),
        "episodic_reasoning": ("video/tvqa/video_fps3_hq_segment/AB12C.mp4", None, "video"),
        "action_localization": ("video/sta/sta_video/AB12C.mp4", (4.1, 17.9), "video"),
    }
    assert items["episodic_reasoning"].frame_rate is None
    assert {item.cluster for item in items.values()} == {f"{TASKS[task].whole}/AB12C.mp4" for task in items}


def test_annotations_without_windows_are_about_clips():
    row = {name: value for name, value in record().items() if name not in ("start", "end")}
    item = load("action_sequence", row)
    assert (item.media, item.window, item.annotated_window) == ("star/Charades_segment/AB12C.mp4", None, None)
    assert [place.media for place in item.elsewhere] == ["video/star/Charades_segment/AB12C.mp4"]


def test_a_folder_is_read_in_the_official_order_of_the_tasks(tmp_path):
    for task in TASKS:
        (tmp_path / f"{task}.json").write_text(json.dumps([record(), record()]))
    (tmp_path / "notes.json").write_text("{}")
    items = get_benchmark("mvbench").load(tmp_path)
    assert [item.id for item in items] == [f"{task}:{row}" for task in TASKS for row in range(2)]


@pytest.mark.parametrize(
    ("response", "right", "letter"),
    [
        ("B) Ate it.", True, "B"),
        ("B", True, "B"),
        ("b", True, "B"),
        ("(B)", True, "B"),
        ("B.", True, "B"),
        (" B) x", True, "B"),
        ("x\nB)", False, None),
        ("B)\nbecause", True, "B"),
        ("", True, None),  # "(" is part of "(b)"
        (" \n", True, None),
        (".", True, None),
        ("A dog", False, "A"),
        ("C) Closed", False, "C"),
        ("The answer is B", False, None),
        ("B because", True, "B"),
        ("B, because", False, None),
        ("it(b)", True, "B"),
        ("(b.)", False, None),  # without its full stop it would hold "(b)", but that is looked for with it
        ("E", False, None),
    ],
)
def test_official_reading_of_an_option(response, right, letter):
    report = score("mvbench", {"scene_transition": [record()]}, {"scene_transition:0": response})
    assert (report.items[0].correct, report.items[0].extracted) == (right, letter)
    assert report.counts["unparsed"] == (letter is None)
    assert report.aggregate == {"accuracy": float(right), "scene_transition": float(right)}


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B. Ate it.", "B"),
        ("b.Ate it.", "B"),
        ("E.\nno", "E"),
        ("A dog is running, so B", "A"),  # the article
        ("(C)", "C"),
        ("the (b) one", "B"),
        ("Answer:C", "C"),
        ("It is D.", "D"),
        ("B. Ate it.\nreally", "B"),
        ("x_c", "C"),  # the mark is not beside a space and becomes one
        ("x_c y_ z", None),  # it is beside one and goes
        ("1,000 x/c", None),  # with a number like this all marks go
        ("x/c", "C"),
        ("3.5 d", "D"),
        ("3.d", None),  # full stops go that no digit follows
        ("." * 32 + "x.c", "C"),  # the first 32 of them
        ("'d'", "D"),
        ("none", None),
        ("Ｂ", None),
        ("été b", "B"),
    ],
)
def test_the_harness_s_reading_of_an_option(response, letter):
    assert first_free_letter(response) == letter
    report = score("mvbench", {"scene_transition": [record()]}, {"scene_transition:0": response}, rules="lmms-eval")
    assert report.items[0].correct is (letter == "B")
    assert report.items[0].counted


def test_the_harness_leaves_empty_answers_out_and_the_official_scorer_likes_them():
    rows = {"state_change": [record() for _ in range(6)]}
    answers = {f"state_change:{n}": text for n, text in enumerate(["B", "C", "", " \n", None])}
    official, strict, harness = (score("mvbench", rows, answers, rules=r) for r in ("official", "strict", "lmms-eval"))
    assert official.aggregate["accuracy"] == 3 / 6
    assert strict.aggregate["accuracy"] == 1 / 6
    assert harness.aggregate["accuracy"] == harness.aggregate["state_change"] == 1 / 3
    assert official.counts == harness.counts == {"n": 6, "answered": 2, "unparsed": 2, "failed": 1, "missing": 1}
    thought = score("mvbench", rows, {"state_change:0": "<think>B</think>\n"}, rules="lmms-eval")
    assert (thought.items[0].counted, thought.items[1].counted) == (False, True)
    nothing = score("mvbench", rows, {f"state_change:{n}": "" for n in range(6)})
    assert nothing.aggregate["accuracy"] == 1.0


def test_of_equal_candidates_the_official_truth_is_the_last_and_the_harness_s_the_first():
    twins = record(candidates=["Ate it.", "Sat down.", "Ate it."])
    assert load("object_shuffle", twins).answer == "C"
    for rules, right in (("official", [False, True]), ("strict", [False, True]), ("lmms-eval", [True, False])):
        rows = {"object_shuffle": [twins, twins]}
        report = score("mvbench", rows, {"object_shuffle:0": "A", "object_shuffle:1": "C"}, rules=rules)
        assert [item.correct for item in report.items] == right


def test_a_question_may_have_one_option_or_five():
    one = load("counterfactual_inference", record(candidates=["Ate it."]))
    assert (one.answer, one.chance, one.prompt.count("(")) == ("A", 1.0, 1)
    five = load("episodic_reasoning", record(candidates=[*OPTIONS[:3], "x", "Ate this."], answer="Ate this."))
    rows = {"episodic_reasoning": [record(candidates=five.options, answer="Ate this.")]}
    for rules in ("official", "strict", "lmms-eval"):
        assert score("mvbench", rows, {"episodic_reasoning:0": "E"}, rules=rules).aggregate["accuracy"] == 1.0
    strict = score("mvbench", {"state_change": [record(candidates=OPTIONS[:3])]}, {"state_change:0": "D"}, "strict")
    assert strict.items[0].extracted is None


def test_the_official_result_file_is_read_by_its_order(tmp_path):
    rows = {"action_antonym": [record(), record(answer="Sat down.")]}
    answers = [{"pred": "(B) Ate it.", "gt": "(B) Ate it."}, {"pred": "(", "gt": "(A) Sat down."}]
    path = tmp_path / "test.json"
    path.write_text(json.dumps({"acc_dict": {"Action Antonym": [2, 2]}, "res_list": answers}))
    report = score("mvbench", rows, path)
    assert [item.response for item in report.items] == ["B) Ate it.", ""]
    assert report.aggregate["accuracy"] == 1.0
    path.write_text(json.dumps({"res_list": answers[::-1]}))
    with pytest.raises(
        DataError, match=r"res_list 0: 'gt' is '\(A\) Sat down\.' but action_antonym:0 has '\(B\) Ate it"
    ):
        score("mvbench", rows, path)
    path.write_text(json.dumps({"res_list": answers[:1]}))
    with pytest.raises(DataError, match="'res_list' holds 1 answers to 2 questions"):
        score("mvbench", rows, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "Ran."}, "row 1: field 'answer' .'Ran.'. is none of its candidates"),
        ({"candidates": []}, "row 1: field 'candidates' must hold 1 to 26 texts, got 0"),
        ({"start": None}, "row 1: field 'start' must be int or float, got NoneType"),
        ({"end": "17"}, "row 1: field 'end' must be int or float, got str"),
        ({"start": float("nan")}, "row 1: field 'start' must be a number of seconds, 0 or more, got nan"),
        ({"start": -3, "end": -1}, "row 1: field 'start' must be a number of seconds, 0 or more, got -3"),
        ({"start": 5, "end": 1}, "row 1: field 'end' must be a number of seconds, later than 'start', got 1"),
        ({"start": 5, "end": 5.0}, "row 1: field 'end' must be a number of seconds, later than 'start', got 5.0"),
        ({"end": float("inf")}, "row 1: field 'end' must be a number of seconds, later than 'start', got inf"),
        ({"start": 10**400}, "row 1: field 'start' must be a number of seconds, 0 or more, got 1000"),
    ],
)
def test_a_bad_row_is_named(changes, message, tmp_path):
    path = tmp_path / "action_prediction.json"
    path.write_text(json.dumps([record(), record() | changes]))
    with pytest.raises(DataError, match=rf"action_prediction\.json, {message}"):
        get_benchmark("mvbench").load(tmp_path)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"holds none of action_sequence\.json"):
        get_benchmark("mvbench").load(tmp_path)
    with pytest.raises(DataError, match="no task of MVBench is called 'action_sequel'; did you mean 'action_sequence'"):
        get_benchmark("mvbench").load({"action_sequel": [record()]})
    (tmp_path / "state_change.json").write_text(json.dumps([record()])[:-20])
    with pytest.raises(DataError, match=r"state_change\.json: broken JSON at line 1"):
        get_benchmark("mvbench").load(tmp_path)
    with pytest.raises(DataError, match="annotations, state_change: must be one list of questions, got dict"):
        get_benchmark("mvbench").load({"state_change": record()})
