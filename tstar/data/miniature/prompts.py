"""A question with its options, and the exact words in which each suite asks it."""

import random
from dataclasses import dataclass

from tstar.data.miniature.seeds import LETTERS

MLVU_SYSTEM = (
    "Carefully watch this video and pay attention to every detail. "
    "Based on your observations, select the best option that accurately addresses the question."
)
MLVU_ANSWER_START = "Best Option: ("
"""mini-mlvu starts the answer for the model with this."""
FORMATS = ("vnbench", "mlvu", "videomme", "tempcompass")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question; its options are drawn first and the answer from among them, so they do not betray it."""

    skill: str
    """What is asked for, e.g. "direction"."""
    text: str
    answer: str
    options: tuple[str, ...] = ()
    """The answer and three others, in no order; empty: only an open question."""


def choose(rng: random.Random, skill: str, text: str, answer: str, pool: tuple[str, ...] | list[str]) -> Question:
    """A question with three other options of the pool."""
    others = rng.sample([word for word in pool if word != answer], 3)
    return Question(skill=skill, text=text, answer=answer, options=(answer, *others))


def arrange(rng: random.Random, question: Question, position: int) -> list[str]:
    """The options in some order, the right one at the position (0-3)."""
    options = [option for option in question.options if option != question.answer]
    rng.shuffle(options)
    options.insert(position, question.answer)
    return options


def pick_count(rng: random.Random, low: int = 1, high: int = 6) -> tuple[int, tuple[str, ...]]:
    """A number and four options: the options first, the number from among them, so that each is equally likely."""
    options = rng.sample(range(low, high + 1), 4)
    return options[0], tuple(map(str, options))


def pick_total(rng: random.Random, low: int = 4, high: int = 16) -> tuple[int, tuple[str, ...]]:
    """Like :func:`pick_count` for larger numbers: four options no more than six apart."""
    window = rng.randint(low, high - 6)
    options = rng.sample(range(window, window + 7), 4)
    return options[0], tuple(map(str, options))


def pick_order(rng: random.Random, words: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """An order of the four words and four options: orders that differ from each other in at least three places."""
    orders: list[list[str]] = []
    while len(orders) < 4:
        order = rng.sample(words, len(words))
        if all(sum(a != b for a, b in zip(order, other, strict=True)) >= 3 for other in orders):
            orders.append(order)
    return orders[0], tuple(", ".join(order) for order in orders)


def lettered(options: list[str]) -> str:
    """The options one a line, ``A. …`` to ``D. …``."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def prompt(style: str, question: str, options: list[str]) -> str:
    """The question in a suite's format; mini-mlvu's system sentence is not part of it."""
    if style == "vnbench":
        return f"{question}\n{lettered(options)}\nAnswer with the option's letter from the given choices directly."
    if style == "mlvu":
        lines = "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
        return f"Question: {question}\nOptions:\n{lines}\nOnly give the best option."
    if style == "videomme":
        return (
            "Select the best answer to the following multiple-choice question based on the video. "
            "Respond with only the letter (A, B, C, or D) of the correct option.\n"
            f"{question}\n{lettered(options)}\nThe best answer is:"
        )
    return f"{question}\n{lettered(options)}\nPlease directly give the best option:"


def reply(style: str, options: list[str], position: int) -> str:
    """What a model should say: the letter, or for mini-mlvu its whole ``Best Option: (B) …``."""
    if style == "mlvu":
        return f"{MLVU_ANSWER_START}{LETTERS[position]}) {options[position]}"
    return LETTERS[position]
