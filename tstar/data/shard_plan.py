"""Which records go into which tar, and a digest of all that the tars follow from."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tstar.data.annotations import Record
from tstar.data.sharding_settings import ShardSettings
from tstar.errors import DataError


@dataclass(frozen=True)
class ShardPlan:
    """Which records go into which tar."""

    records: Sequence[Record]
    media_root: Path
    out: Path
    settings: ShardSettings
    keys: tuple[str, ...]
    digest: str
    quarantine: Mapping[str, str]
    clips: int
    """Pictures and videos whose frames are stored, those that several shards hold counted in each."""

    @property
    def names(self) -> list[Path]:
        """The tars."""
        return [self.path(number) for number in range(-(-len(self.records) // self.settings.samples_per_shard))]

    def path(self, number: int) -> Path:
        """One of them."""
        return self.out / f"shard-{number:05d}.tar"

    def bounds(self, number: int) -> slice:
        """Records of one tar."""
        size = self.settings.samples_per_shard
        return slice(number * size, (number + 1) * size)

    def job(self, number: int, time_limit: float | None) -> tuple[Any, ...]:
        """Arguments of :func:`tstar.data.sharding.make_shard`."""
        bounds = self.bounds(number)
        records = self.records[bounds]
        unusable = {r.media: self.quarantine[r.media] for r in records if r.media in self.quarantine}
        return (
            list(records),
            self.media_root,
            self.path(number),
            self.settings,
            self.keys[bounds],
            time_limit,
            unusable,
        )


def plan_shards(
    records: Sequence[Record],
    media_root: Path,
    out: Path,
    settings: ShardSettings,
    quarantine: Mapping[str, str] | None = None,
) -> ShardPlan:
    """Lay records out over shards.

    Args:
        records: conversations; their order is the order in the shards.
        media_root: folder that ``Record.media`` is relative to.
        out: folder of the shards.
        settings: sampling and coding.
        quarantine: media that are known to be unusable, with the reason; they are left out unread.

    Raises:
        DataError: there are no such media.
    """
    digest = hashlib.sha256(f"[{json.dumps(settings.identity(), sort_keys=True)}, [".encode())
    ids, media, clips = [], False, 0
    here: set[str] = set()
    for number, record in enumerate(records):
        if number % settings.samples_per_shard == 0 or not settings.share_frames:
            here = set()
        clips += bool(record.media) and record.media not in here
        here.add(record.media)
        text = json.dumps({**vars(record), "conversations": list(record.conversations)}, sort_keys=True)
        digest.update(f"{', ' if number else ''}{text}".encode())
        ids.append(record.id)
        media = media or bool(record.media)
    digest.update(b"]]")
    if quarantine:
        digest.update(json.dumps(sorted(quarantine)).encode())
    if media and not media_root.is_dir():
        raise DataError(f"no such media folder: {media_root}")
    return ShardPlan(
        records, media_root, out, settings, tuple(sample_keys(ids)), digest.hexdigest(), dict(quarantine or {}), clips
    )


def sample_keys(ids: Iterable[str]) -> list[str]:
    """Ids of records as WebDataset keys: no dots (they start the extension), no folders, and no two alike.

    Published annotations repeat ids, and different ids may lose their difference with their dots: the second of a kind gets
    "-2" and so on. The id itself stays as it is, in the sample's JSON.
    """
    keys: list[str] = []
    taken: set[str] = set()
    seen: dict[str, int] = {}
    for name in ids:
        plain = "".join(c if c.isalnum() or c in "_-" else "_" for c in name) or "_"
        key = plain
        while key in taken:
            seen[plain] = seen.get(plain, 1) + 1
            key = f"{plain}-{seen[plain]}"
        taken.add(key)
        keys.append(key)
    return keys
