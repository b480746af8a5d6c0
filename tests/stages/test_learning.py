"""Stages learn: the loss falls in each of them, and a handful of videos can be learnt by heart."""

import pytest

from tstar.data.annotations import read_annotations
from tstar.data.datamodule import ClipDataModule
from tstar.data.sharding import ShardSettings, write_shards
from tstar.stages import Align, AlignProjector, ImageSFT, UnifiedSFT, VideoSFT


@pytest.mark.parametrize(
    ("kind", "shards"),
    [
        (AlignProjector, "align"),
        (Align, "align"),
        (ImageSFT, "image_sft"),
        (UnifiedSFT, "image_sft"),
        (VideoSFT, "video_sft"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_loss_falls(kind, shards, make_stage, train):
    # the alignment stages have a hardly trained, frozen language model to speak to: little can be had from it
    frozen = "language" not in kind.trains
    stage = make_stage(kind, lr=2e-2 if frozen else 3e-3)
    losses = train(stage, shards, max_epochs=5, limit=12).losses.values
    first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
    assert last < first - (0.1 if frozen else 1.0), (first, last)


def test_eight_videos_are_learnt_by_heart(make_stage, train, tiny_world, tmp_path):
    records = [r for r in read_annotations(tiny_world / "annotations" / "video_sft.json") if r.id.endswith("_0")][:8]
    settings = ShardSettings(fps=2, max_frames=3, short_side=0, samples_per_shard=8)
    write_shards(records, tiny_world, tmp_path / "shards", settings, workers=1)
    stage = make_stage(VideoSFT, lr=4e-3, optimizer={"betas": (0.9, 0.98), "warmup_fraction": 0.1})
    data = ClipDataModule(stage.processor(), [str(tmp_path / "shards")], batch_size=8)
    assert len({record.media for record in records}) == len(data.train_source) == 8
    losses = train(stage, data=data, max_epochs=-1, max_steps=90).losses.values
    assert losses[0] > 4
    assert losses[-1] < 0.05  # 0.022 was measured
