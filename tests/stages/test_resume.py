"""Going on from a checkpoint: the same weights as without a stop, and what is refused or said."""

import pytest
import torch
from lightning.pytorch import Callback

from tstar.errors import ConfigError
from tstar.stages import Align, AlignProjector, UnifiedSFT, VideoSFT
from tstar.stages.base import check_checkpoint, differences
from tstar.stages.callbacks import GracefulStop, resume_checkpoints
from tstar.stages.checkpoint_io import load_checkpoint, newest_verified


class At(Callback):
    """Does something once, right after an optimizer step of a given number."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step and self.action:
            action, self.action = self.action, None
            action(trainer)


def stop_at(step, folder):
    """A stop on request after ``step`` optimizer steps."""
    stop = GracefulStop(folder)
    return [At(step, lambda trainer: setattr(stop, "received", "SIGTERM")), stop]


def differ(first, second):
    return [name for name in first if not torch.equal(first[name], second[name])]


@pytest.mark.parametrize("stop", [5, pytest.param(6, marks=pytest.mark.slow)])  # within an epoch, and at its end
def test_muons_state_goes_on_too(stop, make_stage, train, tmp_path):
    run = {"lr": 5e-3, "optimizer": {"matrices": "muon"}}
    whole = make_stage(Align, **run)
    losses = train(whole, max_epochs=2).losses.values
    callbacks = stop_at(stop, tmp_path)
    begun = train(make_stage(Align, **run), max_epochs=2, callbacks=callbacks)
    stage = make_stage(Align, **run)
    rest = train(stage, max_epochs=2, ckpt=str(callbacks[-1].saved))
    assert begun.losses.values + rest.losses.values == losses
    assert differ(dict(whole.lmm.state_dict()), dict(stage.lmm.state_dict())) == []


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_a_run_whose_weights_are_cast_knows_its_frozen_parts_again(precision, make_stage, train, tmp_path):
    whole = make_stage(Align, lr=5e-3)
    losses = train(whole, precision=precision).losses.values
    kinds = {p.dtype for p in whole.lmm.parameters()}
    assert kinds == {torch.bfloat16 if precision == "bf16-true" else torch.float32}
    callbacks = stop_at(3, tmp_path)
    begun = train(make_stage(Align, lr=5e-3), precision=precision, callbacks=callbacks)
    stage = make_stage(Align, lr=5e-3)
    rest = train(stage, precision=precision, ckpt=str(callbacks[-1].saved))
    assert begun.losses.values + rest.losses.values == losses
    assert differ(dict(whole.lmm.state_dict()), dict(stage.lmm.state_dict())) == []
    fresh = make_stage(Align)  # as `tstar validate` has it
    saved = load_checkpoint(callbacks[-1].saved)
    fresh.check_frozen(saved["tstar"]["frozen"])
    fresh.load_state_dict(saved["state_dict"])


def test_samples_that_were_cut_are_counted_over_every_start(make_stage, train, tmp_path):
    def run(step=None, checkpoint=None):
        stage = make_stage(VideoSFT, max_length=20)
        callbacks = stop_at(step, tmp_path) if step else []
        train(stage, "image_sft", batch_size=2, limit=12, ckpt=checkpoint, callbacks=callbacks)
        return stage.cut_samples(), step and str(callbacks[-1].saved)

    (truncated, dropped), _ = run()
    assert truncated > 0
    assert dropped > 0
    first, checkpoint = run(2)
    second, checkpoint = run(5, checkpoint)
    assert first < second
    assert run(None, checkpoint)[0] == (truncated, dropped)


@pytest.fixture(scope="module")
def straight(make_stage, train):
    """Weights, losses and samples of two epochs of 6 steps without a stop."""
    stage = make_stage(Align, lr=5e-3)
    trainer = train(stage, max_epochs=2)
    assert trainer.global_step == 12
    return {n: t.clone() for n, t in stage.lmm.state_dict().items()}, trainer.losses


STOPS = [(5,), (2, 6, 9), *(pytest.param((step,), marks=pytest.mark.slow) for step in (1, 6, 7, 11))]
"""After the sixth step an epoch ends."""


@pytest.mark.parametrize("stops", STOPS, ids=str)
def test_a_run_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(stops, straight, make_stage, train, tmp_path):
    weights, losses = straight
    values, samples, rates, checkpoint = [], [], [], None
    for step in (*stops, None):
        stage = make_stage(Align, lr=5e-3, seed=len(values))  # other fresh weights: all that counts comes from the file
        stage.lmm.encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in weights.items() if "encoder" in k})
        callbacks = stop_at(step, tmp_path) if step else []
        torch.manual_seed(step or 99)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PL_GLOBAL_SEED", "0")
            trainer = train(stage, max_epochs=2, ckpt=checkpoint, callbacks=callbacks)
        values += trainer.losses.values
        samples += trainer.losses.samples
        rates += trainer.losses.rates
        checkpoint = str(callbacks[-1].saved) if step else None
        assert trainer.global_step == (step or 12)
    assert samples == losses.samples
    assert rates == losses.rates
    assert values == losses.values
    assert differ(weights, dict(stage.lmm.state_dict())) == []


def test_the_compressor_drops_out_in_these_runs(make_stage):
    stage = make_stage(Align)
    assert any(m.p > 0 for m in stage.modules() if isinstance(m, torch.nn.Dropout))


@pytest.mark.parametrize("stop", [3, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 4))])
def test_stops_with_accumulated_gradients_fall_between_optimizer_steps(stop, make_stage, train, tmp_path):
    settings = {"max_epochs": 2, "accumulate_grad_batches": 3, "batch_size": 2}  # 4 steps of 3 micro-batches an epoch
    whole = make_stage(VideoSFT, lr=2e-3)
    expected = train(whole, limit=24, **settings).losses
    first = make_stage(VideoSFT, lr=2e-3)
    callbacks = stop_at(stop, tmp_path)
    begun = train(first, limit=24, callbacks=callbacks, **settings)
    assert begun.global_step == stop
    second = make_stage(VideoSFT, lr=2e-3)
    ended = train(second, limit=24, ckpt=str(callbacks[-1].saved), **settings)
    assert begun.losses.samples + ended.losses.samples == expected.samples
    assert differ(dict(whole.lmm.state_dict()), dict(second.lmm.state_dict())) == []


def test_periodic_checkpoints_lie_at_optimizer_steps_after_a_resume_too(make_stage, train, tmp_path):
    settings = {"max_epochs": 1, "accumulate_grad_batches": 3, "batch_size": 2}
    batches = []

    class Saves(Callback):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            batches.append(trainer.fit_loop.epoch_loop.batch_idx)

    for checkpoint in (None, tmp_path / "step=2.ckpt"):
        stage = make_stage(Align)
        callbacks = [Saves(), resume_checkpoints(tmp_path, every_n_steps=2)]
        train(stage, limit=24, callbacks=callbacks, ckpt=checkpoint and str(checkpoint), **settings)
        if checkpoint is None:
            (tmp_path / "step=4.ckpt").unlink()
    assert [(batch + 1) % 3 for batch in batches] == [0] * len(batches)
    assert len(batches) == 3  # steps 2 and 4, then 4 again
    assert newest_verified(tmp_path)[0].name.startswith("step=4")


def test_two_periodic_checkpoints_are_kept(make_stage, train, tmp_path):
    train(make_stage(Align), callbacks=[resume_checkpoints(tmp_path, every_n_steps=1)])
    assert sorted(p.name for p in tmp_path.glob("*.ckpt")) == ["step=5.ckpt", "step=6.ckpt"]
    assert newest_verified(tmp_path) == (tmp_path / "step=6.ckpt", [])


@pytest.fixture(scope="module")
def aligned(make_stage, train, tmp_path_factory):
    """A checkpoint of an Align stage, and its recipe."""
    folder = tmp_path_factory.mktemp("aligned")
    stage = make_stage(Align, lr=1e-3, optimizer={"weight_decay": 0.01})
    stage.recipe = {
        "model": {"init_args": {"optimizer": {"lr": 1e-3, "weight_decay": 0.01}}},
        "data": {"batch_size": 4},
    }
    callbacks = stop_at(3, folder)
    train(stage, callbacks=callbacks)
    return stage, callbacks[-1].saved


def test_a_checkpoint_holds_what_was_trained_and_plain_data(aligned):
    stage, path = aligned
    checkpoint = torch.load(path, weights_only=True)
    wanted = {f"lmm.compressor.{n}" for n, _ in stage.lmm.compressor.named_parameters()}
    assert set(checkpoint["state_dict"]) == wanted
    own = check_checkpoint(checkpoint)
    assert (own["stage"], own["recipe"], own["frozen"]) == ("Align", stage.recipe, stage.frozen_digest)
    assert own["descriptions"]["compressor"]["name"] == "mambamia"
    assert path.stat().st_size < 4 * 4 * sum(p.numel() for p in stage.lmm.compressor.parameters()) + 100_000


def test_a_tuning_stage_keeps_the_tied_output_head_once(make_stage, train, tmp_path):
    stage = make_stage(VideoSFT)
    callbacks = stop_at(1, tmp_path)
    train(stage, callbacks=callbacks)
    names = load_checkpoint(callbacks[-1].saved)["state_dict"]
    assert [n for n in names if "embed_tokens" in n or "lm_head" in n] == [
        "lmm.language.model.model.embed_tokens.weight"
    ]
    fresh = make_stage(VideoSFT, seed=5)
    fresh.load_state_dict(names)
    assert differ(dict(stage.lmm.state_dict()), dict(fresh.lmm.state_dict())) == []


@pytest.mark.parametrize("kind", [AlignProjector, VideoSFT])
def test_another_stages_checkpoint_is_refused(kind, aligned, make_stage, train, one_line):
    with pytest.raises(ConfigError) as caught:
        train(make_stage(kind), ckpt=str(aligned[1]))
    one_line(caught.value, "Align", kind.__name__, "init_from")


def test_other_frozen_parts_are_refused(aligned, make_stage, train, one_line):
    stage = make_stage(Align)
    with torch.no_grad():
        stage.lmm.language.model.get_input_embeddings().weight[5, 5] += 1e-3
    with pytest.raises(ConfigError) as caught:
        train(stage, ckpt=str(aligned[1]))
    one_line(caught.value, "frozen parts", "language.path")


def test_another_compressor_is_refused(aligned, make_stage, train, one_line):
    with pytest.raises(ConfigError) as caught:
        train(make_stage(Align, compressor={"name": "avg_pool"}), ckpt=str(aligned[1]))
    one_line(caught.value, "another model")


def test_a_checkpoint_of_other_software_is_refused(one_line):
    for foreign in ({}, {"tstar": 3}, {"tstar": {"format": 2}}):
        with pytest.raises(ConfigError) as caught:
            check_checkpoint(foreign)
        one_line(caught.value, "not a checkpoint of tstar")


def resume(aligned, make_stage, train, **settings):
    """A stage that went on from step 3 to step 6 and its trainer."""
    optimizer = {"weight_decay": settings.pop("weight_decay", 0.01), "betas": settings.pop("betas", (0.9, 0.999))}
    stage = make_stage(Align, optimizer=optimizer, **settings)
    stage.recipe = {
        "model": {"init_args": {"optimizer": {"lr": settings["lr"], "weight_decay": optimizer["weight_decay"]}}},
        "data": {"batch_size": 4},
    }
    return stage, train(stage, ckpt=str(aligned[1]))


def test_an_unchanged_recipe_goes_on_without_a_word(aligned, make_stage, train):
    stage, _ = resume(aligned, make_stage, train, lr=1e-3)
    assert stage.notes == []


@pytest.mark.parametrize(("choice", "factor"), [("checkpoint", 1), ("config", 10)])
def test_the_switch_decides_which_learning_rate_goes_on(choice, factor, aligned, make_stage, train):
    _, same = resume(aligned, make_stage, train, lr=1e-3)
    stage, trainer = resume(aligned, make_stage, train, lr=1e-2, lr_on_resume=choice)
    assert trainer.losses.rates == pytest.approx([factor * rate for rate in same.losses.rates])
    assert len(same.losses.rates) == 3
    assert same.losses.rates[0] > 0
    (note,) = stage.notes
    assert "0.01" in note
    assert "0.001" in note
    assert ("the recipe's go on" if choice == "config" else "the checkpoint's go on") in note
    assert "lr_on_resume" in note


def test_every_other_optimizer_setting_is_the_recipes(aligned, make_stage, train):
    stage, trainer = resume(aligned, make_stage, train, lr=1e-3, weight_decay=0.5, betas=(0.8, 0.9))
    (note,) = stage.notes
    assert note == "model.init_args.optimizer.weight_decay was 0.01 and is 0.5 (the recipe wins)"
    groups = {g["name"]: g for g in trainer.optimizers[0].param_groups}
    assert {name: g["weight_decay"] for name, g in groups.items()} == {"compressor": 0.5, "compressor, no decay": 0.0}
    assert {tuple(g["betas"]) for g in groups.values()} == {(0.8, 0.9)}


def test_another_optimizer_is_refused(aligned, make_stage, train, one_line):
    with pytest.raises(ConfigError) as caught:
        train(make_stage(Align, optimizer={"matrices": "muon"}), ckpt=str(aligned[1]))
    one_line(caught.value, "model.init_args.optimizer.matrices", "muon", "start a new run")


def test_differences_name_every_setting_that_changed():
    then = {"a": {"b": 1, "c": [1, 2]}, "gone": 0}
    now = {"a": {"b": 2, "c": [1, 2]}, "new": {"x": None, "y": 3}}
    assert differences(then, now) == [
        "a.b was 1 and is 2",
        "gone was 0 and is None",
        "new was None and is {'x': None, 'y': 3}",
    ]
    assert differences(now, now) == []


def test_unbounded_training_is_refused(make_stage, train, one_line):
    with pytest.raises(ConfigError) as caught:
        train(make_stage(UnifiedSFT), max_epochs=-1)
    one_line(caught.value, "trainer.max_epochs", "trainer.max_steps")
