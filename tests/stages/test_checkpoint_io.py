"""Checkpoint files under kills, full disks and foul play."""

import errno
import hashlib
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from tstar.cli.fit import save_weights_only
from tstar.errors import DataError
from tstar.stages import Align, checkpoint_io
from tstar.stages.checkpoint_io import (
    VerifiedCheckpointIO,
    append_line,
    load_checkpoint,
    newest_verified,
    read_manifest,
    write_atomically,
)

IO = VerifiedCheckpointIO()


def checkpoint_of(step, size=100):
    return {"global_step": step, "state_dict": {"w": torch.full((size,), float(step))}, "tstar": {"format": 1}}


def save(folder, *steps):
    for step in steps:
        IO.save_checkpoint(checkpoint_of(step), folder / f"step={step}.ckpt")


def test_text_that_no_encoding_has_is_written_as_json_has_it(tmp_path):
    said = {"response": "half \ud83d, whole ä"}
    write_atomically(tmp_path / "report.json", json.dumps(said, ensure_ascii=False))
    assert json.loads((tmp_path / "report.json").read_text("utf-8")) == said


def test_the_manifest_says_what_was_written(tmp_path):
    save(tmp_path, 3, 4)
    entries = json.loads((tmp_path / "manifest.json").read_text())
    for step in (3, 4):
        data = (tmp_path / f"step={step}.ckpt").read_bytes()
        expected = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "step": step}
        assert entries[f"step={step}.ckpt"] == expected
        assert torch.equal(load_checkpoint(tmp_path / f"step={step}.ckpt")["state_dict"]["w"], torch.full((100,), step))
    IO.remove_checkpoint(tmp_path / "step=3.ckpt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "step=4.ckpt"]
    assert list(read_manifest(tmp_path)) == ["step=4.ckpt"]


def test_the_newest_is_the_one_of_the_highest_step(tmp_path):
    assert newest_verified(tmp_path) == (None, [])
    save(tmp_path, 9, 100, 20)
    assert newest_verified(tmp_path) == (tmp_path / "step=100.ckpt", [])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "were written"),
        (lambda p: p.write_bytes(p.read_bytes()[:-30] + b"x" + p.read_bytes()[-29:]), "checksum differs"),
        (lambda p: p.unlink(), "is missing"),
    ],
    ids=["cut", "flipped", "missing"],
)
def test_damaged_ones_are_passed_over_with_a_sentence(tmp_path, damage, words, one_line):
    save(tmp_path, 1, 2)
    newest = tmp_path / "step=2.ckpt"
    damage(newest)
    path, sentences = newest_verified(tmp_path)
    assert path == tmp_path / "step=1.ckpt"
    assert len(sentences) == 1
    assert str(newest) in sentences[0]
    assert words in sentences[0]
    with pytest.raises(DataError) as caught:
        load_checkpoint(newest)
    one_line(caught.value, str(newest))


def test_a_deleted_manifest_leaves_the_checkpoints_usable(tmp_path, one_line):
    save(tmp_path, 1, 2)
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{")
    with pytest.raises(DataError) as caught:
        newest_verified(tmp_path)
    one_line(caught.value, str(manifest), "delete it")
    manifest.unlink()
    (tmp_path / "step=3.ckpt").write_bytes(b"half of something")
    path, sentences = newest_verified(tmp_path)
    assert path == tmp_path / "step=2.ckpt"
    assert ["step=3.ckpt" in s for s in sentences] == [True]


def test_an_overwritten_name_is_never_taken_for_damaged(tmp_path, monkeypatch):
    """Killed between the new file's rename and its entry in the manifest."""
    IO.save_checkpoint(checkpoint_of(1), tmp_path / "last.ckpt")
    write, calls = checkpoint_io.write_manifest, []

    def killed(folder, entries):
        calls.append(entries)
        if "last.ckpt" in entries:
            raise KeyboardInterrupt
        write(folder, entries)

    monkeypatch.setattr(checkpoint_io, "write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        IO.save_checkpoint(checkpoint_of(2), tmp_path / "last.ckpt")
    assert len(calls) == 2
    assert newest_verified(tmp_path) == (tmp_path / "last.ckpt", [])
    assert load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2


class FullDisk:
    """A stream that takes so many bytes and then has no room."""

    def __init__(self, stream, room):
        self.stream, self.room = stream, room

    def write(self, data):
        self.room -= len(memoryview(data).cast("B"))
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.stream.write(data)

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()


@pytest.mark.parametrize("room", [0, 500, 2_000, 100_000])
def test_a_full_disk_is_said_and_harms_nothing(tmp_path, monkeypatch, room, one_line):
    save(tmp_path, 1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    open_ = type(tmp_path).open

    def limited(self, mode="r", *args, **kwargs):
        stream = open_(self, mode, *args, **kwargs)
        return FullDisk(stream, room) if "w" in mode and "ckpt" in self.name else stream

    monkeypatch.setattr(type(tmp_path), "open", limited)
    with pytest.raises(DataError) as caught:
        IO.save_checkpoint(checkpoint_of(2, size=50_000), tmp_path / "step=2.ckpt")
    monkeypatch.undo()
    one_line(caught.value, "disk full", "step=2.ckpt", "0.2 MB", "free")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    save(tmp_path, 2)
    assert newest_verified(tmp_path)[0] == tmp_path / "step=2.ckpt"


def test_a_disk_that_is_full_at_the_manifest_leaves_the_earlier_one_in_force(tmp_path, monkeypatch, one_line):
    save(tmp_path, 1)

    def full(folder, entries):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_io, "write_manifest", full)
    with pytest.raises(DataError) as caught:
        save(tmp_path, 2)
    one_line(caught.value, "disk full")
    assert newest_verified(tmp_path) == (tmp_path / "step=1.ckpt", [])


def test_other_errors_of_writing_are_not_called_a_full_disk(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(torch, "save", refused)
    with pytest.raises(PermissionError):
        save(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


class Evil:
    def __reduce__(self):
        return os.mkdir, ("EVIL",)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_checkpoint_never_runs(tmp_path, monkeypatch, write, one_line):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.ckpt"
    write({"state_dict": Evil()}, path)
    for load in (load_checkpoint, lambda p: IO.load_checkpoint(p, weights_only=False)):
        with pytest.raises(DataError) as caught:
            load(path)
        one_line(caught.value, str(path))
    assert not (tmp_path / "EVIL").exists()


def test_what_is_no_checkpoint_is_named(tmp_path, one_line):
    empty, text, tensor = (tmp_path / name for name in ("empty.ckpt", "text.ckpt", "tensor.ckpt"))
    empty.write_bytes(b"")
    text.write_text("hello, I am no checkpoint")
    torch.save(torch.zeros(3), tensor)
    for path in (empty, text, tensor, tmp_path / "none.ckpt"):
        with pytest.raises(DataError) as caught:
            load_checkpoint(path)
        one_line(caught.value, str(path))


def test_what_a_killed_writer_left_is_cleared_away(tmp_path):
    (tmp_path / ".step=1.ckpt.tmp").write_bytes(b"half")
    save(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "step=2.ckpt"]


def test_a_half_written_line_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    append_line(path, "one")
    with path.open("a") as stream:
        stream.write('{"cut')
    append_line(path, "two")
    append_line(path, "three")
    assert path.read_text() == 'one\n{"cut\ntwo\nthree\n'


WRITER = """
import os, sys, torch
from pathlib import Path
from tstar.stages.checkpoint_io import VerifiedCheckpointIO

def save_for_ever(folder, step):
    io, begun = VerifiedCheckpointIO(), step
    while True:
        step += 1
        value = {"global_step": step, "w": torch.full((1_000_000,), float(step))}
        io.save_checkpoint(value, folder / f"step={step}.ckpt")
        io.save_checkpoint(value, folder / "last.ckpt")
        old = folder / f"step={step - 2}.ckpt"
        if old.exists():
            io.remove_checkpoint(old)
        if step == begun + 2:
            print("going", flush=True)

torch.set_num_threads(1)
for line in sys.stdin:  # each line starts a child to kill: it need not import anything anew
    child = os.fork()
    if not child:
        save_for_ever(Path(sys.argv[1]), int(line))
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_inside_a_save_leave_no_unreadable_file(tmp_path, kills):
    rng = random.Random(0)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    step = 0
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], **pipes) as parent:
        for _ in range(kills):
            parent.stdin.write(f"{step}\n")
            parent.stdin.flush()
            said = {parent.stdout.readline().strip() for _ in range(2)}
            (child,) = said - {"going"}
            time.sleep(rng.uniform(0, 0.06))
            os.kill(int(child), signal.SIGKILL)
            assert parent.stdout.readline() == "gone\n"
            for path in tmp_path.glob("*.ckpt"):
                checkpoint = load_checkpoint(path)  # held against its entry too, where it has one
                assert bool((checkpoint["w"] == checkpoint["global_step"]).all())
            newest, passed_over = newest_verified(tmp_path)
            assert passed_over == []
            found = load_checkpoint(newest)["global_step"]
            assert found >= step + 2  # what was complete before the kill is still there
            step = found
        parent.stdin.close()


def test_weights_alone_make_a_checkpoint_that_can_be_evaluated(make_stage, train, tmp_path):
    stage = make_stage(Align)
    trainer = train(stage, limit=8)
    save_weights_only(trainer, stage.whole_weights(), tmp_path / "last.ckpt")
    trainer.save_checkpoint(tmp_path / "usual.ckpt")
    ours, usual = (load_checkpoint(tmp_path / f"{name}.ckpt") for name in ("last", "usual"))
    assert "optimizer_states" not in ours
    assert ours["tstar"] == usual["tstar"]
    assert ours["global_step"] == usual["global_step"] == 2
    assert ours["state_dict"].keys() == usual["state_dict"].keys()
    assert all(torch.equal(ours["state_dict"][name], t) for name, t in usual["state_dict"].items())
