"""What is taken from the records of a report, and what is refused."""

import io
import shutil
import tarfile
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from tstar.cli.ablation_jobs import TAKEN, changes, check_unchanged
from tstar.cli.ablation_records import take_records
from tstar.errors import ConfigError, DataError
from tstar.evaluation.settings import EvaluationConfig
from tstar.reports import records
from tstar.reports.claims import take
from tstar.reports.job_queue import recorded_seconds
from tstar.reports.records import unpack_records, write_records

from .finished_models import leave_answers, leave_finished, training


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
