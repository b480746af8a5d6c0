"""What the command says: lines, warnings, and the progress of long work (a bar on a terminal, now and then a line elsewhere)."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Update = Callable[[int, int], None]
SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def bar(title: str, unit: str, *, quiet: bool = False) -> Iterator[Update]:
    """A function to call with (done, total), shown while the block runs."""
    if quiet:
        yield lambda done, total: None
        return
    if not sys.stderr.isatty():
        yield _lines(title, unit)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _lines(title: str, unit: str) -> Update:
    said = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= SECONDS_BETWEEN_LINES and done < total:
            said = time.monotonic()
            print(f"{title}: {done}/{total} {unit}", file=sys.stderr, flush=True)

    return update


def is_first_process() -> bool:
    """Whether this process is the one that writes and speaks; launchers tell the others by these variables."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def say(text: str) -> None:
    """A line for the user, at once, from the first process only."""
    if is_first_process():
        print(text, flush=True)


def warn(text: str) -> None:
    """A warning, beside the output and not in it."""
    if is_first_process():
        print(f"warning: {text}", file=sys.stderr, flush=True)
