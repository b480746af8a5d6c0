"""Stages learn: the loss falls in each of them, and a handful of videos can be learnt by heart."""

import dataclasses
import json

import pytest
import torch
from lightning.pytorch import Trainer

from tstar.data.annotations import read_annotations
from tstar.data.datamodule import ClipDataModule
from tstar.data.shard_plan import plan_shards
from tstar.data.sharding import ShardWork, write_shards
from tstar.data.sharding_settings import ShardSettings
from tstar.language.splice import IGNORE, splice
from tstar.stages import Align, AlignProjector, ImageSFT, UnifiedSFT, VideoSFT
from tstar.vision.feature_cache import FeatureCache


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


@pytest.mark.parametrize(("reduction", "power"), [("token", 0.0), ("square", 0.5), ("answer", 1.0)])
def test_the_held_out_loss_weighs_answers_as_training_does_whatever_the_batches(
    reduction, power, make_stage, tiny_world
):
    folders = [str(tiny_world / "shards" / name) for name in ("image_sft", "video_val")]
    stage, logged = make_stage(ImageSFT, language={"loss_reduction": reduction}), []
    for size in (3, 28):
        data = ClipDataModule(stage.processor(), folders, folders, batch_size=size)
        trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
        (metrics,) = trainer.validate(stage, datamodule=data, verbose=False)
        logged.append(metrics["val/loss"])
    total = weight = 0.0
    lmm, lengths = stage.lmm.eval(), set()
    for number in range(len(data.val_source)):
        sample, _ = data.val_source[number]
        with torch.no_grad():
            visual = lmm.visual_tokens(sample.frames, [len(sample.frames)])
            batch = splice(lmm.language.embed, [sample.input_ids], visual, [sample.labels], max_length=768)
            scores = lmm.language.model(inputs_embeds=batch.embeds).logits[0].log_softmax(-1)  # [P, vocabulary]
        labels, answer = batch.labels[0].tolist(), []
        for place, label in enumerate([*labels[1:], IGNORE]):
            if label != IGNORE:
                answer.append(-float(scores[place, label]))
            elif answer:
                lengths.add(len(answer))
                total += sum(answer) * len(answer) ** -power
                weight += len(answer) ** (1 - power)
                answer = []
    assert len(lengths) > 3
    assert logged == pytest.approx([total / weight] * 2, rel=1e-5)


@pytest.mark.parametrize(("number", "steps"), [(4, 80), pytest.param(8, 120, marks=pytest.mark.slow)])
def test_a_few_videos_are_learnt_by_heart(number, steps, make_stage, train, tiny_world, tmp_path):
    """All are asked for the same thing, so that nothing but the video can tell their captions apart."""
    ask = {"from": "human", "value": "<image>\nDescribe the video."}
    scenes = map(json.loads, (tiny_world / "annotations" / "scenes.jsonl").read_text().splitlines())
    told = {scene["path"]: scene["caption"] for scene in scenes}
    records = [
        dataclasses.replace(record, conversations=(ask, {"from": "gpt", "value": told[record.media]}))
        for record in read_annotations(tiny_world / "annotations" / "video_sft.json")
    ]
    records = sorted(records, key=lambda record: len(record.conversations[1]["value"]))
    records = records[:number]  # the quickest to learn
    captions = {record.conversations[1]["value"] for record in records}
    settings = ShardSettings(fps=2, max_frames=3, short_side=0, samples_per_shard=8)
    write_shards(plan_shards(records, tiny_world, tmp_path / "shards", settings), ShardWork(workers=1))
    stage = make_stage(VideoSFT, lr=4e-3, optimizer={"betas": (0.9, 0.98), "warmup_fraction": 0.3})
    data = ClipDataModule(stage.processor(), [str(tmp_path / "shards")], batch_size=number)
    data.cache = FeatureCache(tmp_path / "features", stage.lmm.encoder, "square", tell=lambda line: None)
    assert len({record.media for record in records}) == len(captions) == len(data.train_source) == number
    losses = train(stage, data=data, max_epochs=-1, max_steps=steps).losses.values
    assert losses[0] > 4
    # with eight, 0.006 was measured; 0.005 to 0.01 with other seeds and with rates up to twice this one
    assert losses[-1] < 0.05
