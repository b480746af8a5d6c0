"""What an evaluation is called, where its parts lie, and how its processes are laid out."""

import copy

import pytest

from tstar.cli.main import main
from tstar.cli.validate import evaluation_tag, find_moved, for_evaluation
from tstar.evaluation.settings import EvaluationConfig

OWN = EvaluationConfig(benchmarks={"mlvu": "a", "videomme": "b"}, max_frames=16)


@pytest.mark.parametrize(
    ("changes", "limit", "tag"),
    [
        ({}, None, ""),
        ({"benchmarks": {"mlvu": "elsewhere", "videomme": {"annotations": "b"}}}, None, ""),
        ({"workers": 3, "time_limit": 5.0, "batch_size": 2}, None, ""),
        ({"benchmarks": {"videomme": "b"}}, None, "videomme"),
        ({"max_frames": 32, "baselines": False}, 8, "max_frames=32-baselines=False-limit=8"),
        ({"baselines": ["blind", "single_frame"]}, None, "baselines=blind+single_frame"),
        ({"missing_media": "score_rest", "rules": "strict"}, None, "missing_media=score_rest-rules=strict"),
    ],
)
def test_an_evaluation_that_measures_something_else_is_named_apart(changes, limit, tag):
    assert evaluation_tag(OWN, EvaluationConfig(**{**vars(OWN), **changes}), limit) == tag


def test_suites_that_have_moved_with_the_run_are_found(tmp_path, monkeypatch):
    start, here = tmp_path / "start", tmp_path / "here"
    for path in (start / "a", start / "b", here / "c"):
        path.mkdir(parents=True)
    monkeypatch.chdir(here)
    suites = {"mlvu": "a", "videomme": {"annotations": "c", "media": "b"}, "vnbench": "gone"}
    recipe = {"cwd": str(start), "model": {}, "evaluation": {"benchmarks": suites}}
    find_moved(recipe)
    assert recipe["evaluation"]["benchmarks"] == {
        "mlvu": str(start / "a"),
        "videomme": {"annotations": "c", "media": str(start / "b")},
        "vnbench": "gone",
    }


def test_every_process_of_an_evaluation_has_a_whole_model(tmp_path):
    trainer = {
        "devices": 8,
        "strategy": {"class_path": "tstar.stages.FullySharded"},
        "accelerator": "cpu",
        "max_epochs": 3,
    }
    recipe = {"model": {"class_path": "VideoSFT"}, "trainer": trainer}
    before = copy.deepcopy(recipe)
    alone = for_evaluation(recipe, tmp_path / "last.ckpt")["trainer"]
    together = for_evaluation(recipe, tmp_path / "last.ckpt", {"devices": 8, "num_nodes": 2})["trainer"]
    assert alone == {"devices": 1, "accelerator": "cpu"}
    assert together == {"devices": 8, "num_nodes": 2, "strategy": "ddp", "accelerator": "cpu"}
    assert recipe == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--limit", "0"], "--limit must be at least 1"), (["--devices", "0"], "--devices must be at least 1")],
)
def test_numbers_that_cannot_be_are_refused(arguments, words, capsys):
    assert main(["validate", "--ckpt", "x.ckpt", *arguments]) == 2
    assert words in capsys.readouterr().err
