"""Two hundred damaged sets: every sample is delivered as it was written or named, and nothing is written anywhere."""

import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tstar.data.annotations import Record
from tstar.data.sample_source import DAMAGE
from tstar.data.shard_plan import plan_shards
from tstar.data.shard_set import ShardSet
from tstar.data.sharding import ShardWork, write_shards
from tstar.data.sharding_settings import ShardSettings
from tstar.errors import DataError

TURNS = ({"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Noise."})
COUNT, IN_ONE = 11, 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    for n in range(COUNT):
        Image.fromarray(rng.integers(0, 255, (8, 9, 3), dtype=np.uint8)).save(root / f"{n}.png")
    records = [Record(f"r{n}", "image", f"{n}.png", TURNS) for n in range(COUNT)]
    plan = plan_shards(records, root, root / "set", ShardSettings(samples_per_shard=IN_ONE))
    write_shards(plan, ShardWork(workers=1))
    return root / "set"


@pytest.fixture(scope="module")
def originals(whole):
    shards = ShardSet([whole])
    return {shards.locate(n)[1]: shards.read(n) for n in range(len(shards))}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "set"


DAMAGES = st.lists(
    st.tuples(
        st.sampled_from(["*.tar", "*.tar", "*.tar", "*.members.npy", "*.samples.npy", "shards.json"]),
        st.integers(0, 3),
        st.sampled_from(["flip", "flip", "cut", "zero", "insert", "delete", "exchange", "climb"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 255),
    ),
    min_size=1,
    max_size=4,
)


def damage(folder, pattern, which, kind, where, value):
    """Spoil one file of a set."""
    paths = sorted(folder.glob(pattern))
    if not paths:
        return
    path = paths[which % len(paths)]
    data = bytearray(path.read_bytes())
    at = int(where * len(data))
    if kind == "delete":
        path.unlink()
        return
    if kind == "exchange":
        data = bytearray(paths[(which + 1) % len(paths)].read_bytes())
    elif kind == "climb":  # a name inside the tar, or in the manifest, that leads out of the folder
        data = bytearray(bytes(data).replace(b"r3.json", b"../../e").replace(b"shard-00001", b"../../00001"))
    elif kind == "cut":
        del data[at:]
    elif kind == "zero":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    elif kind == "insert":
        data[at:at] = bytes([value]) * (value % 40 + 1)
    elif data:
        data[at % len(data)] ^= value
    path.write_bytes(data)


def opened(folder):
    """The set, or None and why it cannot be used at all."""
    try:
        return ShardSet([folder], skip_damaged=True), ""
    except DataError as error:
        return None, str(error)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(damages=DAMAGES)
def test_nothing_is_lost_unsaid(whole, originals, place, damages):
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    for spoilt in damages:
        damage(place, *spoilt)
    before = {p: p.read_bytes() for p in place.parent.rglob("*") if p.is_file()}
    shards, refusal = opened(place)
    if shards is None:  # the manifest, or every shard
        assert str(place) in refusal
        assert "\n" not in refusal
        return
    delivered, named = [], []
    for number in range(len(shards)):
        try:
            raw = shards.read(number)
        except DAMAGE as error:
            named.append(str(error))
        else:
            assert raw == originals[raw.meta["id"]], "wrong bytes were delivered"
            delivered.append(raw.meta["id"])
    assert all(named)
    shards.close()
    if not any(kind == "exchange" for _, _, kind, _, _ in damages):
        assert len(set(delivered)) == len(delivered)
    lost = COUNT - len(delivered) - len(named)
    assert 0 <= lost <= len(shards.damaged) * IN_ONE, "samples are missing from no shard that was named"
    assert {p: p.read_bytes() for p in place.parent.rglob("*") if p.is_file()} == before
