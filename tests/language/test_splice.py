"""Visual tokens between text, against a loop that walks position by position."""

import pytest
import torch

from tstar.language import splice

IGNORE, VISUAL, D = -100, -200, 5
TABLE = torch.randn(50, D, generator=torch.Generator().manual_seed(1))
SAMPLES = [  # ids, number of visual tokens
    ([3, VISUAL, 7, 8], 4),
    ([VISUAL, 9], 1),
    ([4, 5, 6], 0),
    ([10, 11, VISUAL], 3),
    ([VISUAL], 2),
]


def embed(ids):
    return TABLE[ids]


def samples():
    ids = [torch.tensor(i) for i, _ in SAMPLES]
    visual = [torch.randn(count, D) for _, count in SAMPLES]
    labels = [torch.where(i == VISUAL, IGNORE, i) for i in ids]
    return ids, visual, labels


def walked(ids, visual, labels, max_length=None):
    """One sample's vectors and labels, a position at a time."""
    vectors, targets = [], []
    for token, label in zip(ids.tolist(), labels.tolist(), strict=True):
        if token == VISUAL:
            vectors += list(visual)
            targets += [IGNORE] * len(visual)
        else:
            vectors.append(TABLE[token])
            targets.append(label)
    return vectors[:max_length], targets[:max_length]


@pytest.mark.parametrize("pad", ["left", "right"])
@pytest.mark.parametrize("max_length", [None, 1, 3, 100])
def test_every_position_is_what_a_walk_finds(pad, max_length):
    ids, visual, labels = samples()
    batch = splice(embed, ids, visual, labels, max_length=max_length, pad=pad)
    rows = [walked(*sample, max_length) for sample in zip(ids, visual, labels, strict=True)]
    learnt = [row for row in rows if any(target != IGNORE for target in row[1][1:])]
    cut = sum(len(walked(*sample)[0]) > (max_length or 100) for sample in zip(ids, visual, labels, strict=True))
    assert batch.cut == cut
    assert batch.dropped == (len(rows) - len(learnt) if cut else 0)
    rows = (learnt or rows[:1]) if cut else rows
    longest = max(len(vectors) for vectors, _ in rows)
    assert batch.embeds.shape == (len(rows), longest, D)
    for number, (vectors, targets) in enumerate(rows):
        gap = longest - len(vectors)
        start = gap if pad == "left" else 0
        for position in range(longest):
            at = position - start
            if 0 <= at < len(vectors):
                assert torch.equal(batch.embeds[number, position], vectors[at])
                assert batch.labels[number, position] == targets[at]
                assert batch.mask[number, position] == 1
            else:
                assert not batch.embeds[number, position].any()
                assert batch.labels[number, position] == IGNORE
                assert batch.mask[number, position] == 0


def test_without_labels_nothing_is_supervised():
    ids, visual, _ = samples()
    assert (splice(embed, ids, visual).labels == IGNORE).all()


def test_gradients_reach_visual_tokens_that_were_not_cut_off():
    visual = torch.randn(6, D, requires_grad=True)
    splice(embed, [torch.tensor([1, VISUAL, 2])], [visual], max_length=4).embeds.sum().backward()
    assert visual.grad.any(dim=1).tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize(
    ("ids", "count"),
    [([1, VISUAL, VISUAL], 2), ([1, 2], 2), ([1, VISUAL], 0)],
    ids=["two places", "no place", "no tokens"],
)
def test_places_and_tokens_must_match(ids, count):
    good = torch.tensor([5, 6])
    with pytest.raises(ValueError, match=f"sample 1 has {ids.count(VISUAL)} visual places and {count} visual tokens"):
        splice(embed, [good, torch.tensor(ids)], [torch.zeros(0, D), torch.zeros(count, D)])


def test_the_number_of_samples_must_match():
    with pytest.raises(ValueError):
        splice(embed, [torch.tensor([5])], [])
