"""The registry, response files, and what a user is told when one is not right."""

import json
import subprocess
import sys

import pytest

from tstar.errors import ConfigError, DataError
from tstar.evaluation import get_benchmark, list_benchmarks, score

from .fixtures import ANNOTATIONS

CLIPS = {"7": {"speed": [{"question": "Which?\nA. x\nB. y", "answer": "A. x"}] * 2}}
SMALL = ["mlvu", "tempcompass", "videomme", "vnbench"]
FIRST, SECOND = "multi-choice:7:speed:0", "multi-choice:7:speed:1"


def test_importing_the_room_loads_neither_torch_nor_lightning():
    code = "import sys, tstar.evaluation, tstar.evaluation.table, tstar.evaluation.prediction_store; "
    code += "print([name for name in ('torch', 'lightning', 'transformers', 'rich') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_four_benchmarks_have_a_miniature_of_their_own_format():
    assert [name for name in list_benchmarks() if name.startswith("mini-")] == [f"mini-{name}" for name in SMALL]
    for name in SMALL:
        suite, small = get_benchmark(name), get_benchmark(f"mini-{name}")
        assert type(suite) is type(small)
        assert (suite.name, small.name) == (name, f"mini-{name}")


@pytest.mark.parametrize("name", list_benchmarks())
def test_the_values_that_tables_need_are_among_a_benchmark_s_aggregates(name):
    suite = get_benchmark(name)
    assert name == suite.name
    report = score(name, ANNOTATIONS[name.removeprefix("mini-")], {})
    for value in (suite.main, suite.in_mean, *suite.columns):
        assert value in suite.main_values
        assert value in report.aggregate
        assert value in report.chance


def test_a_miniature_is_scored_like_its_benchmark():
    assert score("mini-tempcompass", CLIPS, {}).benchmark == "mini-tempcompass"


def test_several_files_of_responses_are_given_as_texts_or_paths(tmp_path):
    paths = [tmp_path / f"{number}.jsonl" for number in range(2)]
    for path, item_id in zip(paths, (FIRST, SECOND), strict=True):
        path.write_text(json.dumps({"id": item_id, "response": "A"}))
    for given in (paths, [str(path) for path in paths], (str(paths[0]), paths[1])):
        assert score("tempcompass", CLIPS, given).aggregate["multi-choice/avg"] == 1.0
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        score("tempcompass", CLIPS, [str(tmp_path / "gone.jsonl")])


def test_unknown_names_are_answered_with_a_suggestion():
    with pytest.raises(ConfigError, match="unknown benchmark 'mlvo'; did you mean 'mlvu'"):
        get_benchmark("mlvo")
    with pytest.raises(ConfigError, match=r"unknown rules 'oficial'; did you mean 'official'\?"):
        score("tempcompass", CLIPS, {}, rules="oficial")


@pytest.mark.parametrize("name", ["responses.jsonl", "responses.json", "responses.txt"])
def test_a_response_file_of_any_ending_and_length_is_read(tmp_path, name):
    path = tmp_path / name
    for answers in ({FIRST: "A"}, {FIRST: "A", SECOND: None}):
        path.write_text("\n".join(json.dumps({"id": key, "response": text}) for key, text in answers.items()) + "\n\n")
        report = score("tempcompass", CLIPS, str(path))
        assert report.aggregate["multi-choice/avg"] == 0.5
        assert report.counts["failed"] == len(answers) - 1
    assert report.named("failed") == [SECOND]


def test_annotations_as_text_path_and_responses_as_rows(tmp_path):
    (tmp_path / "multi-choice.json").write_text(json.dumps(CLIPS), encoding="utf-8-sig")
    rows = [{"id": FIRST, "response": "B"}, {"id": FIRST, "response": "A"}]
    report = score("tempcompass", str(tmp_path), rows)
    assert report.items[0].correct is True
    assert report.counts == {"n": 2, "answered": 1, "unparsed": 0, "failed": 0, "missing": 1, "repeated": 1}


def test_ids_may_be_whole_numbers(tmp_path):
    rows = [{"question": f"q{n}", "options": ["x", "y"], "answer": "1", "image": f"{n}.png"} for n in range(3)]
    path = tmp_path / "responses.jsonl"
    path.write_text("".join(json.dumps({"id": n, "response": "B"}) + "\n" for n in range(2)))
    report = score("ai2d", rows, path)
    assert [item.how for item in report.items] == ["whole", "whole", "missing"]
    with pytest.raises(DataError, match="row 0: field 'id' must be str or int, got bool"):
        score("ai2d", rows, [{"id": True, "response": "B"}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "a", "response": "A"}\n{"id": "b", "resp', "line 2 is not valid JSON"),
        ('{"id": "a", "response": 3}\n', "row 0: field 'response' must be str or null, got int"),
        ('{"id": "a"}\n', "row 0: field 'response' is missing .found: id"),
        ('{"response": "A"}\n', "row 0: field 'id' is missing"),
        ("[1]\n", "row 0: must be an object with named fields, got list"),
        (
            '{"id": "multi-choice:8:speed:0", "response": "A"}\n',
            "1 response ids are not in the annotations .first: multi",
        ),
    ],
)
def test_a_broken_response_file_is_named(tmp_path, text, message):
    path = tmp_path / "responses.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        score("tempcompass", CLIPS, path)
    assert "responses.jsonl" in str(caught.value) or "not in the annotations" in message


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        score("tempcompass", CLIPS, tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=r"multi-choice\.json: no such file"):
        score("tempcompass", tmp_path, {})
    with pytest.raises(DataError, match="is a folder"):
        score("tempcompass", CLIPS, tmp_path)
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        score("tempcompass", CLIPS, tmp_path / "x.json")
    (tmp_path / "x.json").write_text("[\n{,}\n]")
    with pytest.raises(DataError, match=r"x\.json: broken JSON at line 2"):
        score("tempcompass", CLIPS, tmp_path / "x.json")


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
@pytest.mark.parametrize(
    ("text", "message"),
    [("[" * 100_000, "nested too deeply"), ('{"a": ' + "1" * 6000 + "}", "a number of too many digits")],
    ids=["deep", "long"],
)
def test_json_that_no_parser_takes_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    for responses in (tmp_path / name, {}):
        with pytest.raises(DataError, match=rf"x\.jsonl?: (line 1: )?its JSON .*{message}"):
            score("tempcompass" if responses else "vnbench", CLIPS if responses else str(tmp_path / name), responses)


def test_predictions_of_two_checkpoints_are_not_mixed():
    rows = [
        {"id": key, "response": "A", "mode": "full", "model": model} for key, model in ((FIRST, "m1"), (SECOND, "m2"))
    ]
    with pytest.raises(DataError, match=r"predictions of 2 checkpoints \(m1, m2\)"):
        score("tempcompass", CLIPS, rows)
