"""Sample sizes against simulated comparisons."""

import math
import re
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from tstar.errors import ConfigError
from tstar.evaluation.power import needed_items, needed_like, smallest_difference


def share_seen(n, p_first, p_second, discordant, trials=20000, level=0.95):
    """How often McNemar's test on n simulated questions sees the difference."""
    only_second = (discordant + p_second - p_first) / 2
    draw = np.random.default_rng(0)
    counts = draw.multinomial(n, [discordant - only_second, only_second, 1 - discordant], size=trials)
    first, second = counts[:, 0], counts[:, 1]
    z = np.abs(second - first) / np.sqrt(np.maximum(first + second, 1))
    return float(np.mean(z > NormalDist().inv_cdf((1 + level) / 2)))


@pytest.mark.parametrize(
    ("p_first", "p_second", "discordant"), [(0.60, 0.63, 0.20), (0.5, 0.6, 0.3), (0.80, 0.77, 0.10), (0.2, 0.22, 0.06)]
)
@pytest.mark.parametrize("power", [0.8, 0.9])
def test_so_many_questions_have_the_power(p_first, p_second, discordant, power):
    n = needed_items(p_first, p_second, discordant=discordant, power=power)
    assert share_seen(n, p_first, p_second, discordant) == pytest.approx(power, abs=0.02)
    assert share_seen(n // 2, p_first, p_second, discordant) < power - 0.1


def test_a_correlation_says_how_many_disagree():
    p, q, phi = 0.6, 0.7, 0.5
    both = p * q + phi * math.sqrt(p * (1 - p) * q * (1 - q))
    assert needed_items(p, q, correlation=phi) == needed_items(p, q, discordant=p + q - 2 * both)
    assert needed_items(p, q, correlation=0.0) > needed_items(p, q, correlation=phi)
    assert needed_items(q, p, correlation=phi) == needed_items(p, q, correlation=phi)


def test_questions_of_one_video_count_for_less():
    assert needed_items(0.6, 0.65, discordant=0.2, design_effect=3) == pytest.approx(
        3 * needed_items(0.6, 0.65, discordant=0.2), abs=3
    )


@pytest.mark.parametrize("discordant", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("n", [300, 1000, 9000])
def test_the_smallest_difference_is_what_needs_all_the_questions(n, discordant):
    found = smallest_difference(n, discordant)
    assert found is not None
    assert needed_items(0.4, 0.4 + found * 0.9999, discordant=discordant) == pytest.approx(n, abs=2)
    assert needed_items(0.4, 0.4 + found * 1.001, discordant=discordant) <= n


def test_some_sets_show_nothing():
    assert smallest_difference(20, 0.05) is None  # one question on which they disagree
    assert smallest_difference(2, 1.0) is None
    assert smallest_difference(1000, 0.0) is None
    assert needed_like(100, 0.0, 0.1) is None
    assert needed_like(10, 1.0, 0.0) is None


def test_the_size_from_an_observed_error_agrees_with_the_formula():
    """For independent questions and a difference that is small beside the disagreement."""
    n, delta, psi = 500, 0.02, 0.25
    error = math.sqrt((psi - delta**2) / n)
    assert needed_like(n, delta, error) == pytest.approx(needed_items(0.5, 0.5 + delta, discordant=psi), rel=0.01)
    assert needed_like(n, -delta, error, power=0.9) > needed_like(n, delta, error)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"p_first": 1.2, "p_second": 0.5, "discordant": 0.2}, "p_first must be 0 to 1, got 1.2"),
        ({"p_first": 0.5, "p_second": 0.5, "discordant": 0.2}, "equal: no number of questions"),
        ({"p_first": 0.5, "p_second": 0.6}, "give either discordant or correlation"),
        ({"p_first": 0.5, "p_second": 0.6, "discordant": 0.2, "correlation": 0.1}, "give either"),
        ({"p_first": 0.5, "p_second": 0.6, "discordant": 0.05}, "disagree on 0.100 to 0.900 of the questions"),
        ({"p_first": 0.1, "p_second": 0.9, "correlation": 0.9}, "correlation 0.9 means that they disagree on"),
        ({"p_first": 0.5, "p_second": 0.6, "discordant": 0.2, "power": 1.0}, "power must be between 0 and 1"),
        ({"p_first": 0.5, "p_second": 0.6, "discordant": 0.2, "level": 0}, "level must be between 0 and 1"),
    ],
)
def test_impossible_numbers_are_told(numbers, message):
    with pytest.raises(ConfigError, match=message):
        needed_items(**numbers)
    with pytest.raises(ConfigError, match="n must be at least 1"):
        smallest_difference(0, 0.2)


def test_the_numbers_on_the_page_are_these():
    page = (Path(__file__).parents[2] / "docs" / "comparing.md").read_text()
    lines = re.findall(r"^((?:needed_items|smallest_difference)\(.*?\)) +# ([\d.]+)", page, re.MULTILINE)
    assert len(lines) == 3
    names = {"needed_items": needed_items, "smallest_difference": smallest_difference}
    for code, told in lines:
        assert eval(code, names) == pytest.approx(float(told), rel=0.01)
