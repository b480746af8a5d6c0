"""Several runs of one recipe, which differ in their seed, as one number with one interval.

An accuracy varies because other questions could have been asked and because another seed could have been drawn. With a_r
the accuracies of k runs on the same questions and a their mean, the variance of a is estimated as

    V = V_items + s^2 / k

V_items: variance of a when clusters are resampled, all runs in the same resamples; s^2: variance of the a_r over the runs
(k - 1). Part of s^2 is no effect of the seed but each run's own luck with these questions, which V_items has already: V is
rather too large than too small. The interval is a -+ t sqrt(V) with Student's t at Satterthwaite's degrees of freedom ("An
approximate distribution of estimates of variance components", 1946): k - 1 for the seeds' part and C - 1, C clusters, for the
items'. In simulations intervals of 95 % from three runs held the truth in 93 % (seeds matter most) to 98 % (seeds do not matter).
A difference of two recipes adds both recipes' s^2 / k to the items' part of the difference. Where both sides are the same runs,
asked in two ways, chance in training is in both and cancels: s^2 / k is then that of the runs' differences.

Letters: R resamples, k runs.
"""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tstar.evaluation.statistics import (
    LEVEL,
    RESAMPLES,
    Cell,
    Floats,
    aggregate,
    cluster_count,
    cluster_numbers,
    resampled,
    wilson_interval,
)

Tables = Sequence[Sequence[Cell]]
"""The cells of one aggregate, of one run after the other."""


@dataclass(frozen=True)
class Combined:
    """Mean over runs, or a difference of two such means, as fractions."""

    value: float
    deviation: float | None
    """Standard deviation over the runs (k - 1); None for one run or for a difference."""
    interval: tuple[float, float]
    """Over items and seeds; with one run on either side that side's seeds are not in it."""
    error: float
    """Standard error, the root of V."""
    item_error: float
    """The part of it that more questions would make smaller, the root of V_items."""
    p_value: float | None = None
    """Of a difference: two-sided, of Student's t test that there is none."""


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1; None for a single value), least and greatest."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {
        "n": len(values),
        "mean": statistics.fmean(values),
        "sd": deviation,
        "min": min(values),
        "max": max(values),
    }


def combined(
    suites: Mapping[str, Tables], *, level: float = LEVEL, resamples: int = RESAMPLES, highest: float = 1.0
) -> Combined:
    """The mean over runs of an aggregate's mean over suites.

    Args:
        suites: by suite each run's cells, the runs always in the same order. One suite gives that suite's number.
        level: of the interval.
        resamples: of every suite's clusters, each on their own.
        highest: where the values end; 1 for shares.
    """
    values, draws, clusters = _sampled(suites, resamples)
    value = statistics.fmean(values)
    items = float(np.var(draws.mean(axis=1), ddof=1))
    error = math.sqrt(items + _seed_part(values))
    deviation = statistics.stdev(values) if len(values) > 1 else None
    if error == 0:
        low, high = wilson_interval(value / highest, clusters, level)
        return Combined(value, deviation, (highest * low, highest * high), error, 0.0)
    half = student_quantile((1 + level) / 2, _freedom(items, clusters, [values])) * error
    interval = (max(0.0, value - half), min(highest, value + half))
    return Combined(value, deviation, interval, error, math.sqrt(items))


def combined_difference(
    first: Mapping[str, Tables],
    second: Mapping[str, Tables],
    *,
    same_runs: bool = False,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    highest: float = 1.0,
) -> Combined:
    """``second - first`` of two recipes' means over runs and suites; what they share of the items cancels.

    Args:
        first: by suite each run's cells, as for :func:`combined`.
        second: the same suites, of any number of runs.
        same_runs: both sides are the same trained models in the same order, with other frames or without the video, say; what
            they share of chance in training cancels then.
        level: of the interval.
        resamples: of every suite's clusters, each on their own, both recipes in the same ones.
        highest: where the values end; 1 for shares.
    """
    count = len(next(iter(first.values())))
    values, draws, clusters = _sampled({suite: [*first[suite], *second[suite]] for suite in first}, resamples)
    sides = [values[:count], values[count:]]
    value = statistics.fmean(sides[1]) - statistics.fmean(sides[0])
    items = float(np.var(draws[:, count:].mean(axis=1) - draws[:, :count].mean(axis=1), ddof=1))
    varying = [[two - one for one, two in zip(*sides, strict=True)]] if same_runs else sides
    error = math.sqrt(items + sum(map(_seed_part, varying)))
    if error == 0:
        _, others = wilson_interval(0.0, clusters, level)
        interval = (value - others * (highest + value), value + others * (highest - value))
        return Combined(value, None, interval, error, 0.0, 1.0)
    freedom = _freedom(items, clusters, varying)
    half = student_quantile((1 + level) / 2, freedom) * error
    p_value = 2 * (1 - student_share(abs(value) / error, freedom))
    interval = (max(-highest, value - half), min(highest, value + half))
    return Combined(value, None, interval, error, math.sqrt(items), p_value)


def student_share(t: float, freedom: float) -> float:
    """Probability that Student's t with ``freedom`` (1 or more) degrees of freedom is below ``t``."""
    if freedom > 1e4:
        return statistics.NormalDist().cdf(t)
    # with t = sqrt(freedom) tan(angle) the density is a power of a cosine, smooth up to the end
    nodes, weights = _gauss_legendre()
    angle = math.atan(t / math.sqrt(freedom))
    integral = angle / 2 * float(weights @ np.cos(angle / 2 * (nodes + 1)) ** (freedom - 1))
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return 0.5 + scale * integral


def student_quantile(share: float, freedom: float) -> float:
    """The t below which Student's t with ``freedom`` (1 or more) degrees of freedom is with probability ``share``, over 1/2."""
    low, high = 0.0, 1.0
    while student_share(high, freedom) < share and high < 1e9:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_share(middle, freedom) < share else (low, middle)
    return (low + high) / 2


@functools.cache
def _gauss_legendre() -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.legendre.leggauss(100)
    return nodes, weights


def _sampled(suites: Mapping[str, Tables], resamples: int) -> tuple[list[float], Floats, int]:
    """Each run's mean over suites, [k], the same in every resample, [R, k], and the clusters of the smallest suite."""
    values = np.mean([[aggregate(cells) for cells in tables] for tables in suites.values()], axis=0)
    draws = []
    for number, tables in enumerate(suites.values()):
        draws.append(resampled(tables, cluster_numbers(tables), resamples, (0, number)))
    mean = np.mean(draws, axis=0)
    clusters = max(1, min(cluster_count(tables) for tables in suites.values()))
    return [float(value) for value in values], mean[~np.isnan(mean).any(axis=1)], clusters


def _seed_part(values: Sequence[float]) -> float:
    return statistics.variance(values) / len(values) if len(values) > 1 else 0.0


def _freedom(items: float, clusters: int, varying: Sequence[Sequence[float]]) -> float:
    """Satterthwaite's degrees of freedom of V, from its items' part and, for each recipe on its own, its runs' values."""
    total = items + sum(map(_seed_part, varying))
    under = sum(_seed_part(values) ** 2 / (len(values) - 1) for values in varying if len(values) > 1)
    under += items**2 / max(1, clusters - 1)
    return max(1.0, total**2 / under)
