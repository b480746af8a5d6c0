"""Intervals and paired comparisons for benchmark numbers, with questions clustered by the video they are about.

Every aggregate of the benchmarks has one shape: within each stratum (a task, a question type) hits over trials, then
the plain mean over the strata that have trials. A list of :class:`Cell` says who contributes what, and whole clusters
are resampled with replacement (Davison & Hinkley, "Bootstrap Methods and their Application", 1997). An aggregate
depends on a cluster only through its pattern, what it adds to each stratum, so clusters of one pattern are drawn
together: how often each pattern comes is multinomial, which is the same distribution, and a hundred thousand clusters
cost no more than their few patterns do. All functions are pure; the same cells and seed give the same numbers.

Where nothing varies, resampling finds no width. That says nothing about other videos, so such an interval is Wilson's
("Probable inference, the law of succession, and statistical inference", 1927) over the clusters.

Letters: R resamples, P patterns, K tables of cells, S strata.
"""

import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LEVEL = 0.95
HIGHEST_RATING = 5.0
"""Best mark of a judge; the aggregates of others end at 1."""
_BLOCK = 1 << 22
"""Numbers drawn at once, which bounds the memory."""
_NO_WIDTH = 1e-12
_CLUSTER, _STRATUM, _HITS, _TRIALS = map(operator.itemgetter, range(4))

Floats = npt.NDArray[np.float64]


class Cell(NamedTuple):
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
    error: float = 0.0
    """Standard error: the resampled differences' standard deviation."""


def aggregate(cells: Sequence[Cell]) -> float:
    """Mean over the strata of hits / trials; strata without trials are absent; 0.0 when nothing was tried."""
    hits: dict[str, float] = {}
    trials: dict[str, float] = {}
    if len(set(map(_STRATUM, cells))) == 1:  # as in most
        tried_in_all = sum(map(_TRIALS, cells))
        return sum(map(_HITS, cells)) / tried_in_all if tried_in_all > 0 else 0.0
    for _, stratum, hit, trial in cells:
        hits[stratum] = hits.get(stratum, 0.0) + hit
        trials[stratum] = trials.get(stratum, 0.0) + trial
    rates = [hits[stratum] / trials[stratum] for stratum in hits if trials[stratum] > 0]
    return math.fsum(rates) / len(rates) if rates else 0.0


def bootstrap_intervals(
    metrics: Mapping[str, Sequence[Cell]],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
    ratings: Collection[str] = (),
    clusters: Mapping[str, int] | None = None,
) -> dict[str, tuple[float, float]]:
    """Percentile interval of every aggregate in ``metrics`` over all their clusters; Wilson's where nothing varies.

    A metric without trials is left out. Its interval does not depend on which other metrics are asked for, as long as
    their clusters are the same.

    Args:
        metrics: cells by name.
        level: of the intervals.
        resamples: how often is drawn.
        seed: of the draws.
        ratings: names of those that go up to :data:`HIGHEST_RATING` instead of 1.
        clusters: all there are, numbered, where the caller has them at hand.
    """
    clusters = cluster_numbers(metrics.values()) if clusters is None else clusters
    intervals = {}
    for name, cells in metrics.items():
        if tried(cells):
            draws = resampled([cells], clusters, resamples, seed)[:, 0]
            intervals[name] = _interval(cells, draws, level, HIGHEST_RATING if name in ratings else 1.0)
    return intervals


def paired_differences(
    first: Mapping[str, Sequence[Cell]],
    second: Mapping[str, Sequence[Cell]],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
    ratings: Collection[str] = (),
) -> dict[str, Difference]:
    """``second - first`` for the aggregates both have; drawn together, so what they share cancels."""
    shared = [name for name in first if name in second]
    clusters = cluster_numbers([cells for name in shared for cells in (first[name], second[name])])
    result = {}
    for name in shared:
        pair = (first[name], second[name])
        if all(map(tried, pair)):
            draws = resampled(pair, clusters, resamples, seed)
            result[name] = _difference(pair, draws, level, HIGHEST_RATING if name in ratings else 1.0)
    return result


def mean_interval(
    metrics: Mapping[str, Sequence[Cell]], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Interval of the plain mean of suites' aggregates; every suite's clusters are resampled on their own.

    Suites in which nothing varies bring Wilson's interval; it is added to what the others' resampling gives, the distances
    from the value as the sides of right angles (Zou & Donner, "Construction of confidence limits about effect measures", 2008).
    """
    varying, fixed, values = [], [], []
    for number, cells in enumerate(metrics.values()):
        draws = resampled([cells], cluster_numbers([cells]), resamples, (seed, number))[:, 0]
        values.append(aggregate(cells))
        if _varies(draws):
            varying.append((values[-1], draws))
        else:
            low, high = _interval(cells, draws, level, 1.0)
            fixed.append((values[-1] - low, high - values[-1]))
    return _mean_of(varying, fixed, math.fsum(values), len(values), level)


def mean_difference(
    pairs: Mapping[str, tuple[Sequence[Cell], Sequence[Cell]]],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """``second - first`` of the mean over suites, from one (first, second) a suite; the two of a suite are drawn together."""
    varying, fixed, values, variance = [], [], [], 0.0
    for number, pair in enumerate(pairs.values()):
        draws = resampled(pair, cluster_numbers(pair), resamples, (seed, number))
        found = _difference(pair, draws, level, 1.0)
        values.append(found)
        variance += found.error**2
        change = draws[:, 1] - draws[:, 0]
        if _varies(change):
            varying.append((found.difference, change))
        else:
            low, high = found.interval
            fixed.append((found.difference - low, high - found.difference))
    count = len(values)
    one, two = (math.fsum(getattr(v, side) for v in values) / count for side in ("first", "second"))
    interval = _mean_of(varying, fixed, math.fsum(v.difference for v in values), count, level)
    return Difference(one, two, two - one, interval, math.sqrt(variance) / count)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p value of McNemar's test (McNemar 1947; binomial with 1/2 over the discordant items).

    Args:
        only_first: items that the first model alone has right, 0 or more.
        only_second: items that the second model alone has right, 0 or more.

    Items are taken as independent: with several questions a video the cluster interval is the more careful answer.
    """
    discordant, fewer = only_first + only_second, min(only_first, only_second)
    term, tail = 1, 1  # binomial coefficients one from the other: thousands of them would each be long to compute anew
    for k in range(fewer):
        term = term * (discordant - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / 2**discordant)


def wilson_interval(share: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval of a share of ``n`` independent trials; it has a width also where the share is 0 or 1."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    shrunk = 1 + z * z / n
    return (0.0 if share <= 0 else (centre - half) / shrunk), (1.0 if share >= 1 else (centre + half) / shrunk)


def exactly(probabilities: Sequence[float], hits: int) -> float:
    """Probability that exactly ``hits`` of independent events happen; with 0/1 entries, whether so many did."""
    if all(p in (0.0, 1.0) for p in probabilities):
        return float(sum(probabilities) == hits)
    counts = [1.0]  # counts[k]: probability of k events so far
    for p in probabilities:
        counts = [stay * (1 - p) + come * p for stay, come in zip([*counts, 0.0], [0.0, *counts], strict=True)]
    return counts[hits] if hits < len(counts) else 0.0


def tried(cells: Iterable[Cell]) -> bool:
    """Whether anything in these cells was tried."""
    return any(cell.trials > 0 for cell in cells)


def cluster_numbers(tables: Iterable[Sequence[Cell]], most: int | None = None) -> dict[str, int]:
    """A number for every cluster of these tables, which are looked through until ``most``, all that there can be, are found."""
    names: dict[str, None] = {}
    for cells in tables:
        if len(names) == most:
            break
        names.update(dict.fromkeys(map(_CLUSTER, cells)))
    return dict(zip(names, range(len(names)), strict=True))


def resampled(
    tables: Sequence[Sequence[Cell]],
    clusters: Mapping[str, int],
    resamples: int = RESAMPLES,
    seed: int | tuple[int, ...] = 0,
) -> Floats:
    """Aggregates of several tables in the same resamples of their clusters, [R, K]; nan where no trial was drawn.

    Args:
        tables: K of them, about the same clusters.
        clusters: what is drawn from, numbered; those that are in none of the tables count too.
        resamples: R.
        seed: of the draws.
    """
    counts, patterns = _patterns(tables, clusters)  # [P], [P, K, 2, S]
    if not len(counts):
        return np.full((resamples, len(tables)), np.nan)
    absent = len(clusters) - int(counts.sum())
    shares = np.append(counts, absent) / len(clusters)
    generator = np.random.default_rng(seed)
    flat = patterns.reshape(len(counts), -1)
    found = []
    step = max(1, _BLOCK // (len(counts) + flat.shape[1]))
    for begin in range(0, resamples, step):
        drawn = generator.multinomial(len(clusters), shares, size=min(step, resamples - begin))[:, :-1].astype(
            np.float64
        )
        sums = (drawn @ flat).reshape(-1, *patterns.shape[1:])  # [r, K, 2, S]
        hits, trials = sums[:, :, 0], sums[:, :, 1]
        present = trials > 0
        rates = np.divide(hits, trials, out=np.zeros_like(hits), where=present)
        strata = present.sum(axis=2)
        found.append(np.where(strata > 0, rates.sum(axis=2) / np.maximum(strata, 1), np.nan))
    return np.concatenate(found)


def cluster_count(tables: Iterable[Iterable[Cell]]) -> int:
    """How many clusters have trials."""
    return len({cell.cluster for cells in tables for cell in cells if cell.trials > 0})


def quantiles(draws: Floats, level: float) -> tuple[float, float]:
    """The middle ``level`` of the draws that are numbers."""
    edges = [(1 - level) / 2, (1 + level) / 2]
    low, high = (np.nanquantile if np.isnan(draws).any() else np.quantile)(draws, edges)
    return float(low), float(high)


def _patterns(tables: Sequence[Sequence[Cell]], clusters: Mapping[str, int]) -> tuple[npt.NDArray[np.int64], Floats]:
    """How many clusters add the same to every table and stratum, [P], and what that is, hits and trials, [P, K, 2, S]."""
    parts: list[tuple[Any, ...]] = [(number, *zip(*cells, strict=True)) for number, cells in enumerate(tables) if cells]
    strata = {name: number for number, name in enumerate(sorted({name for part in parts for name in set(part[2])}))}
    owners, places, amounts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros((2, 0))]
    for number, names, own_strata, own_hits, own_trials in parts:
        owners.append(_numbers(names, clusters))
        places.append(_numbers(own_strata, strata) + number * len(strata))
        amounts.append(np.array((own_hits, own_trials), np.float64))
    # what each cluster adds to each table's stratum
    columns = len(tables) * max(1, len(strata))
    keys, inverse = _ranked(np.concatenate(owners) * columns + np.concatenate(places))
    sums = [np.bincount(inverse, row, len(keys)) for row in np.concatenate(amounts, axis=1)]
    hits, trials = np.array(sums, np.float64)
    kinds = _kinds(keys % columns, hits, trials)
    counts, bundles = _bundles(kinds, keys // columns)
    patterns = np.zeros((len(bundles), columns, 2))
    _, examples = np.unique(kinds, return_index=True)
    for row, bundle in enumerate(bundles):
        own = examples[list(bundle)]
        patterns[row, keys[own] % columns] = np.stack((hits[own], trials[own]), axis=1)
    return counts, patterns.reshape(len(bundles), len(tables), columns // len(tables), 2).swapaxes(2, 3)


def _numbers(names: Sequence[str], numbers: Mapping[str, int]) -> npt.NDArray[np.int64]:
    return np.fromiter(map(numbers.__getitem__, names), np.int64, len(names))


def _ranked(keys: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The different keys, rising, and the place of each among them; without sorting where they lie close together."""
    top = int(keys.max(initial=-1)) + 1
    if top > 16 * len(keys) + 1024:
        unique, inverse = np.unique(keys, return_inverse=True)
        return unique, inverse
    there = np.zeros(top, bool)
    there[keys] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[keys]


def _kinds(places: npt.NDArray[np.int64], hits: Floats, trials: Floats) -> npt.NDArray[np.int64]:
    """A number for each entry, the same for the same amount at the same place, in an order that knows no cluster's name."""
    kinds = places
    for amounts in (hits, trials):
        values, rank = (
            np.unique(amounts, return_inverse=True) if not _whole(amounts) else _ranked(amounts.astype(np.int64))
        )
        _, kinds = _ranked(kinds * max(1, len(values)) + rank)
    return kinds


def _whole(amounts: Floats) -> bool:
    return bool(np.all(amounts == np.floor(amounts)) and amounts.min(initial=0) >= 0)


def _bundles(
    kinds: npt.NDArray[np.int64], owners: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], list[tuple[int, ...]]]:
    """The different sets of entries that clusters have, each with how many have it; entries lie cluster by cluster."""
    ends = (np.flatnonzero(np.diff(owners)) + 1).tolist()
    if len(ends) == len(kinds) - 1:  # one entry each
        counts = np.bincount(kinds)
        return counts, [(kind,) for kind in range(len(counts))]
    listed = kinds.tolist()
    found: dict[tuple[int, ...], int] = {}
    for begin, end in zip([0, *ends], [*ends, len(listed)], strict=True):
        bundle = tuple(listed[begin:end])
        if bundle:
            found[bundle] = found.get(bundle, 0) + 1
    bundles = sorted(found)
    return np.array([found[bundle] for bundle in bundles], np.int64), bundles


def _varies(draws: Floats) -> bool:
    return bool(np.nanmax(draws) - np.nanmin(draws) > _NO_WIDTH)


def _interval(cells: Sequence[Cell], draws: Floats, level: float, highest: float) -> tuple[float, float]:
    if not tried(cells):
        return math.nan, math.nan
    low, high = quantiles(draws, level)
    if high - low > _NO_WIDTH:
        return low, high
    low, high = wilson_interval(min(1.0, max(0.0, aggregate(cells) / highest)), cluster_count([cells]), level)
    return highest * low, highest * high


def _difference(
    pair: Sequence[Sequence[Cell]], draws: Floats, level: float = LEVEL, highest: float = 1.0
) -> Difference:
    """Of one aggregate from draws [R, 2].

    Where all clusters differ alike, up to Wilson's share of none out of all of them may differ otherwise, as far as can be.
    """
    one, two = aggregate(pair[0]), aggregate(pair[1])
    changes = draws[:, 1] - draws[:, 0]
    low, high = quantiles(changes, level)
    if high - low <= _NO_WIDTH:
        _, others = wilson_interval(0.0, max(1, cluster_count(pair)), level)
        low, high = two - one - others * (highest + two - one), two - one + others * (highest - two + one)
    return Difference(one, two, two - one, (low, high), float(np.nanstd(changes, ddof=1)))


def _mean_of(
    varying: Sequence[tuple[float, Floats]],
    fixed: Sequence[tuple[float, float]],
    total: float,
    count: int,
    level: float,
) -> tuple[float, float]:
    """Interval of ``total / count`` from the draws of what varies, with its values, and the distances of what does not."""
    below, above = (math.fsum(side**2 for side in sides) for sides in zip(*fixed, strict=True)) if fixed else (0.0, 0.0)
    if not varying:
        return (total - math.sqrt(below)) / count, (total + math.sqrt(above)) / count
    low, high = quantiles(np.sum([draws for _, draws in varying], axis=0), level)
    if not fixed:
        return low / count, high / count
    value = math.fsum(value for value, _ in varying)
    below, above = math.hypot(math.sqrt(below), value - low), math.hypot(math.sqrt(above), high - value)
    return (total - below) / count, (total + above) / count
