"""Stopping on signals, damaged samples, progress lines."""

import json
import signal
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback

from tstar.data.batch import Batch, Skipped
from tstar.errors import DataError
from tstar.stages import Align
from tstar.stages.callbacks import GracefulStop, ProgressLines, SkippedSamples, skipped_summary
from tstar.stages.checkpoint_io import load_checkpoint, newest_verified


class Raise(Callback):
    """Sends this process a signal at a moment of training."""

    def __init__(self, number, moment, step=0):
        self.number, self.step, self.sent = number, step, 0
        setattr(self, moment, self._send)

    def _send(self, trainer, *args):
        if trainer.global_step == self.step and not self.sent:
            self.sent += 1
            signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_answered_by_a_checkpoint_and_an_end(number, make_stage, train, tmp_path):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    stop = GracefulStop(tmp_path)
    trainer = train(
        make_stage(Align),
        callbacks=[Raise(number, "on_before_optimizer_step", step=2), stop],
        max_epochs=5,
        min_epochs=3,
        min_steps=20,
    )
    assert (trainer.global_step, stop.received) == (3, number)  # the step under way is finished
    assert stop.saved == tmp_path / "step=3.ckpt" == newest_verified(tmp_path)[0]
    assert load_checkpoint(stop.saved)["global_step"] == 3
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_signal_inside_an_accumulation_waits_for_its_end(make_stage, train, tmp_path):
    stop = GracefulStop(tmp_path)
    callbacks = [Raise(signal.SIGTERM, "on_train_batch_start", step=1), stop]
    trainer = train(make_stage(Align), callbacks=callbacks, accumulate_grad_batches=2, batch_size=3)
    assert trainer.global_step == 2
    assert len(trainer.losses.values) == 4


def test_a_signal_after_the_last_step_is_answered_too(make_stage, train, tmp_path):
    stop = GracefulStop(tmp_path)
    trainer = train(make_stage(Align), callbacks=[Raise(signal.SIGTERM, "on_train_epoch_end", step=6), stop])
    assert (trainer.global_step, stop.saved) == (6, tmp_path / "step=6.ckpt")
    again = train(make_stage(Align), ckpt=str(stop.saved))
    assert (again.global_step, again.losses.values) == (6, [])


def test_without_a_signal_nothing_is_saved(make_stage, train, tmp_path):
    stop = GracefulStop(tmp_path)
    assert train(make_stage(Align), callbacks=[stop]).global_step == 6
    assert (stop.received, stop.saved, list(tmp_path.iterdir())) == (None, None, [])


def test_the_second_interrupt_stops_at_once(tmp_path):
    stop = GracefulStop(tmp_path)
    stop._note(signal.SIGINT, None)
    stop._note(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        stop._note(signal.SIGINT, None)


def test_signals_are_given_back_after_an_error(make_stage, train, tmp_path):
    class Fails(Callback):
        def on_train_batch_end(self, *args):
            raise DataError("stop here")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(DataError, match="stop here"):
        train(make_stage(Align), callbacks=[GracefulStop(tmp_path), Fails()])
    assert signal.getsignal(signal.SIGTERM) == before


def batch_of(good, bad=0):
    skipped = [Skipped("shard-00000.tar", f"key{i}", "checksum differs") for i in range(bad)]
    return Batch([str(i) for i in range(good)], torch.zeros(0), [], [], [], skipped)


def feed(callback, *batches):
    for step, batch in enumerate(batches, 1):
        callback.on_train_batch_end(SimpleNamespace(global_step=step), None, None, batch, 0)


def test_damaged_samples_are_counted_and_written_down(tmp_path):
    path = tmp_path / "new" / "skipped.jsonl"
    callback = SkippedSamples(path, max_fraction=0.5)
    feed(callback, batch_of(4), batch_of(4, bad=1), batch_of(4, bad=2))
    assert (callback.read, callback.skipped) == (15, 3)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["key"]) for row in rows] == [(2, "key0"), (3, "key0"), (3, "key1")]
    assert rows[0] | {"shard": "shard-00000.tar", "reason": "checksum differs"} == rows[0]


@pytest.mark.parametrize(("bad", "stops"), [(9, False), (10, False), (11, True)])
def test_training_stops_above_the_fraction(tmp_path, bad, stops, one_line):
    path = tmp_path / "skipped.jsonl"
    callback = SkippedSamples(path, max_fraction=0.1)
    batches = [batch_of(100 - bad, bad)]
    if not stops:
        feed(callback, *batches)
        return
    with pytest.raises(DataError) as caught:
        feed(callback, *batches)
    one_line(caught.value, "11 of 100", "max_bad_fraction", str(path))


def test_the_first_few_samples_do_not_stop_it(tmp_path):
    callback = SkippedSamples(tmp_path / "skipped.jsonl", max_fraction=0.0, grace=50)
    feed(callback, batch_of(40, 9))
    with pytest.raises(DataError):
        feed(callback, batch_of(1))


def test_the_summary_counts_each_sample_once_and_bears_a_cut_line(tmp_path):
    path = tmp_path / "skipped.jsonl"
    assert skipped_summary(path) == []
    feed(SkippedSamples(path, max_fraction=1.0), batch_of(1, 7), batch_of(1, 2))
    with path.open("a") as stream:
        stream.write('{"step": 3, "sha')
    lines = skipped_summary(path, most=5)
    assert lines[0].startswith("7 damaged samples")
    assert [line.split()[0] for line in lines[1:6]] == [f"key{i}" for i in range(5)]
    assert lines[6].strip() == "and 2 more (7 x checksum differs)"


def test_skipped_samples_of_a_run_reach_the_file(make_stage, train, tiny_world, tmp_path):
    from tstar.data.datamodule import ClipDataModule

    stage = make_stage(Align)
    data = ClipDataModule(stage.processor(), [str(tiny_world / "shards" / "align")], batch_size=4)
    read = data.train_source.shards.read

    def damaged(number):
        if number == 3:
            raise DataError("checksum differs")
        return read(number)

    data.train_source.shards.read = damaged
    callback = SkippedSamples(tmp_path / "skipped.jsonl", max_fraction=0.5)
    train(stage, data=data, callbacks=[callback])
    assert (callback.read, callback.skipped) == (25, 1)
    (row,) = map(json.loads, (tmp_path / "skipped.jsonl").read_text().splitlines())
    assert row["reason"] == "checksum differs"


def test_a_line_comes_once_every_so_many_steps_and_at_the_end(make_stage, train, capsys):
    train(
        make_stage(Align), callbacks=[ProgressLines("align", 2)], accumulate_grad_batches=2, batch_size=2, max_epochs=1
    )
    train(make_stage(Align), callbacks=[ProgressLines("align", 4)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("align")]
    assert [line.split()[2] for line in lines] == ["2/6", "4/6", "6/6", "4/6", "6/6"]
    assert all("steps/s" in line and "loss" in line for line in lines)
