"""The block over frames from its parts, and the rules that choose frames by their steps."""

import pytest
import torch
import torch.nn.functional as F

from tstar.nn.time_axis import TimeAxisAggregator, calibrate_threshold, frames_over_threshold, frames_within_budget


def test_the_block_is_a_residual_round_a_causal_mixer_of_whole_frames():
    torch.manual_seed(0)
    block = TimeAxisAggregator(12, 3, 8, d_state=4, head_dim=16)
    x = torch.randn(5, 3, 12)
    mixed, steps = block(x)
    flat = torch.stack([torch.cat([block.reduce(q) for q in frame]) for frame in x])  # [M, Q * E]
    normed = flat / (flat.square().mean(-1, keepdim=True) + 1e-5).sqrt() * block.norm.weight
    y = block.mixer(normed[None])[0]
    expected = torch.stack(
        [torch.stack([q + block.expand(y[m, 8 * i : 8 * i + 8]) for i, q in enumerate(x[m])]) for m in range(5)]
    )
    torch.testing.assert_close(mixed, expected)
    dt = (normed @ block.mixer.in_proj.weight.T)[:, -block.mixer.num_heads :]
    torch.testing.assert_close(steps, F.softplus(dt + block.mixer.dt_bias).mean(-1))
    assert not steps.requires_grad
    later = x.clone()
    later[3] += 1
    assert torch.equal((block(later)[0] - mixed).abs().amax((1, 2)) > 0, torch.tensor([False] * 3 + [True] * 2))


def test_a_published_block_has_its_size():
    for queries, width, size in ((10, 64, 2.64e6), (24, 32, 3.76e6)):
        with torch.device("meta"):
            block = TimeAxisAggregator(768, queries, width)
        assert sum(p.numel() for p in block.mixer.parameters()) == pytest.approx(size, rel=2e-3)


@pytest.mark.parametrize(
    ("steps", "threshold", "frames"),
    [
        ([0.3, 0.3, 0.3, 0.3, 0.3], 0.6, [1, 3]),
        ([0.7, 0.1, 0.1, 0.5, 0.2], 0.6, [0, 3]),
        ([0.1, 0.4, 0.2], 5.0, [1]),  # none: the largest step
        ([1.0, 1.0, 1.0], 0.5, [0, 1, 2]),
    ],
)
def test_steps_add_up_to_the_threshold_and_begin_again(steps, threshold, frames):
    assert frames_over_threshold(torch.tensor(steps), threshold) == frames


@pytest.mark.parametrize("seed", range(20))
def test_a_budget_is_kept_exactly_whatever_the_steps(seed):
    generator = torch.Generator().manual_seed(seed)
    total = int(torch.randint(1, 40, (), generator=generator))
    steps = torch.rand(total, generator=generator) ** 8  # a few are far larger
    for count in range(1, total + 1):
        frames = frames_within_budget(steps, count)
        assert len(set(frames)) == count
        assert frames == sorted(frames)
        assert 0 <= frames[0] <= frames[-1] < total


def test_equal_steps_give_even_distances_and_busy_stretches_more():
    assert frames_within_budget(torch.ones(9), 3) == [1, 4, 7]
    frames = frames_within_budget(torch.tensor([0.1] * 10 + [1.0] * 10), 6)
    assert sum(frame >= 10 for frame in frames) >= 5


def test_the_threshold_keeps_the_wanted_share():
    generator = torch.Generator().manual_seed(0)
    clips = [torch.rand(m, generator=generator) for m in (60, 3, 200, 1)]
    for rate in (0.9, 0.5, 0.2):
        threshold = calibrate_threshold(clips, rate)
        kept = sum(len(frames_over_threshold(clip, threshold)) for clip in clips) / 264
        assert rate <= kept < rate + 0.03
    with pytest.raises(ValueError, match="a rate in"):
        calibrate_threshold(clips, 0.0)
    with pytest.raises(ValueError, match="got 0 frames"):
        calibrate_threshold([], 0.5)
