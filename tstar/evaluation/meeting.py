"""Waiting for other processes that may take hours longer, which a collective operation would not bear."""

import itertools
import time

from torch import distributed

SECONDS_BETWEEN_LOOKS = 0.1
_meetings = itertools.count()


def wait_for_all() -> None:
    """Return when every process that trains or evaluates together has called this as often as this one; alone, at once.

    They leave marks in the store through which they found one another, where nothing times out: a process that died is noticed
    by what started it, which ends the others.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    number = next(_meetings)
    store = distributed.distributed_c10d._get_default_store()
    here, processes = distributed.get_rank(), distributed.get_world_size()
    names = [f"tstar/meeting {number}/{process}" for process in range(processes)]
    store.set(names[here], "here")
    while not store.check(names):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    # the store ends with the first process, which therefore leaves last
    if here:
        store.add(f"tstar/meeting {number}/left", 1)
    else:
        while store.add(f"tstar/meeting {number}/left", 0) < processes - 1:
            time.sleep(SECONDS_BETWEEN_LOOKS)
