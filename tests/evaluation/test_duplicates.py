"""Training clips found again in a benchmark's videos: copies encoded and scaled anew, cut out, and none that are not there."""

import itertools
import json
import random
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tstar.cli.main import main
from tstar.data.annotations import Record
from tstar.data.frame_hashes import FRAME
from tstar.data.shard_plan import plan_shards
from tstar.data.sharding import ShardWork, write_shards
from tstar.data.sharding_settings import ShardSettings
from tstar.errors import ConfigError, DataError
from tstar.evaluation import duplicates
from tstar.evaluation.duplicates import (
    DuplicateSettings,
    HashCache,
    find_duplicates,
    find_videos,
    longest_chain,
    thinned,
)

RATE = 8


def film(seed, seconds):
    """Frames of scenes of a second or two: a drifting landscape, each with colours of its own, uint8 [M, 120, 160, 3]."""
    draw = np.random.default_rng(seed)
    frames: list[np.ndarray] = []
    while len(frames) < seconds * RATE:
        coarse = Image.fromarray(draw.integers(0, 256, (8, 12, 3), dtype=np.uint8))
        wide = np.asarray(coarse.resize((240, 160), Image.Resampling.BICUBIC))
        frames += [wide[20:140, 2 * step : 2 * step + 160] for step in range(int(draw.integers(RATE, 2 * RATE)))]
    return np.stack(frames[: seconds * RATE])


def write(path, frames, *, codec="libx264", size=None, crf="23", rate=RATE):
    """Encode frames, at another size where one is given."""
    width, height = size or (frames.shape[2], frames.shape[1])
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": crf, "b": "0"} if codec != "mpeg4" else {})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for pixels in frames:
            picture = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def turns():
    return ({"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "It is."})


def records(*names):
    media = [Record(Path(name).stem, "video", name, turns()) for name in names]
    return [*media, Record("still", "image", "still.png", turns()), Record("talk", "text", "", turns())]


@pytest.fixture(scope="module")
def films():
    return {name: film(seed, 12) for seed, name in enumerate(["one", "two", "three", "four", "five"])}


@pytest.fixture(scope="module")
def media(tmp_path_factory, films):
    """Training media: three films, one of them a part of what the benchmark shows whole."""
    root = tmp_path_factory.mktemp("media")
    write(root / "one.mp4", films["one"])
    write(root / "part_of_two.mp4", films["two"][4 * RATE : 8 * RATE])
    write(root / "three.mp4", films["three"])
    write(root / "grey.mp4", np.full((3 * RATE, 120, 160, 3), 90, np.uint8))
    Image.fromarray(films["four"][0]).save(root / "still.png")
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory, media):
    out = tmp_path_factory.mktemp("shards")
    settings = ShardSettings(fps=4, max_frames=32, short_side=96, samples_per_shard=3)
    names = ["one.mp4", "part_of_two.mp4", "three.mp4", "grey.mp4"]
    write_shards(plan_shards(records(*names), media, out, settings), ShardWork(workers=1))
    return out


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory, films):
    """Videos of a benchmark: a smaller copy of one, all of two, a part of three in another codec, and two that nobody has seen."""
    root = tmp_path_factory.mktemp("benchmark")
    (root / "videos" / "deep").mkdir(parents=True)
    write(root / "videos" / "a.mp4", films["one"], size=(96, 72), crf="32")
    write(root / "videos" / "b.mp4", films["two"], size=(320, 240))
    write(root / "videos" / "deep" / "c.avi", films["three"][2 * RATE : 7 * RATE], codec="mpeg4")
    write(root / "videos" / "d.mp4", films["four"])
    write(root / "videos" / "e.MP4", films["five"], rate=16)
    (root / "annotations.json").write_text("[]")
    return root


def found(report):
    return {(pair.sample, pair.video) for pair in report.pairs}


COPIES = {("one", "videos/a.mp4"), ("part_of_two", "videos/b.mp4"), ("three", "videos/deep/c.avi")}


def test_copies_are_found_and_nothing_else(shards, benchmark):
    report = find_duplicates([shards], benchmark)
    assert found(report) == COPIES
    assert (report.clips, report.videos, report.plain_clips) == (4, 5, 1)
    assert report.plain_videos == []
    assert report.unreadable == {}
    by_name = {pair.sample: pair for pair in report.pairs}
    assert by_name["one"].score > 0.8
    part = by_name["part_of_two"]  # a third of the video, found by its own frames
    assert part.score == round(part.matches / part.clip_frames, 4) > 0.8
    assert part.matches / part.video_frames < 0.5
    part = by_name["three"]  # of which the video is a part
    assert part.score == round(part.matches / part.video_frames, 4)
    assert part.matches / part.clip_frames < 0.5
    assert [pair.score for pair in report.pairs] == sorted((pair.score for pair in report.pairs), reverse=True)


def test_a_pair_says_where_its_sample_is(shards, benchmark):
    from tstar.data.shard_set import ShardSet

    training = ShardSet([shards])
    places = {training.locate(n) for n in range(len(training))}
    for pair in find_duplicates([shards], benchmark).pairs:
        assert (Path(pair.shard), pair.key) in places


def test_a_higher_threshold_asks_for_more(shards, benchmark):
    strict = find_duplicates([shards], benchmark, DuplicateSettings(threshold=1.0, max_bits=0, max_colour=0.0))
    assert strict.pairs == []
    everything = find_duplicates(
        [shards], benchmark, DuplicateSettings(threshold=0.01, max_bits=60, max_colour=255.0, min_matches=1)
    )
    assert found(everything) > COPIES


def test_one_video_and_several_folders(shards, benchmark):
    report = find_duplicates([shards, shards], benchmark / "videos" / "a.mp4")
    assert [(pair.sample, pair.video) for pair in report.pairs] == [("one", "a.mp4")] * 2


def test_hashes_are_kept_and_a_killed_search_goes_on(shards, benchmark, tmp_path, monkeypatch):
    whole = find_duplicates([shards], benchmark)
    decoded = []
    take = duplicates.take_frames
    monkeypatch.setattr(duplicates, "take_frames", lambda path, *rest: decoded.append(path) or take(path, *rest))

    def stop(what, done, total):
        if what == "videos hashed" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_duplicates([shards], benchmark, cache=tmp_path / "cache", progress=stop)
    assert len(decoded) == 3
    assert find_duplicates([shards], benchmark, cache=tmp_path / "cache") == whole
    assert len(decoded) == 5
    monkeypatch.setattr(duplicates, "decode_image", lambda *_: pytest.fail("decoded again"))
    assert find_duplicates([shards], benchmark, cache=tmp_path / "cache") == whole
    assert len(decoded) == 5
    monkeypatch.undo()
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:40])  # as a full disk leaves it
    assert find_duplicates([shards], benchmark, cache=tmp_path / "cache") == whole
    other = find_duplicates([shards], benchmark, DuplicateSettings(fps=1.0), cache=tmp_path / "cache")
    assert max(pair.video_frames for pair in other.pairs) < max(pair.video_frames for pair in whole.pairs)


def test_a_video_that_changed_is_hashed_again(shards, benchmark, films, tmp_path):
    folder = tmp_path / "suite"
    folder.mkdir()
    write(folder / "v.mp4", films["five"])
    cache = tmp_path / "cache"
    assert find_duplicates([shards], folder, cache=cache).pairs == []
    write(folder / "v.mp4", films["one"])
    assert found(find_duplicates([shards], folder, cache=cache)) == {("one", "v.mp4")}


def test_what_cannot_be_read_is_named_and_the_rest_compared(shards, benchmark, tmp_path):
    folder = shutil.copytree(benchmark, tmp_path / "suite")
    (folder / "videos" / "broken.mp4").write_bytes(b"no video")
    damaged = shutil.copytree(shards, tmp_path / "shards")
    tar = sorted(damaged.glob("*.tar"))[0]
    data = bytearray(tar.read_bytes())
    place = data.find(b"RIFF")
    start = place if place > 0 else data.find(b"\xff\xd8\xff")
    data[start + 30 : start + 40] = b"0123456789"
    tar.write_bytes(bytes(data))
    cache = tmp_path / "cache"
    for _ in range(2):  # the second time from the kept hashes
        report = find_duplicates([damaged], folder, cache=cache)
        assert "videos/broken.mp4" in report.unreadable
        assert len(report.unreadable) == 2
        assert len(found(report) & COPIES) == 2
        assert report.clips == 3


def longest_by_trying(pairs):
    """Over all subsets, shortest first."""
    best = 0
    for size in range(1, len(pairs) + 1):
        for chosen in itertools.combinations(sorted(pairs), size):
            steps = list(itertools.pairwise(chosen))
            rising = all(b[0] > a[0] and b[1] > a[1] for a, b in steps)
            falling = all(b[0] > a[0] and b[1] < a[1] for a, b in steps)
            best = max(best, size if rising or falling else 0)
    return best


def test_a_chain_runs_one_way_in_time():
    draw = random.Random(0)
    for _ in range(60):
        pairs = {(draw.randrange(5), draw.randrange(5)) for _ in range(draw.randrange(9))}
        assert longest_chain(pairs) == longest_by_trying(pairs)
    assert longest_chain([]) == 0
    assert longest_chain((i, 9 - i) for i in range(10)) == 10  # played backwards
    assert longest_chain((i, 3) for i in range(10)) == 1  # one frame of the video, whatever matches it


def test_frames_are_thinned_by_time_and_then_evenly():
    assert thinned([0.0, 0.1, 0.5, 0.9, 1.0, 1.4, 1.6], 2.0, 64) == [0, 2, 4, 6]
    assert thinned([k * 0.375 for k in range(9)], 2.0, 64) == [0, 1, 3, 4, 5, 7, 8]  # nearest to 0, 0.5, … 3
    assert thinned([4.0, 6.0, 8.0], 2.0, 64) == [0, 1, 2]  # no frame twice
    assert thinned([k / 10 for k in range(100)], 10.0, 4) == [0, 25, 50, 75]
    assert thinned([0.0], 2.0, 1) == [0]
    assert thinned([], 2.0, 8) == []


def test_entries_come_back_as_they_were(tmp_path):
    clips = [
        duplicates._Clip("é", "k1", "", np.zeros(3, FRAME)),
        duplicates._Clip("b", "k2", "broken", np.empty(0, FRAME)),
        duplicates._Clip("c", "k3", "", np.ones(1, FRAME)),
    ]
    store = HashCache(tmp_path / "cache")
    for make in (lambda: clips, lambda: pytest.fail("made again")):
        for given, back in zip(clips, store.get("key", make), strict=True):
            assert given[:3] == back[:3]
            assert np.array_equal(given.hashes, back.hashes)
    assert store.get("other", lambda: []) == []


def test_videos_are_searched_for_in_folders(tmp_path, benchmark):
    assert [p.name for p in find_videos(benchmark)] == ["a.mp4", "b.mp4", "d.mp4", "c.avi", "e.MP4"]
    with pytest.raises(DataError, match="no videos"):
        find_videos(tmp_path)
    with pytest.raises(DataError, match="no such folder or file"):
        find_videos(tmp_path / "nowhere")
    (tmp_path / "videos.tar").touch()
    with pytest.raises(DataError, match=r"no videos .*; tars have to be unpacked"):
        find_videos(tmp_path)


def test_features_in_place_of_frames_are_refused(shards, benchmark, tmp_path, monkeypatch):
    other = shutil.copytree(shards, tmp_path / "features")
    manifest = json.loads((other / "shards.json").read_text())
    (other / "shards.json").write_text(json.dumps(manifest | {"features": {"encoder": "x"}}))
    with pytest.raises(DataError, match="holds an encoder's features, not frames"):
        find_duplicates([other], benchmark)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0}, "--threshold must be above 0 and at most 1, got 0"),
        ({"threshold": 1.5}, "--threshold"),
        ({"clip_frames": 0}, "--clip-frames must be at least 1, got 0"),
        ({"max_bits": 64}, "--max-bits must be 0 to 63, got 64"),
        ({"fps": 0}, "fps must be a number above 0"),
        ({"max_frames": 0}, "max_frames must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DuplicateSettings(**settings)


def test_the_command(shards, benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["audit", "duplicates", "--shards", str(shards), "--videos", str(benchmark)]
    assert main([*words, "--out", "deep/report.json"]) == 0
    told = capsys.readouterr().out
    assert "videos hashed: 5/5" in told
    assert "3 pairs among 4 training clips and 5 videos; too plain to tell: 1 clips, 0 videos" in told
    assert "not compared" not in told
    saved = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == saved
    assert len(list((tmp_path / "data_shards" / ".frame_hashes").iterdir())) == 5 + 2


def test_tars_and_folders_of_pictures_that_are_passed_over_are_counted(shards, films, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("suite/tvqa/clip 1/00001.jpg", "suite/tvqa/clip 1/00002.jpg", "suite/tvqa/clip 2/00001.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "suite" / "more.tar").touch()
    write(tmp_path / "suite" / "v.mp4", films["one"])
    assert main(["audit", "duplicates", "--shards", str(shards), "--videos", "suite", "--out", "report.json"]) == 0
    assert "3 tars and folders of pictures in suite were not compared, the first: more.tar" in capsys.readouterr().err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed_over"] == ["more.tar", "tvqa/clip 1", "tvqa/clip 2"]
    assert report["videos"] == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--videos", "nowhere"], "--videos nowhere: no such folder or file"),
        (["--shards", "."], "no shards in ."),
        (["--threshold", "2"], "--threshold must be above 0 and at most 1, got 2"),
        (["--thresold", "2"], "unknown argument --thresold"),
        (["--out", "."], "--out must be a file, got the folder ."),
        (["--cache", "file"], "--cache must be a folder, got the file file"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(shards, benchmark, tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["audit", "duplicates", "--shards", str(shards), "--videos", str(benchmark), *more]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
