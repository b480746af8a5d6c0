"""What goes wrong through a user's doing, said in one line; the command turns these into exit status 2."""

import difflib
from collections.abc import Iterable


class TstarError(Exception):
    """Base of the errors a user can mend; its text is the whole message shown."""


class ConfigError(TstarError):
    """A setting has a value that cannot work: the text names the setting, the value and the legal values."""


class DataError(TstarError):
    """A file is missing, damaged or not what it claims: the text names the file and what to do."""


def suggest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'mamba'? (known: avg_pool, mamba)"``, or only the list when nothing is close."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"{hint} (known: {', '.join(names)})"
