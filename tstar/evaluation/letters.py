"""Options and their letters: how questions show them, and how they are asked for."""

import functools
from collections.abc import Sequence

from tstar.evaluation.files import LETTERS

INSTRUCTION = "Answer with the option's letter from the given choices directly."
"""What VNBench's authors and lmms-eval ask for beneath the options."""
NO_OPTION = "@"
"""Letter of an answer that is none of its options; nobody can give it."""


def letter_lines(options: Sequence[str], pattern: str = "{letter}. {text}") -> str:
    """Options one a line with their letters: ``A. red`` or, with ``({letter}) {text}``, ``(A) red``."""
    return _lines(pattern, len(options)).format(*options)


@functools.cache
def _lines(pattern: str, count: int) -> str:
    return "\n".join(pattern.format(letter=letter, text="{}") for letter in LETTERS[:count])
