"""What there is to encode of shards, and samples that come with features in place of frames."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tstar.data import frame_tensors
from tstar.data.annotations import Record
from tstar.data.batch import Processor, Sample
from tstar.data.conversations import get_template
from tstar.data.datamodule import ClipDataModule
from tstar.data.sample_source import SampleSource
from tstar.data.shard_index import index_paths
from tstar.data.shard_plan import plan_shards
from tstar.data.shard_set import ShardSet, shares
from tstar.data.sharding import ShardWork, write_shards
from tstar.data.sharding_settings import ShardSettings
from tstar.errors import DataError

MEDIA = ["red", "", "blue", "red", "red", "red", "blue"]
"""Picture of each sample, shards of 4."""


@pytest.fixture
def shards(tmp_path):
    for number, name in enumerate(["red", "blue"]):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    turns = ({"from": "human", "value": "<image> Q"}, {"from": "gpt", "value": "A"})
    records = [
        Record(str(n), *(("image", f"{name}.png") if name else ("text", "")), conversations=turns)
        for n, name in enumerate(MEDIA)
    ]
    settings = ShardSettings(samples_per_shard=4, share_frames=False)
    write_shards(plan_shards(records, tmp_path, tmp_path / "shards", settings), ShardWork(workers=1))
    return tmp_path / "shards"


@pytest.fixture
def processor(miniature_language):
    return Processor(miniature_language.tokenizer, get_template("miniature"), 6)


def damage(folder, number, of_field):
    """Flip a byte of one file of a sample."""
    shard = folder / f"shard-{number // 4:05d}.tar"
    members, samples = (np.load(path) for path in index_paths(shard))
    first = samples[number % 4]["first"]
    (member,) = (m for m in members[first : first + 2] if m["field"] == of_field)
    data = bytearray(shard.read_bytes())
    data[int(member["offset"]) + 3] ^= 0xFF
    shard.write_bytes(data)


def test_parts_are_the_tars_with_their_samples(shards):
    source = ShardSet([shards, shards])
    parts = source.parts()
    assert [part.numbers for part in parts] == [range(0, 4), range(4, 7), range(7, 11), range(11, 14)]
    assert [part.frames for part in parts] == [3, 3, 3, 3]
    assert [part.digest for part in parts[:2]] == [part.digest for part in parts[2:]]
    assert parts[0].digest != parts[1].digest
    assert [len(ShardSet([shards], limit=limit).parts()) for limit in (1, 4, 5, 7, 8)] == [1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [
        ([8, 6], 4, [2, 2]),
        ([8, 6], 7, [4, 3]),
        ([8, 6], 1, [1, 0]),
        ([8, 0, 6], 99, [8, 0, 6]),
        ([1, 1, 1], 2, [1, 1, 0]),
        ([0], 3, [0]),
    ],
)
def test_a_limit_is_shared_in_proportion(sizes, total, expected):
    assert shares(sizes, total) == expected


def test_a_limit_takes_the_first_samples_of_each_folder(shards, processor):
    module = ClipDataModule(processor, [str(shards), str(shards)], limit=11)
    source = module.train_source
    assert [source[n][0].id for n in range(len(source))] == ["0", "1", "2", "3", "4", "5", "0", "1", "2", "3", "4"]
    assert source.column("frames").tolist() == [1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1]
    assert [part.numbers for part in source.shards.parts()] == [range(0, 4), range(4, 7), range(7, 11), range(11, 14)]
    source.features = lambda number: torch.full((int(MEDIA[number % 7] != ""), 4, 5), number)
    assert [int(source[n][0].frames.amax()) for n in (0, 5, 6, 10)] == [0, 5, 7, 11]
    few = ShardSet([shards, shards], limit=4)
    assert (len(few.shards), few.numbers.tolist()) == (2, [0, 1, 4, 5])
    assert few.digest == source.shards.digest == ShardSet([shards, shards]).digest
    assert few.locate(5)[1] == source.shards.locate(8)[1]


def test_a_limit_counts_what_is_left_of_a_damaged_folder(shards):
    (shards / "shard-00000.tar").unlink()
    left = ShardSet([shards], skip_damaged=True, limit=2)
    assert [left.read(int(n)).meta["id"] for n in left.numbers] == ["4", "5"]


def test_a_sample_can_be_read_without_its_frames(shards):
    source = ShardSet([shards])
    whole, alone = source.read(2), source.read(2, with_frames=False)
    assert (alone.meta, alone.frames) == (whole.meta, ())
    damage(shards, 2, b"0000.jpg")
    assert ShardSet([shards]).read(2, with_frames=False).meta == whole.meta
    damage(shards, 2, b"json")
    with pytest.raises(DataError, match="checksum of json differs"):
        ShardSet([shards]).read(2, with_frames=False)


def test_equal_frames_come_once_in_a_shard(shards, processor):
    source = SampleSource(ShardSet([shards]), processor)
    first, second = (list(source.clips(part.numbers)) for part in source.shards.parts())
    assert [clip if isinstance(clip, int) else tuple(clip.shape) for clip in first] == [
        (1, 3, 6, 6),
        (0, 3, 6, 6),
        (1, 3, 6, 6),
        0,
    ]
    assert [clip if isinstance(clip, int) else tuple(clip.shape) for clip in second] == [(1, 3, 6, 6), 4, (1, 3, 6, 6)]
    assert torch.equal(first[2], source[2][0].frames)


def test_frames_that_differ_in_how_they_are_cut_are_not_equal(shards, processor):
    """The same bytes end to end, as one frame and as two."""
    source = SampleSource(ShardSet([shards]), processor)
    whole = source.shards.read(0)
    data = whole.frames[0]

    class Cut:
        def read(self, number):
            return type(whole)(whole.meta, (data[:9], data[9:]) if number else (data,))

        def locate(self, number):
            return shards, "x"

    source.shards = Cut()
    intact, torn = source.clips(range(2))
    assert intact.shape == (1, 3, 6, 6)
    assert "cannot decode image frame of 0" in torn


@pytest.mark.parametrize("field", [b"0000.jpg", b"json"])
def test_a_damaged_sample_is_marked_by_the_reason_that_training_would_report(shards, processor, field):
    damage(shards, 3, field)
    source = SampleSource(ShardSet([shards]), processor)
    _, (skip,) = source[3]
    *_, marker = source.clips(range(0, 4))
    assert marker == skip.reason == f"checksum of {field.decode()} differs"


class Cache:
    """Features that tell which sample they are of; sample 3 was damaged when it was to be encoded."""

    def __init__(self):
        self.filled = []

    def fill(self, shards, clips, device=None):
        self.filled += [part.digest for part in shards]

    def open(self, shards):
        def features(number):
            if number == 3:
                raise DataError("it was damaged")
            return torch.full((1 if MEDIA[number] else 0, 4, 5), number, dtype=torch.float16)

        return features


def test_features_take_the_place_of_frames_and_nothing_is_decoded(shards, processor, monkeypatch):
    module = ClipDataModule(processor, [str(shards)], [str(shards)], limit=3, features="somewhere")
    module.prepare_data()
    module.setup("fit")
    plain = [module.train_source[n][0] for n in range(3)]
    assert all(sample.frames.dtype == torch.uint8 for sample in plain)  # nothing was given that keeps features
    module.cache = Cache()
    module.prepare_data()
    module.setup("fit")
    monkeypatch.setattr(frame_tensors, "_decode", None)
    assert len(module.cache.filled) == 1 + 2  # of the limited training samples, of all validation samples
    for number, before in enumerate(plain):
        sample: Sample = module.train_source[number][0]
        assert torch.equal(sample.frames, module.cache.open([])(number))
        assert torch.equal(sample.input_ids, before.input_ids)
        assert torch.equal(sample.labels, before.labels)
    sample, (skip,) = module.val_source[3]
    assert (sample.id, skip.key, skip.reason) == ("4", "3", "it was damaged")


def test_a_set_elsewhere_has_the_same_parts(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "copy")
    assert ShardSet([copy]).parts() == ShardSet([shards]).parts()
