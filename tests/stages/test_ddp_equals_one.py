"""Two processes train as one with all their samples does: in losses, in weights, and whatever either's batches hold."""

import pytest
import torch

from tstar.language.hf_causal_lm import LossSum
from tstar.stages.checkpoint_io import load_checkpoint
from tstar.stages.step_loss import HeldOutLoss, StepLoss

SHARDS = ("image_sft", "video_sft")
"""What plans are of."""
TOLERANCE = 1e-5
"""Of losses, relative; 3e-7 was measured over 20 steps. A mean over processes of their own means is 1 % off or more."""


def close(first, second, rel=TOLERANCE):
    """The same logged losses and numbers of tokens, and the same weights."""
    assert first.steps["tokens"] == second.steps["tokens"]
    assert first.steps["losses"] == pytest.approx(second.steps["losses"], rel=rel)
    for (
        name,
        tensor,
    ) in second.weights.items():  # Adam moves a weight by 1e-3 a step, also where its gradient is but rounding
        torch.testing.assert_close(first.weights[name], tensor, atol=2e-4, rtol=0)


def test_two_processes_have_the_losses_of_one_with_twice_the_batch_over_20_steps(train_on, plan):
    one, two = (train_on(devices, shards=SHARDS, plan=plan(20, each=1)) for devices in (1, 2))
    assert len(one.steps["losses"]) == 20
    assert (
        min(one.steps["tokens"]) < max(one.steps["tokens"]) / 2
    )  # the second process has nothing to learn in some steps
    close(two, one)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fully_sharded", marks=pytest.mark.slow)])
def test_samples_that_were_cut_are_counted_in_all_processes(strategy, train_on, plan):
    settings = {"shards": SHARDS, "plan": plan(4, ("", "t")), "max_length": 8, "kind": "Align", "save_every": 2}
    one = train_on(1, **settings)
    two = train_on(2, strategy=strategy, **settings)
    truncated, dropped = one.steps["cut"]
    assert 0 < dropped < truncated
    assert two.steps["cut"] == [truncated, dropped]
    assert load_checkpoint(two.folder / "last.ckpt")["tstar"]["cut_samples"] == [truncated, dropped]


def test_a_frozen_language_model_hands_back_gradients_in_both_whatever_they_hold(train_on, plan):
    settings = {
        "plan": plan(4, kinds=("t", "", "u"), each=1),
        "features": True,
        "language": {"loss_reduction": "square"},
    }
    one, two = (train_on(devices, shards=SHARDS, kind="Align", **settings) for devices in (1, 2))
    close(two, one)


def test_micro_batches_weigh_as_one_batch_too(train_on, plan):
    parts, settings = plan(4, each=1), {"shards": SHARDS, "language": {"loss_reduction": "answer"}}
    joined = [[a + c, b + d] for (a, b), (c, d) in zip(parts[::2], parts[1::2], strict=True)]
    one = train_on(1, plan=joined, **settings)
    close(train_on(2, plan=parts, accumulate_grad_batches=2, **settings), one)


def sums(*losses):
    """A micro-batch of token losses, each of weight 1."""
    total = torch.stack(losses).sum() if losses else torch.zeros((), requires_grad=True) * 1.0
    return LossSum(total, torch.tensor(float(len(losses))), len(losses))


def test_one_process_has_the_mean_bit_for_bit():
    x = torch.randn(7, requires_grad=True)
    loss, mean, tokens = StepLoss().share(sums(*x.square()), 1, accumulated=False)
    assert torch.equal(loss, x.square().unbind()[0].new_tensor([v.item() for v in x.square()]).sum() / 7)
    assert torch.equal(mean, loss.detach())
    assert tokens == 7
    assert not mean.requires_grad


@pytest.mark.parametrize("sizes", [(3, 1), (0, 4), (2, 0, 5), (0, 0), (1,)], ids=str)
def test_gradients_of_a_window_are_those_of_the_mean_over_all_its_tokens(sizes):
    parameter = torch.nn.Parameter(torch.randn(sum(sizes) + 1))
    step = StepLoss()
    for _ in range(2):  # nothing is left over from the window before
        parameter.grad = None
        pieces = list(parameter[: sum(sizes)].square().split(sizes))
        for k, piece in enumerate(pieces):
            loss, mean, tokens = step.share(sums(*piece), 1, accumulated=True)
            (loss / len(sizes)).backward(retain_graph=True)
            done = torch.cat(pieces[: k + 1]).detach()
            torch.testing.assert_close(mean, done.mean() if len(done) else torch.tensor(0.0))
            assert tokens == len(done)
        step.finish([parameter, torch.nn.Parameter(torch.zeros(2))], len(sizes))
        if sum(sizes):
            (expected,) = torch.autograd.grad(parameter[: sum(sizes)].square().mean(), parameter)
            torch.testing.assert_close(parameter.grad, expected)
        elif parameter.grad is not None:
            assert not parameter.grad.any()
        step.finish([parameter], len(sizes))  # no window is open: nothing happens


@pytest.mark.parametrize("batches", [[(0, 1, 2, 3)], [(0,), (1, 2), (3,)], [(3, 0), (2, 1)]], ids=str)
def test_the_held_out_loss_is_one_mean_over_all_batches_and_processes(batches, monkeypatch):
    answers = [torch.tensor(losses) for losses in ([2.0, 4.0, 9.0], [1.0], [3.0, 5.0], [7.0] * 6)]
    powers = {0: 1 / 3, 1: 1.0, 2: 1 / 2, 3: 1 / 6}  # each answer weighs 1

    def taken_in():
        held_out = HeldOutLoss()
        for batch in batches:
            total = torch.stack([powers[n] * answers[n].sum() for n in batch]).sum().requires_grad_()
            held_out.add(LossSum(total, torch.tensor(float(len(batch))), sum(len(answers[n]) for n in batch)))
        return held_out

    held_out = taken_in()
    assert float(held_out.mean(1)) == pytest.approx((5 + 1 + 4 + 7) / 4)
    assert held_out.mean(1) is None  # forgotten
    monkeypatch.setattr("torch.distributed.all_reduce", lambda sums: sums.add_(torch.tensor([13.0, 1.0, 2.0])))
    assert float(taken_in().mean(2)) == pytest.approx(
        (17 + 13) / 5
    )  # the other process has one answer with a loss of 13
    nothing = HeldOutLoss()
    nothing.add(LossSum(torch.zeros(()), torch.zeros(()), 0))
    assert nothing.mean(1) is None
