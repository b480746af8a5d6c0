"""How large a set of shards will be, and how long it will take, from a few of its records."""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from tstar.data.shard_plan import ShardPlan
from tstar.data.stored_media import MediaReader
from tstar.errors import DataError

BLOCK = 512
"""A tar rounds every member up to whole blocks and puts one before it."""


@dataclass(frozen=True)
class Estimate:
    """What is expected of a plan."""

    records: int
    bytes: int
    """Of all shards."""
    seconds: float
    """Of making them all with one process."""
    tried: int
    unusable: int
    """Of those that were tried."""
    free: int
    """Bytes that are free where the shards go."""


def estimate_shards(plan: ShardPlan, tries: int = 16, time_limit: float | None = None) -> Estimate:
    """Read a few records, evenly spread, as sharding would.

    Args:
        plan: what is to be made.
        tries: records to read.
        time_limit: as that of :class:`MediaReader`.
    """
    total = len(plan.records)
    tries = min(tries, total)
    size = unusable = 0
    with MediaReader(plan.settings, time_limit) as reader:
        reader.start()
        begun = time.monotonic()
        for n in range(tries):
            record = plan.records[(2 * n + 1) * total // (2 * tries)]
            sizes = [len(json.dumps(record.conversations, ensure_ascii=False).encode()) + 400]
            try:
                if record.media:
                    sizes += map(len, reader.read(plan.media_root / record.media, record.modality).frames)
                size += sum(BLOCK + -(-s // BLOCK) * BLOCK for s in sizes)
            except (DataError, OSError):
                unusable += 1
        seconds = time.monotonic() - begun
    whole = total / max(tries, 1)
    return Estimate(total, round(size * whole), seconds * whole, tries, unusable, _free(plan.out))


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
