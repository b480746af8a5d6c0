"""Which tensors a stage moves, and which it leaves alone."""

import pytest
import torch
from torch import nn

from tstar.errors import ConfigError
from tstar.stages import Align, AlignProjector, ImageSFT, UnifiedSFT, VideoSFT
from tstar.stages.freezing import frozen_digest, train_only, trained_tensors

STAGES = [
    (AlignProjector, "align", {"compressor"}),
    (Align, "align", {"compressor"}),
    (ImageSFT, "image_sft", {"compressor", "language"}),
    (UnifiedSFT, "image_sft", {"compressor", "language"}),
    (VideoSFT, "video_sft", {"compressor", "language"}),
]


@pytest.mark.parametrize(("kind", "shards", "learns"), STAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_an_optimizer_step_moves_what_learns_and_nothing_else(kind, shards, learns, make_stage, train, snapshot):
    stage = make_stage(kind, lr=1e-2, optimizer={"warmup_fraction": 0.0, "weight_decay": 0.1})
    before = snapshot(stage.lmm)
    train(stage, shards, max_steps=2, limit=8)
    after = snapshot(stage.lmm)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    trained = {name for name in before if name.split(".")[0] in learns}
    # a token that no sample holds has no gradient, but the output head, tied to the embedding, gives it one
    assert moved == trained
    assert kind.trains == learns
    if kind in (AlignProjector, ImageSFT):
        assert type(stage.lmm.compressor).__name__ == "Uncompressed"
    else:
        assert type(stage.lmm.compressor).__name__ == "MambaMia"


@pytest.mark.parametrize(("kind", "learns"), [(Align, {"compressor"}), (VideoSFT, {"compressor", "language"})])
def test_frozen_parts_stay_in_eval_mode_inside_train(kind, learns, make_stage):
    stage = make_stage(kind)
    for _ in range(2):
        modes = {name: {m.training for m in part.modules()} for name, part in stage.lmm.named_children()}
        assert modes == {name: {name in learns} for name in ("encoder", "compressor", "language")}
        stage.eval()
        assert not any(m.training for m in stage.modules())
        stage.train()


def test_captions_are_learnt_without_roles_and_questions_asked_with_them(make_stage):
    align, tune = make_stage(Align), make_stage(VideoSFT)
    assert align.template.captions_only
    assert not tune.template.captions_only
    assert align.answer_template == tune.answer_template == "miniature"
    assert align.processor().image_size == 96


def test_settings_that_cannot_work_are_refused(make_stage, one_line):
    for settings, words in (
        ({"lr_on_resume": "both"}, ("lr_on_resume", "checkpoint", "config", "both")),
        ({"compressor": {"preset": "tiny"}}, ("compressor", "name")),
        ({"compressor": {"name": "manba"}}, ("manba", "did you mean 'mamba'")),
        ({"compressor": {"name": "mamba", "grid": [3, 3]}}, ("compressor.grid", "remove")),
        ({"init_from": {"encoder": "x"}}, ("init_from", "compressor and language", "encoder")),
        ({"max_length": 1}, ("max_length", "at least 2")),
    ):
        with pytest.raises(ConfigError) as caught:
            make_stage(**settings)
        one_line(caught.value, *words)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.compressor = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.language = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3))
        self.language[1].weight = self.language[0].weight


def test_trained_tensors_are_parameters_once_and_the_buffers_that_go_with_them():
    toy = Toy()
    train_only(toy, {"compressor"})
    norm = {f"compressor.1.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert set(trained_tensors(toy)) == {"compressor.0.weight", "compressor.0.bias"} | norm
    train_only(toy, {"language"})
    assert {n for n in trained_tensors(toy) if n.endswith("weight")} == {"language.0.weight", "language.2.weight"}


def test_the_digest_is_of_the_frozen_values_alone():
    toy = Toy()
    train_only(toy, {"compressor"})
    first = frozen_digest(toy)
    with torch.no_grad():
        toy.compressor[0].weight += 1
    assert frozen_digest(toy) == first
    with torch.no_grad():
        toy.language[0].weight[0, 0] += 1e-6
    assert frozen_digest(toy) != first
