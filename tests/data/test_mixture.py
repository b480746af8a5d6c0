"""Mixtures of sets: what an epoch takes of each, evenly over epochs, and exactly again after a stop."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from tstar.data.plan import Mixture, epoch_order


@pytest.mark.parametrize(
    ("sizes", "takes"), [((10, 7), (5, 7)), ((10, 7), (25, 3)), ((3,), (10,)), ((4, 4, 1), (4, 1, 9))]
)
def test_every_epoch_takes_so_many_of_each_set_and_no_sample_is_ever_two_ahead(sizes, takes):
    mixture = Mixture(sizes, takes)
    bounds = np.cumsum([0, *sizes])
    seen = Counter()
    for epoch in range(25):
        drawn = mixture.draw(3, epoch)
        of_set = np.searchsorted(bounds, drawn, side="right") - 1
        assert [int((of_set == k).sum()) for k in range(len(sizes))] == list(takes)
        seen.update(drawn.tolist())
        for first, last in pairwise(bounds):
            counts = [seen[n] for n in range(first, last)]
            assert max(counts) - min(counts) <= 1


def test_a_draw_follows_from_seed_and_epoch_alone():
    mixture = Mixture((50, 20), (30, 30))
    once = [mixture.draw(1, epoch).tolist() for epoch in range(4)]
    assert [mixture.draw(1, epoch).tolist() for epoch in (3, 1)] == [once[3], once[1]]
    assert once[0] != once[1]
    assert mixture.draw(2, 0).tolist() != once[0]


def test_the_order_holds_the_draw_cut_to_whole_batches():
    mixture = Mixture((50, 20), (30, 31))
    order = epoch_order(mixture, 8, seed=4, epoch=2)
    assert len(order) == 56
    assert not Counter(order.tolist()) - Counter(mixture.draw(4, 2).tolist())
    groups = np.repeat([0, 1], [50, 20])
    for batch in epoch_order(mixture, 8, seed=4, epoch=2, groups=groups)[:48].reshape(-1, 8)[:3]:
        assert len(set(groups[batch])) <= 2
