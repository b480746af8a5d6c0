"""Shards hold what was given, read the same everywhere, survive kills, and damage costs only what is damaged."""

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from tstar.data.annotations import Record
from tstar.data.decoding import read_video
from tstar.data.frame_sampling import FrameSampling
from tstar.data.images import decode_image, encode_image, read_image
from tstar.data.miniature.mp4 import write_mp4
from tstar.data.shard_index import MODALITIES, index_paths
from tstar.data.shard_plan import plan_shards, sample_keys
from tstar.data.shard_set import ShardSet
from tstar.data.sharding import ShardWork, write_shards
from tstar.data.sharding_settings import ShardSettings
from tstar.errors import ConfigError, DataError

SETTINGS = ShardSettings(fps=4, max_frames=6, short_side=0, samples_per_shard=4)


def turns(name):
    return ({"from": "human", "value": f"<image>\nWhat is {name}?"}, {"from": "gpt", "value": f"It is {name}, 犬."})


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    root = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    for number in range(6):
        coarse = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse.repeat(8, axis=0).repeat(8, axis=1)).save(root / f"{number}.png")
    film = rng.integers(0, 256, (16, 4, 4, 3), dtype=np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    write_mp4(root / "film.mp4", film)
    (root / "folder.png").mkdir()
    (root / "broken.mp4").write_bytes((root / "film.mp4").read_bytes()[:500])
    return root


def picture(number, name=None):
    return Record(name or f"p{number}", "image", f"{number % 6}.png", turns(f"picture {number}"))


RECORDS = [
    picture(0),
    Record("film", "video", "film.mp4", turns("a film")),
    Record("talk", "text", "", turns("a talk")),
    *(picture(n) for n in range(1, 8)),
]


@pytest.fixture(scope="module")
def made(media, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "set"
    write_shards(plan_shards(RECORDS, media, out, SETTINGS), ShardWork(workers=1))
    return out


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def everything(shards):
    return [shards.read(n) for n in range(len(shards))]


def readable(shards):
    """Samples that can be read, and why the others cannot, by number."""
    good, bad = {}, {}
    for number in range(len(shards)):
        try:
            good[number] = shards.read(number)
        except DataError as error:
            bad[number] = str(error)
    return good, bad


# writing and reading


def test_what_is_read_is_what_was_given(made, media):
    shards = ShardSet([made])
    assert len(shards) == len(RECORDS)
    clip = read_video(media / "film.mp4", FrameSampling(fps=4, max_frames=6))
    for record, raw in zip(RECORDS, everything(shards), strict=True):
        assert raw.meta["id"] == record.id
        assert (raw.meta["modality"], raw.meta["source"]) == (record.modality, record.media)
        assert tuple(raw.meta["conversations"]) == record.conversations
        assert raw.meta["checksum"] == hashlib.sha256(b"".join(raw.frames)).hexdigest()
        pixels = {"video": list(clip.frames), "text": []}.get(record.modality)
        pixels = [read_image(media / record.media)] if pixels is None else pixels
        assert list(raw.frames) == [encode_image(p, "jpeg", 90) for p in pixels]
    film = everything(shards)[1].meta
    assert film["timestamps"] == [round(t, 6) for t in clip.timestamps]
    assert film["duration"] == pytest.approx(2.0)


def test_columns_and_places_agree_with_the_samples(made):
    shards = ShardSet([made])
    raws = everything(shards)
    assert shards.column("modality").tolist() == [MODALITIES.index(r.modality) for r in RECORDS]
    assert shards.column("frames").tolist() == [len(raw.frames) for raw in raws]
    words = [sum(len(t["value"].split()) for t in r.conversations) for r in RECORDS]
    assert shards.column("words").tolist() == words
    assert [shards.locate(n)[1] for n in range(len(shards))] == [r.id for r in RECORDS]
    assert [shards.locate(n)[0].name for n in (0, 3, 4, 9)] == [
        "shard-00000.tar",
        "shard-00000.tar",
        "shard-00001.tar",
        "shard-00002.tar",
    ]


def test_plain_webdataset_reads_the_same_samples(made):
    ours = everything(ShardSet([made]))
    theirs = []
    for path in sorted(map(str, made.glob("*.tar"))):
        theirs += list(wds.WebDataset([path], shardshuffle=False))
    assert [json.loads(sample["json"]) for sample in theirs] == [raw.meta for raw in ours]
    for sample, raw in zip(theirs, ours, strict=True):
        frames = [value for name, value in sorted(sample.items()) if name.endswith(".jpg")]
        assert frames == list(raw.frames)


def test_frames_are_stored_once_for_all_that_is_asked_about_them_in_a_shard(media, tmp_path):
    film, picture = ("video", "film.mp4"), ("image", "1.png")
    records = [Record(f"q{n}", *what, turns(f"q{n}")) for n, what in enumerate([film, film, film, picture, picture])]
    records.insert(1, RECORDS[2])
    shared, repeated = (
        dataclasses.replace(SETTINGS, samples_per_shard=4, share_frames=share) for share in (True, False)
    )
    write_shards(plan_shards(records, media, tmp_path / "a", shared), ShardWork(workers=1))
    write_shards(plan_shards(records, media, tmp_path / "b", repeated), ShardWork(workers=1))
    one, other = everything(ShardSet([tmp_path / "a"])), everything(ShardSet([tmp_path / "b"]))
    assert [r.frames for r in one] == [r.frames for r in other]
    assert [{k: v for k, v in r.meta.items() if k != "frames_of"} for r in one] == [r.meta for r in other]
    assert [r.meta.get("frames_of") for r in one] == [None, None, "q0", "q0", None, "q3"]
    sizes = [[p.stat().st_size for p in sorted((tmp_path / k).glob("*.tar"))] for k in "ab"]
    assert sizes[0][0] < sizes[1][0]
    for name in ("frames", "words", "modality"):
        np.testing.assert_array_equal(*(ShardSet([tmp_path / k]).column(name) for k in "ab"))
    plain = [
        sorted(s) for p in sorted((tmp_path / "a").glob("*.tar")) for s in wds.WebDataset([str(p)], shardshuffle=False)
    ]
    assert [len([field for field in sample if field.endswith("jpg")]) for sample in plain] == [6, 0, 0, 0, 1, 0]


def test_damaged_frames_that_are_shared_cost_every_sample_that_has_them(media, tmp_path):
    records = [Record(f"q{n}", "image", f"{n // 2}.png", turns(f"q{n}")) for n in range(4)]
    write_shards(plan_shards(records, media, tmp_path, SETTINGS), ShardWork(workers=1))
    shard = tmp_path / "shard-00000.tar"
    members, samples = (np.load(path) for path in index_paths(shard))
    data = bytearray(shard.read_bytes())
    data[int(members[samples[0]["first"]]["offset"]) + 40] ^= 0xFF
    shard.write_bytes(data)
    good, bad = readable(ShardSet([tmp_path]))
    assert list(good) == [2, 3]
    assert set(bad.values()) == {"checksum of 0000.jpg differs"}


def test_webp_and_a_bounded_side(media, tmp_path):
    settings = dataclasses.replace(SETTINGS, codec="webp", short_side=16)
    write_shards(plan_shards(RECORDS[:2], media, tmp_path / "w", settings), ShardWork(workers=1))
    for raw in everything(ShardSet([tmp_path / "w"])):
        assert all(frame[8:12] == b"WEBP" for frame in raw.frames)
        assert {min(decode_image(frame, "x").shape[:2]) for frame in raw.frames} == {16}


def test_other_workers_give_the_same_bytes(made, media, tmp_path):
    calls = []
    summary = write_shards(
        plan_shards(RECORDS, media, tmp_path / "two", SETTINGS),
        ShardWork(workers=2),
        progress=lambda *c: calls.append(c),
    )
    assert digests(tmp_path / "two") == digests(made)
    assert calls[-1] == (len(RECORDS), len(RECORDS))
    assert calls == sorted(calls)
    assert (summary.samples, summary.shards, summary.kept, summary.skipped) == (10, 3, 0, ())
    assert summary.bytes == sum(p.stat().st_size for p in made.glob("*.tar"))


# going on


def cut(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def kill_before_index(out):
    (out / "shards.json").unlink()
    (out / "shard-00001.samples.npy").unlink()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (out / f"shard-00001.tar.{socket.gethostname()}-{gone.pid}-0123abcd.tmp").write_bytes(b"half")


def kill_of_a_plain_writer(out):
    (out / "shards.json").unlink()
    cut(out / "shard-00001.tar")
    for path in index_paths(out / "shard-00001.tar"):
        path.unlink()


def middle_of_a_frame(shard, number=0):
    members, samples = (np.load(path) for path in index_paths(shard))
    member = members[samples[number]["first"] + 1]
    return int(member["offset"] + member["size"] // 2)


INTERRUPTED = {
    "killed before the index": kill_before_index,
    "killed in a writer without temporary files": kill_of_a_plain_writer,
    "tar cut later": lambda out: cut(out / "shard-00001.tar"),
    "tar lost": lambda out: (out / "shard-00001.tar").unlink(),
    "byte flipped": lambda out: flip(out / "shard-00001.tar", middle_of_a_frame(out / "shard-00001.tar")),
    "index cut": lambda out: cut(out / "shard-00001.members.npy"),
    "index of another shard": lambda out: shutil.copy(out / "shard-00002.samples.npy", out / "shard-00001.samples.npy"),
    "list of left-out records lost": lambda out: (out / "shard-00001.skipped.json").unlink(),
}


@pytest.mark.parametrize("case", INTERRUPTED)
def test_the_same_call_mends_what_is_not_whole_and_keeps_the_rest(made, copy, media, case):
    INTERRUPTED[case](copy)
    kept = {n: (copy / f"shard-0000{n}.tar").stat().st_ino for n in (0, 2)}
    summary = write_shards(plan_shards(RECORDS, media, copy, SETTINGS), ShardWork(workers=1))
    assert summary.kept == 2
    assert digests(copy) == digests(made)
    assert {n: (copy / f"shard-0000{n}.tar").stat().st_ino for n in (0, 2)} == kept


def test_a_failing_call_leaves_no_tar_under_its_final_name(media, tmp_path, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("tstar.data.stored_media.encode_image", fail)
    with pytest.raises(KeyboardInterrupt):
        write_shards(plan_shards(RECORDS, media, tmp_path / "out", SETTINGS), ShardWork(workers=1))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["plan.sha256"]
    monkeypatch.undo()
    assert write_shards(plan_shards(RECORDS, media, tmp_path / "out", SETTINGS), ShardWork(workers=1)).samples == len(
        RECORDS
    )


@pytest.mark.parametrize(
    ("records", "settings"),
    [(RECORDS[:-1], SETTINGS), (RECORDS[::-1], SETTINGS), (RECORDS, dataclasses.replace(SETTINGS, quality=80))],
)
def test_shards_of_other_input_are_left_alone(copy, media, records, settings):
    before = digests(copy)
    with pytest.raises(DataError, match=r"copy holds shards made from other records or settings.*--out or delete"):
        write_shards(plan_shards(records, media, copy, settings), ShardWork(workers=1))
    assert digests(copy) == before


# what cannot be used


BAD = [
    Record("gone", "image", "gone.png", turns("gone")),
    Record("broken", "video", "broken.mp4", turns("broken")),
    Record("folder", "image", "folder.png", turns("folder")),
    Record("text as picture", "image", "film.mp4", turns("film")),
]


def test_what_cannot_be_used_is_left_out_counted_and_listed(media, tmp_path):
    mixed = [RECORDS[0], *BAD, RECORDS[1]]
    summary = write_shards(plan_shards(mixed, media, tmp_path / "out", SETTINGS), ShardWork(workers=1))
    assert (summary.records, summary.samples) == (6, 2)
    assert [skip["id"] for skip in summary.skipped] == [r.id for r in BAD]
    assert [skip["media"] for skip in summary.skipped] == [r.media for r in BAD]
    for skip, reason in zip(
        summary.skipped, ("no such image", "cannot open video", "no such image", "cannot decode"), strict=True
    ):
        assert reason in skip["reason"]
        assert skip["media"] in skip["reason"]
    assert [raw.meta["id"] for raw in everything(ShardSet([tmp_path / "out"]))] == ["p0", "film"]
    again = write_shards(plan_shards(mixed, media, tmp_path / "out", SETTINGS), ShardWork(workers=1))
    assert again.skipped == summary.skipped
    assert again.kept == 2


def test_media_that_has_come_since_is_taken_in(media, tmp_path):
    records = [RECORDS[0], Record("late", "image", "late.png", turns("late"))]
    root = shutil.copytree(media, tmp_path / "media")
    assert write_shards(plan_shards(records, root, tmp_path / "out", SETTINGS), ShardWork(workers=1)).samples == 1
    shutil.copy(root / "1.png", root / "late.png")
    assert write_shards(plan_shards(records, root, tmp_path / "out", SETTINGS), ShardWork(workers=1)).samples == 2


def test_a_shard_may_be_empty_but_not_all_of_them(media, tmp_path):
    settings = dataclasses.replace(SETTINGS, samples_per_shard=1)
    write_shards(plan_shards([BAD[0], RECORDS[0]], media, tmp_path / "some", settings), ShardWork(workers=1))
    assert [raw.meta["id"] for raw in everything(ShardSet([tmp_path / "some"]))] == ["p0"]
    with pytest.raises(DataError, match=r"not one of 4 records could be used; the first: no such image"):
        write_shards(plan_shards(BAD, media, tmp_path / "none", SETTINGS), ShardWork(workers=1))
    with pytest.raises(DataError, match=r"no such media folder: .*elsewhere"):
        write_shards(plan_shards(RECORDS, media / "elsewhere", tmp_path / "no", SETTINGS), ShardWork(workers=1))
    with pytest.raises(ConfigError, match="workers must be at least 1, got -1"):
        write_shards(plan_shards(RECORDS, media, tmp_path / "no", SETTINGS), ShardWork(workers=-1))


NAMES = ["a.b/c", "a_b_c", "a.b/c", "ü/犬.mp4", "..", "x" * 200, "a_b_c-2", "a/b.c", "A.json", "__meta__", "7"]


def test_ids_of_any_kind_stay_apart(media, tmp_path):
    records = [picture(n, name) for n, name in enumerate(NAMES)]
    write_shards(plan_shards(records, media, tmp_path / "out", SETTINGS), ShardWork(workers=1))
    shards = ShardSet([tmp_path / "out"])
    raws = everything(shards)
    assert [raw.meta["id"] for raw in raws] == NAMES
    assert [tuple(raw.meta["conversations"]) for raw in raws] == [r.conversations for r in records]
    assert all(len(raw.frames) == 1 for raw in raws)
    keys = [shards.locate(n)[1] for n in range(len(shards))]
    assert keys == sample_keys([r.id for r in records])
    assert len(set(keys)) == len(keys)
    assert not any(set(key) & set("./") for key in keys)
    paths = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    theirs = [json.loads(s["json"])["id"] for path in paths for s in wds.WebDataset([path], shardshuffle=False)]
    assert theirs == NAMES


def test_keys_are_quick_to_find_among_many_of_one_name():
    keys = sample_keys(["same"] * 20000)
    assert (keys[0], keys[1], keys[-1], len(set(keys))) == ("same", "same-2", "same-20000", 20000)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"fps": 0}, "fps must be"),
        ({"max_frames": 0}, "max_frames must be"),
        ({"short_side": -1}, "short_side must be 0"),
        ({"codec": "png"}, "codec must be one of jpeg, webp, got 'png'"),
        ({"quality": 0}, "quality must be 1 to 100"),
        ({"samples_per_shard": 0}, "samples_per_shard must be"),
        ({"decoder": "x"}, "decoder must be one of"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting, reason):
    with pytest.raises(ConfigError, match=reason):
        ShardSettings(**setting)


# damage


def change_manifest(out, change):
    path = out / "shards.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def write_wrong_index(out):
    np.save(out / "shard-00001.samples.npy", np.arange(4))


UNUSABLE = {
    "tar cut": (lambda out: cut(out / "shard-00001.tar"), r"shard-00001\.tar has \d+ bytes where \d+ were written"),
    "tar longer": (lambda out: (out / "shard-00001.tar").open("ab").write(b"x"), r"shard-00001\.tar has \d+ bytes"),
    "tar lost": (lambda out: (out / "shard-00001.tar").unlink(), r"shard-00001\.tar is missing"),
    "members lost": (lambda out: (out / "shard-00001.members.npy").unlink(), r"shard-00001\.members\.npy is missing"),
    "members cut": (
        lambda out: cut(out / "shard-00001.members.npy", 0.9),
        r"00001\.members\.npy is missing or damaged",
    ),
    "samples empty": (
        lambda out: cut(out / "shard-00001.samples.npy", 0),
        r"00001\.samples\.npy is missing or damaged",
    ),
    "samples without header": (lambda out: flip(out / "shard-00001.samples.npy", 12), r"00001\.samples\.npy .*damaged"),
    "samples of another type": (write_wrong_index, r"00001\.samples\.npy is damaged"),
    "samples of another shard": (
        lambda out: shutil.copy(out / "shard-00002.samples.npy", out / "shard-00001.samples.npy"),
        r"00001\.samples\.npy is damaged",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_unusable_shard_is_named_in_one_line_or_left_out(copy, case):
    damage, reason = UNUSABLE[case]
    whole = ShardSet([copy]).digest
    damage(copy)
    with pytest.raises(DataError, match=reason) as caught:
        ShardSet([copy])
    message = str(caught.value)
    assert "\n" not in message
    assert "run the same `tstar shard` again, or set data.damaged_shards to skip" in message
    shards = ShardSet([copy], skip_damaged=True)
    assert [raw.meta["id"] for raw in everything(shards)] == [r.id for r in RECORDS[:4] + RECORDS[8:]]
    assert len(shards.damaged) == 1
    assert "tstar shard" not in shards.damaged[0]
    assert shards.digest != whole


MANIFESTS = {
    "lost": (lambda p: p.unlink(), "no shards in .*shards.json is missing.*tstar shard"),
    "cut": (cut, "shards.json is damaged"),
    "a list": (lambda p: p.write_text("[]"), "shards.json is damaged"),
    "no bytes": (lambda p: change_manifest(p.parent, lambda m: m["shards"][0].pop("bytes")), "KeyError: 'bytes'"),
    "text as size": (
        lambda p: change_manifest(p.parent, lambda m: m["shards"][1].update(bytes="9")),
        "bytes of shard-00001.tar is '9'",
    ),
    "outside": (
        lambda p: change_manifest(p.parent, lambda m: m["shards"][0].update(file="../x.tar")),
        r"names a shard outside its folder: '\.\./x\.tar'",
    ),
    "no shards, none promised": (
        lambda p: change_manifest(p.parent, lambda m: m.update(shards=[], samples=0)),
        "no samples in .*copy",
    ),
    "no shards": (lambda p: change_manifest(p.parent, lambda m: m.update(shards=[])), "do not hold as many samples"),
}


@pytest.mark.parametrize("case", MANIFESTS)
@pytest.mark.parametrize("skip", [False, True])
def test_a_damaged_manifest_is_named_in_one_line(copy, case, skip):
    damage, reason = MANIFESTS[case]
    damage(copy / "shards.json")
    with pytest.raises(DataError, match=reason) as caught:
        ShardSet([copy], skip_damaged=skip)
    assert "\n" not in str(caught.value)


def test_no_shard_left_says_why(copy):
    for path in copy.glob("*.tar"):
        path.unlink()
    with pytest.raises(DataError, match=r"no samples in .* \(3 damaged shards were left out\)"):
        ShardSet([copy], skip_damaged=True)


@pytest.mark.parametrize("part", ["frame", "json"])
def test_a_flipped_byte_costs_one_sample(made, copy, part):
    shard = copy / "shard-00001.tar"
    members, samples = (np.load(path) for path in index_paths(shard))
    own = members[samples[2]["first"] :][: samples[2]["members"]]
    (member,) = [m for m in own if (m["field"] == b"json") == (part == "json")]
    flip(shard, int(member["offset"] + member["size"] // 2))
    good, bad = readable(ShardSet([copy]))
    assert list(bad) == [6]
    assert bad[6] == f"checksum of {member['field'].decode()} differs"
    assert good == {n: raw for n, raw in enumerate(everything(ShardSet([made]))) if n != 6}


def test_damaged_headers_inside_a_tar_cost_nothing(made, copy):
    with tarfile.open(copy / "shard-00001.tar") as tar:
        headers = [member.offset for member in tar]
    for header in headers:
        flip(copy / "shard-00001.tar", header + 5)
    assert everything(ShardSet([copy])) == everything(ShardSet([made]))


def test_an_index_with_flipped_bytes_never_gives_wrong_bytes(made, copy):
    intact = everything(ShardSet([made]))
    rng = np.random.default_rng(0)
    clean = [path.read_bytes() for path in index_paths(copy / "shard-00001.tar")]
    lost = 0
    for _ in range(60):
        for path, data in zip(index_paths(copy / "shard-00001.tar"), clean, strict=True):
            damaged = bytearray(data)
            damaged[rng.integers(128, len(data))] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
        try:
            shards = ShardSet([copy])
        except DataError:
            continue
        good, bad = readable(shards)
        lost += len(bad)
        assert all(raw.meta["id"] in {r.id for r in RECORDS} for raw in good.values())
        assert all(raw in intact for raw in good.values())
        for number in range(len(shards)):
            shards.locate(number)
        shards.close()
    assert lost > 0


def test_a_tar_that_vanishes_while_reading_is_an_error_of_the_system(copy):
    shards = ShardSet([copy])
    (copy / "shard-00001.tar").unlink()
    assert shards.read(0).meta["id"] == "p0"
    with pytest.raises(OSError):
        shards.read(4)


# several folders, several processes


def test_folders_follow_each_other_and_may_share_keys(made, copy):
    shards = ShardSet([made, str(copy)])
    assert len(shards) == 2 * len(RECORDS)
    assert everything(shards) == everything(ShardSet([made])) * 2
    assert shards.locate(10) == (copy / "shard-00000.tar", "p0")
    assert len(shards.column("frames")) == len(shards)


def test_the_digest_depends_on_content_and_order_and_not_on_place(made, copy, media, tmp_path):
    assert ShardSet([made]).digest == ShardSet([copy]).digest
    other = tmp_path / "other"
    write_shards(plan_shards(RECORDS[:5], media, other, SETTINGS), ShardWork(workers=1))
    digests_ = {ShardSet(f).digest for f in ([made], [other], [made, other], [other, made])}
    assert len(digests_) == 4


def test_a_set_with_open_files_can_be_pickled_and_stays_small(made):
    shards = ShardSet([made])
    before = everything(shards)
    data = pickle.dumps(shards)
    assert len(data) < 4000  # no index in it
    assert everything(pickle.loads(data)) == before == everything(shards)
    shards.close()
    assert everything(shards) == before


def test_few_files_stay_open(made, media, tmp_path, monkeypatch):
    monkeypatch.setattr("tstar.data.shard_set.OPEN_SHARDS", 2)
    shards = ShardSet([made])
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    assert everything(shards)[::-1] == [shards.read(n) for n in reversed(range(len(shards)))]
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 4  # a tar and its index each
    shards.close()


def test_a_set_of_more_shards_than_open_files_are_allowed_can_be_read(media, tmp_path):
    resource = pytest.importorskip("resource")
    many = [Record(f"r{n}", "text", "", turns("a talk")) for n in range(300)]
    plan = plan_shards(many, media, tmp_path / "out", ShardSettings(samples_per_shard=1))
    write_shards(plan, ShardWork(workers=1))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (here + 150, hard))
    try:
        shards = ShardSet([tmp_path / "out"])
        assert [raw.meta["id"] for raw in everything(shards)] == [r.id for r in many]
        shards.close()
        shards.close()
        free = os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free, and from now on the only one
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
        with pytest.raises(ConfigError, match=r"Too many open files.*ulimit -n"):
            ShardSet([tmp_path / "out"], skip_damaged=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
