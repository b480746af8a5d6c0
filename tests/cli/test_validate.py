"""What an evaluation is called, where its parts lie, and how its processes are laid out."""

import copy
import re
from dataclasses import replace

import pytest

from tstar.cli.main import main
from tstar.cli.validate import evaluation_tag, find_moved, for_evaluation, sampling_text
from tstar.evaluation.checkpoints import deciding, model_key
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


RECIPE = {
    "model": {"class_path": "VideoSFT", "init_args": {"compressor": {"name": "mambamia"}}},
    "trainer": {},
    "run": {},
}


@pytest.mark.parametrize(
    ("section", "change", "alike"),
    [
        ("model", {"init_args": {"compressor": {"name": "mamba"}}}, False),
        ("trainer", {"precision": "bf16-mixed"}, False),
        ("run", {"matmul_precision": "medium"}, False),
        ("trainer", {"precision": "32-true"}, True),
        ("trainer", {"max_epochs": 3}, True),
        ("run", {"progress_every_n_steps": 3}, True),
    ],
)
def test_a_model_that_answers_otherwise_is_named_apart_and_has_answers_of_its_own(section, change, alike, tmp_path):
    own, other = deciding(RECIPE), deciding(RECIPE | {section: RECIPE[section] | change})
    assert (own == other) == alike
    tag = evaluation_tag(OWN, OWN, 8, other)
    assert re.fullmatch(r"settings=[0-9a-f]{8}-limit=8", tag)
    (tmp_path / "last.ckpt").write_bytes(b"weights")
    plain, keyed = model_key(tmp_path / "last.ckpt"), model_key(tmp_path / "last.ckpt", other)
    assert keyed == f"{plain}-{tag[9:17]}"
    assert (evaluation_tag(OWN, OWN, 8, own) == tag) == alike


@pytest.mark.parametrize(
    ("settings", "precision", "text"),
    [
        ({}, "32-true", "16 frames at most, 10 a second"),
        ({"fps": 2.5}, "bf16-mixed", "16 frames at most, 2.5 a second; bf16-mixed"),
        ({"frame_choice": "segments"}, "32-true", "16 frames, the middles of equal parts"),
    ],
)
def test_the_page_says_how_videos_were_looked_at(settings, precision, text):
    assert sampling_text(replace(OWN, **settings), precision) == text


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


@pytest.mark.parametrize("share", [{"sizes": [3, 5]}, {"weights": [0.5, 2]}, {}], ids=str)
def test_the_held_out_set_is_taken_whole_however_sets_were_mixed(share, tmp_path):
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    data = {"shards": ["a", "b"], "val_shards": [str(held_out)], "batch_size": 4}
    recipe = {"model": {"class_path": "VideoSFT"}, "data": {**data, **share}}
    assert for_evaluation(recipe, tmp_path / "last.ckpt")["data"] == {**data, "shards": [str(held_out)]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--limit", "0"], "--limit must be at least 1"), (["--devices", "0"], "--devices must be at least 1")],
)
def test_numbers_that_cannot_be_are_refused(arguments, words, capsys):
    assert main(["validate", "--ckpt", "x.ckpt", *arguments]) == 2
    assert words in capsys.readouterr().err
