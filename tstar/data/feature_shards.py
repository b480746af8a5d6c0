"""A set with a frozen encoder's features in place of frames, made from a set of frames."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tstar.data.sample_source import DAMAGE
from tstar.data.shard_index import FEATURES, FRAMES_OF, RawSample, read_manifest
from tstar.data.shard_set import ShardSet
from tstar.data.shard_writing import claim, complete_set, describe_tars, is_whole, read_skipped, write_tar
from tstar.data.sharding import Progress, ShardSummary
from tstar.errors import DataError

Encode = Callable[[RawSample], np.ndarray]
"""Frames of a stored sample to features, [M, N, d_vision], as they are to be stored."""


def encode_shards(
    source: Path, out: Path, encode: Encode, about: dict[str, str], progress: Progress | None = None
) -> ShardSummary:
    """Write a set of features, shard by shard of the set of frames it is made from; a killed call goes on where it stopped.

    Args:
        source: folder of the set of frames.
        out: of the new one.
        encode: what the encoder does.
        about: of the encoder, for the manifest; ``encoder`` is the key that training compares with its own.
        progress: called with (samples done, samples in all).

    Raises:
        DataError: ``source`` holds features already, or ``out`` a set of another making.
    """
    manifest = read_manifest(source)
    if "features" in manifest:
        raise DataError(f"{source} holds features already; give the set of frames that it was made from")
    entries = manifest["shards"]
    plan = hashlib.sha256(json.dumps([sorted(about.items()), [e["sha256"] for e in entries]]).encode()).hexdigest()
    out.mkdir(parents=True, exist_ok=True)
    claim(out, plan)
    kept = done = 0
    for entry in entries:
        shard = out / entry["file"]
        if is_whole(shard):
            kept += 1
        else:
            skipped: list[dict[str, str]] = []
            write_tar(shard, _encoded(source, entry["file"], encode, skipped), skipped)
        done += entry["samples"]
        if progress:
            progress(done, manifest["samples"])
    names = [out / entry["file"] for entry in entries]
    tars = describe_tars(names)
    left_out = tuple(skip for name in names for skip in read_skipped(name))
    more = {"features": about} | ({"records": manifest["records"]} if "records" in manifest else {})
    complete_set(out, tars, plan, manifest.get("settings", {}), more)
    samples, size = (sum(entry[column] for entry in tars) for column in ("samples", "bytes"))
    return ShardSummary(str(out), manifest["samples"], samples, len(tars), size, left_out, kept)


def _encoded(source: Path, name: str, encode: Encode, skipped: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """The samples of one shard with features, stored once for all that is asked about the same frames."""
    shards = ShardSet([source], only=name)
    written: dict[str, str] = {}
    for number in range(len(shards)):
        key = shards.locate(number)[1]
        try:
            raw = shards.read(number)
            features: dict[str, bytes] = {}
            meta = {k: v for k, v in raw.meta.items() if k != FRAMES_OF}
            if meta["checksum"] in written:
                meta[FRAMES_OF] = written[meta["checksum"]]
            else:
                buffer = io.BytesIO()
                np.save(buffer, encode(raw), allow_pickle=False)
                features = {FEATURES: buffer.getvalue()}
                written[meta["checksum"]] = key
        except DAMAGE as error:
            skipped.append({"id": key, "media": name, "reason": str(error), "kind": "unusable"})
        else:
            yield {"__key__": key, "json": json.dumps(meta, ensure_ascii=False).encode(), **features}
    shards.close()
