"""Sets of features in place of frames: what a batch holds is what the encoder makes of the frames, of this encoder alone."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tstar.cli.main import main
from tstar.data.annotations import Record
from tstar.data.feature_shards import encode_shards
from tstar.data.frame_tensors import encoder_input
from tstar.data.shard_index import index_paths
from tstar.data.shard_plan import plan_shards
from tstar.data.shard_set import ShardSet
from tstar.data.sharding import ShardWork, write_shards
from tstar.data.sharding_settings import ShardSettings
from tstar.errors import DataError

PARTS = "tstar/pretrained/miniature"


TURNS = ({"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Noise."})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A set of 24 questions in six shards about eight pictures, two in a row about each."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for n in range(8):
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(root / f"{n}.png")
    records = [Record(f"r{n}", "image", f"{n // 2 % 8}.png", TURNS) for n in range(24)]
    plan = plan_shards(records, root, root / "set", ShardSettings(samples_per_shard=4))
    write_shards(plan, ShardWork(workers=1))
    return root / "set"


@pytest.fixture(scope="module")
def encoded(tiny_world, tmp_path_factory):
    """The tiny world's videos as features of the miniature's encoder, by the command."""
    out = tmp_path_factory.mktemp("features") / "set"
    command = ["shard", str(tiny_world / "shards" / "video_sft"), "--encode", "stages/two_stage.yaml"]
    assert main([*command, "--out", str(out)]) == 0
    return out


def test_features_stand_where_frames_were(tiny_world, encoded):
    from tstar.nn.precision import matmul_precision
    from tstar.vision import VisionConfig

    encoder = VisionConfig(model=f"{PARTS}/vision").build()
    frames, features = ShardSet([tiny_world / "shards" / "video_sft"]), ShardSet([encoded])
    assert len(frames) == len(features)
    for number in range(len(frames)):
        raw, stored = frames.read(number), features.read(number)
        assert stored.meta | {"frames_of": ""} == raw.meta | {"frames_of": ""}
        assert stored.frames == ()
        with matmul_precision("medium"):  # as the recipe has it
            expected = encoder(encoder_input(raw, encoder.image_size)).half()
        torch.testing.assert_close(torch.from_numpy(stored.features), expected)
    for name in ("frames", "words", "modality"):
        np.testing.assert_array_equal(features.column(name), frames.column(name))


def test_a_stopped_encoding_goes_on_and_gives_the_same_bytes(pictures, tmp_path):
    calls = []

    def encode(raw):
        calls.append(raw.meta["id"])
        if len(calls) == 7:
            raise KeyboardInterrupt
        return np.full((len(raw.frames), 2, 3), len(raw.frames[0]), np.float16)

    with pytest.raises(KeyboardInterrupt):
        encode_shards(pictures, tmp_path / "a", encode, {"encoder": "k"})
    with pytest.raises(DataError, match="no shards in"):
        ShardSet([tmp_path / "a"])
    summary = encode_shards(pictures, tmp_path / "a", encode, {"encoder": "k"})
    assert (summary.samples, summary.shards, summary.kept) == (24, 6, 3)
    encode_shards(pictures, tmp_path / "b", encode, {"encoder": "k"})
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "ab")
    assert one == other
    with pytest.raises(DataError, match="choose another --out"):
        encode_shards(pictures, tmp_path / "a", encode, {"encoder": "another"})
    with pytest.raises(DataError, match="holds features already"):
        encode_shards(tmp_path / "a", tmp_path / "c", encode, {"encoder": "k"})


def test_the_same_frames_in_a_row_are_encoded_once(pictures, tmp_path):
    calls = []

    def encode(raw):
        calls.append(raw.meta["source"])
        return np.zeros((len(raw.frames), 1, 1), np.float16)

    encode_shards(pictures, tmp_path, encode, {"encoder": "k"})
    assert calls == [f"{n % 8}.png" for n in range(12)]


def test_a_damaged_sample_is_left_out_and_listed(pictures, tmp_path):
    copy = shutil.copytree(pictures, tmp_path / "copy")
    members, samples = (np.load(path) for path in index_paths(copy / "shard-00001.tar"))
    data = bytearray((copy / "shard-00001.tar").read_bytes())
    data[int(members[samples[2]["first"]]["offset"]) + 5] ^= 0xFF
    (copy / "shard-00001.tar").write_bytes(data)
    summary = encode_shards(copy, tmp_path / "out", lambda raw: np.zeros((1, 1, 1), np.float16), {"encoder": "k"})
    assert [(s["id"], s["media"]) for s in summary.skipped] == [("r6", "shard-00001.tar"), ("r7", "shard-00001.tar")]
    assert len(ShardSet([tmp_path / "out"])) == 22


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["a.json", "b.json"], "--encode takes the folder of one finished set"),
        (["configs"], "no shards in configs"),
    ],
)
def test_sources_that_are_no_set_are_refused(tmp_path, capsys, command, message):
    assert main(["shard", *command, "--encode", "stages/two_stage.yaml", "--out", str(tmp_path / "o")]) == 2
    assert message in capsys.readouterr().err
