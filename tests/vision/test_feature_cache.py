"""Features kept on disk: what the encoder gives, each frame once, and never those of something else."""

import json
import os
import pickle
import re
import time

import numpy as np
import pytest
import torch

from tstar.errors import ConfigError, DataError
from tstar.nn.precision import matmul_precision
from tstar.vision import VisionConfig, feature_cache
from tstar.vision.feature_cache import FeatureCache, encoder_digest

HALF = 2.0**-11
"""Largest relative rounding error of a float16."""


@pytest.fixture
def encoder(miniature_parts):
    return VisionConfig(model=str(miniature_parts / "vision")).build()


def frames_of(seed, count):
    return torch.randint(0, 256, (count, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


SAMPLES = [
    frames_of(0, 3),
    frames_of(1, 1),
    frames_of(2, 0),  # text
    0,  # the same frames as sample 0
    "checksum of 0001.jpg differs",
    frames_of(3, 5),
    5,
    frames_of(4, 2),
]
SHARDS = [("a" * 64, range(0, 5), 8), ("b" * 64, range(5, 8), 12)]
FRAMES = 3 + 1 + 5 + 2
TEXTS = [("c" * 64, range(0, 2), 0)]


class Source:
    """Gives clips and remembers for which samples it was asked."""

    def __init__(self, samples=SAMPLES):
        self.samples, self.asked = list(samples), []

    def __call__(self, numbers):
        for number in numbers:
            self.asked.append(number)
            yield self.samples[number]


def make(folder, encoder, dtype="float16", resized="square"):
    told = []
    return FeatureCache(folder, encoder, resized, dtype, tell=told.append), told


def expected(encoder, number):
    """A sample's features, encoded alone."""
    clip = SAMPLES[SAMPLES[number]] if isinstance(SAMPLES[number], int) else SAMPLES[number]
    return encoder(clip)


def check(stored, encoder, rtol=HALF):
    for number in range(len(SAMPLES)):
        if isinstance(SAMPLES[number], str):
            with pytest.raises(DataError, match=re.escape(SAMPLES[number])):
                stored(number)
        else:
            torch.testing.assert_close(stored(number).float(), expected(encoder, number), rtol=rtol, atol=1e-5)


@pytest.mark.parametrize(("dtype", "rtol"), [("float16", HALF), ("float32", 1e-5)])
@pytest.mark.parametrize("at_once", [1, 4, 256])
def test_every_sample_gets_what_the_encoder_makes_of_it_alone(encoder, tmp_path, monkeypatch, dtype, rtol, at_once):
    monkeypatch.setattr(feature_cache, "FRAMES_AT_ONCE", at_once)
    cache, _ = make(tmp_path, encoder, dtype)
    cache.fill(SHARDS, Source())
    stored = cache.open(SHARDS)
    check(stored, encoder, rtol=rtol)
    assert stored(0).dtype == getattr(torch, dtype)
    assert stored(2).shape == (0, 36, 128)
    assert torch.equal(stored(3), stored(0))


def test_the_files_are_plain_and_hold_every_different_frame_once(encoder, tmp_path, monkeypatch):
    encoded = []
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda frames: encoded.append(len(frames)) or forward(frames))
    cache, told = make(tmp_path, encoder)
    cache.fill(SHARDS, Source())
    assert sum(encoded) == FRAMES
    arrays = [np.load(cache.folder / f"{name}.npy", allow_pickle=False) for name, _, _ in SHARDS]
    assert [array.shape for array in arrays] == [(4, 36, 128), (7, 36, 128)]
    assert {array.dtype for array in arrays} == {np.dtype("float16")}
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".json", ".json", ".npy", ".npy"]
    (line,) = told
    mib = (FRAMES * 36 * 128 * 2 + 2 * 128) / 2**20
    assert re.search(
        rf"8 samples, {FRAMES} different frames, {FRAMES} encoded in \d+\.\d s; {mib:.1f} MiB in {tmp_path}", line
    )


def test_text_alone_leaves_empty_files(encoder, tmp_path):
    cache, _ = make(tmp_path, encoder)
    cache.fill(TEXTS, Source([frames_of(0, 0)] * 2))
    assert cache.open(TEXTS)(1).shape == (0, 36, 128)
    cache.fill(TEXTS, source := Source([frames_of(0, 0)] * 2))
    assert source.asked == []


def test_what_is_there_is_not_encoded_again_whoever_asks(encoder, tmp_path):
    make(tmp_path, encoder)[0].fill(SHARDS, Source())
    cache, told = make(tmp_path, encoder)
    turned = [("b" * 64, range(0, 3), 12), ("a" * 64, range(3, 8), 8)]  # the tars in another set
    source = Source([SAMPLES[5], 0, SAMPLES[7], *SAMPLES[:3], 3, SAMPLES[4]])
    cache.fill(turned, source)
    assert source.asked == [7]  # whether the damaged sample still is
    assert "all there before" in told[-1]
    assert torch.equal(cache.open(turned)(2), cache.open(SHARDS)(7))


def test_a_kill_loses_no_finished_shard_and_leaves_no_half_of_one(encoder, tmp_path):
    class Killed(Source):
        def __call__(self, numbers):
            for clip in super().__call__(numbers):
                if self.asked[-1] == 6:
                    raise KeyboardInterrupt
                yield clip

    cache, _ = make(tmp_path, encoder)
    with pytest.raises(KeyboardInterrupt):
        cache.fill(SHARDS, Killed())
    assert {path.stem for path in cache.folder.iterdir()} == {"a" * 64}
    source = Source()
    cache.fill(SHARDS, source)
    assert [number for number in source.asked if number >= 5] == [5, 6, 7]
    assert not set(source.asked) & {0, 1, 2, 3}
    check(cache.open(SHARDS), encoder)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)


def cut_manifest(path):
    path.with_suffix(".json").write_text('{"key": ')


def other_spans(path):
    entry = json.loads(path.with_suffix(".json").read_text())
    entry["clips"][0] = [2, 3]
    path.with_suffix(".json").write_text(json.dumps(entry))


def nameless_digest(path):
    entry = json.loads(path.with_suffix(".json").read_text())
    del entry["digest"]
    path.with_suffix(".json").write_text(json.dumps(entry))


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, flip, cut_manifest, other_spans, nameless_digest, remove])
def test_damaged_files_are_made_again_with_a_note_and_the_others_are_left(damage, encoder, tmp_path):
    cache, told = make(tmp_path, encoder)
    cache.fill(SHARDS, Source())
    damage(cache.folder / f"{'b' * 64}.npy")
    before = (cache.folder / f"{'a' * 64}.npy").stat().st_mtime_ns
    source = Source()
    cache.fill(SHARDS, source)
    assert sorted(set(source.asked)) == [4, 5, 6, 7]
    note = told[1]
    assert note.startswith(f"note: features of {'b' * 64} are made again: ")
    assert "\n" not in note
    assert (cache.folder / f"{'a' * 64}.npy").stat().st_mtime_ns == before
    check(cache.open(SHARDS), encoder)


def test_a_damaged_sample_that_was_repaired_is_encoded(encoder, tmp_path):
    cache, told = make(tmp_path, encoder)
    cache.fill(SHARDS, Source())
    repaired = frames_of(9, 2)
    cache.fill(SHARDS, Source([*SAMPLES[:4], repaired, *SAMPLES[5:]]))
    assert "damaged and has changed" in told[1]
    torch.testing.assert_close(cache.open(SHARDS)(4).float(), encoder(repaired), rtol=HALF, atol=1e-5)


def change_weight(encoder):
    with torch.no_grad():
        next(encoder.parameters()).flatten()[3] += 1e-4


def change_mean(encoder):
    encoder.mean += 1e-3


def change_heads(encoder):
    attention = next(m for m in encoder.modules() if isinstance(m, torch.nn.MultiheadAttention))
    attention.num_heads *= 2


@pytest.mark.parametrize("change", [change_weight, change_mean, change_heads])
def test_another_encoder_never_finds_them(change, encoder, tmp_path, miniature_parts):
    cache, _ = make(tmp_path, encoder)
    cache.fill(SHARDS, Source())
    changed = VisionConfig(model=str(miniature_parts / "vision")).build()
    change(changed)
    other, _ = make(tmp_path, changed)
    with pytest.raises(DataError, match=r"is missing; data\.features must be a folder that every process sees"):
        other.open(SHARDS)
    other.fill(SHARDS, source := Source())
    assert source.asked == list(range(8))
    check(cache.open(SHARDS), encoder)


def test_other_pictures_precisions_and_shards_never_find_them(encoder, tmp_path):
    cache, _ = make(tmp_path, encoder)
    cache.fill(SHARDS, Source())
    with matmul_precision("medium"):
        coarse, _ = make(tmp_path, encoder)
    cropped, exact = make(tmp_path, encoder, resized="crop")[0], make(tmp_path, encoder, dtype="float32")[0]
    for other in (cropped, exact, coarse):
        with pytest.raises(DataError, match="is missing"):
            other.open(SHARDS)
    with pytest.raises(DataError, match="is missing"):
        cache.open([("d" * 64, range(0, 5), 8)])
    with pytest.raises(DataError, match="of another shard or encoder"):
        cache.open([("a" * 64, range(0, 4), 8)])


def test_an_encoder_elsewhere_with_other_slices_is_the_same(encoder, tmp_path, miniature_parts):
    (tmp_path / "moved").symlink_to(miniature_parts / "vision")
    moved = VisionConfig(model=str(tmp_path / "moved"), slice_size=3).build()
    assert encoder_digest(moved, "") == encoder_digest(encoder, "") == encoder_digest(encoder.train(), "")


def test_features_too_large_for_float16_name_the_setting_and_float32_keeps_them(
    encoder, tmp_path, monkeypatch, one_line
):
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda frames: forward(frames) * 1e6)
    cache, _ = make(tmp_path, encoder)
    with pytest.raises(ConfigError) as caught:
        cache.fill(SHARDS, Source())
    one_line(caught.value, "data.features_dtype", "float16", "65504", "float32")
    assert list(cache.folder.iterdir()) == []
    cache, _ = make(tmp_path, encoder, "float32")
    cache.fill(SHARDS, Source())
    torch.testing.assert_close(cache.open(SHARDS)(0), forward(SAMPLES[0]) * 1e6)


def test_a_loaders_process_is_handed_no_features_but_where_they_are(encoder, tmp_path):
    cache, _ = make(tmp_path, encoder)
    cache.fill(SHARDS, Source())
    stored = cache.open(SHARDS)
    features = stored(5)
    handed = pickle.dumps(stored)
    assert len(handed) < 5000 < features.nbytes
    assert torch.equal(pickle.loads(handed)(5), features)
    features += 1  # a copy: the file is not written to
    assert not torch.equal(stored(5), features)


def test_few_files_are_open_at_once(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "OPEN_FILES", 1)
    cache, _ = make(tmp_path, encoder)
    cache.fill(SHARDS, Source())
    stored = cache.open(SHARDS)
    before = len(os.listdir("/proc/self/fd"))
    for number in (0, 5, 1, 7, 2, 6):
        torch.testing.assert_close(stored(number).float(), expected(encoder, number), rtol=HALF, atol=1e-5)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_place_that_cannot_hold_them_is_an_error_of_one_line(encoder, tmp_path, one_line):
    (tmp_path / "file").write_text("x")
    cache, _ = make(tmp_path / "file", encoder)
    with pytest.raises(DataError) as caught:
        cache.fill(SHARDS, Source())
    one_line(caught.value, "data.features", str(tmp_path / "file"), "choose another folder")


def test_what_killed_runs_left_is_cleared_away_and_what_others_write_is_not(encoder, tmp_path):
    cache, _ = make(tmp_path, encoder)
    cache.folder.mkdir(parents=True)
    old, fresh = cache.folder / ".x.1.tmp", cache.folder / ".y.2.tmp"
    for path in (old, fresh):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 2 * 86_400,) * 2)
    cache.fill(SHARDS, Source())
    assert (old.exists(), fresh.exists()) == (False, True)
