"""Intervals, chance and paired tests against closed forms and enumeration."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from tstar.errors import DataError
from tstar.evaluation import Report, compare, get_benchmark, score
from tstar.evaluation.statistics import (
    Cell,
    aggregate,
    bootstrap_intervals,
    exactly,
    mcnemar_exact,
    mean_difference,
    mean_interval,
    paired_differences,
    resampled,
    wilson_interval,
)

Z = NormalDist().inv_cdf(0.975)


def singles(hits, stratum=""):
    return [Cell(f"{stratum}{index}", stratum, float(hit), 1.0) for index, hit in enumerate(hits)]


def test_an_aggregate_is_the_mean_of_its_strata_s_rates():
    cells = singles([1, 1, 0, 0], "a") + singles([1], "b") + [Cell("z", "c", 0.0, 0.0)]
    assert aggregate(cells) == 0.75
    assert aggregate([]) == aggregate([Cell("z", "", 0.0, 0.0)]) == 0.0


def test_the_interval_is_the_normal_one_for_many_independent_items():
    n, p = 900, 0.3
    cells = singles([index < n * p for index in range(n)])
    low, high = bootstrap_intervals({"x": cells}, resamples=6000)["x"]
    half = NormalDist().inv_cdf(0.975) * math.sqrt(p * (1 - p) / n)
    assert (low, high) == (pytest.approx(p - half, abs=0.08 * half), pytest.approx(p + half, abs=0.08 * half))


def test_copies_within_a_cluster_add_no_certainty():
    one = [Cell(str(i), "", float(i % 2), 1.0) for i in range(60)]
    assert bootstrap_intervals({"x": one * 5}) == bootstrap_intervals({"x": one})
    apart = [Cell(f"{i}/{copy}", "", float(i % 2), 1.0) for i in range(60) for copy in range(5)]
    width = {name: high - low for name, (low, high) in bootstrap_intervals({"one": one}).items()}["one"]
    low, high = bootstrap_intervals({"x": apart})["x"]
    assert high - low == pytest.approx(width / math.sqrt(5), rel=0.12)


def test_the_interval_of_a_tiny_set_is_that_of_all_its_resamples():
    hits = [1, 0, 0, 1, 0]
    every = sorted(sum(draw) / 5 for draw in itertools.product(hits, repeat=5))
    low, high = bootstrap_intervals({"x": singles(hits)}, resamples=20000, level=0.8)["x"]
    assert (low, high) == (every[int(0.1 * len(every))], every[int(0.9 * len(every))])


def test_clusters_are_drawn_whole_with_their_own_sizes_and_strata():
    clusters = {"a": [("x", 1, 1)], "b": [("x", 0, 2), ("y", 1, 1)], "c": [("x", 3, 4)], "d": [("y", 0, 3)]}
    cells = [Cell(name, *cell) for name, own in clusters.items() for cell in own]
    every = []
    for draw in itertools.product(clusters.values(), repeat=4):
        rates = []
        for stratum in "xy":
            drawn = [cell for own in draw for cell in own if cell[0] == stratum]
            if drawn:
                rates.append(sum(hits for _, hits, _ in drawn) / sum(trials for _, _, trials in drawn))
        every.append(sum(rates) / len(rates))
    every.sort()
    for level in (0.5, 0.8):
        low, high = bootstrap_intervals({"x": cells}, resamples=40000, level=level)["x"]
        edge = (1 - level) / 2
        assert low == pytest.approx(every[int(edge * len(every))], abs=0.02)
        assert high == pytest.approx(every[int((1 - edge) * len(every))], abs=0.02)


def test_intervals_repeat_with_the_seed_and_skip_what_has_no_trials():
    tables = {"x": singles([1, 0, 1, 1, 0, 0, 1]), "none": [Cell("0", "", 0.0, 0.0)], "all": singles([1] * 7)}
    first = bootstrap_intervals(tables, seed=4)
    assert first == bootstrap_intervals(tables, seed=4)
    assert set(first) == {"x", "all"}
    assert first["all"] == (pytest.approx(7 / (7 + Z * Z)), 1.0)  # Wilson's of seven out of seven


def test_a_paired_difference_is_narrower_than_two_apart_and_vanishes_for_twins():
    one = singles([i % 2 for i in range(200)])
    two = singles([1 if i < 20 else i % 2 for i in range(200)])
    result = paired_differences({"x": one}, {"x": two})["x"]
    assert (result.first, result.second, result.difference) == (0.5, 0.55, pytest.approx(0.05))
    # ten of 200 differ by one: standard error sqrt(mean(d^2) - mean(d)^2) / sqrt(200)
    half = 1.96 * math.sqrt(0.05 - 0.0025) / math.sqrt(200)
    assert result.interval[1] - result.interval[0] == pytest.approx(2 * half, rel=0.2)
    assert result.error == pytest.approx(half / 1.96, rel=0.05)
    twins = paired_differences({"x": one}, {"x": one})["x"]
    others = Z * Z / (200 + Z * Z)  # Wilson's upper end of none out of 200 that differ
    assert (twins.difference, twins.error) == (0.0, 0.0)
    assert twins.interval == pytest.approx((-others, others))


@pytest.mark.parametrize(("b", "c", "p"), [(0, 0, 1.0), (0, 5, 2 / 32), (5, 0, 2 / 32), (1, 5, 14 / 64), (4, 4, 1.0)])
def test_mcnemar_by_hand(b, c, p):
    assert mcnemar_exact(b, c) == pytest.approx(p)


def test_mcnemar_counts_the_outcomes_at_least_as_uneven():
    for b, c in [(2, 7), (3, 6), (1, 9)]:
        outcomes = list(itertools.product([0, 1], repeat=b + c))
        uneven = sum(abs(2 * sum(draw) - (b + c)) >= abs(b - c) for draw in outcomes)
        assert mcnemar_exact(b, c) == pytest.approx(uneven / len(outcomes))


def test_exactly_sums_over_subsets():
    chances = [0.25, 0.5, 0.9, 0.25, 1 / 3]
    for hits in range(7):
        total = sum(
            math.prod(p if happens else 1 - p for p, happens in zip(chances, draw, strict=True))
            for draw in itertools.product([0, 1], repeat=5)
            if sum(draw) == hits
        )
        assert exactly(chances, hits) == pytest.approx(total)


def clip(answer, options=3):
    lines = "\n".join(f"{letter}. {letter.lower()}{letter.lower()}" for letter in "ABCDEF"[:options])
    return {"question": f"Which?\n{lines}", "answer": f"{answer}. {answer.lower() * 2}"}


def test_chance_counts_each_item_s_own_options():
    clips = {"1": {"speed": [clip("A", 2), clip("B", 4)]}, "2": {"order": [clip("C", 3)]}}
    chance = get_benchmark("tempcompass").chance(get_benchmark("tempcompass").load(clips))
    assert chance == {"multi-choice/avg": pytest.approx((1 / 2 + 1 / 4 + 1 / 3) / 3)}


def test_two_reports_are_compared_item_by_item_also_after_a_round_trip():
    clips = {str(video): {"speed": [clip("A"), clip("B")]} for video in range(20)}
    ids = [f"multi-choice:{video}:speed:{n}" for video in range(20) for n in range(2)]
    first = score("tempcompass", clips, dict.fromkeys(ids, "A"))
    second = score("tempcompass", clips, {name: "A" if n < 6 or n % 2 == 0 else "B" for n, name in enumerate(ids)})
    assert Report.from_json(first.to_json()) == first
    result = compare(Report.from_json(first.to_json()), second)
    assert (result.only_first, result.only_second) == (0, 17)
    assert result.p_value == pytest.approx(2 / 2**17)
    difference = result.differences["multi-choice/avg"]
    assert difference.difference == pytest.approx(17 / 40)
    assert 0.3 < difference.interval[0] < 17 / 40 < difference.interval[1] <= 0.5


def test_reports_on_other_items_or_rules_are_not_compared():
    clips = {"1": {"speed": [clip("A"), clip("B")]}}
    first = score("tempcompass", clips, {})
    with pytest.raises(DataError, match="1 items in one of them only"):
        compare(first, score("tempcompass", {"1": {"speed": [clip("A")]}}, {}))
    with pytest.raises(DataError, match=r"tempcompass \(official, n=2\) and tempcompass \(strict, n=2\)"):
        compare(first, score("tempcompass", clips, {}, rules="strict"))
    with pytest.raises(DataError, match=r"not a report written by Report\.to_json"):
        Report.from_json('{"items": [{"id": "x"}]}')


def test_the_mean_over_suites_has_the_interval_of_independent_suites():
    """Normal approximation of a mean of two independent proportions; equal clusters' names must not tie the suites together."""
    n, p, q = 900, 0.3, 0.6
    suites = {"a": singles([i < n * p for i in range(n)]), "b": singles([i < n * q for i in range(n)])}
    low, high = mean_interval(suites, resamples=6000)
    half = NormalDist().inv_cdf(0.975) * math.sqrt((p * (1 - p) + q * (1 - q)) / n) / 2
    centre = (p + q) / 2
    assert (low, high) == (pytest.approx(centre - half, abs=0.08 * half), pytest.approx(centre + half, abs=0.08 * half))


def test_the_difference_of_the_mean_over_suites_is_paired_within_each():
    """A tenth gained in one suite, a twentieth gained and lost in the other: variances of paired differences by hand."""
    n = 900
    before, after = singles([i < 300 for i in range(n)]), singles([i < 390 for i in range(n)])
    moved = singles([45 <= i < 345 for i in range(n)])
    found = mean_difference({"a": (before, after), "b": (before, moved)}, resamples=6000)
    assert (found.first, found.second) == (pytest.approx(1 / 3), pytest.approx((39 / 90 + 1 / 3) / 2))
    assert found.difference == pytest.approx(0.05)
    error = math.sqrt((0.1 * 0.9 + 0.1) / n) / 2
    half = Z * error
    assert found.error == pytest.approx(error, rel=0.05)
    assert found.interval == (pytest.approx(0.05 - half, abs=0.08 * half), pytest.approx(0.05 + half, abs=0.08 * half))
    assert found == mean_difference({"a": (before, after), "b": (before, moved)}, resamples=6000)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_s_interval_is_that_of_the_textbook(hits, n, low, high):
    """Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3."""
    assert wilson_interval(hits / n, n) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


def test_verdicts_that_are_all_alike_have_wilson_s_interval_over_the_clusters():
    """Five questions a video are one trial; a mark is measured against the best one."""
    wrong = [Cell(f"{i // 5}", f"{i % 3}", 0.0, 1.0) for i in range(100)]
    assert bootstrap_intervals({"x": wrong})["x"] == (0.0, pytest.approx(Z * Z / (20 + Z * Z)))
    alone = [Cell("only", "", float(i < 3), 1.0) for i in range(5)]  # one cluster: nothing to resample
    assert bootstrap_intervals({"x": alone})["x"] == pytest.approx(wilson_interval(0.6, 1))
    marks = [Cell(str(i), "", 4.0, 1.0) for i in range(20)]
    low, high = wilson_interval(0.8, 20)
    assert bootstrap_intervals({"x": marks}, ratings=["x"])["x"] == pytest.approx((5 * low, 5 * high))


def test_a_mean_over_suites_of_which_one_does_not_vary():
    """Distances from the value add like the sides of right angles."""
    varying, fixed = singles([i % 3 == 0 for i in range(300)]), singles([1] * 50)
    low, high = bootstrap_intervals({"x": varying}, seed=(0, 0))["x"]
    floor, _ = wilson_interval(1.0, 50)
    mean = (1 / 3 + 1) / 2
    expected = mean - math.hypot(1 / 3 - low, 1 - floor) / 2, mean + (high - 1 / 3) / 2
    assert mean_interval({"a": varying, "b": fixed}) == pytest.approx(expected)
    assert mean_interval({"a": fixed, "b": fixed}) == (pytest.approx(1 - math.hypot(1 - floor, 1 - floor) / 2), 1.0)


def messy(seed, clusters=60, questions=400):
    """Questions in clusters of very different size, which are in up to three strata."""
    draw = np.random.default_rng(seed)
    owners = np.minimum(draw.geometric(0.04, questions) - 1, clusters - 1)
    skill = draw.random(clusters)
    return [
        Cell(f"v{owner}", "xyz"[draw.integers(3)], float(draw.random() < skill[owner]), float(draw.random() < 0.9))
        for owner in owners
    ]


def matrix_of(tables, names, resamples, seed):
    """Reference: every cluster drawn on its own."""
    draw = np.random.default_rng(seed)
    weights = draw.multinomial(len(names), [1 / len(names)] * len(names), size=resamples)
    columns = []
    for cells in tables:
        sums = np.zeros((2, len(names), 3))
        for name, stratum, hits, trials in cells:
            sums[:, names.index(name), "xyz".index(stratum)] += hits * trials, trials
        hits, trials = weights @ sums
        rates = np.where(trials > 0, hits / np.maximum(trials, 1e-9), np.nan)
        columns.append(np.nanmean(rates, axis=1))
    return np.stack(columns, axis=1)


def test_drawing_patterns_is_drawing_clusters():
    """Quantiles, spread and correlation of two tables under one set of draws, against every cluster drawn on its own."""
    tables = [[c._replace(hits=c.hits * c.trials) for c in messy(seed)] for seed in (0, 1)]
    names = [f"v{n}" for n in range(60)]
    numbered = dict(zip(names, range(60), strict=True))
    ours, theirs = resampled(tables, numbered, 20000, 3), matrix_of(tables, names, 20000, 4)
    spread = theirs.std(axis=0)
    for q in (0.025, 0.25, 0.5, 0.75, 0.975):
        assert np.quantile(ours, q, axis=0) == pytest.approx(np.quantile(theirs, q, axis=0), abs=0.06 * spread.max())
    assert ours.std(axis=0) == pytest.approx(spread, rel=0.03)
    assert np.corrcoef(ours.T)[0, 1] == pytest.approx(np.corrcoef(theirs.T)[0, 1], abs=0.03)


def test_clusters_that_are_in_no_cell_are_drawn_too():
    """A category that two of ten videos have: how often neither is drawn, and nan then."""
    cells = [Cell("a", "", 1.0, 1.0), Cell("b", "", 0.0, 1.0)]
    draws = resampled([cells], dict(zip("abcdefghij", range(10), strict=True)), 20000, 0)
    assert np.isnan(draws).mean() == pytest.approx(0.8**10, abs=0.01)
    whole = {"part": cells, "all": [Cell(name, "", 1.0, 1.0) for name in "abcdefghij"]}
    assert bootstrap_intervals(whole)["part"] == (0.0, 1.0)


def test_names_and_order_of_clusters_say_nothing():
    cells = messy(5)
    renamed = [c._replace(cluster=f"w{hash(c.cluster) % 1000}{c.cluster}") for c in reversed(cells)]
    assert bootstrap_intervals({"x": cells}) == bootstrap_intervals({"x": renamed})


def test_mcnemar_of_thousands_is_quick_and_right():
    assert mcnemar_exact(5000, 5000) == 1.0
    assert mcnemar_exact(4900, 5100) == pytest.approx(
        2 * NormalDist().cdf(-199 / 100), rel=0.01
    )  # continuity correction
