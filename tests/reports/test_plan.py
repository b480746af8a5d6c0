"""Tokens, samples and steps of the plan, and its table of settings against trying every one."""

import dataclasses
import json
from itertools import pairwise, product

import pytest
import torch

from tstar.compressors import build_compressor
from tstar.data.public_sets import SETS
from tstar.data.shard_set import ShardSet
from tstar.errors import ConfigError
from tstar.language.lora import LoraSettings
from tstar.reports import plan_settings
from tstar.reports.plan_samples import published_samples, stage_samples, steps_of
from tstar.reports.plan_settings import candidates, fitting
from tstar.reports.plan_setup import Asked
from tstar.stages import Align, VideoSFT

CONVNEXT = {"model": "convnext_large_d_320", "pretrained": "random"}
VIT = {"model": "ViT-L-14-336", "pretrained": "random"}


@pytest.mark.parametrize(
    ("vision", "interval", "expected"),  # docs of the method, section 1.1: (frames, positions inside, visual tokens)
    [
        (CONVNEXT, 10, [(1, 110, 10), (32, 3520, 110), (128, 14080, 430), (256, 28160, 860), (384, 42240, 1280)]),
        (VIT, 24, [(1, 600, 24), (64, 38400, 528), (128, 76800, 1032), (256, 153600, 2064)]),
    ],
    ids=["convnext", "vit"],
)
def test_tokens_are_the_published_ones(plans, vision, interval, expected):
    spec = {"name": "mambamia", "preset": "paper", "query_interval": interval, "num_layers": 1}
    planner, setup = plans.planned(VideoSFT, plans.stage_config(vision=vision, compressor=spec))
    rows = [planner.tokens(setup, frames) for frames, _, _ in expected]
    assert [(row["frames"], row["inside"], row["visual"]) for row in rows] == expected
    assert all(row["length"] == row["visual"] + 256 + 32 for row in rows)
    assert [row["fits"] for row in rows] == [row["length"] <= 1024 for row in rows]  # max_length of these settings


@pytest.mark.parametrize("name", ["none", "avg_pool", "resampler2d", "resampler3d", "gpt_neox", "mambamia"])
def test_tokens_are_what_a_compressor_gives(plans, name):
    spec = {"name": name, "preset": "tiny"}
    planner, setup = plans.planned(VideoSFT, plans.stage_config(compressor=spec))
    real = build_compressor(d_vision=128, d_language=160, grid=(6, 6), **spec).eval()
    for frames in (1, 4):
        (tokens,) = real(torch.zeros(frames, 36, 128), [frames])
        row = planner.tokens(setup, frames)
        assert row["visual"] == len(tokens)
        inside = {
            "resampler2d": 36 + 3,
            "resampler3d": 36 * frames + 5,
            "gpt_neox": 42 * frames,
            "mambamia": 42 * frames,
        }
        assert row["inside"] == inside.get(name)


@pytest.mark.slow
def test_the_settings_that_fit_a_device_are_those_of_trying_every_one(plans, small_convnext, tmp_path, monkeypatch):
    monkeypatch.setattr(plan_settings, "FRAMES", (32, 160))
    monkeypatch.setattr(plan_settings, "STRIDES", (1, 3))
    settings = json.loads((plans.miniature / "language" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 1}))
    spec = {"name": "mambamia", "preset": "miniature", "temporal_stride": 1, "num_layers": 1}
    config = plans.stage_config(
        vision={"model": str(small_convnext), "pretrained": "random"},
        compressor=spec,
        language={"path": str(tmp_path)},
        batch=1,
    )
    asked = {"frames": (32,), "text_tokens": 20, "answer_tokens": 4}
    planner, setup = plans.planned(VideoSFT, config, **asked)
    assert setup.parts.encoder.grid == (2, 2)
    measured = {}
    for frames, k, r in product((32, 160), (1, 2, 4), (1, 3)):
        parts = planner.with_compressor(setup, {"query_interval": k, "temporal_stride": r})
        assert parts.compressor.num_tokens(frames) + 24 <= setup.max_length
        training, answering = planner.training(setup, parts, frames)[0], planner.answering(setup, parts, frames)[0]
        measured[frames, k, r] = (training.peak, answering["peak"])
    settings = candidates(setup, ())
    assert len(settings) == len(measured)
    memory = plan_settings.Memory(planner, setup, settings, sorted({s.visual for s in settings}))
    off = []
    for setting in settings:
        real = measured[setting.frames, setting.query_interval, setting.temporal_stride]
        pairs = zip((memory.training(setting), memory.answering(setting)), real, strict=True)
        off += [ours / true - 1 for ours, true in pairs]
    print(f"settings against their own measurements: {min(off):+.2%} to {max(off):+.2%}")
    assert min(off) > -0.005
    assert max(off) < 0.03
    trainings = sorted(training for training, _ in measured.values())
    gaps = [(low, high) for low, high in pairwise(trainings) if high > 1.04 * low]
    assert len(gaps) > 1
    for low, high in gaps:
        budget = (low * high) ** 0.5
        asked_budget = dataclasses.replace(planner.asked, device_memory_gib=budget / 2**30)
        monkeypatch.setattr(planner, "asked", asked_budget)
        choices, why = fitting(planner, setup)
        assert not why
        found = {(c.setting.frames, c.setting.query_interval, c.setting.temporal_stride): c.trains for c in choices}
        assert found == {key: t <= budget for key, (t, a) in measured.items() if a <= budget}


def test_the_settings_within_a_number_of_tokens_are_those_of_trying_every_one(plans):
    config = plans.stage_config(compressor={"name": "mambamia", "preset": "tiny"})
    planner, setup = plans.planned(VideoSFT, config, tokens=60)
    choices, why = fitting(planner, setup)
    assert not why
    expected = set()
    for k, r in product(range(1, 37), plan_settings.STRIDES):
        if 36 % k:
            with pytest.raises(ConfigError, match="query_interval"):
                build_compressor("mambamia", d_vision=8, d_language=8, grid=(6, 6), preset="tiny", query_interval=k)
            continue
        options = {"preset": "tiny", "query_interval": k, "temporal_stride": r}
        real = build_compressor("mambamia", d_vision=128, d_language=160, grid=(6, 6), **options)
        expected |= {(m, k, r) for m in {*plan_settings.FRAMES, 1} if real.num_tokens(m) <= 60}
    found = {(c.setting.frames, c.setting.query_interval, c.setting.temporal_stride) for c in choices}
    assert found == expected
    assert all(c.training is None for c in choices)


def test_where_nothing_fits_one_sentence_says_why(plans, one_line, monkeypatch):
    monkeypatch.setattr(plan_settings, "FRAMES", (4,))
    config = plans.stage_config(compressor={"name": "none"})
    planner, setup = plans.planned(VideoSFT, config, tokens=20)
    choices, why = fitting(planner, setup)
    assert not choices
    assert why == "no setting fits: the fewest visual tokens of any are 36, more than --tokens 20"
    config = plans.stage_config(compressor={"name": "avg_pool"}, batch=1)
    planner, setup = plans.planned(VideoSFT, config, device_memory_gib=0.001, frames=(1,))
    choices, why = fitting(planner, setup)
    assert not choices
    one_line(ConfigError(why), "--device-memory-gib 0.001", "GiB")


def test_samples_of_shards_are_counted(tiny_world, plans):
    config = plans.stage_config(batch=4)
    config["data"]["shards"] = [str(tiny_world / "shards" / name) for name in ("image_sft", "video_sft")]
    shards = ShardSet(config["data"]["shards"])
    found = stage_samples(config, "UnifiedSFT", 7, None)
    assert (found.count, found.frames) == (len(shards), int(shards.column("frames").max()))
    assert found.mean_frames == pytest.approx(float(shards.column("frames").mean()))
    assert found.source == "the recipe's shards"
    config["data"]["limit"] = 10
    assert stage_samples(config, "UnifiedSFT", None, None).count == 10
    config["data"] |= {"limit": None, "weights": [2, 0.5]}
    sizes = shards.folder_sizes
    weighted = stage_samples(config, "UnifiedSFT", None, None)
    assert weighted.count == 2 * sizes[0] + round(0.5 * sizes[1])
    frames = [int(n) for n in shards.column("frames")]
    pictures, clips = frames[: sizes[0]], frames[sizes[0] :]
    assert set(pictures) == {1}
    half = sizes[1] / 2  # an epoch's half of the clips; the next has the other one
    assert weighted.mean_frames == pytest.approx((2 * sizes[0] + half * sum(clips) / len(clips)) / weighted.count)
    given = stage_samples(config, "UnifiedSFT", None, 5)
    assert (given.frames, given.frames_source) == (5, "--training-frames")
    assert given.mean_frames == pytest.approx((2 * sizes[0] + 5 * half) / weighted.count)  # pictures keep their one


@pytest.mark.parametrize("given", [None, 40])
def test_clips_are_planned_with_no_more_frames_than_are_used(given, tiny_world, plans):
    config = plans.stage_config()
    folder = tiny_world / "shards" / "video_sft"
    stored = ShardSet([folder]).column("frames")
    most = int(sorted(stored)[len(stored) // 2])
    assert stored.min() < most < stored.max()
    config["data"] |= {"shards": [str(folder)], "max_frames": most}
    found = stage_samples(config, "VideoSFT", None, given)
    assert (found.frames, found.frames_source) == (most, "data.max_frames")
    used = [most if given else min(int(n), most) for n in stored]
    assert found.mean_frames == pytest.approx(sum(used) / len(used))
    config["data"]["max_frames"] = 500
    assert stage_samples(config, "VideoSFT", None, given).frames == (given or int(stored.max()))
    config["data"] |= {"shards": ["nowhere/llava_video_base"], "max_frames": 5}
    found = stage_samples(config, "VideoSFT", None, given)
    assert (found.frames, found.mean_frames, found.frames_source) == (5, 5, "data.max_frames")
    config["data"]["shards"] = ["nowhere/my_own"]
    assert stage_samples(config, "VideoSFT", None, given).frames == 5
    config["data"]["shards"] = ["nowhere/llava_pretrain"]
    assert stage_samples(config, "Align", None, given).frames_source == "pictures"


def test_samples_of_public_sets_are_the_published_ones(plans):
    config = plans.stage_config()
    config["data"]["shards"] = ["data_shards/llava_pretrain"]
    found = stage_samples(config, "Align", None, None)
    assert (found.count, found.frames) == (558_128, 1)
    config["data"]["shards"] = ["nowhere/llava_instruct", "nowhere/llava_video_base"]
    found = stage_samples(config, "UnifiedSFT", None, None)
    assert (found.count, found.frames) == (157_712 + 131_000, 128)
    assert found.mean_frames == pytest.approx((157_712 + 131_000 * 128) / 288_712)  # 58.6
    config["data"]["max_frames"] = 30
    found = stage_samples(config, "UnifiedSFT", None, None)
    assert (found.frames, found.frames_source) == (30, "data.max_frames")
    assert found.mean_frames == pytest.approx((157_712 + 131_000 * 30) / 288_712)
    config["data"] |= {"max_frames": None, "weights": [2, 0.5]}
    found = stage_samples(config, "UnifiedSFT", None, None)
    assert (found.count, found.mean_frames) == (380_924, pytest.approx((315_424 + 65_500 * 128) / 380_924))
    assert steps_of(157_712 + 131_000, 128, {"max_epochs": 1}) == 2255  # whole batches only
    config["data"]["shards"] = ["nowhere/my_own"]
    assert stage_samples(config, "VideoSFT", None, None).count is None
    assert stage_samples(config, "VideoSFT", 99, None).source == "--samples"
    assert all(published_samples(name) for name in SETS if name != "plain")


def test_steps_are_bounded_as_the_trainer_bounds_them():
    assert steps_of(1000, 32, {"max_epochs": 2}) == 62
    assert steps_of(1000, 32, {"max_epochs": 2, "max_steps": 10}) == 10
    assert steps_of(1000, 32, {"max_epochs": 2, "max_steps": -1, "accumulate_grad_batches": 4}) == 62
    assert steps_of(1000, 32, {"max_epochs": 3, "limit_train_batches": 5, "accumulate_grad_batches": 2}) == 9
    assert steps_of(1000, 32, {"max_epochs": 1, "limit_train_batches": 0.5}) == 15
    assert steps_of(None, 32, {"max_epochs": 1}) is None
    assert steps_of(None, 32, {"max_steps": 7}) == 7
    with pytest.raises(ConfigError, match=r"lower data\.batch_size"):
        steps_of(10, 32, {"max_epochs": 1})


def test_with_lora_only_adapters_learn(plans):
    config = plans.stage_config()
    config["model"]["init_args"]["language"]["lora"] = {"rank": 4, "targets": ["q_proj", "down_proj"]}
    planner, setup = plans.planned(VideoSFT, config)
    assert setup.lora == LoraSettings(rank=4, targets=("q_proj", "down_proj"))
    row = planner.stage(setup)
    assert row["trained"]["language"] == 4 * 4 * ((160 + 160) + (440 + 160))  # layers x rank x (in + out)
    full, whole = plans.planned(VideoSFT, plans.stage_config())
    assert row["parameters"]["language"] - row["trained"]["language"] == full.stage(whole)["parameters"]["language"]
    assert row["training"]["parts"]["language"]["gradients"] == 4 * row["trained"]["language"]
    config["model"]["init_args"]["language"]["lora"] = {"rank": 4, "targets": ["nothing"]}
    with pytest.raises(ConfigError, match=r"language\.lora\.targets: no linear layer .* nothing"):
        plans.planned(VideoSFT, config)


def test_a_stage_says_what_learns_and_what_it_does_not_do_again(plans):
    config = plans.stage_config("Align")
    config["data"]["features"] = "somewhere"
    planner, setup = plans.planned(Align, config, frames=(3,))
    row = planner.stage(setup)
    assert row["trains"] == ["compressor"]
    assert row["trained"] == {"encoder": 0, "compressor": row["parameters"]["compressor"], "language": 0}
    assert row["training"]["flops_per_step"]["encode"] == 0
    assert row["training"]["global_batch"] == 2
    assert [r["frames"] for r in row["tokens"]] == [1, 3]
    assert any("data.features" in note for note in row["notes"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devices": 0}, "--devices must be at least 1, got 0"),
        ({"frames": (4, 0)}, "--frames must be at least 1, got 0"),
        ({"device_memory_gib": 0.0}, "--device-memory-gib must be above 0, got 0"),
        ({"strategy": "zero4"}, "--strategy: unknown strategy 'zero4'"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        Asked(**options)
