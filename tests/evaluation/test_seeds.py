"""Runs with different seeds as one number: against closed forms, tables of Student's t, and simulated truths."""

import math
import statistics

import numpy as np
import pytest

from tstar.evaluation.seeds import combined, combined_difference, student_quantile, student_share, summary
from tstar.evaluation.statistics import Cell, bootstrap_intervals, wilson_interval


def table(verdicts):
    return [Cell(str(number), "", float(right), 1.0) for number, right in enumerate(verdicts)]


@pytest.mark.parametrize(
    ("freedom", "share", "t"),
    [
        (1, 0.975, 12.7062),
        (2, 0.975, 4.30265),
        (5, 0.95, 2.01505),
        (30, 0.975, 2.04227),
        (1e6, 0.975, 1.95996),
    ],
)
def test_student_s_t_is_the_tables(freedom, share, t):
    assert student_quantile(share, freedom) == pytest.approx(t, rel=2e-4)
    assert student_share(t, freedom) == pytest.approx(share, abs=2e-5)


def test_student_s_t_with_two_degrees_has_a_closed_form():
    for t in (0.1, 1.0, 3.0, 20.0):
        assert student_share(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-9)


@pytest.mark.parametrize("freedom", [1.7, 2.5, 40.3])
def test_student_s_t_is_the_integral_of_its_density(freedom):
    steps = np.linspace(0, 2.5, 200_001)
    scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
    density = scale * (1 + steps**2 / freedom) ** (-(freedom + 1) / 2)
    assert student_share(2.5, freedom) == pytest.approx(0.5 + np.trapezoid(density, steps), abs=1e-8)


def test_one_run_has_the_interval_of_its_questions():
    cells = table([n % 3 == 0 for n in range(900)])
    one = combined({"a": [cells]})
    low, high = bootstrap_intervals({"a": cells})["a"]
    assert one.value == pytest.approx(1 / 3)
    assert one.deviation is None
    assert one.interval == (pytest.approx(low, abs=0.004), pytest.approx(high, abs=0.004))
    assert one.error == one.item_error == pytest.approx(math.sqrt(2 / 9 / 900), rel=0.05)


def test_seeds_that_differ_in_all_questions_alike_have_the_seeds_variance():
    """Every question is right in so many runs: resampling says nothing, all variance is the seeds'."""
    runs = [[Cell(str(n), "", hits, 1.0) for n in range(500)] for hits in (0.5, 0.6, 0.7)]
    found = combined({"a": runs})
    assert found.value == pytest.approx(0.6)
    assert found.deviation == pytest.approx(0.1)
    assert found.item_error == pytest.approx(0.0, abs=1e-12)
    assert found.error == pytest.approx(0.1 / math.sqrt(3))
    half = 4.30265 * 0.1 / math.sqrt(3)
    assert found.interval == pytest.approx((0.6 - half, 0.6 + half), rel=1e-3)


def test_runs_that_are_one_add_no_variance_and_no_certainty():
    cells = table([n % 2 for n in range(250)])
    one, three = combined({"a": [cells]}), combined({"a": [cells] * 3})
    assert (three.error, three.deviation) == (pytest.approx(one.error), 0.0)
    assert three.interval == pytest.approx(one.interval)


def test_where_nothing_varies_it_is_wilson_s():
    cells = table([1] * 40)
    assert combined({"a": [cells, cells]}).interval == wilson_interval(1.0, 40)
    low, high = combined_difference({"a": [cells]}, {"a": [cells, cells]}).interval
    assert -0.1 < low < 0 < high < 0.1
    marks = [Cell(str(n), "", 4.0, 1.0) for n in range(40)]
    assert combined({"a": [marks]}, highest=5.0).interval == pytest.approx(
        tuple(5 * end for end in wilson_interval(0.8, 40))
    )


FEW = 120
"""Worlds that are simulated by default. A share of them near 0.95 has a standard error of 0.02."""


def worlds(many):
    """The number by default, and the one of the slow tests."""
    return pytest.mark.parametrize("worlds", [FEW, pytest.param(many, marks=pytest.mark.slow)])


def margin(worlds, share=0.95, errors=2.8):
    """Room for chance in the share of so many worlds."""
    return errors * math.sqrt(share * (1 - share) / worlds)


class World:
    """Verdicts of runs whose seeds and questions both matter: a logistic model with a normal effect of each."""

    def __init__(self, seed, base=0.3, questions=1.2, seeds=0.25):
        self.draw = np.random.default_rng(seed)
        self.base, self.questions, self.seeds = base, questions, seeds

    def truth(self, gain=0.0):
        spread = math.hypot(self.questions, self.seeds)
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        return float(weights @ (1 / (1 + np.exp(-(self.base + gain + spread * nodes)))) / weights.sum())

    def runs(self, hard, count, gain=0.0):
        levels = self.base + gain + self.draw.normal(0, self.seeds, count)
        return [table(self.draw.random(len(hard)) < 1 / (1 + np.exp(-(level + hard)))) for level in levels]


@worlds(250)
@pytest.mark.parametrize(("seeds", "runs", "questions"), [(0.0, 3, 150), (0.25, 3, 150), (0.6, 3, 150), (0.25, 6, 100)])
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds, runs, questions, worlds):
    """Over other questions and other seeds, whichever of the two matters more."""
    world = World(7, seeds=seeds)
    truth, held = world.truth(), 0
    for _ in range(worlds):
        hard = world.draw.normal(0, world.questions, questions)
        low, high = combined({"a": world.runs(hard, runs)}, resamples=100).interval
        held += low <= truth <= high
    assert 0.95 - margin(worlds) <= held / worlds <= 0.995


@worlds(150)
def test_seeds_left_out_make_intervals_that_are_too_narrow(worlds):
    """What :func:`combined` is for: a run's own interval, over questions only, misses the truth far more often."""
    world = World(8, seeds=0.6)
    truth, held = world.truth(), 0
    for _ in range(worlds):
        hard = world.draw.normal(0, world.questions, 150)
        low, high = bootstrap_intervals({"a": world.runs(hard, 1)[0]}, resamples=100)["a"]
        held += low <= truth <= high
    assert held / worlds < 0.7


@worlds(150)
def test_the_interval_of_a_difference_holds_it_as_often_as_it_says(worlds):
    world = World(9, seeds=0.2)
    truth, held, errors, changes = world.truth(0.4) - world.truth(), 0, [], []
    for _ in range(worlds):
        hard = world.draw.normal(0, world.questions, 120)
        found = combined_difference({"a": world.runs(hard, 3)}, {"a": world.runs(hard, 4, gain=0.4)}, resamples=100)
        held += found.interval[0] <= truth <= found.interval[1]
        errors.append(found.error**2)
        changes.append(found.value)
    assert 0.95 - margin(worlds) <= held / worlds <= 0.995
    assert 0.85 < statistics.fmean(errors) / statistics.variance(changes) < 1.6  # rather too large than too small


def test_the_same_runs_asked_twice_share_their_chance_in_training():
    """Every question is right in so many runs: resampling says nothing, what is left is how the runs' differences vary."""
    first, second = (
        [[Cell(str(n), "", hits, 1.0) for n in range(500)] for hits in own]
        for own in ((0.5, 0.6, 0.7), (0.52, 0.63, 0.71))
    )
    found = combined_difference({"a": first}, {"a": second}, same_runs=True)
    assert found.value == pytest.approx(0.02)
    assert found.error == pytest.approx(0.01 / math.sqrt(3))
    half = 4.30265 * 0.01 / math.sqrt(3)
    assert found.interval == pytest.approx((0.02 - half, 0.02 + half), rel=1e-3)
    apart = combined_difference({"a": first}, {"a": second})
    assert apart.value == found.value
    assert apart.error == pytest.approx(math.sqrt((0.1**2 + 0.0954**2) / 3), rel=1e-3)
    with pytest.raises(ValueError, match="zip"):
        combined_difference({"a": first}, {"a": second[:2]}, same_runs=True)


@worlds(150)
def test_the_interval_of_the_same_runs_asked_twice_holds_the_truth_as_often_as_it_says(worlds):
    """Where the runs differ much, and a harder second exam costs each alike: worlds in which pairing the runs is what tells it."""
    world = World(11, seeds=0.6)
    truth, held, told = world.truth(0.4) - world.truth(), 0, 0
    for _ in range(worlds):
        hard = world.draw.normal(0, world.questions, 120)
        levels = world.base + world.draw.normal(0, world.seeds, 3)
        exams = [
            [table(world.draw.random(len(hard)) < 1 / (1 + np.exp(-(level + gain + hard)))) for level in levels]
            for gain in (0.0, 0.4)
        ]
        paired = combined_difference({"a": exams[0]}, {"a": exams[1]}, same_runs=True, resamples=100)
        apart = combined_difference({"a": exams[0]}, {"a": exams[1]}, resamples=100)
        held += paired.interval[0] <= truth <= paired.interval[1]
        told += (paired.interval[0] > 0) - (apart.interval[0] > 0)
    assert 0.9 <= held / worlds <= 0.995
    assert told / worlds > 0.2


@worlds(150)
def test_no_difference_is_seen_as_seldom_as_the_test_says(worlds):
    world, seen = World(10, seeds=0.3), 0
    for _ in range(worlds):
        hard = world.draw.normal(0, world.questions, 100)
        seen += (
            combined_difference({"a": world.runs(hard, 3)}, {"a": world.runs(hard, 3)}, resamples=100).p_value < 0.05
        )
    assert seen / worlds < 0.05 + margin(worlds)


def test_the_mean_over_suites_is_of_each_run_first():
    """Runs that are good in one suite and bad in the other are equal in the mean: no variance of seeds is left."""
    good = [[Cell(str(n), "", hits, 1.0) for n in range(50)] for hits in (0.4, 0.6)]
    found = combined({"a": good, "b": good[::-1]})
    assert (found.value, found.deviation) == (pytest.approx(0.5), pytest.approx(0.0))
    assert combined({"a": good}).deviation == pytest.approx(0.2 / math.sqrt(2))


def test_the_summary_of_values():
    assert summary([0.5, 0.7]) == {"n": 2, "mean": 0.6, "sd": pytest.approx(0.02**0.5), "min": 0.5, "max": 0.7}
    assert summary([0.5])["sd"] is None
