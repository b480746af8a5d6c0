"""Intervals and paired comparisons for benchmark numbers, with questions clustered by the video they are about.

Every aggregate of the benchmarks has one shape: within each stratum (a task, a question type) hits over trials, then
the plain mean over the strata that have trials. A list of :class:`Cell` says who contributes what; resampling whole
clusters with replacement (Davison & Hinkley, "Bootstrap Methods and their Application", 1997) then needs no more than
two matrix products. All functions are pure; the same cells and seed give the same numbers.

Letters: R resamples, C clusters, S strata.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LEVEL = 0.95

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """What one item, or one group of items, adds to one aggregate: ``hits`` out of ``trials`` of a stratum."""

    cluster: str
    stratum: str
    hits: float
    trials: float


@dataclass(frozen=True)
class Difference:
    """``second - first`` of one aggregate, as fractions, with its bootstrap interval over shared clusters."""

    first: float
    second: float
    difference: float
    interval: tuple[float, float]


def aggregate(cells: Sequence[Cell]) -> float:
    """Mean over the strata of hits / trials; strata without trials are absent; 0.0 when nothing was tried."""
    hits: dict[str, float] = {}
    trials: dict[str, float] = {}
    for cell in cells:
        hits[cell.stratum] = hits.get(cell.stratum, 0.0) + cell.hits
        trials[cell.stratum] = trials.get(cell.stratum, 0.0) + cell.trials
    rates = [hits[stratum] / trials[stratum] for stratum in hits if trials[stratum] > 0]
    return math.fsum(rates) / len(rates) if rates else 0.0


def bootstrap_intervals(
    metrics: Mapping[str, Sequence[Cell]], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Percentile interval of every aggregate in ``metrics``, from one set of resampled clusters.

    A metric without trials is left out. With a single cluster, or verdicts that are all alike, the interval has no
    width: that says nothing about other videos, only that these leave nothing to resample.
    """
    clusters = _cluster_index(metrics.values())
    weights = _draw(len(clusters), resamples, seed)
    intervals = {}
    for name, cells in metrics.items():
        if any(cell.trials > 0 for cell in cells):
            intervals[name] = _quantiles(_resampled(cells, clusters, weights), level)
    return intervals


def paired_differences(
    first: Mapping[str, Sequence[Cell]],
    second: Mapping[str, Sequence[Cell]],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference]:
    """``second - first`` for the aggregates both have; drawn together, so what they share cancels."""
    shared = [name for name in first if name in second]
    clusters = _cluster_index([cells for name in shared for cells in (first[name], second[name])])
    weights = _draw(len(clusters), resamples, seed)
    result = {}
    for name in shared:
        if not (any(c.trials > 0 for c in first[name]) and any(c.trials > 0 for c in second[name])):
            continue
        one, two = aggregate(first[name]), aggregate(second[name])
        draws = _resampled(second[name], clusters, weights) - _resampled(first[name], clusters, weights)
        result[name] = Difference(one, two, two - one, _quantiles(draws, level))
    return result


def mean_interval(
    metrics: Mapping[str, Sequence[Cell]], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Interval of the plain mean of suites' aggregates; every suite's clusters are resampled on their own."""
    draws = [
        _resampled(cells, clusters, _draw(len(clusters), resamples, (seed, number)))
        for number, cells in enumerate(metrics.values())
        for clusters in [_cluster_index([cells])]
    ]
    return _quantiles(np.mean(draws, axis=0), level)


def mean_difference(
    pairs: Mapping[str, tuple[Sequence[Cell], Sequence[Cell]]],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """``second - first`` of the mean over suites, from one (first, second) a suite; the two of a suite are drawn together."""
    one, two = (math.fsum(aggregate(pair[side]) for pair in pairs.values()) / len(pairs) for side in (0, 1))
    draws = []
    for number, (first, second) in enumerate(pairs.values()):
        clusters = _cluster_index([first, second])
        weights = _draw(len(clusters), resamples, (seed, number))
        draws.append(_resampled(second, clusters, weights) - _resampled(first, clusters, weights))
    return Difference(one, two, two - one, _quantiles(np.mean(draws, axis=0), level))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p value of McNemar's test (McNemar 1947; binomial with 1/2 over the discordant items).

    Args:
        only_first: items that the first model alone has right, 0 or more.
        only_second: items that the second model alone has right, 0 or more.

    Items are taken as independent: with several questions a video the cluster interval is the more careful answer.
    """
    discordant, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(discordant, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**discordant)


def exactly(probabilities: Sequence[float], hits: int) -> float:
    """Probability that exactly ``hits`` of independent events happen; with 0/1 entries, whether so many did."""
    counts = [1.0]  # counts[k]: probability of k events so far
    for p in probabilities:
        counts = [stay * (1 - p) + come * p for stay, come in zip([*counts, 0.0], [0.0, *counts], strict=True)]
    return counts[hits] if hits < len(counts) else 0.0


def _cluster_index(tables: Iterable[Sequence[Cell]]) -> dict[str, int]:
    names = {cell.cluster for cells in tables for cell in cells}
    return {name: index for index, name in enumerate(sorted(names))}


def _draw(clusters: int, resamples: int, seed: int | tuple[int, int]) -> Floats:
    """How often each cluster is drawn in each resample, [R, C]."""
    if not clusters:
        return np.zeros((resamples, 0))
    generator = np.random.default_rng(seed)
    return generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples).astype(np.float64)


def _resampled(cells: Sequence[Cell], clusters: Mapping[str, int], weights: Floats) -> Floats:
    """The aggregate in each resample, [R]; nan where no trial was drawn."""
    strata = {name: index for index, name in enumerate(sorted({cell.stratum for cell in cells}))}
    hits, trials = np.zeros((2, len(clusters), len(strata)))
    for cell in cells:
        place = clusters[cell.cluster], strata[cell.stratum]
        hits[place] += cell.hits
        trials[place] += cell.trials
    drawn_hits, drawn_trials = weights @ hits, weights @ trials  # [R, S]
    present = drawn_trials > 0
    rates = np.divide(drawn_hits, drawn_trials, out=np.zeros_like(drawn_hits), where=present)
    count = present.sum(axis=1)
    return np.where(count > 0, rates.sum(axis=1) / np.maximum(count, 1), np.nan)


def _quantiles(draws: Floats, level: float) -> tuple[float, float]:
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
