"""Python's collector of reference cycles, kept from looking through a million new objects that have none."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No search for cycles in the block, if there was one before.

    It is started by so many new objects and goes through all old ones too: with a hundred thousand questions in memory it took
    as long as scoring them.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
