"""Intervals, chance and paired tests against closed forms and enumeration."""

import itertools
import math
from statistics import NormalDist

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
)


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
    assert first["all"] == (1.0, 1.0)


def test_a_paired_difference_is_narrower_than_two_apart_and_vanishes_for_twins():
    one = singles([i % 2 for i in range(200)])
    two = singles([1 if i < 20 else i % 2 for i in range(200)])
    result = paired_differences({"x": one}, {"x": two})["x"]
    assert (result.first, result.second, result.difference) == (0.5, 0.55, pytest.approx(0.05))
    # ten of 200 differ by one: standard error sqrt(mean(d^2) - mean(d)^2) / sqrt(200)
    half = 1.96 * math.sqrt(0.05 - 0.0025) / math.sqrt(200)
    assert result.interval[1] - result.interval[0] == pytest.approx(2 * half, rel=0.2)
    assert paired_differences({"x": one}, {"x": one})["x"].interval == (0.0, 0.0)


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
    """One in ten questions gained, none lost: each suite's difference is a proportion of 0.1, their mean's variance half."""
    n = 900
    before, after = singles([i < 300 for i in range(n)]), singles([i < 390 for i in range(n)])
    found = mean_difference({"a": (before, after), "b": (before, before)}, resamples=6000)
    assert (found.first, found.second) == (pytest.approx(1 / 3), pytest.approx((39 / 90 + 1 / 3) / 2))
    assert found.difference == pytest.approx(0.05)
    half = NormalDist().inv_cdf(0.975) * math.sqrt(0.1 * 0.9 / n) / 2
    assert found.interval == (pytest.approx(0.05 - half, abs=0.08 * half), pytest.approx(0.05 + half, abs=0.08 * half))
    assert found == mean_difference({"a": (before, after), "b": (before, before)}, resamples=6000)
