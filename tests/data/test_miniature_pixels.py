"""The ground truth is in the pixels: what the annotations say is measured again on decoded videos."""

import dataclasses

import numpy as np
import pytest

from tstar.data.miniature.clips import change, count, motion
from tstar.data.miniature.config import WorldConfig
from tstar.data.miniature.icons import VARIANTS, picture
from tstar.data.miniature.mp4 import write_mp4
from tstar.data.miniature.render import render
from tstar.data.miniature.seeds import item_rng
from tstar.data.miniature.suites import plan_vnbench, vnbench_records
from tstar.data.miniature.words import COLOURS, FRUITS, LANDMARKS, OBJECTS

decord = pytest.importorskip("decord")
CONFIG = WorldConfig()
VIVID = ("red", "green", "blue", "yellow", "purple")  # far from the backgrounds and from each other in hue


def decode(film, path):
    write_mp4(path, render(film))
    reader = decord.VideoReader(str(path))
    return reader.get_batch(range(len(reader))).asnumpy()  # [T, H, W, 3]


def mask(frames, colour):
    """Where the frames show the colour, at any brightness: close in hue and clearly coloured."""
    rgb = frames.astype(float)
    shares = rgb / (rgb.sum(-1, keepdims=True) + 1e-6)
    wanted = np.array(COLOURS[colour], dtype=float)
    near = np.abs(shares - wanted / wanted.sum()).max(-1) < 0.06
    return near & (rgb.max(-1) - rgb.min(-1) > 90)  # [T, H, W]


def centroids(where):
    """Centre of the marked pixels of each frame as (x, y); nan where there are few."""
    y, x = np.mgrid[0:96, 0:96]
    size = where.sum((1, 2))
    with np.errstate(invalid="ignore"):
        xy = np.stack([(where * x).sum((1, 2)), (where * y).sum((1, 2))], 1) / size[:, None]
    xy[size < 0.8 * size.max()] = np.nan  # cut off by the frame's edge
    return xy


def plots(make, wanted, number, colours=lambda plot: [plot.film.shots[0].actors[-1].colour]):
    """The first plots of a kind that suit a measurement."""
    found = []
    for k in range(2000):
        plot = make(item_rng("pixels", make.__name__, k), "eval" if k % 2 else "train")
        if wanted(plot) and set(colours(plot)) <= set(VIVID):
            found.append(plot)
        if len(found) == number:
            return found
    raise AssertionError("too few")


def alone(plot):
    return len(plot.film.shots[0].actors) == 1


def answer(plot, skill):
    return next((question.answer for question in plot.questions if question.skill == skill), "")


@pytest.mark.parametrize("kind", ["ret_insert1", "ret_insert2", "ord_insert1", "ord_insert2", "cnt_insert1"])
@pytest.mark.parametrize("haystack", [0, 1])
def test_an_inserted_picture_is_there_at_needle_time_and_nowhere_else(tmp_path, kind, haystack):
    plot = plan_vnbench(CONFIG, haystack, kind)
    record = vnbench_records(CONFIG, haystack, kind, "hay", plot)[0]
    frames = decode(plot.film, tmp_path / "v.mp4").astype(int)
    assert len(frames) == record["length"] * 8
    words = [w for pool in (FRUITS, LANDMARKS, OBJECTS) for w in pool]
    known = {(word, v): picture(word, v).astype(int) for word in words for v in range(VARIANTS)}
    seen = []
    for start in record["needle_time"]:
        first = round(start * 8)
        inside = frames[first : first + 8]
        distance = {key: np.abs(inside[4] - drawn).mean() for key, drawn in known.items()}
        best = min(distance, key=distance.get)
        assert np.abs(inside - known[best]).mean((1, 2, 3)).max() < 5  # measured: 1.5, chroma at the edges
        for outside in (frames[first - 1], *frames[first + 8 : first + 9]):
            assert np.abs(outside - known[best]).mean() > 30
        seen.append(best[0])
    if kind.startswith("cnt"):
        assert record["gt"] == str(len(seen))
        assert len(set(seen)) == 1
    else:
        assert record["gt"] == ", ".join(seen)


@pytest.mark.parametrize("kind", ["ret_edit1", "ord_edit1", "cnt_edit1"])
def test_a_subtitle_covers_the_lower_part_at_needle_time_only(tmp_path, kind):
    plot = plan_vnbench(CONFIG, 0, kind)
    record = vnbench_records(CONFIG, 0, kind, "hay", plot)[0]
    frames = decode(plot.film, tmp_path / "v.mp4").astype(int)
    clean = decode(dataclasses.replace(plot.film, needles=()), tmp_path / "c.mp4").astype(int)
    assert len(frames) == len(clean)
    changed = np.abs(frames - clean)[:, 64:].mean((1, 2, 3)) > 12
    expected = np.zeros(len(frames), dtype=bool)
    for start in record["needle_time"]:
        expected[round(start * 8) : round(start * 8) + 8] = True
    np.testing.assert_array_equal(changed, expected)
    assert np.abs(frames - clean)[expected][:, :56].mean() < 4
    letters = frames[expected][:, 76:92].min(-1) > 200  # the word's own lines: 14 pixels high, so over 1/8 of the frame
    heights = letters.any(2).sum(1)
    assert heights.min() >= 12


def test_pasted_pictures_add_up_to_the_answer(tmp_path):
    plot = plan_vnbench(CONFIG, 3, "cnt_edit2")
    frames = decode(plot.film, tmp_path / "v.mp4").astype(int)
    clean = decode(dataclasses.replace(plot.film, needles=()), tmp_path / "c.mp4").astype(int)
    total = 0
    for needle in plot.film.needles:
        changed = np.abs(frames - clean)[needle.start + 4].max(-1) > 40  # [H, W]
        total += sum(changed[y : y + 20, x : x + 20].mean() > 0.4 for x, y in needle.spots)
        assert changed.sum() <= 420 * len(needle.spots)
    assert str(total) == plot.questions[0].answer


def test_an_object_moves_the_way_the_answer_says(tmp_path):
    ways = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}
    seen = set()
    for plot in plots(motion, lambda plot: alone(plot) and answer(plot, "direction"), 14):
        way = answer(plot, "direction")
        xy = centroids(mask(decode(plot.film, tmp_path / "v.mp4"), plot.film.shots[0].actors[0].colour))
        step = np.nanmedian(np.diff(xy, axis=0), axis=0)
        axis, sign = ways[way]
        assert step[axis] * sign > 0.3, way
        assert abs(step[1 - axis]) < 0.3, way
        backwards = dataclasses.replace(plot.film, reverse=True)
        xy = centroids(mask(decode(backwards, tmp_path / "r.mp4"), plot.film.shots[0].actors[0].colour))
        assert np.nanmedian(np.diff(xy, axis=0), axis=0)[axis] * sign < -0.3
        seen.add(way)
    assert seen == set(ways)


def test_speeds_are_what_the_answer_says(tmp_path):
    seen = set()
    for plot in plots(motion, alone, 18):
        pace = answer(plot, "speed")
        xy = centroids(mask(decode(plot.film, tmp_path / "v.mp4"), plot.film.shots[0].actors[0].colour))
        steps = np.abs(np.diff(xy, axis=0)).max(1)
        steps = steps[steps < 20]  # neither cut off nor back from the other side
        if len(steps) < 12:
            continue
        early, late = np.median(steps[: len(steps) // 3]), np.median(steps[-(len(steps) // 3) :])
        measured = {
            "it stands still": max(early, late) < 0.35,
            "slowly": 0.35 < early < 1.6 and 0.35 < late < 1.6,
            "fast": early > 3 and late > 3 and abs(late - early) < 0.8,
            "faster and faster": late > early + 0.8,
            "slower and slower": early > late + 0.8,
        }
        assert [name for name, holds in measured.items() if holds] == [pace]
        seen.add(pace)
    assert len(seen) == 5


def test_changes_are_what_the_answer_says(tmp_path):
    def both(plot):
        actor = plot.film.shots[0].actors[0]
        return [actor.colour, actor.end_colour or actor.colour]

    seen = set()
    for plot in plots(change, alone, 8, both):
        what = answer(plot, "attribute_change")
        before, after = both(plot)
        frames = decode(plot.film, tmp_path / "v.mp4")
        if before != after:
            first, last = mask(frames, before).sum((1, 2)), mask(frames, after).sum((1, 2))
            assert first[:10].max() > 60 > first[-10:].max()
            assert last[-10:].max() > 60 > last[:10].max()
            assert what == f"it turns from {before} to {after}"
        else:
            size = mask(frames, before).sum((1, 2))
            grown = np.max(size[-8:]) > 2 * np.max(size[:8])
            shrunk = np.max(size[:8]) > 2 * np.max(size[-8:])
            assert (grown, shrunk) == (what == "it grows", what == "it shrinks")
        seen.add(what if "turns" not in what else "turns")
    assert seen == {"turns", "it grows", "it shrinks"}


def test_appearances_are_as_many_as_the_answer_says(tmp_path):
    def colours(plot):
        return {actor.colour for actor in plot.film.shots[0].actors}

    for plot in plots(count, lambda plot: True, 4, colours):
        colour = plot.questions[0].text.removeprefix("How many times does the ").split()[0]
        visible = mask(decode(plot.film, tmp_path / "v.mp4"), colour).sum((1, 2)) > 40
        appearances = int(visible[0]) + int((visible[1:] & ~visible[:-1]).sum())
        assert str(appearances) == plot.questions[0].answer


def test_the_same_frames_always_give_the_same_bytes(tmp_path):
    plot = plan_vnbench(CONFIG, 0, "ord_insert1")
    frames = render(plot.film)
    np.testing.assert_array_equal(frames, render(plot.film))
    written = set()
    for _ in range(6):
        write_mp4(tmp_path / "v.mp4", frames)
        written.add((tmp_path / "v.mp4").read_bytes())
    assert len(written) == 1
