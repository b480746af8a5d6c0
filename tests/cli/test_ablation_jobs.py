"""What counts as finished, and as the same model, on folders written by hand as a run leaves them."""

import copy
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from tstar.cli.ablate import found_runs
from tstar.cli.ablation_file import read_ablation
from tstar.cli.ablation_jobs import TAKEN, Training, changes, check_unchanged, groups
from tstar.errors import ConfigError
from tstar.evaluation.settings import EvaluationConfig
from tstar.reports import runs
from tstar.reports.runs import Evaluated, Run, StageRecord

from .finished_models import TABLE5, leave_answers, leave_finished, training


def test_a_model_is_finished_when_all_its_answers_are_there_and_its_own(tmp_path):
    own = training(tmp_path)
    assert not own.job().finished()
    leave_finished(own)
    assert own.job().finished()
    assert changes(own) == []
    (own.path / "eval" / "mini-mlvu.blind.json").unlink()  # killed between two modes
    assert not own.job().finished()
    (own.path / "eval" / "mini-mlvu.blind.json").write_text("{}")
    assert own.job().finished()
    record = json.loads((own.path / "eval" / "evaluation.json").read_text())
    (own.path / "eval" / "evaluation.json").write_text(json.dumps({**record, "model": "of another one"}))
    assert not own.job().finished()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ([("trainer.max_epochs", "5")], r"stage projector, trainer.max_epochs 1, now 5"),
        ([("data.limit", "7")], r"data.limit 4000, now 7"),
        ([("data.batch_size", "4")], r"samples a step 32, now 4"),
        ([("evaluation.fps", "2")], r"evaluation.fps 4, now 2"),
        ([("evaluation.baselines", "false")], r"evaluation.baselines \['blind'\], now False"),
        ([("evaluation.benchmarks.mvbench", "x")], r"evaluation.suites \[.*now \[.*'mvbench'"),
    ],
)
def test_settings_that_changed_since_are_named(tmp_path, settings, named):
    leave_finished(training(tmp_path))
    with pytest.raises(ConfigError, match=named) as caught:
        check_unchanged(training(tmp_path, *settings))
    assert "was made with other settings" in str(caught.value)
    assert "delete that folder" in str(caught.value)


def test_settings_that_decide_nothing_may_change(tmp_path):
    leave_finished(training(tmp_path))
    layout = [("data.batch_size", "16"), ("trainer.accumulate_grad_batches", "2")]
    casual = [("evaluation.batch_size", "3"), ("evaluation.benchmarks.mini-mlvu", "moved"), ("data.features", "null")]
    per_stage = [("stages.video_sft.data.batch_size", "8"), ("stages.video_sft.trainer.accumulate_grad_batches", "1")]
    other = training(tmp_path, *layout, *casual, *per_stage)
    assert changes(other) == []
    assert other.job().finished()


def test_a_stage_that_has_not_begun_may_change(tmp_path):
    own = training(tmp_path)
    leave_finished(own)
    last = own.path / f"{len(own.group.recipe(0).stages)}-video_sft"
    (last / "done.json").unlink()
    changed = training(tmp_path, ("stages.video_sft.trainer.max_epochs", "5"))
    assert changes(changed) == ["stage video_sft, trainer.max_epochs 1, now 5"]  # a checkpoint is there
    (last / "checkpoints" / "last.ckpt").unlink()
    assert changes(changed) == []
    assert changes(training(tmp_path, ("evaluation.fps", "2"))) == []
    assert not changed.job().finished()


def test_a_record_of_other_settings_is_not_trusted(tmp_path):
    own = training(tmp_path)
    leave_finished(own)
    path = own.path / "1-projector" / "done.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "config_sha256": "of others"}))
    assert changes(own) == ["stage projector, done.json is of others"]
    (own.path / "config.yaml").write_text("- no recipe")
    assert "is no resolved recipe" in changes(own)[0]


@pytest.mark.parametrize(
    ("settings", "tag"),
    [((), "max_frames=32-baselines=False"), ((("evaluation.baselines", "false"),), "max_frames=32")],
)
def test_other_frames_are_looked_for_where_they_are_written(tmp_path, settings, tag):
    own = training(tmp_path, *settings, path=Path("configs/ablations/figure5.yaml"))
    assert own.group.frames == [4, 8, 16, 32, 48]
    leave_finished(own)
    at = next(step for step in own.job().steps if step.name == "32 frames")
    assert not at.finished()
    standard = EvaluationConfig(**own.group.recipe(3).evaluation)
    config = EvaluationConfig(**{**asdict(standard), "max_frames": 32, "baselines": False})
    leave_answers(own.path / "eval" / tag, config)
    assert at.finished()
    words = at.command()
    assert words[words.index("--max-frames") + 1] == "32"
    assert "mini-mlvu" in words[words.index("--evaluation.benchmarks") + 1]


def test_answers_of_an_earlier_checkpoint_are_in_no_row(tmp_path):
    """As where a stage's folder was deleted to train it again, and the answers stayed."""
    own = training(tmp_path)
    leave_finished(own)
    _, left_out = found_runs([own.group], tmp_path)
    assert list(left_out) == [own.name]  # its reports are empty files here, which is said
    (own.path / f"{len(own.group.recipe(0).stages)}-video_sft" / "done.json").unlink()
    assert found_runs([own.group], tmp_path) == ({}, {})


def test_models_that_are_one_at_this_scale_are_trained_once():
    small = groups(read_ablation(TABLE5).models)
    assert [[model.name for model in group.models] for group in small] == [
        ["none_pythia", "none_mamba", "none_mamba2"],
        ["mambamia_pythia", "mambamia_mamba", "mambamia_mamba2"],
    ]
    assert len(groups(read_ablation(TABLE5, "paper").models)) == 6
    assert len(groups(read_ablation(Path("configs/ablations/table1.yaml")).models)) == 27
    one, two = small[0].models[:2]
    other = copy.deepcopy(two.recipe)
    other.evaluation["fps"] = 1
    assert len(groups([one, type(two)(two.name, "", "", "", other, two.budgets)])) == 2


@pytest.fixture
def left_with_shards(tmp_path, monkeypatch):
    """A function that leaves finished runs (their table's place, seed, and the digest of the shards they were trained on)."""
    digests = {}

    def read(path):
        config = {"evaluation": {"benchmarks": {}}, "stages": {"only": {"data": {"shards": ["a/b"]}}}}
        stages = [StageRecord("only", {"shards": digests[path]}, [], [])]
        return Run(path, "", "", config, stages, Evaluated(16, {}, {}), [], {}, [])

    def leave(*runs):
        models = groups(read_ablation(TABLE5, "miniature").models)
        for place, seed, digest in runs:
            own = Training(models[place], seed, tmp_path)
            leave_finished(own)
            digests[own.path] = digest
        return models

    monkeypatch.setattr("tstar.reports.runs.read_run", read)
    return leave


def test_a_run_that_was_trained_on_other_shards_is_in_no_row(tmp_path, left_with_shards):
    """As where records come from a machine whose shards lie at the same place but are others; of whichever model."""
    models = left_with_shards((0, 1, "one"), (0, 2, "one"), (0, 3, "other"), (1, 1, "other"), (1, 2, "one"))
    first, second = models[0].name, models[1].name
    runs, left_out = found_runs(models, tmp_path)
    assert {name: list(own) for name, own in runs.items()} == {first: ["1", "2"], second: ["2"]}
    assert list(left_out) == [f"{first}-3", f"{second}-1"]
    for told in left_out.values():
        assert re.search(f"was trained on other shards than .*{first}-1, though both call them a/b", told)


def test_what_was_trained_here_is_held_against_no_record(tmp_path, left_with_shards):
    models = left_with_shards((0, 1, "elsewhere"), (0, 2, "here"), (1, 1, "here"))
    (Training(models[0], 1, tmp_path).path / TAKEN).write_text("records.tar.xz")
    runs, left_out = found_runs(models, tmp_path)
    assert {name: list(own) for name, own in runs.items()} == {models[0].name: ["2"], models[1].name: ["1"]}
    assert list(left_out) == [f"{models[0].name}-1"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("1-projector/done.json", b'{"global_batch": 32}', "done.json is of others"),
        ("config.yaml", b"stages: {projector: [1], video_sft: x}", "AttributeError"),
        ("config.yaml", b"stages: {projector: {data: [1]}}", "a file in it is damaged"),
        ("eval/evaluation.json", b'{"model": "0123456789abcdef", "settings": [1]}', "a file in it is damaged"),
        ("eval/mini-mlvu.full.json", b"\xff{}", r"mini-mlvu.full.json: cannot be read \('utf-8' codec"),
        ("events.jsonl", b'{"event": "\xff"}', r"events.jsonl: cannot be read \('utf-8' codec"),
        ("events.jsonl", b"[" * 100_000, "events.jsonl: a line is not a JSON object"),
        ("run_card.json", b"\xff", "run_card.json: cannot be read"),
        ("run_card.json", b"[" * 100_000, "run_card.json: broken JSON"),
    ],
)
def test_a_run_with_a_damaged_file_is_left_out_and_the_others_stay(tmp_path, monkeypatch, name, content, told):
    whole, broken = training(tmp_path, seed=1), training(tmp_path, seed=2)
    for own in (whole, broken):
        leave_finished(own)
    (broken.path / name).write_bytes(content)
    read = runs.read_run
    empty = Evaluated(16, {}, {})

    def read_whole(path):  # only of the damaged one everything is read: the other's reports are empty files here
        return read(path) if path == broken.path else Run(path, "", "", {}, [], empty, [], {}, [])

    monkeypatch.setattr(runs, "read_run", read_whole)
    found, left_out = found_runs([whole.group], tmp_path)
    assert list(found[whole.group.name]) == ["1"]
    assert list(left_out) == [broken.name]
    assert re.search(told, left_out[broken.name])
