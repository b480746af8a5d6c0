"""What counts as finished, and as the same model, on folders written by hand as a run leaves them."""

import copy
import io
import json
import re
import shutil
import tarfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tstar.cli.ablate import found_runs
from tstar.cli.ablation_file import read_ablation
from tstar.cli.ablation_jobs import TAKEN, Training, changes, check_unchanged, groups
from tstar.cli.ablation_records import take_records
from tstar.cli.run_folder import config_digest, global_batch
from tstar.errors import ConfigError, DataError
from tstar.evaluation.settings import EvaluationConfig
from tstar.reports import records, runs
from tstar.reports.claims import take
from tstar.reports.job_queue import recorded_seconds
from tstar.reports.records import unpack_records, write_records
from tstar.reports.runs import Evaluated, Run, StageRecord

TABLE5 = Path("configs/ablations/table5.yaml")


def training(folder, *settings, path=TABLE5, seed=3):
    return Training(groups(read_ablation(path, "miniature", settings).models)[0], seed, folder)


def leave_finished(own, baselines=False):
    """As `tstar fit` leaves a model that is trained and evaluated."""
    recipe = own.group.recipe(own.seed)
    (own.path / "eval").mkdir(parents=True)
    (own.path / "config.yaml").write_text(yaml.safe_dump(recipe.as_yaml()))
    for number, (name, config) in enumerate(recipe.stages.items(), 1):
        stage = own.path / f"{number}-{name}"
        (stage / "checkpoints").mkdir(parents=True)
        (stage / "checkpoints" / "last.ckpt").write_text("x")
        entry = {"last.ckpt": {"bytes": 1, "sha256": "0123456789abcdef" * 4, "step": 1}}
        (stage / "checkpoints" / "manifest.json").write_text(json.dumps(entry))
        done = {"config_sha256": config_digest(config), "global_batch": global_batch(config)}
        (stage / "done.json").write_text(json.dumps(done))
    leave_answers(own.path / "eval", EvaluationConfig(**recipe.evaluation))


def leave_answers(place, config, model="0123456789abcdef"):
    place.mkdir(exist_ok=True)
    (place / "evaluation.json").write_text(json.dumps({"model": model, "settings": asdict(config)}))
    for suite in config.benchmarks:
        for mode in config.modes:
            (place / f"{suite}.{mode}.json").write_text("{}")


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


def leave_report(tmp_path, own, *, seconds=None):
    """An archive as a report leaves it, of a finished run in a folder of its own."""
    leave_finished(own)
    (own.path / "1-projector" / "weights.safetensors").write_text("not kept")
    archive = tmp_path / "records.tar.xz"
    write_records([SimpleNamespace(path=own.path)], archive, seconds)
    return archive


def test_finished_models_are_taken_from_the_records_of_a_report(tmp_path):
    elsewhere, folder = training(tmp_path / "elsewhere"), tmp_path / "here"
    archive = leave_report(tmp_path, elsewhere, seconds={elsewhere.name: {"fit": 61.5}})
    lines = take_records(archive, elsewhere.group.models, folder)
    assert lines == [f"1 models and seeds are taken from {archive}"]
    here = training(folder)
    assert here.taken
    assert here.job().finished()
    assert changes(here) == []
    assert recorded_seconds(folder, here.name) == {"fit": 61.5}
    assert sorted(path.name for path in here.path.rglob("*.*")) == sorted(
        [TAKEN, *(p.name for p in elsewhere.path.rglob("*.json") if p.name != "manifest.json"), "config.yaml"]
    )
    assert not list(folder.glob(".records*"))
    assert not training(folder, seed=4).job().finished()
    # settings that change afterwards are seen as those of a run that was made here
    assert changes(training(folder, ("evaluation.fps", "2"))) == ["evaluation.fps 4, now 2"]
    with pytest.raises(ConfigError, match=r"trainer.max_epochs 1, now 5"):
        check_unchanged(training(folder, ("trainer.max_epochs", "5")))
    again = take_records(archive, elsewhere.group.models, folder)
    assert again == [f"0 models and seeds are taken from {archive}; 1 others are in {folder} already, or in work"]


def test_records_of_other_settings_or_unfinished_ones_are_not_taken(tmp_path):
    own, folder = training(tmp_path / "elsewhere"), tmp_path / "here"
    archive = leave_report(tmp_path, own)
    changed = training(folder, ("data.limit", "7"))
    with pytest.raises(
        ConfigError, match=r"--records: \w+-3 in .* was made with other settings: .*data.limit 4000, now 7"
    ):
        take_records(archive, changed.group.models, folder)
    assert not (folder / "models").exists()
    (own.path / "eval" / "mini-mlvu.full.json").unlink()
    write_records([SimpleNamespace(path=own.path)], archive)
    lines = take_records(archive, own.group.models, folder)
    assert lines[1] == f"not taken, since they are not of this table or not finished: {own.name}"
    assert not (folder / "models").exists()


def test_records_of_a_model_that_somebody_is_at_are_not_taken(tmp_path):
    own, folder = training(tmp_path / "elsewhere"), tmp_path / "here"
    archive = leave_report(tmp_path, own)
    (folder / "failed").mkdir(parents=True)
    failed = folder / "failed" / f"{own.name}.json"
    failed.write_text('{"reason": "no memory"}')
    claim = take(folder / "claims" / f"{own.name}.json")
    assert len(take_records(archive, own.group.models, folder)) == 1
    assert not training(folder).path.exists()
    assert failed.exists()
    claim.release()
    take_records(archive, own.group.models, folder)
    assert training(folder).job().finished()
    assert not failed.exists()  # nor does the page say that it failed
    assert not list((folder / "claims").iterdir())


def test_answers_of_another_checkpoint_in_records_are_not_taken_for_the_models(tmp_path):
    """As where a stage was trained again and the answers at the second row's frames stayed."""
    figure5 = Path("configs/ablations/figure5.yaml")
    own, folder = training(tmp_path / "elsewhere", path=figure5), tmp_path / "here"
    leave_finished(own)
    standard = EvaluationConfig(**own.group.recipe(3).evaluation)
    archive = tmp_path / "records.tar.xz"
    for model, taken in (("of an earlier one", 0), ("0123456789abcdef", 1)):
        for frames in own.group.frames[1:]:
            config = EvaluationConfig(**{**asdict(standard), "max_frames": frames, "baselines": False})
            of_last = frames == own.group.frames[-1]
            leave_answers(
                own.path / "eval" / f"max_frames={frames}-baselines=False",
                config,
                model if of_last else "0123456789abcdef",
            )
        write_records([SimpleNamespace(path=own.path)], archive)
        lines = take_records(archive, own.group.models, folder)
        assert lines[0].startswith(f"{taken} models")
    here = training(folder, path=figure5)
    assert here.job().finished()
    last = here.job().steps[-1]
    shutil.rmtree(next(here.path.glob(f"eval/max_frames={here.group.frames[-1]}-*")))
    assert not last.finished()
    with pytest.raises(ConfigError, match="which bring no weights, and has no answers at 48 frames; delete it"):
        last.command()
    (here.path / "eval" / "mini-mlvu.full.json").unlink()
    with pytest.raises(ConfigError, match="which bring no weights, and has no answers at 4 frames; delete it"):
        here.job().steps[0].command()


@pytest.mark.parametrize("name", ["../out.json", "/tmp/out.json", "a/run.sh", "link.json"])
def test_records_that_hold_what_none_hold_are_refused(tmp_path, name):
    archive = tmp_path / "records.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        entry = tarfile.TarInfo(name)
        if name.startswith("link"):
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        else:
            entry.size = 2
        tar.addfile(entry, io.BytesIO(b"{}"))
    with pytest.raises(DataError, match="does not belong into records"):
        take_records(archive, training(tmp_path).group.models, tmp_path / "here")
    assert not list((tmp_path / "here").rglob("*.*"))


def add_plain(tar):
    entry = tarfile.TarInfo("a/out.json")
    entry.size = 2
    tar.addfile(entry, io.BytesIO(b"{}"))


def add_long_header(tar):
    entry = tarfile.TarInfo("a/out.json")
    entry.pax_headers = {"comment": "x" * (3 << 20)}
    tar.addfile(entry)


def add_holes(tar):
    """A file of 1 TiB that is one hole."""
    entry = tarfile.TarInfo("a/out.json")
    entry.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40)}
    tar.addfile(entry)


def add_chain(tar):
    """Headers of headers, each of which tarfile reads in a call of its own."""
    entry = tarfile.TarInfo("a")
    entry.type = tarfile.GNUTYPE_LONGNAME
    tar.fileobj.write(1500 * entry.tobuf(tarfile.GNU_FORMAT))


def add_many(tar):
    for _ in range(4):
        add_plain(tar)


def add_large(tar):
    entry = tarfile.TarInfo("a/out.json")
    entry.size = 40_000
    tar.addfile(entry, io.BytesIO(bytes(40_000)))


@pytest.mark.parametrize(
    ("add", "limits", "told"),
    [
        (add_long_header, {}, "has a header of more than 1048576 bytes"),
        (add_holes, {}, "'a/out.json' does not belong into records"),
        (add_chain, {}, "cannot be read as the records of a report"),
        (add_many, {"MOST_FILES": 3}, "holds more than 3 files"),
        (add_large, {"MOST_BYTES": 30_000}, "unpacks to more than"),
        (add_plain, {"MOST_BYTES": 512}, "unpacks to more than"),  # its header and padding count too
        (add_plain, {"MOST_MEMORY": 1 << 20}, r"cannot be read as .* \(Memory usage limit"),
    ],
)
def test_records_that_would_fill_memory_or_disk_are_refused(tmp_path, monkeypatch, add, limits, told):
    archive = tmp_path / "records.tar.xz"
    with tarfile.open(archive, "w:xz", format=tarfile.PAX_FORMAT) as tar:
        add(tar)
    if add in (add_plain, add_many, add_large):  # within the limits there is nothing against them
        unpack_records(archive, tmp_path / "whole")
    for name, value in limits.items():
        monkeypatch.setattr(records, name, value)
    with pytest.raises(DataError, match=told):
        take_records(archive, training(tmp_path).group.models, tmp_path / "here")
    assert not list((tmp_path / "here").rglob("*.*"))


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


def test_a_damaged_run_in_records_is_not_taken_and_the_others_are(tmp_path):
    whole, broken = training(tmp_path / "elsewhere", seed=1), training(tmp_path / "elsewhere", seed=2)
    for own in (whole, broken):
        leave_finished(own)
    (broken.path / "eval" / "evaluation.json").write_text('{"model": "0123456789abcdef", "settings": [1]}')
    (whole.path.parent / f"{whole.group.name}-07").mkdir()  # no number that a seed is written as
    (whole.path.parent / f"{whole.group.name}-07" / "config.yaml").write_text("{}")
    archive = tmp_path / "records.tar.xz"
    write_records([SimpleNamespace(path=path) for path in sorted(whole.path.parent.iterdir())], archive)
    first, *more = take_records(archive, whole.group.models, tmp_path / "here")
    assert first == f"1 models and seeds are taken from {archive}"
    assert more == [
        f"not taken, since they are not of this table or not finished: {whole.group.name}-07",
        f"not taken, since a file of them is damaged: {broken.name}",
    ]
    assert training(tmp_path / "here", seed=1).job().finished()


@pytest.mark.parametrize("damage", ["cut", "changed", "no archive"])
def test_damaged_records_are_refused(tmp_path, damage):
    own, folder = training(tmp_path / "elsewhere"), tmp_path / "here"
    archive = leave_report(tmp_path, own)
    whole = archive.read_bytes()
    half = len(whole) // 2
    changed = whole[:half] + bytes(byte ^ 255 for byte in whole[half : half + 32]) + whole[half + 32 :]
    archive.write_bytes({"cut": whole[:half], "changed": changed, "no archive": b"{}"}[damage])
    with pytest.raises(DataError, match="cannot be read as the records of a report"):
        take_records(archive, own.group.models, folder)
    assert not list(folder.rglob("*.*"))
    with pytest.raises(DataError, match="--records: no such file"):
        take_records(tmp_path / "gone.tar.xz", own.group.models, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_records_of_nothing_are_no_error(tmp_path):
    archive = tmp_path / "records.tar.xz"
    write_records([], archive)
    lines = take_records(archive, training(tmp_path).group.models, tmp_path / "here")
    assert lines == [f"0 models and seeds are taken from {archive}"]


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
