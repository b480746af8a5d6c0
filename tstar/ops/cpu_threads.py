"""Work on all the threads that PyTorch may use, for kernels that release Python's lock.

Numba's own parallel loops are not used: their threads do not survive a fork, as into a DataLoader's worker, and not
every build of them can be entered from two threads at once.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import distributed

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
"""By process and number of helpers: a forked child makes its own, for threads stay behind in the parent."""


def ranks_here() -> int:
    """Processes that train together on this machine; 1 where none do."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return int(os.environ.get("LOCAL_WORLD_SIZE", distributed.get_world_size()))


@contextmanager
def threads_of_waiting_ranks(ranks: int | None = None) -> Iterator[None]:
    """While one rank works and the others of its machine wait, it may use their threads too; alone, nothing changes."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(before, min((ranks or ranks_here()) * before, os.cpu_count() or 1)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def for_each(count: int, work: Callable[[int], None]) -> None:
    """Call ``work(0)`` .. ``work(count - 1)``, each once, on at most ``torch.get_num_threads()`` threads.

    The caller's thread takes part, and which thread takes which number is open: results must not depend on it. The
    first exception is raised again once every thread has stopped.
    """
    helpers = min(torch.get_num_threads(), count) - 1
    if helpers < 1:
        for number in range(count):
            work(number)
        return
    numbers = iter(range(count))  # handing out the next one is atomic
    futures = [_pool(helpers).submit(_drain, numbers, work) for _ in range(helpers)]
    try:
        _drain(numbers, work)
    finally:
        for _ in numbers:  # after an error nobody starts another
            pass
        for future in futures:
            future.result()


def _drain(numbers: Iterator[int], work: Callable[[int], None]) -> None:
    for number in numbers:
        work(number)


def _pool(helpers: int) -> ThreadPoolExecutor:
    key = (os.getpid(), helpers)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(helpers, thread_name_prefix="tstar-ops")
    return _pools[key]
