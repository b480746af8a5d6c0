"""The files of a world: the same bytes every time, whole, resumable, in the layouts that readers expect."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from tstar.data.miniature import SCALES, WorldConfig, generate_world
from tstar.data.miniature.contact_sheet import contact_sheet
from tstar.data.miniature.mp4 import write_mp4
from tstar.errors import ConfigError, DataError

TINY = SCALES["tiny"]
NONE = dict.fromkeys(("images", "videos", "val_videos", "haystacks", "mlvu", "videomme", "tempcompass"), 0)


ADDED = ("shards", "contact_sheet.png")
"""What `tstar miniature` makes of a world, beside it."""


def digests(folder):
    files = (p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).parts[0] not in ADDED)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def read(path):
    return json.loads(path.read_text())


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def world(tiny_world):
    """Drawn by a process for each core."""
    return tiny_world


@pytest.fixture(scope="module")
def scenes(world):
    return {scene["path"]: scene for scene in read_lines(world / "annotations/scenes.jsonl")}


def test_another_run_with_other_workers_gives_the_same_bytes(world, tmp_path):
    calls = []
    manifest = generate_world(
        tmp_path / "again", TINY, workers=3, progress=lambda done, total: calls.append((done, total))
    )
    assert digests(tmp_path / "again") == digests(world)
    assert manifest == read(world / "world.json")
    assert calls[-1] == (manifest["media"], manifest["media"])
    assert calls == sorted(calls)


def test_processes_that_draw_import_neither_torch_nor_transformers():
    code = "import sys, tstar.data.miniature.world; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_item_depends_on_the_seed_but_not_on_how_many_others_there_are(world, tmp_path):
    few = dataclasses.replace(TINY, images=2, videos=1, val_videos=1, haystacks=0, mlvu=0, videomme=0)
    generate_world(tmp_path / "few", few, workers=1)
    here, there = digests(world), digests(tmp_path / "few")
    media = [path for path in there if path.endswith((".png", ".mp4"))]
    assert len(media) == 14
    assert all(here[path] == there[path] for path in media)
    ours, theirs = (read(f / "annotations/video_sft.json") for f in (world, tmp_path / "few"))
    assert theirs == ours[: len(theirs)]
    generate_world(tmp_path / "seed", WorldConfig(seed=1, **{**NONE, "images": 2}), workers=1)
    assert digests(tmp_path / "seed")["images/000000.png"] != here["images/000000.png"]


def test_an_interrupted_run_goes_on_and_keeps_what_is_whole(world, tmp_path):
    small = WorldConfig(**{**NONE, "images": 3, "videos": 3})
    out = tmp_path / "out"
    generate_world(out, small, workers=1)
    before = digests(out)
    kept = (out / "videos/000000.mp4").stat().st_mtime_ns
    for name in ("world.json", "annotations/scenes.jsonl", "videos/000001.mp4", "images/000002.png"):
        (out / name).unlink()
    (out / "videos/000001.mp4.part").write_bytes(b"half a video")
    generate_world(out, small, workers=1)
    assert digests(out) == before
    assert (out / "videos/000000.mp4").stat().st_mtime_ns == kept


def test_a_failing_writer_leaves_no_file_under_its_final_name(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("av.VideoFrame.from_ndarray", fail)
    with pytest.raises(KeyboardInterrupt):
        generate_world(tmp_path / "out", WorldConfig(**{**NONE, "videos": 1}), workers=1)
    assert not list((tmp_path / "out").rglob("*.mp4"))
    assert not (tmp_path / "out/world.json").exists()


def test_a_finished_world_is_returned_at_once(world, tmp_path):
    copy = shutil.copytree(world, tmp_path / "copy")
    manifest = generate_world(copy, TINY, progress=lambda done, total: pytest.fail("nothing was to be done"))
    assert manifest == read(world / "world.json")
    assert digests(copy) == digests(world)


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_with_another_world_is_refused(tmp_path, finished):
    out = tmp_path / "out"
    generate_world(out, WorldConfig(**{**NONE, "images": 1}), workers=1)
    if not finished:
        (out / "world.json").unlink()
    with pytest.raises(ConfigError, match=r"out.*images 1 there, 2 asked for.*--out.*delete"):
        generate_world(out, WorldConfig(**{**NONE, "images": 2}), workers=1)


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"no world\.json.*--out"):
        generate_world(tmp_path, TINY)
    with pytest.raises(ConfigError, match="not a folder"):
        generate_world(tmp_path / "thesis.txt", TINY)
    with pytest.raises(ConfigError, match="images must be 0 or more, got -1"):
        WorldConfig(images=-1)


def test_the_manifest_tells_the_truth(world):
    manifest, found = read(world / "world.json"), digests(world)
    assert manifest["config"]["videos"] == TINY.videos
    assert manifest["sha256"] == {
        p: h for p, h in found.items() if p.startswith(("annotations/", "benchmarks/")) and "json" in p
    }
    assert manifest["media"] == sum(path.endswith((".png", ".mp4")) for path in found)
    assert manifest["records"]["benchmarks/mini-vnbench/VNBench-main-4try.json"] == TINY.haystacks * 9 * 4


def test_every_video_decodes_to_its_frames_with_a_key_frame_every_second(world, scenes):
    decord = pytest.importorskip("decord")
    videos = [path for path in scenes if path.endswith(".mp4")]
    assert len(videos) == TINY.videos + TINY.val_videos + 9 + 5 + 3 + 10
    for path in videos:
        reader = decord.VideoReader(str(world / path))
        assert len(reader) == scenes[path]["frames"], path
        assert reader.get_avg_fps() == pytest.approx(8)
        assert reader[len(reader) - 1].shape == (96, 96, 3)
        assert list(reader.get_key_indices()) == list(range(0, len(reader), 8))
    with av.open(str(world / videos[0])) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert sum(1 for _ in container.decode(stream)) == scenes[videos[0]]["frames"]


def test_images_are_rgb_of_the_frame_size(world):
    images = sorted((world / "images").iterdir())
    assert [p.name for p in images] == [f"{k:06d}.png" for k in range(TINY.images)]
    for path in images:
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("RGB", (96, 96))


def test_no_file_occurs_both_in_training_and_in_evaluation(world, scenes):
    found = digests(world)
    train = {found[path] for path, scene in scenes.items() if scene["split"] == "train"}
    held = {found[path] for path, scene in scenes.items() if scene["split"] != "train"}
    assert train
    assert held
    assert not train & held


@pytest.mark.parametrize(
    ("name", "medium", "folder"),
    [
        ("align", "image", "images"),
        ("image_sft", "image", "images"),
        ("video_sft", "video", "videos"),
        ("video_val", "video", "val_videos"),
    ],
)
def test_training_records_are_llava_conversations(world, name, medium, folder):
    records = read(world / f"annotations/{name}.json")
    assert len({record["id"] for record in records}) == len(records) > 0
    for record in records:
        assert set(record) == {"id", medium, "conversations"}
        assert record[medium].startswith(f"{folder}/")
        assert (world / record[medium]).is_file()
        turns = record["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert 1 <= len(turns) // 2 <= (1 if name == "align" else 13)
        assert turns[0]["value"].startswith("<image>\n")
        assert sum(turn["value"].count("<image>") for turn in turns) == 1
        assert all(turn["value"].strip() for turn in turns)
    assert sorted(record[medium] for record in records) == [
        f"{folder}/{path.name}" for path in sorted((world / folder).iterdir())
    ]


def test_suites_have_their_media_where_the_readers_look(world):
    suites = world / "benchmarks"
    for record in read(suites / "mini-vnbench/VNBench-main-4try.json"):
        assert (suites / "mini-vnbench" / record["video"]).is_file()
    for file in (suites / "mini-mlvu/json").iterdir():
        for record in read(file):
            assert (suites / "mini-mlvu/video" / file.stem / record["video"]).is_file()
    for row in read_lines(suites / "mini-videomme/test.jsonl"):
        assert (suites / "mini-videomme/data" / f"{row['videoID']}.mp4").is_file()
    for clip in read(suites / "mini-tempcompass/multi-choice.json"):
        assert (suites / "mini-tempcompass/videos" / f"{clip}.mp4").is_file()


def test_needles_can_be_hidden_in_the_users_videos(tmp_path):
    films = tmp_path / "films"
    films.mkdir()
    rng = np.random.default_rng(0)
    film = np.repeat(rng.integers(0, 90, (88, 8, 12, 3), dtype=np.uint8), 16, axis=1).repeat(16, axis=2)  # 128 x 192
    write_mp4(films / "My holiday (1).mp4", film)
    (films / "notes.txt").write_text("not a video")
    out = tmp_path / "out"
    config = WorldConfig(**{**NONE, "haystacks": 2}, haystack_dir=films)
    manifest = generate_world(out, config, workers=1)
    assert list(manifest["haystacks"]) == ["My holiday (1).mp4"]
    records = read(out / "benchmarks/mini-vnbench/VNBench-main-4try.json")
    assert len(records) == 36
    assert records[0]["video"] == "./VNBench/My-holiday-1--0_ret_edit1.mp4"
    assert {record["length"] for record in records if "edit" in record["type"]} == {11.0}
    with av.open(str(out / "benchmarks/mini-vnbench" / records[0]["video"])) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert first.shape == (96, 96, 3)
    middle = film[0, :, 32:160]  # the middle square
    expected = np.asarray(Image.fromarray(middle).resize((96, 96), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(first.astype(int) - expected).mean() < 8
    assert generate_world(out, config) == manifest


def test_unusable_haystacks_are_named(tmp_path):
    with pytest.raises(ConfigError, match="haystack_dir must be a folder"):
        WorldConfig(haystack_dir=tmp_path / "nowhere")
    config = WorldConfig(**{**NONE, "haystacks": 1}, haystack_dir=tmp_path)
    with pytest.raises(ConfigError, match="holds no video"):
        generate_world(tmp_path / "out", config)
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    with pytest.raises(DataError, match=r"broken\.mp4.*remove it"):
        generate_world(tmp_path / "out", config)
    write_mp4(tmp_path / "broken.mp4", np.zeros((16, 96, 96, 3), dtype=np.uint8))
    with pytest.raises(DataError, match=r"broken\.mp4 is too short.*2\.0 s"):
        generate_world(tmp_path / "fresh", config)


def test_contact_sheet(world, tmp_path):
    contact_sheet(world, tmp_path / "sheet.png", count=3)
    contact_sheet(world, tmp_path / "more.png", count=4)
    with Image.open(tmp_path / "sheet.png") as sheet, Image.open(tmp_path / "more.png") as more:
        assert sheet.width == more.width > 8 * 192
        assert more.height - sheet.height > 192
        assert len(sheet.convert("RGB").getcolors(1 << 24)) > 1000
    with pytest.raises(DataError, match="generate the world first"):
        contact_sheet(tmp_path, tmp_path / "sheet.png")
