"""Media to frames ahead of their turn: the right frames in the right order, and a decoder that dies or hangs costs one clip."""

import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tstar.data.decoding import read_video
from tstar.data.frame_sampling import FrameSampling, SegmentMiddles
from tstar.data.images import to_square
from tstar.data.miniature.mp4 import write_mp4
from tstar.errors import ConfigError, DataError
from tstar.evaluation import clips as module
from tstar.evaluation.clips import Decoders, Look, Wanted, decode_clip, shuffled_order
from tstar.evaluation.media import Media, Part, SuiteMedia

FPS, COUNT = 8, 40
SAMPLING = FrameSampling(fps=4, max_frames=12)


def level(number):
    """Grey of a frame; lossy coding does not make it another's."""
    return 10 + 6 * number


def numbers_of(frames):
    return [round((float(frame.mean()) - 10) / 6) for frame in frames]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos and pictures of grey levels, one a frame."""
    root = tmp_path_factory.mktemp("media")
    frames = np.stack([np.full((48, 64, 3), level(n), np.uint8) for n in range(COUNT)])
    write_mp4(root / "a.mp4", frames)
    write_mp4(root / "b.mp4", frames[:9])
    (root / "broken.mp4").write_bytes(b"no video")
    (root / "f").mkdir()
    for n in range(1, COUNT + 1):
        Image.fromarray(frames[n - 1]).save(root / "f" / f"{n:05}.png")
    Image.fromarray(frames[7]).save(root / "p.png")
    return root


def look(mode="full", side=32, sampling=SAMPLING, decoder="auto"):
    return Look(sampling, decoder, side, "square", mode)


def wanted(root, name, kind="video", window=None, rate=None):
    if kind == "frames":
        parts = sorted((root / name).iterdir())
        media = Media(tuple(map(Part, parts)), tuple(int(part.stem) for part in parts))
    else:
        media = Media((Part(root / name),))
    return Wanted(name, kind, media, window, rate)


def test_a_video_is_what_the_decoder_gives_squeezed_to_the_encoders_side(folder):
    clip = decode_clip((wanted(folder, "a.mp4"), look()))
    expected = read_video(folder / "a.mp4", SAMPLING)
    assert clip.frames.shape == (12, 32, 32, 3)
    assert np.array_equal(clip.frames, np.stack([to_square(frame, 32) for frame in expected.frames]))
    assert clip.timestamps == expected.timestamps
    assert clip.seconds > 0


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("window", [(1.0, 3.0), (0.0, 0.2), (2.5, 99.0), (-1.0, 1.0), (3.0, 3.0)])
def test_of_a_window_only_its_own_seconds_are_seen(folder, window, decoder):
    clip = decode_clip((wanted(folder, "a.mp4", window=window), look(decoder=decoder)))
    begin, end = max(window[0], 0), min(window[1], COUNT / FPS)
    count = max(1, min(12, int(np.ceil((end - begin) * 4))))
    exact = [(begin + j * (end - begin) / count) * FPS for j in range(count)]
    assert numbers_of(clip.frames) == [min(int(np.rint(n)), COUNT - 1) for n in exact]
    assert all(begin - 1e-9 <= t <= end for t in clip.timestamps)


def test_a_window_behind_the_end_is_an_error_of_the_question(folder, one_line):
    with pytest.raises(DataError) as caught:
        decode_clip((wanted(folder, "a.mp4", window=(7.0, 9.0)), look()))
    one_line(caught.value, str(folder / "a.mp4"), "7 s to 9 s", "5.0 s")


@pytest.mark.parametrize("window", [None, (2.0, 6.0)])
def test_pictures_of_a_folder_are_taken_by_number_and_rate(folder, window):
    clip = decode_clip((wanted(folder, "f", "frames", window, rate=3.0), look()))
    begin, end = window or (0.0, COUNT / 3)
    count = min(12, int(np.ceil((end - begin) * 4)))
    expected = [int(np.rint((begin + j * (end - begin) / count) * 3)) for j in range(count)]
    assert numbers_of(clip.frames) == expected
    np.testing.assert_allclose(clip.timestamps, np.array(expected) / 3)


@pytest.mark.parametrize("kind", ["video", "frames"])
@pytest.mark.parametrize("window", [None, (1.1, 4.2)])
def test_the_authors_frames_of_mvbench_are_those_of_their_formula(folder, kind, window):
    sampling, rate = SegmentMiddles(6), FPS if kind == "video" else 3.0
    clip = decode_clip(
        (wanted(folder, "f" if kind == "frames" else "a.mp4", kind, window, rate), look(sampling=sampling))
    )
    first, last = (1, COUNT) if kind == "frames" else (0, COUNT - 1)  # their folders begin with picture 1
    start, end = window or (-100000, 100000)
    begin, stop = max(first, round(start * rate)), min(round(end * rate), last)
    part = (stop - begin) / 6
    expected = [int(begin + part / 2 + round(part * k)) for k in range(6)]
    assert numbers_of(clip.frames) == [number - first for number in expected]


def test_numbers_that_lack_in_a_folder_are_seconds_without_a_picture(folder, tmp_path):
    for n in (3, 4, 10):
        Image.fromarray(np.full((48, 64, 3), level(n), np.uint8)).save(tmp_path / f"{n}.png")
    media = SuiteMedia(tmp_path.parent).find(
        type("I", (), {"media": tmp_path.name, "media_kind": "frames", "id": "q"})()
    )
    clip = decode_clip((Wanted("f", "frames", media, None, 1.0), look(sampling=FrameSampling(fps=1, max_frames=8))))
    assert clip.timestamps == (0.0, 1.0, 1.0, 1.0, 7.0, 7.0, 7.0, 7.0)
    assert numbers_of(clip.frames) == [3, 4, 4, 4, 10, 10, 10, 10]


def test_a_picture_is_one_frame_without_a_time(folder):
    clip = decode_clip((wanted(folder, "p.png", "image"), look()))
    assert numbers_of(clip.frames) == [7]
    assert clip.timestamps == ()


@pytest.mark.parametrize("kind", ["a.mp4", "f"])
def test_modes_show_the_middle_frame_or_all_in_another_order(folder, kind):
    asked = wanted(folder, kind, "frames" if kind == "f" else "video", rate=float(FPS))
    full, single, shuffled = (decode_clip((asked, look(mode))) for mode in ("full", "single_frame", "shuffled"))
    assert np.array_equal(single.frames, full.frames[6:7])
    assert single.timestamps == full.timestamps[6:7]
    assert np.array_equal(shuffled.frames, full.frames[shuffled_order(kind, full.timestamps)])
    assert shuffled.timestamps == full.timestamps


def test_the_order_of_shuffled_frames_is_the_windows_own(folder):
    orders = [
        numbers_of(decode_clip((wanted(folder, "a.mp4", window=window), look("shuffled"))).frames)
        for window in ((0.0, 3.0), (1.0, 4.0), (0.0, 3.0))
    ]
    assert orders[0] == orders[2]
    assert [n + 8 for n in orders[0]] != orders[1]


def test_what_is_in_a_tar_is_seen_as_if_it_were_unpacked(folder, tmp_path, one_line):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.mp4", "broken.mp4", "f", "p.png"):
            tar.add(folder / name, name)
    tarred = SuiteMedia(tmp_path)

    def packed(name, kind):
        item = type("I", (), {"media": name, "media_kind": kind, "id": "q"})()
        return Wanted(name, kind, tarred.find(item), None, 3.0)

    for name, kind in (("a.mp4", "video"), ("f", "frames"), ("p.png", "image")):
        clip = decode_clip((packed(name, kind), look()))
        assert np.array_equal(clip.frames, decode_clip((wanted(folder, name, kind, rate=3.0), look())).frames)
    with pytest.raises(DataError) as caught:
        decode_clip((packed("broken.mp4", "video"), look()))
    one_line(caught.value, f"{tmp_path / 'a.tar'}: broken.mp4")
    assert "/proc" not in str(caught.value)


def test_a_library_that_raises_anything_costs_the_clip(folder, monkeypatch, one_line):
    monkeypatch.setattr(module, "take_frames", lambda *_: (_ for _ in ()).throw(RuntimeError("odd")))
    with pytest.raises(DataError) as caught:
        decode_clip((wanted(folder, "a.mp4"), look()))
    one_line(caught.value, "a.mp4", "RuntimeError: odd")


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_come_in_their_order_with_errors_in_their_place(folder, workers):
    names = ["a.mp4", "broken.mp4", "b.mp4", "gone.mp4", "a.mp4", "b.mp4"]
    with Decoders(workers, 60.0) as decoders:
        for _ in range(2):  # its processes serve again
            found = list(decoders.clips((wanted(folder, name) for name in names), look()))
            for name, clip in zip(names, found, strict=True):
                if name in ("broken.mp4", "gone.mp4"):
                    assert isinstance(clip, DataError)
                    assert str(folder / name) in str(clip)
                else:
                    assert np.array_equal(clip.frames, decode_clip((wanted(folder, name), look())).frames)
                    assert clip.frames.flags.writeable


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_at_most_one_more_clip_than_there_are_workers_lies_ahead(folder, workers, monkeypatch):
    begun = []

    def noted(self, asked):
        begun.append(asked)
        return decode_clip(asked)

    monkeypatch.setattr(Decoders, "_decode", noted)
    with Decoders(workers, None) as decoders:
        clips = decoders.clips((wanted(folder, "b.mp4") for _ in range(12)), look())
        for used in range(1, 13):
            next(clips)
            time.sleep(0.02)
            assert len(begun) <= used + max(1, workers) + 1
        assert next(clips, None) is None


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(folder):
    with Decoders(1, 60.0) as decoders:
        clips = decoders.clips((wanted(folder, "a.mp4") for _ in range(6)), look())
        for number, clip in enumerate(clips):
            assert numbers_of(clip.frames)[0] == 0
            if number in (1, 3):
                os.kill(decoders._asides[0]._child.pid, signal.SIGKILL)
        assert number == 5


def test_a_clip_that_ends_every_worker_fails_and_the_next_is_decoded(folder, one_line):
    with Decoders(1, 60.0) as decoders:
        aside = decoders._asides[0]
        started = aside._started

        def deadly():
            pipe = started()
            os.kill(aside._child.pid, signal.SIGSTOP)  # it shall not answer first
            os.kill(aside._child.pid, signal.SIGKILL)
            return pipe

        aside._started = deadly
        (clip,) = decoders.clips([wanted(folder, "a.mp4")], look())
        one_line(clip, "crashed", str(folder / "a.mp4"), "2 times")
        aside._started = started
        (clip,) = decoders.clips([wanted(folder, "a.mp4")], look())
        assert len(clip.frames) == 12


def test_a_worker_that_hangs_is_stopped_after_the_limit(folder, one_line):
    with Decoders(1, 60.0) as decoders:
        next(decoders.clips([wanted(folder, "b.mp4")], look()))
        decoders._asides[0].time_limit = 0.3
        os.kill(decoders._asides[0]._child.pid, signal.SIGSTOP)
        (hung,) = decoders.clips([wanted(folder, "a.mp4")], look())
        one_line(hung, str(folder / "a.mp4"), "longer than 0.3 s")
        decoders._asides[0].time_limit = 60.0
        (fine,) = decoders.clips([wanted(folder, "b.mp4")], look())
        assert len(fine.frames) == 5


def test_an_evaluation_that_ends_does_not_wait_for_a_worker_that_hangs(folder):
    decoders = Decoders(2, None)
    clips = decoders.clips((wanted(folder, "a.mp4") for _ in range(9)), look())
    next(clips)
    children = [aside._child for aside in decoders._asides if aside._child is not None]
    for child in children:
        os.kill(child.pid, signal.SIGSTOP)
    begun = time.monotonic()
    decoders.close()
    assert time.monotonic() - begun < 10
    assert not any(child.is_alive() for child in children)
    assert not [t for t in threading.enumerate() if t.name.startswith("tstar-decoding") and t.is_alive() and _busy(t)]


def _busy(thread):
    thread.join(2.0)
    return thread.is_alive()


def test_a_decoder_that_is_not_installed_ends_the_evaluation(folder, monkeypatch):
    with Decoders(0, None) as decoders, pytest.raises(ConfigError, match="unknown decoder 'none'"):
        list(decoders.clips([wanted(folder, "a.mp4")], look(decoder="none")))


def test_a_process_that_decodes_does_not_load_torch():
    program = "import sys, tstar.evaluation.clips as c; assert 'torch' not in sys.modules, 'torch'; print(c.__file__)"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == Path(module.__file__)


def test_an_order_is_the_videos_own_and_never_times():
    for count in (3, 4, 16):
        orders = [shuffled_order(f"videos/{n}.mp4", range(count)) for n in range(60)]
        assert all(sorted(order) == list(range(count)) for order in orders)
        assert list(range(count)) not in orders
        assert len({tuple(order) for order in orders}) > 4
    assert shuffled_order("videos/7.mp4", range(8)) == [2, 5, 0, 1, 3, 7, 6, 4]  # the same in every process and version
    assert shuffled_order("a.mp4", []) == []
    assert shuffled_order("a.mp4", [0.0]) == [0]
    assert {tuple(shuffled_order(f"{n}.mp4", [0.0, 1.0])) for n in range(30)} == {(0, 1), (1, 0)}
    for n in range(60):  # two of three frames are the same one: swapping those changes nothing
        times = [0.0, 1.0, 1.0, 2.0]
        assert [times[k] for k in shuffled_order(f"{n}.mp4", times)] != times


def test_a_script_that_starts_itself_again_is_told_what_it_lacks(tmp_path):
    script = tmp_path / "own.py"
    script.write_text("from tstar.data.aside import Aside\nprint(Aside(len).answer('abc', 'a'))\n")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "ConfigError: a process that reads media did not start" in ended.stderr
    assert "__main__" in ended.stderr.splitlines()[-1]
    text = script.read_text().replace("print", "if __name__ == '__main__': print")
    script.write_text(text)
    assert subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout == "3\n"
