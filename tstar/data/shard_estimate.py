"""How large a set of shards will be, and how long it will take, from a few of its records."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from tstar.data.shard_plan import ShardPlan
from tstar.data.sharding import make_sample
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
    texts = frames = unusable = asked = 0
    with MediaReader(plan.settings, time_limit) as reader:
        reader.start()
        begun = time.monotonic()
        for n in range(tries):
            record = plan.records[(2 * n + 1) * total // (2 * tries)]
            try:
                sample = make_sample(record, plan.keys[0], plan.media_root, reader, {})
            except DataError:
                unusable += 1
                continue
            asked += bool(record.media)
            texts += _in_tar(len(sample["json"]))
            frames += sum(_in_tar(len(data)) for name, data in sample.items() if name not in ("__key__", "json"))
        seconds = time.monotonic() - begun
    usable = total * (1 - unusable / max(tries, 1))
    clips = plan.clips * usable / total / max(asked, 1)
    size = texts * usable / max(tries - unusable, 1) + frames * clips
    return Estimate(total, round(size), seconds * clips, tries, unusable, _free(plan.out))


def _in_tar(size: int) -> int:
    return BLOCK + -(-size // BLOCK) * BLOCK


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
