"""Finding a suite's media: exact names, published endings, numbered pictures, tars that others wrote; and what is missing."""

import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from tstar.errors import ConfigError, DataError
from tstar.evaluation import media as module
from tstar.evaluation.items import Item
from tstar.evaluation.media import Part, SuiteMedia, missing_media, read_members


def item(media, kind="video", number=0, **more):
    return Item(
        id=f"q{number}", media=media, media_kind=kind, prompt="?", options=("x", "y"), answer="A", cluster=media, **more
    )


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def pack(path, members, mode="w"):
    """A tar of names to bytes, TarInfo objects as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def found(root, name, kind="video"):
    media = SuiteMedia(root).find(item(name, kind))
    return None if media is None else media.parts


def contents(root, name, kind="video"):
    parts = found(root, name, kind)
    return None if parts is None else [part.read() for part in parts]


def test_the_exact_name_comes_first_then_the_published_endings_in_their_order(tmp_path):
    touch(tmp_path, "v/a.webm", "v/a.mkv", "v/b", "v/b.mp4", "v/c.MP4", "v/d.mp4", "v/e.mov")
    assert contents(tmp_path, "v/a") == [b"v/a.webm"]
    assert contents(tmp_path, "v/b") == [b"v/b"]
    assert contents(tmp_path, "v/c") == [b"v/c.MP4"]
    assert contents(tmp_path, "v/d.mp4") == [b"v/d.mp4"]
    assert found(tmp_path, "v/e") is None
    assert found(tmp_path, "v/a.mp4") is None  # it has an ending: no other is tried
    touch(tmp_path, "p/x.png", "p/x.jpg")
    assert contents(tmp_path, "p/x", "image") == [b"p/x.jpg"]


def test_a_file_whose_name_ends_like_the_wanted_one_is_another(tmp_path):
    touch(tmp_path, "ssv2/209741.webm", "ssv2/deeper/9741.webm", "9741.webm")
    assert found(tmp_path, "ssv2/9741.webm") is None
    assert found(tmp_path, "ssv2/9741") is None
    touch(tmp_path, "ssv2/9741.webm")
    assert contents(tmp_path, "ssv2/9741.webm") == [b"ssv2/9741.webm"]


@pytest.mark.parametrize("name", ["../secret.mp4", "/etc/passwd", "v/../../secret.mp4", "", "a\0b"])
def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path, name, one_line):
    touch(tmp_path, "secret.mp4", "suite/v/a.mp4")
    with pytest.raises(DataError) as caught:
        SuiteMedia(tmp_path / "suite").find(item(name))
    one_line(caught.value, "media of q0")


def test_a_name_too_long_for_a_file_is_missing(tmp_path):
    assert found(tmp_path, "x" * 300) is None


def test_pictures_of_a_folder_come_by_their_numbers(tmp_path):
    touch(tmp_path, *(f"f/c/{n}.jpg" for n in (10, 9, 2)), "f/c/Thumbs.db")
    media = SuiteMedia(tmp_path).find(item("f/c", "frames"))
    assert media.numbers == (2, 9, 10)
    assert [part.read() for part in media.parts] == [b"f/c/2.jpg", b"f/c/9.jpg", b"f/c/10.jpg"]
    assert found(tmp_path, "f/none", "frames") is None
    (tmp_path / "f" / "empty").mkdir()
    assert found(tmp_path, "f/empty", "frames") is None
    assert found(tmp_path, "f/c") is None  # a folder is no video


@pytest.mark.parametrize(
    ("names", "words"), [(("1.jpg", "01.png"), "two pictures of number 1"), (("a.jpg",), "no number")]
)
def test_pictures_that_have_no_order_are_refused(tmp_path, names, words, one_line):
    touch(tmp_path, *(f"c/{name}" for name in names))
    with pytest.raises(DataError) as caught:
        found(tmp_path, "c", "frames")
    one_line(caught.value, words)


def test_a_tar_stands_for_what_unpacking_it_would_leave(tmp_path):
    pack(
        tmp_path / "all.tar",
        [("v/a.mp4", b"in all"), ("./v/dot.mp4", b"dot"), ("f/c/2.jpg", b"two"), ("f/c/1.jpg", b"one")],
    )
    pack(tmp_path / "v.tar", [("b.mp4", b"in v")])
    pack(tmp_path / "v" / "part-1.tar", [("c.webm", b"in part 1"), ("209741.webm", b"no")])
    pack(tmp_path / "g" / "clip.tar", [("00001.png", b"first"), ("00002.png", b"second"), ("notes.txt", b"")])
    for name, data in {"v/a.mp4": b"in all", "v/dot.mp4": b"dot", "v/b": b"in v", "v/c": b"in part 1"}.items():
        assert contents(tmp_path, name) == [data]
    assert found(tmp_path, "v/9741.webm") is None
    assert found(tmp_path, "a.mp4") is None
    assert contents(tmp_path, "f/c", "frames") == [b"one", b"two"]
    assert contents(tmp_path, "g/clip", "frames") == [b"first", b"second"]
    assert contents(tmp_path / "all.tar", "v/a") == [b"in all"]
    touch(tmp_path, "v/a.mp4")
    assert contents(tmp_path, "v/a.mp4") == [b"v/a.mp4"]  # what is unpacked goes first


def test_a_video_in_a_tar_is_a_file_for_as_long_as_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    data = np.random.default_rng(0).bytes(3_000_000)
    pack(tmp_path / "a.tar", [("x.mp4", b"before"), ("y.mp4", data), ("z.mp4", b"after")])
    (part,) = found(tmp_path, "y.mp4")
    with part.file() as path:
        assert path.is_file()
        assert path.read_bytes() == data
        assert path.stat().st_size == len(data)
    assert not path.exists()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert str(part) == f"{tmp_path / 'a.tar'}: y.mp4"


def test_members_that_are_no_plain_files_are_not_read(tmp_path):
    link, device = tarfile.TarInfo("v.mp4"), tarfile.TarInfo("d.mp4")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device.type = tarfile.CHRTYPE
    hard = tarfile.TarInfo("h.mp4")
    hard.type, hard.linkname = tarfile.LNKTYPE, "../../etc/passwd"
    pack(tmp_path / "a.tar", [(link, b""), (device, b""), (hard, b""), ("../up.mp4", b"up"), ("/abs.mp4", b"abs")])
    for name in ("v.mp4", "d.mp4", "h.mp4", "up.mp4", "abs.mp4"):
        assert found(tmp_path, name) is None


def test_members_larger_than_what_is_read_are_refused(tmp_path, monkeypatch, one_line):
    pack(tmp_path / "a.tar", [("x.mp4", b"12345"), ("p.png", b"12345")])
    monkeypatch.setattr(module, "LARGEST_VIDEO", 4)
    monkeypatch.setattr(module, "LARGEST_PICTURE", 4)
    (video,), (picture,) = found(tmp_path, "x"), found(tmp_path, "p", "image")
    with pytest.raises(DataError) as caught, video.file():
        pass
    one_line(caught.value, "a.tar: x.mp4 has 5 bytes", "4", "unpack it")
    with pytest.raises(DataError, match="5 bytes"):
        picture.read()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_no_room_for_a_temporary_file_is_not_the_videos_fault(tmp_path, monkeypatch, one_line):
    pack(tmp_path / "a.tar", [("x.mp4", b"12345")])
    monkeypatch.setattr(module.tempfile, "TemporaryFile", lambda buffering: io.FileIO("/dev/full", "w"))
    (part,) = found(tmp_path, "x")
    with pytest.raises(ConfigError) as caught, part.file():
        pass
    one_line(caught.value, "a.tar: x.mp4", "TMPDIR", "No space left")


def test_of_two_members_by_one_name_the_later_counts_and_two_tars_are_refused(tmp_path, one_line):
    pack(tmp_path / "a.tar", [("x.mp4", b"old"), ("x.mp4", b"new"), ("1/1.jpg", b"")])
    assert contents(tmp_path, "x.mp4") == [b"new"]
    pack(tmp_path / "b.tar", [("x.mp4", b"third"), ("1/2.jpg", b"")])
    for name, kind in (("x.mp4", "video"), ("1", "frames")):
        with pytest.raises(DataError) as caught:
            found(tmp_path, name, kind)
        one_line(caught.value, name, "a.tar", "b.tar")


def test_a_tar_is_walked_through_once(tmp_path, monkeypatch):
    pack(tmp_path / "a.tar", [(f"{n}.mp4", b"") for n in range(5)])
    walked = []
    monkeypatch.setattr(module, "read_members", lambda tar: walked.append(tar) or read_members(tar))
    media = SuiteMedia(tmp_path)
    results = media.find_all([item(f"{n}.mp4", number=n) for n in range(6)])
    assert [results[f"{n}.mp4", "video"] is not None for n in range(6)] == [True] * 5 + [False]
    assert walked == [tmp_path / "a.tar"]


@pytest.mark.parametrize("damage", ["cut in a member", "cut in a header", "header", "gzip", "text"])
def test_a_damaged_tar_is_named(tmp_path, damage, one_line):
    path = pack(tmp_path / "a.tar", [("x.mp4", b"1" * 5000), ("y.mp4", b"2" * 5000)])
    data = bytearray(path.read_bytes())
    second = 512 + 5120
    if damage == "cut in a member":
        data = data[: second + 2000]
    elif damage == "cut in a header":
        data = data[: second + 100]
    elif damage == "header":
        data[second + 10] ^= 0xFF
    elif damage == "text":
        data = b"no tar, but long enough to be one " * 40
    path.write_bytes(data)
    if damage == "gzip":
        pack(path, [("x.mp4", b"1" * 5000)], "w:gz")
    with pytest.raises(DataError) as caught:
        found(tmp_path, "x.mp4")
    one_line(caught.value, str(path))


def test_long_names_and_large_sizes_of_any_tar_format_are_read(tmp_path):
    name = "/".join(["a" * 60] * 4) + "/größe.mp4"
    for number, form in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w", format=form) as tar:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        members = read_members(path)
        assert list(members) == [name]
        assert members[name].read() == b"abc"


def test_an_unreadable_picture_is_a_data_error(tmp_path, one_line):
    Image.new("RGB", (4, 4)).save(tmp_path / "p.png")
    part = Part(tmp_path / "p.png")
    assert part.read().startswith(b"\x89PNG")
    with pytest.raises(DataError) as caught:
        Part(tmp_path / "gone.png").read()
    one_line(caught.value, "gone.png", "No such file")


def test_a_folder_that_is_not_there_is_named(tmp_path, one_line):
    with pytest.raises(DataError) as caught:
        SuiteMedia(tmp_path / "none")
    one_line(caught.value, str(tmp_path / "none"))


def test_what_is_missing_is_counted_and_named_with_the_remedy(tmp_path, one_line):
    items = [item(f"v/{n // 2}.mp4", number=n) for n in range(12)]
    text = missing_media("mini-mlvu", tmp_path, items, items[2:])
    one_line(DataError(text), "mini-mlvu", "10 of 12 questions", "5 of 6 files", "v/1.mp4, v/2.mp4, v/3.mp4, ...")
    one_line(
        DataError(text), str(tmp_path), "evaluation.benchmarks.mini-mlvu.media", "evaluation.missing_media: score_rest"
    )
    assert "..." not in missing_media("mini-mlvu", tmp_path, items, items[-2:])
