"""Rates, waiting and the share of a device's arithmetic: counted by hand, and left out where something else ran."""

import json
import time
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule

from tstar.data.batch import collate
from tstar.data.datamodule import ClipDataModule
from tstar.errors import ConfigError
from tstar.language import splice
from tstar.language.packing import pack
from tstar.stages import Align, VideoSFT
from tstar.stages.freezing import count
from tstar.stages.metrics_log import MetricsLog
from tstar.stages.throughput import PEAK_TFLOPS, Costs, Throughput, Work, named, peak_flops, work_of


def batch_of(stage, world, shards, numbers):
    source = ClipDataModule(stage.processor(), [str(world / "shards" / shards)]).train_source
    return collate([(source[n][0], []) for n in numbers])


@pytest.mark.parametrize(("max_length", "pack_tokens"), [(768, None), (40, None), (768, 700)])
def test_a_batch_is_counted_as_it_is_spliced(max_length, pack_tokens, make_stage, tiny_world):
    stage = make_stage(VideoSFT, max_length=max_length, pack_tokens=pack_tokens)
    batch = batch_of(stage, tiny_world, "video_sft", [0, 3, 7])
    lmm = stage.lmm
    visual = lmm.visual_tokens(batch.frames, batch.frame_counts)
    spliced = splice(lmm.language.embed, batch.input_ids, visual, max_length=max_length)  # dropped ones are counted
    if pack_tokens:
        packed = pack(spliced, pack_tokens)
        assert len(packed.mask) < len(spliced.mask)
        spliced = packed
    work = work_of(lmm, batch)
    assert (work.samples, work.frames) == (3, len(batch.frames))
    assert work.visual_tokens == sum(map(len, visual))
    assert work.positions == int(spliced.mask.sum())
    assert work.padded_positions == spliced.mask.numel()


@pytest.mark.parametrize(("kind", "language"), [(VideoSFT, 6), (Align, 4)])
def test_operations_are_two_a_parameter_forward_and_as_many_for_each_gradient(kind, language, make_stage):
    lmm = make_stage(kind).lmm
    costs = Costs(lmm)
    numbers = {name: sum(p.numel() for p in part.parameters()) for name, part in lmm.named_children()}
    head = lmm.language.model.get_output_embeddings().weight.numel()
    patches = lmm.encoder.grid[0] * lmm.encoder.grid[1]
    work = Work(frames=3, padded_positions=50)
    expected = (
        3 * patches * 6 * numbers["compressor"] + 50 * language * (numbers["language"] - head) + 7 * language * head
    )
    assert costs.step(work, 7, encoded=False) == expected
    assert costs.step(work, 7, encoded=True) == expected + 3 * patches * 2 * numbers["encoder"]


def test_parameters_that_lie_in_slices_elsewhere_count_too(make_stage):
    """As ZeRO-3 leaves them: empty, with their number of elements beside."""
    stage = make_stage(VideoSFT)
    whole, trained = Costs(stage.lmm), count(p for p in stage.parameters() if p.requires_grad)
    assert trained == sum(p.numel() for p in stage.parameters() if p.requires_grad) > 0
    for parameter in stage.parameters():
        parameter.ds_numel = parameter.numel()
        parameter.data = torch.empty(0)
    assert vars(Costs(stage.lmm)) == vars(whole)
    assert count(p for p in stage.parameters() if p.requires_grad) == trained


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla V100-SXM2-32GB", "V100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_a_gpu_is_known_by_its_name(name, part, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    expected = PEAK_TFLOPS[part] * 1e12 if part else None
    assert peak_flops(torch.device("cuda", 0)) == expected
    assert peak_flops(torch.device("cuda", 0), 3.0) == 3e12
    assert peak_flops(torch.device("cpu")) is None
    assert not named("A10", "NVIDIA A100 80GB PCIe")


class Slow(Callback):
    """Makes validations take long, so that they would show."""

    def on_validation_start(self, *args):
        time.sleep(0.5)


class Late(ClipDataModule):
    """Batches that come late."""

    def train_dataloader(self):
        loader = super().train_dataloader()

        class Waits(type(loader)):
            def __iter__(self):
                for batch in super().__iter__():
                    time.sleep(0.2)
                    yield batch

        loader.__class__ = Waits
        return loader


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "throughput/samples" in row]


def test_rates_are_in_the_metrics_and_agree_with_the_clock(make_stage, train, tiny_world, tmp_path):
    stage = make_stage(VideoSFT)
    world = tiny_world / "shards"
    shards = {"shards": [str(world / "video_sft")], "val_shards": [str(world / "video_val")]}
    data = Late(stage.processor(), **shards, batch_size=2, max_frames=6)
    begun = time.perf_counter()
    train(
        stage,
        data=data,
        callbacks=[Throughput(peak_tflops=1e-3), Slow()],
        logger=MetricsLog(tmp_path),
        log_every_n_steps=2,
        val_check_interval=3,
        num_sanity_val_steps=0,
    )
    seconds = time.perf_counter() - begun
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == [1, 3, 5, 7]
    for row in rows:
        assert row["throughput/samples"] < 2 / 0.2
        assert row["throughput/visual_tokens"] > row["throughput/samples"]
        assert 0 < row["throughput/positions"] <= row["throughput/padded_positions"]
        assert row["throughput/mfu"] > 0
    counted = [2, 4, 4, 4]  # samples; the first batch starts the clock
    spent = [n / row["throughput/samples"] for n, row in zip(counted, rows, strict=True)]
    waits = [row["throughput/waiting"] * s for row, s in zip(rows, spent, strict=True)]
    assert sum(spent) < seconds - 0.9  # two validations of half a second are not in it
    assert 0.2 * 5 < sum(waits) < sum(spent)  # of seven waits, those before a validation's end are left out with it


def test_without_a_known_peak_there_is_no_share(make_stage, train, tmp_path):
    train(make_stage(Align), callbacks=[Throughput()], logger=MetricsLog(tmp_path), log_every_n_steps=3)
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == [2, 5]
    assert not any("throughput/mfu" in row for row in rows)


def test_with_accumulation_an_interval_ends_with_a_step(make_stage, train, tmp_path):
    settings = {"accumulate_grad_batches": 2, "batch_size": 2, "log_every_n_steps": 1}
    train(make_stage(Align), callbacks=[Throughput()], logger=MetricsLog(tmp_path), **settings)
    assert [row["step"] for row in rows_of(tmp_path)] == list(range(6))


def test_only_a_stage_is_counted(one_line):
    with pytest.raises(ConfigError) as caught:
        Throughput().setup(SimpleNamespace(), LightningModule(), "fit")
    one_line(caught.value, "Throughput", "LightningModule")
