"""Slices instead of whole parameters: the same losses and weights as DDP, and checkpoints that either goes on from."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy

from tstar.errors import ConfigError
from tstar.stages import Align
from tstar.stages.checkpoint_io import load_checkpoint

SHARDS = ("image_sft", "video_sft")
"""What plans are of."""
SHARDED = {"strategy": "fully_sharded"}
RUN = {"shards": "image_sft", "batch": 3, "save_every": 2, "compressor": {"name": "mambamia", "preset": "tiny"}}
"""4 steps, with dropout: what is drawn depends on step and process, not on the strategy."""


def same(first, second, atol=0.0):
    assert first.weights.keys() == second.weights.keys()
    for name, tensor in second.weights.items():
        torch.testing.assert_close(first.weights[name], tensor, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def sharded(train_on):
    """Trained in two slices without a stop."""
    return train_on(2, **SHARDED, **RUN)


@pytest.fixture(scope="module")
def whole(train_on):
    """The same in two processes with whole parameters."""
    return train_on(2, **RUN)


def test_losses_and_weights_are_those_of_ddp_and_a_process_holds_half(sharded, whole):
    assert len(sharded.steps["losses"]) == 4
    assert sharded.steps["losses"] == pytest.approx(whole.steps["losses"], rel=1e-5)  # 2e-7 was measured
    same(sharded, whole, atol=2e-5)
    learnt = sum(t.numel() for t in whole.weights.values())
    frozen = whole.steps["local"] - learnt
    assert frozen + 0.49 * learnt < sharded.steps["local"] < frozen + 0.52 * learnt


def test_a_checkpoint_is_the_file_that_ddp_writes(sharded, whole):
    files = [load_checkpoint(run.folder / "last.ckpt") for run in (sharded, whole)]
    ours, theirs = ({n: (t.shape, t.dtype, type(t)) for n, t in file["state_dict"].items()} for file in files)
    assert ours == theirs
    ours, theirs = (file["optimizer_states"][0] for file in files)
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for number, state in theirs["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(ours["state"][number][name], value, atol=1e-5, rtol=1e-3)
    assert files[0]["tstar"] == files[1]["tstar"]


def test_a_run_goes_on_bit_for_bit(sharded, train_on, tmp_path):
    rest = train_on(2, ckpt=str(sharded.folder / "checkpoints" / "step=2.ckpt"), folder=tmp_path, **SHARDED, **RUN)
    assert rest.steps["losses"] == sharded.steps["losses"][2:]
    same(rest, sharded)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["to slices", "from slices"])
def test_a_run_goes_on_under_the_other_strategy(direction, sharded, whole, train_on):
    first, strategy = (whole, SHARDED) if direction == "to slices" else (sharded, {})
    rest = train_on(2, ckpt=str(first.folder / "checkpoints" / "step=2.ckpt"), **strategy, **RUN)
    assert rest.steps["losses"] == pytest.approx(first.steps["losses"][2:], rel=1e-5)
    same(rest, first, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "Align"},
        {"kind": "Align", "features": True},
        {"kind": "Align", "language": {"gradient_checkpointing": True}},
        {"accumulate_grad_batches": 2},
        {"sharding": {"reshard_after_forward": False}},
        {
            "language": {"gradient_checkpointing": True},
            "compressor": {"name": "mambamia", "preset": "tiny", "dropout": 0.0, "gradient_checkpointing": True},
        },
    ],
    ids=str,
)
def test_processes_gather_alike_whatever_their_batches_hold(settings, train_on, plan):
    made = plan(6)
    assert any(isinstance(name, str) for step in made for name in step[1])
    sharding = settings.pop("sharding", {})
    one = train_on(1, shards=SHARDS, plan=made, **settings)
    two = train_on(2, shards=SHARDS, plan=made, **SHARDED, sharding=sharding, **settings)
    assert two.steps["tokens"] == one.steps["tokens"]
    assert two.steps["losses"] == pytest.approx(one.steps["losses"], rel=1e-4)


@pytest.mark.slow
def test_in_half_precision_a_step_that_overflows_in_one_slice_is_left_out_in_all(train_on, whole):
    half = {
        "init_scale": 2.0**30,
        "backoff_factor": 2.0**-20,
    }  # the first step's gradients overflow, later ones' do not
    ours, theirs = (train_on(2, half=half, **strategy, **RUN) for strategy in (SHARDED, {}))
    assert ours.steps["losses"] == pytest.approx(theirs.steps["losses"], rel=1e-4)  # 3e-5 was measured
    assert ours.steps["losses"][0] == pytest.approx(whole.steps["losses"][0], rel=1e-3)
    states = [load_checkpoint(run.folder / "last.ckpt") for run in (ours, theirs)]
    assert states[0]["MixedPrecision"] == states[1]["MixedPrecision"]
    assert states[0]["MixedPrecision"]["scale"] == 2.0**10
    for ours_, theirs_ in zip(*(s["optimizer_states"][0]["state"].values() for s in states), strict=True):
        assert ours_["step"] == theirs_["step"] == 3  # of 4
    same(ours, theirs, atol=2e-3)


@pytest.mark.slow
def test_one_process_answers_in_the_middle_of_a_training_in_slices(train_on, plan):
    one, two = (train_on(devices, plan=plan(3), shards=SHARDS, answers_after=2, **SHARDED) for devices in (1, 2))
    assert one.steps["answers"]
    assert two.steps["answers"] == one.steps["answers"]
    assert two.steps["losses"] == pytest.approx(one.steps["losses"], rel=1e-4)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fully_sharded", marks=pytest.mark.slow)])
def test_a_signal_to_one_process_ends_all_after_the_same_step(strategy, train_on, plan):
    stopped = train_on(2, plan=plan(4), shards=SHARDS, signal_to=(1, 1), strategy=strategy)
    assert (stopped.steps["step"], stopped.steps["received"]) == (2, 15)
    assert load_checkpoint(stopped.folder / "step=2.ckpt")["global_step"] == 2


@pytest.mark.slow
def test_muon_is_refused(train_on, plan):
    for log in train_on(2, plan=plan(1), shards=SHARDS, optimizer={"matrices": "muon"}, fails=True, **SHARDED):
        assert "ConfigError: model.init_args.optimizer.matrices: muon needs whole matrices" in log


def test_muon_is_refused_beside_deepspeed_too(make_stage, one_line, monkeypatch):
    monkeypatch.setattr(DeepSpeedStrategy, "__init__", lambda self: None)  # the package is not needed for this
    stage = make_stage(Align, optimizer={"matrices": "muon"})
    stage.trainer = SimpleNamespace(strategy=DeepSpeedStrategy())
    with pytest.raises(ConfigError) as caught:
        stage.configure_model()
    one_line(caught.value, "model.init_args.optimizer.matrices", "muon", "DeepSpeedStrategy", "set it to adam")


def test_lightnings_own_strategy_is_refused(make_stage, one_line):
    stage = make_stage(Align)
    stage.trainer = Trainer(accelerator="cpu", devices=1, strategy=ModelParallelStrategy(), logger=False)
    with pytest.raises(ConfigError) as caught:
        stage.configure_model()
    one_line(caught.value, "trainer.strategy", "ModelParallelStrategy", "tstar.stages.FullySharded")
