"""Clusterings of tokens against loops over single tokens, on random, equal and repeated tokens."""

import math

import pytest
import torch

from tstar.nn.token_clustering import cluster_means, density_peaks, in_order, kmeans, merge_tokens

METHODS = {"merge": merge_tokens, "kmeans": kmeans, "peaks": density_peaks}


def tokens(total=17, width=4, batch=3, seed=0):
    return torch.randn(batch, total, width, generator=torch.Generator().manual_seed(seed))


def sets(row):
    """Cluster numbers of a group as sets of members, by their mean position."""
    found = {}
    for token, cluster in enumerate(row):
        found.setdefault(int(cluster), []).append(token)
    return [found[number] for number in sorted(found)]


def mean(members, x):
    return sum(x[i].double() for i in members) / len(members)


def by_position(clusters):
    return sorted(clusters, key=lambda members: sum(members) / len(members))


def cosine(a, b):
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def merge_loop(x, count):
    clusters = [[i] for i in range(len(x))]
    while len(clusters) > count:
        matches = []
        for a in range(0, len(clusters), 2):
            scores = [(cosine(mean(clusters[a], x), mean(clusters[b], x)), b) for b in range(1, len(clusters), 2)]
            matches.append((*max(scores), a))
        matches.sort(reverse=True)
        gone = []
        for _, b, a in matches[: min(len(clusters) - count, len(clusters) // 2)]:
            clusters[b] = clusters[b] + clusters[a]
            gone.append(a)
        clusters = by_position([sorted(c) for i, c in enumerate(clusters) if i not in gone])
    return clusters


def kmeans_loop(x, count, iterations=10):
    centres = [x[i * len(x) // count].double() for i in range(count)]
    for _ in range(iterations + 1):
        clusters = [[] for _ in centres]
        for i, token in enumerate(x.double()):
            clusters[min(range(count), key=lambda k: float((token - centres[k]).norm()))].append(i)
        assert all(clusters)  # the loop does not know what to do otherwise
        centres = [mean(members, x) for members in clusters]
    return by_position(clusters)


def peaks_loop(x, count, neighbours=5):
    x = x.double()
    d = [[float((a - b).norm()) for b in x] for a in x]
    largest = max(map(max, d))
    density = []
    for row in d:
        near = sorted(row)[1 : neighbours + 1]
        density.append(math.exp(-sum((v / largest) ** 2 for v in near) / len(near)))
    score = []
    for i, row in enumerate(d):
        denser = [row[j] for j in range(len(x)) if density[j] > density[i]]
        score.append(density[i] * (min(denser) if denser else max(row)) / largest)
    centres = sorted(sorted(range(len(x)), key=lambda i: -score[i])[:count])
    clusters = {c: [] for c in centres}
    for i, row in enumerate(d):
        clusters[i if i in centres else min(centres, key=lambda c: row[c])].append(i)
    return by_position(clusters.values())


@pytest.mark.parametrize("count", [1, 2, 5, 9, 16, 17])
@pytest.mark.parametrize(
    ("method", "loop"), [(merge_tokens, merge_loop), (kmeans, kmeans_loop), (density_peaks, peaks_loop)]
)
def test_it_is_the_loop(method, loop, count):
    x = tokens()
    for group, found in zip(x, method(x, count), strict=True):
        assert sets(found) == loop(group, count)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 3, 8, 12])
@pytest.mark.parametrize("kind", ["equal", "pairs", "zeros"])
def test_equal_tokens_fill_the_budget_too(method, count, kind):
    x = {"equal": torch.ones(2, 12, 4), "pairs": tokens(6).repeat_interleave(2, 1), "zeros": torch.zeros(1, 12, 4)}[
        kind
    ]
    clusters = METHODS[method](x, count)
    assert all(set(row.tolist()) == set(range(count)) for row in clusters)


@pytest.mark.parametrize("method", METHODS)
def test_a_still_shot_is_clustered_alike_alone_and_in_a_batch(method):
    still = tokens(36, batch=1).repeat(1, 3, 1)  # three equal frames: every token has two at distance 0
    alone = METHODS[method](still, 6)
    together = METHODS[method](torch.cat([tokens(108, batch=2, seed=3), still, tokens(108, batch=5, seed=4)]), 6)
    assert torch.equal(together[2], alone[0])
    assert set(alone[0].tolist()) == set(range(6))


def test_sums_of_half_precision_tokens_do_not_overflow():
    x = torch.full((1, 300, 2), 300.0, dtype=torch.float16)
    means = cluster_means(x, torch.zeros(1, 300, dtype=torch.long), 1)
    assert means.dtype == torch.float16
    assert (means == 300).all()


@pytest.mark.parametrize("method", ["kmeans", "peaks"])
def test_tight_bunches_are_found(method):
    centres = 10 * torch.eye(4)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1)) % 4
    x = centres[order][None] + 0.01 * tokens(24, batch=1)
    clusters = METHODS[method](x, 4)[0]
    assert [len({int(order[i]) for i in members}) for members in sets(clusters)] == [1] * 4


def test_means_are_means_and_pass_gradients():
    x, clusters = tokens(6, batch=2).requires_grad_(), torch.tensor([[0, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 0]])
    means = cluster_means(x, clusters, 2)
    torch.testing.assert_close(means[0, 0], x[0, [0, 2, 5]].mean(0))
    torch.testing.assert_close(means[1, 0], x[1, 5])
    (slope,) = torch.autograd.grad(means[1].sum(), x)
    torch.testing.assert_close(slope[1, 0], torch.full((4,), 0.2))


def test_clusters_are_numbered_by_their_mean_position():
    assert in_order(torch.tensor([[7, 2, 2, 9, 7, 9]])).tolist() == [[1, 0, 0, 2, 1, 2]]
