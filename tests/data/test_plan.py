"""The order of training: a function of (seed, epoch) alone, the same however a global batch is cut."""

import numpy as np
import pytest

from tstar.data.plan import Layout, epoch_order, rank_batches
from tstar.errors import ConfigError

SAMPLES, GLOBAL = 1000, 24
LAYOUTS = [
    Layout(micro=GLOBAL // (world * accumulate), world=world, accumulate=accumulate)
    for world in (1, 2, 3, 4, 6, 8, 12, 24)
    for accumulate in (1, 2, 3, 4, 6, 8, 12, 24)
    if GLOBAL % (world * accumulate) == 0
]


def global_batches(order, layout, position=0):
    """What all processes together train in each optimizer step, put together from what each is handed."""
    ranks = [list(rank_batches(order, layout, rank, position)) for rank in range(layout.world)]
    assert len({len(r) for r in ranks}) == 1
    assert all(len(batch) == layout.micro for r in ranks for batch in r)
    steps = []
    for start in range(0, len(ranks[0]), layout.accumulate):
        window = range(start, start + layout.accumulate)
        steps.append(sorted(n for micro in window for r in ranks for n in r[micro]))
    return steps


def test_there_are_enough_layouts():
    assert len(LAYOUTS) >= 24
    assert {layout.global_batch for layout in LAYOUTS} == {GLOBAL}


def test_the_order_depends_on_seed_and_epoch_and_nothing_else():
    np.random.seed(1)
    first = epoch_order(SAMPLES, GLOBAL, seed=7, epoch=2)
    np.random.seed(2)
    np.testing.assert_array_equal(first, epoch_order(SAMPLES, GLOBAL, seed=7, epoch=2))
    others = [epoch_order(SAMPLES, GLOBAL, seed, epoch) for seed, epoch in ((7, 0), (7, 1), (8, 2), (2, 7))]
    assert not any((first == other).all() for other in others)


def test_a_published_order_stays_what_it_is():
    """A change here would make every existing checkpoint resume with other samples."""
    assert epoch_order(10, 3, seed=0, epoch=0).tolist() == np.random.default_rng([0, 0]).permutation(10)[:9].tolist()
    assert (
        epoch_order(10, 3, seed=0, epoch=1)[:4].tolist() == np.random.default_rng([0, 1]).permutation(10)[:4].tolist()
    )


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: f"{x.micro}x{x.world}x{x.accumulate}")
def test_every_layout_trains_the_same_global_batches(layout):
    order = epoch_order(SAMPLES, GLOBAL, seed=3, epoch=1)
    expected = [sorted(order[i : i + GLOBAL].tolist()) for i in range(0, SAMPLES // GLOBAL * GLOBAL, GLOBAL)]
    assert global_batches(order, layout) == expected
    trained = [n for step in expected for n in step]
    assert len(trained) == len(set(trained)) == SAMPLES // GLOBAL * GLOBAL
    assert set(trained) <= set(range(SAMPLES))


def test_a_micro_batch_too_is_the_same_for_any_number_of_processes():
    order = epoch_order(SAMPLES, GLOBAL, seed=3, epoch=1)
    one = list(rank_batches(order, Layout(micro=6, accumulate=4), 0))
    three = [list(rank_batches(order, Layout(micro=2, world=3, accumulate=4), rank)) for rank in range(3)]
    assert one == [a + b + c for a, b, c in zip(*three, strict=True)]


@pytest.mark.parametrize("chain", range(40))
def test_chains_of_layout_changes_inside_an_epoch_lose_and_double_nothing(chain):
    rng = np.random.default_rng(chain)
    groups = rng.integers(0, 3, SAMPLES) if chain % 2 else None
    order = epoch_order(SAMPLES, GLOBAL, seed=chain, epoch=chain % 3, groups=groups)
    whole = global_batches(order, LAYOUTS[0])
    done: list[list[int]] = []
    while len(done) < len(whole):
        layout = LAYOUTS[rng.integers(len(LAYOUTS))]
        stretch = global_batches(order, layout, position=len(done) * GLOBAL)
        done += stretch[: rng.integers(1, 12)]
    assert done == whole


@pytest.mark.parametrize("sizes", [(400, 350, 250), (1000,), (30, 970), (5, 100), (23, 23, 23)])
def test_global_batches_hold_one_group_as_far_as_the_numbers_allow(sizes):
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    order = epoch_order(len(groups), GLOBAL, seed=1, epoch=0, groups=groups)
    assert len(order) == len(groups) // GLOBAL * GLOBAL
    assert len(set(order.tolist())) == len(order)
    batches = order.reshape(-1, GLOBAL)
    pure = [int(groups[b[0]]) for b in batches if len(set(groups[b])) == 1]
    assert all(pure.count(g) >= size // GLOBAL for g, size in enumerate(sizes))
    if len(sizes) == 3 and sizes[0] == 400:
        assert pure != sorted(pure)  # kinds alternate
        again = epoch_order(len(groups), GLOBAL, seed=1, epoch=1, groups=groups)
        assert set(map(frozenset, batches.tolist())) != set(map(frozenset, again.reshape(-1, GLOBAL).tolist()))


@pytest.mark.parametrize("kinds", [1, 3])
def test_samples_of_like_length_share_a_global_batch_and_no_sample_is_lost(kinds):
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 500, SAMPLES)
    groups = rng.integers(0, kinds, SAMPLES)
    plain = epoch_order(SAMPLES, GLOBAL, seed=1, epoch=2, groups=groups)
    order = epoch_order(SAMPLES, GLOBAL, seed=1, epoch=2, groups=groups, lengths=lengths)
    assert len(order) == len(set(order.tolist())) == SAMPLES // GLOBAL * GLOBAL
    waste = [
        (lengths[o].reshape(-1, GLOBAL).max(1) / lengths[o].reshape(-1, GLOBAL).mean(1)).mean() for o in (plain, order)
    ]
    assert waste[0] > 1.6
    assert waste[1] < 1.2
    batches = order.reshape(-1, GLOBAL)
    means = lengths[batches].mean(1)
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5  # short ones do not come first
    pure = sum(len(set(groups[b])) == 1 for b in batches)
    assert pure >= sum(int((groups == g).sum()) // GLOBAL for g in range(kinds))
    again = epoch_order(SAMPLES, GLOBAL, seed=1, epoch=3, groups=groups, lengths=lengths).reshape(-1, GLOBAL)
    assert len({frozenset(b) for b in batches.tolist()} & {frozenset(b) for b in again.tolist()}) == 0


def test_among_samples_of_like_length_those_of_like_numbers_of_frames_share_a_global_batch():
    rng = np.random.default_rng(0)
    lengths, frames = rng.integers(20, 200, 4000), rng.integers(10, 40, 4000)
    by_length = epoch_order(4000, 8, seed=1, epoch=0, lengths=lengths).reshape(-1, 8)
    by_both = epoch_order(4000, 8, seed=1, epoch=0, lengths=lengths, frames=frames).reshape(-1, 8)
    assert len(set(by_both.flat)) == 4000
    different = [np.mean([len(set(frames[batch])) for batch in order]) for order in (by_length, by_both)]
    assert different[1] < 0.8 * different[0]
    spread = [(lengths[order].max(1) / lengths[order].mean(1)).mean() for order in (by_length, by_both)]
    assert spread[1] < 1.15 * spread[0]
    alike = epoch_order(4000, 8, seed=1, epoch=0, lengths=lengths, frames=np.ones_like(frames))
    np.testing.assert_array_equal(alike.reshape(-1, 8), by_length)


def test_every_sample_is_trained_over_enough_epochs():
    seen = {n for epoch in range(30) for n in epoch_order(100, 64, seed=0, epoch=epoch).tolist()}
    assert seen == set(range(100))


def test_a_global_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match=r"global batch of 24 .* larger than the 23 samples; lower data\.batch_size"):
        epoch_order(23, GLOBAL, seed=0, epoch=0)
    assert len(epoch_order(24, GLOBAL, seed=0, epoch=0)) == 24
