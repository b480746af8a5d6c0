"""Tokens brought down to a given number without any weights: merged pairwise, by k-means, or round density peaks.

Each function says which cluster a token belongs to; a cluster's token is the mean of its members. Clusters are numbered by
the mean position of their members, so that order survives. All is computed in float64, so that the rest of a batch, which
changes how a product rounds, does not decide a tie; nothing is drawn at random.

Letters: B groups of tokens, K tokens of a group, n clusters, C width.
"""

import torch
from torch import Tensor


def cluster_means(tokens: Tensor, clusters: Tensor, count: int) -> Tensor:
    """Mean of each cluster's members, summed in fp32 or wider: tokens [B, K, C] and cluster numbers [B, K] to [B, n, C]."""
    wide = torch.promote_types(tokens.dtype, torch.float32)
    members = torch.nn.functional.one_hot(clusters, count).mT.to(wide)  # [B, n, K]
    return (members @ tokens.to(wide) / members.sum(-1, keepdim=True)).to(tokens.dtype)


@torch.no_grad()
def merge_tokens(tokens: Tensor, count: int) -> Tensor:
    """Token merging (arXiv:2210.09461, section 3): the likest neighbours of two alternating halves become one, again and again.

    Every round takes the clusters in their order, each second one on one side, matches each of the other side with the likest
    (cosine of the means), and merges as many of the best matches as are wanted, half of the clusters at most.

    Args:
        tokens: [B, K, C].
        count: n, from 1 to K.

    Returns:
        Cluster numbers, [B, K], every one of 0 to n - 1 in use.
    """
    x = tokens.double()
    batch, total, _ = x.shape
    clusters = torch.arange(total, device=x.device).expand(batch, total)
    left = total
    while left > count:
        means = torch.nn.functional.normalize(cluster_means(x, clusters, left), dim=-1)
        score, partner = (means[:, ::2] @ means[:, 1::2].mT).float().max(-1)  # [B, ceil(left / 2)]; ties are ties again
        merged = min(left - count, left // 2)
        chosen = score.argsort(dim=-1, descending=True, stable=True)[:, :merged]
        into = torch.arange(left, device=x.device).repeat(batch, 1)
        into.scatter_(1, 2 * chosen, 2 * partner.gather(1, chosen) + 1)
        left -= merged
        clusters = in_order(into.gather(1, clusters))
    return in_order(clusters)


@torch.no_grad()
def kmeans(tokens: Tensor, count: int, iterations: int = 10) -> Tensor:
    """Lloyd's k-means from evenly spaced tokens.

    A cluster that would lose its last member keeps the token nearest to its centre. Arguments and result as in
    :func:`merge_tokens`.
    """
    x = tokens.double()
    total = x.shape[1]
    start = torch.arange(count, device=x.device) * total // count
    centres = x[:, start]
    clusters = _nearest(x, centres)
    for _ in range(iterations):
        centres = cluster_means(x, clusters, count)
        before, clusters = clusters, _nearest(x, centres)
        if torch.equal(before, clusters):
            break
    return in_order(clusters)


@torch.no_grad()
def density_peaks(tokens: Tensor, count: int, neighbours: int = 5) -> Tensor:
    """Density-peak clustering over nearest neighbours (Rodriguez & Laio 2014; Du et al. 2016).

    A token is dense if its neighbours are near, and a centre if it is dense and far from any denser one; the others join the
    nearest centre. Arguments and result as in :func:`merge_tokens`.
    """
    x = tokens.double()
    total = x.shape[1]
    distances = _distances(x, x)  # [B, K, K]
    scaled = distances / distances.amax((1, 2), keepdim=True).clamp_min(1e-300)
    near = scaled.topk(min(neighbours + 1, total), largest=False).values[..., 1:]  # without itself
    density = (-near.square().sum(-1) / max(near.shape[-1], 1)).exp()  # [B, K]
    rank = density.argsort(dim=-1, descending=True, stable=True).argsort(-1)  # of two as dense, the earlier is first
    denser = rank[:, None, :] < rank[:, :, None]
    apart = scaled.masked_fill(~denser, torch.inf).amin(-1)
    apart = torch.where(apart.isinf(), scaled.amax(-1), apart)  # the densest of all
    centres = (density * apart).argsort(dim=-1, descending=True, stable=True)[:, :count].sort(-1).values  # [B, n]
    clusters = distances.gather(2, centres[:, None].expand(-1, total, -1)).argmin(-1)
    clusters.scatter_(1, centres, torch.arange(count, device=x.device).expand_as(centres))
    return in_order(clusters)


def in_order(clusters: Tensor) -> Tensor:
    """Any cluster numbers, [B, K], renamed to 0, 1, ... by the mean position of their members."""
    total = clusters.shape[1]
    members = torch.nn.functional.one_hot(clusters).mT.double()  # [B, names, K]
    sizes = members.sum(-1)
    positions = members @ torch.arange(total, dtype=torch.float64, device=clusters.device)
    positions = torch.where(sizes > 0, positions / sizes.clamp_min(1), torch.inf)
    rank = positions.argsort(dim=-1, stable=True).argsort(-1)
    return rank.gather(1, clusters)


def _nearest(x: Tensor, centres: Tensor) -> Tensor:
    """Number of the nearest centre, [B, K]; a centre that nobody is nearest to takes its nearest token from a larger cluster."""
    distances = _distances(x, centres)  # [B, K, n]
    clusters = distances.argmin(-1)
    count = centres.shape[1]
    for b, k in _empty(clusters, count):
        sizes = torch.bincount(clusters[b], minlength=count)
        spare = sizes[clusters[b]] > 1
        clusters[b, distances[b, :, k].masked_fill(~spare, torch.inf).argmin()] = k
    return clusters


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, not by way of a product: equal tokens are at 0."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _empty(clusters: Tensor, count: int) -> list[tuple[int, int]]:
    """(group, cluster) without members."""
    used = torch.nn.functional.one_hot(clusters, count).any(1)  # [B, n]
    return [(int(b), int(k)) for b, k in (~used).nonzero()]
