"""How many questions a comparison needs: two models on the same questions, told apart by McNemar's test.

Only the questions on which the two disagree say anything. With psi their share and delta the difference of the two
accuracies, n questions show delta with the given power if

    n = (z_a sqrt(psi) + z_b sqrt(psi - delta^2))^2 / delta^2,    z_a = z((1 + level) / 2), z_b = z(power)

(Connor, "Sample size for testing differences in proportions for the paired-sample design", Biometrics 43, 1987). Questions
count as independent: where several are about one video, multiply by the design effect.
"""

import math
from statistics import NormalDist

from tstar.errors import ConfigError
from tstar.evaluation.statistics import LEVEL

POWER = 0.8


def needed_items(
    p_first: float,
    p_second: float,
    *,
    discordant: float | None = None,
    correlation: float | None = None,
    power: float = POWER,
    level: float = LEVEL,
    design_effect: float = 1.0,
) -> int:
    """Questions that are needed to see the difference of two accuracies, two-sided at ``1 - level``.

    Args:
        p_first: accuracy of one model, 0 to 1.
        p_second: accuracy of the other.
        discordant: share of questions that exactly one of the two has right; give this or ``correlation``.
        correlation: of the two models' verdicts over the questions (phi), 0 for models that have nothing in common.
        power: probability that the difference is seen.
        level: of the test.
        design_effect: how many times the variance of independent questions the difference has.

    Raises:
        ConfigError: the accuracies are equal, or nothing can have this disagreement or correlation with them.
    """
    delta = abs(p_second - p_first)
    psi = _discordant(p_first, p_second, discordant, correlation)
    if delta == 0:
        raise ConfigError("p_first and p_second are equal: no number of questions shows a difference")
    z_level, z_power = _deviates(power, level)
    root = z_level * math.sqrt(psi) + z_power * math.sqrt(max(0.0, psi - delta**2))
    return math.ceil(design_effect * (root / delta) ** 2)


def needed_like(n: int, difference: float, error: float, *, power: float = POWER, level: float = LEVEL) -> int | None:
    """Questions that would be needed to see a difference of this size, if all else stays as it was found.

    The error shrinks with the root of n. It holds what the formula above does not know: several questions about one video, tasks
    of different weight. For independent questions the two agree.

    Args:
        n: questions that were asked.
        difference: that was found.
        error: its standard error over the questions.
        power: probability that it is seen.
        level: of the test, two-sided.

    Returns:
        None where no difference was found, or where it is the same however the questions are drawn: then nothing says how much
        it varies.
    """
    if not difference or not error:
        return None
    return max(1, math.ceil(n * (sum(_deviates(power, level)) * error / difference) ** 2))


def smallest_difference(
    n: int, discordant: float, *, power: float = POWER, level: float = LEVEL, design_effect: float = 1.0
) -> float | None:
    """The smallest difference of two accuracies that ``n`` questions show; None if not even the greatest possible one.

    Args:
        n: number of questions.
        discordant: share of questions that exactly one of the two models has right; no difference is greater.
        power: probability that the difference is seen.
        level: of the test.
        design_effect: how many times the variance of independent questions the difference has.
    """
    if n < 1 or not 0 <= discordant <= 1:
        raise ConfigError(f"n must be at least 1 and discordant 0 to 1, got {n} and {discordant}")
    z_level, z_power = _deviates(power, level)
    effective = n / design_effect
    under = effective + z_power**2 - z_level**2
    if under < 0:
        return None
    delta = (
        math.sqrt(discordant) * (math.sqrt(effective) * z_level + z_power * math.sqrt(under)) / (effective + z_power**2)
    )
    return delta if 0 < delta <= discordant else None


def _discordant(p_first: float, p_second: float, discordant: float | None, correlation: float | None) -> float:
    for name, value in (("p_first", p_first), ("p_second", p_second)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} must be 0 to 1, got {value}")
    if (discordant is None) == (correlation is None):
        raise ConfigError("give either discordant or correlation: how much do the two models disagree?")
    least, most = abs(p_second - p_first), min(p_first + p_second, 2 - p_first - p_second)
    if discordant is None:
        assert correlation is not None
        spread = math.sqrt(p_first * (1 - p_first) * p_second * (1 - p_second))
        discordant = p_first + p_second - 2 * (p_first * p_second + correlation * spread)
        given = f"correlation {correlation} means that they disagree on {discordant:.3f} of the questions"
    else:
        given = f"discordant is {discordant}"
    if not least - 1e-9 <= discordant <= most + 1e-9:
        raise ConfigError(
            f"accuracies of {p_first} and {p_second} disagree on {least:.3f} to {most:.3f} of the questions; {given}"
        )
    return min(most, max(least, discordant))


def _deviates(power: float, level: float) -> tuple[float, float]:
    for name, value in (("power", power), ("level", level)):
        if not 0 < value < 1:
            raise ConfigError(f"{name} must be between 0 and 1, got {value}")
    normal = NormalDist()
    return normal.inv_cdf((1 + level) / 2), normal.inv_cdf(power)
