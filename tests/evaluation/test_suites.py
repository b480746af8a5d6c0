"""What is asked, in which shares and batches: all of it once, evenly, and the same whatever was answered before."""

import itertools
import json
import tarfile

import numpy as np
import pytest

from tstar.errors import ConfigError, DataError
from tstar.evaluation import get_benchmark
from tstar.evaluation.items import Item
from tstar.evaluation.settings import EvaluationConfig, place_of
from tstar.evaluation.suites import WAITING_BATCHES, Batches, open_suite, share, subset


def item(number, media, **more):
    return Item(id=str(number), media=media, prompt="?", options=("x", "y"), answer="A", **({"cluster": media} | more))


def test_a_subset_is_even_and_tears_no_video_apart():
    items = [item(n, f"v{n // 4}") for n in range(40)]
    assert subset(items, None) is items
    assert subset(items, 40) is items
    chosen = subset(items, 12)
    assert [i.cluster for i in chosen] == [c for c in ("v0", "v3", "v6") for _ in range(4)]
    assert subset(items, 1) == items[:4]
    shuffled = items[::2] + items[1::2]
    assert [i.id for i in subset(shuffled, 8)] == [i.id for i in shuffled if i.cluster in ("v0", "v5")]


@pytest.mark.parametrize("processes", [1, 2, 3, 7, 40])
def test_shares_are_whole_videos_that_make_up_the_suite_with_equally_many_questions(processes):
    rng = np.random.default_rng(0)
    items = [item(n, f"v/{int(rng.integers(60))}.mp4") for n in rng.permutation(300)]
    shares = [share(items, k, processes) for k in range(processes)]
    asked = [[i.id for clip in own for i in clip.items] for own in shares]
    assert sorted(itertools.chain(*asked)) == sorted(i.id for i in items)
    media = [{i.media for clip in own for i in clip.items} for own in shares]
    assert not any(a & b for a, b in itertools.combinations(media, 2))
    largest = max(sum(i.media == m for i in items) for m in {i.media for i in items})
    assert max(map(len, asked)) - min(map(len, asked)) <= largest
    assert [share(items[::-1], k, processes) != [] for k in range(processes)] == [own != [] for own in shares]


def test_a_share_has_an_even_part_of_what_is_left_wherever_one_process_stopped():
    items = [item(n, f"{n // 3:03}.mp4") for n in range(300)]
    alone = [i.id for clip in share(items, 0, 1) for i in clip.items]
    left = set(alone[140:])
    counts = [len(left & {i.id for clip in share(items, k, 4) for i in clip.items}) for k in range(4)]
    assert max(counts) - min(counts) <= 3


def test_questions_about_other_seconds_of_a_video_are_about_another_clip():
    windows = [(0.0, 5.0), None, (0.0, 5.0), (5.0, 9.0)]
    items = [item(n, "a.mp4", window=window) for n, window in enumerate(windows)]
    items += [item(9, "a.mp4", media_kind="frames", frame_rate=3.0)]
    clips = share(items, 0, 1)
    assert [{i.id for i in clip.items} for clip in clips] == [{"9"}, {"1"}, {"0", "2"}, {"3"}]
    assert [clip.items[0].window for clip in clips] == [None, None, (0.0, 5.0), (5.0, 9.0)]


def batches_of(clips, size):
    batches = Batches(size)
    done = [batch for name, questions, frames in clips for batch in batches.add((name, frames), questions, frames)]
    return done + list(batches.rest())


def some_clips(seed, count, frames, most=5):
    rng = np.random.default_rng(seed)
    return [(n, int(rng.integers(1, most)), int(rng.choice(frames))) for n in range(count)]


@pytest.mark.parametrize("size", [1, 4, 16])
def test_batches_are_whole_clips_of_equal_frame_counts_and_hold_every_clip_once(size):
    clips = some_clips(0, 200, [1, 8, 64])
    asked = {name: questions for name, questions, _ in clips}
    made = batches_of(clips, size)
    assert sorted(name for batch in made for name, _ in batch) == list(range(200))
    for batch in made:
        assert len({frames for _, frames in batch}) == 1
        assert len(batch) == 1 or sum(asked[name] for name, _ in batch) <= size
    full = [batch for batch in made if sum(asked[name] for name, _ in batch) > size - 4]
    assert len(full) >= len(made) - 3  # but for what is left of each frame count


def test_no_more_than_so_many_questions_wait_however_different_the_frame_counts_are():
    batches, waiting = Batches(4), 0
    for n in range(500):
        waiting += 1
        waiting -= sum(map(len, batches.add(n, 1, n)))
        assert waiting <= WAITING_BATCHES * 4
    assert sum(map(len, batches.rest())) == waiting


def test_a_batch_depends_on_the_clips_alone():
    clips = some_clips(1, 300, range(1, 60))
    assert batches_of(clips, 8) == batches_of(list(clips), 8)


def test_a_suite_is_opened_with_its_questions_and_media(tiny_world):
    folder = tiny_world / "benchmarks" / "mini-mlvu"
    suite = open_suite("mini-mlvu", EvaluationConfig(benchmarks={"mini-mlvu": str(folder)}))
    assert suite.items == get_benchmark("mini-mlvu").load(folder)
    assert suite.missing == []
    assert all(medium.parts[0].path == folder / name for (name, _), medium in suite.media.items())


def test_annotations_and_media_may_lie_apart(tiny_world, tmp_path):
    folder = tiny_world / "benchmarks" / "mini-videomme"
    (tmp_path / "moved").symlink_to(folder)
    annotations = tmp_path / "test.jsonl"
    annotations.write_bytes((folder / "test.jsonl").read_bytes())
    place = {"annotations": str(annotations), "media": str(tmp_path / "moved")}
    suite = open_suite("mini-videomme", EvaluationConfig(benchmarks={"mini-videomme": place}))
    assert {medium.parts[0].path.parents[1] for medium in suite.media.values()} == {tmp_path / "moved"}
    whole = open_suite("mini-videomme", EvaluationConfig(benchmarks={"mini-videomme": str(folder / "test.jsonl")}))
    assert len(whole.media) == len(suite.media)


def test_missing_media_stop_a_suite_unless_the_rest_is_wanted(tiny_world, tmp_path, one_line):
    folder = tiny_world / "benchmarks" / "mini-mlvu"
    items = get_benchmark("mini-mlvu").load(folder)
    for medium in sorted({i.media for i in items})[1:]:
        (tmp_path / medium).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / medium).touch()
    gone = [i for i in items if not (tmp_path / i.media).exists()]
    place = {"mini-mlvu": {"annotations": str(folder), "media": str(tmp_path)}}
    with pytest.raises(DataError) as caught:
        open_suite("mini-mlvu", EvaluationConfig(benchmarks=place))
    one_line(caught.value, f"{len(gone)} of {len(items)} questions", gone[0].media, "score_rest")
    suite = open_suite("mini-mlvu", EvaluationConfig(benchmarks=place, missing_media="score_rest"))
    assert suite.missing == gone
    assert suite.asked == [i for i in items if i not in gone]


def test_a_suite_that_is_not_there_is_named(tmp_path, one_line):
    config = EvaluationConfig(benchmarks={"mini-mlvu": str(tmp_path / "none")})
    with pytest.raises(DataError) as caught:
        open_suite("mini-mlvu", config)
    one_line(caught.value, str(tmp_path / "none"), "evaluation.benchmarks.mini-mlvu", "tstar miniature")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"benchmarks": {"mini-mlv": "x"}}, ("mini-mlv", "did you mean")),
        ({"benchmarks": {"mlvu": {"anotations": "x"}}}, ("evaluation.benchmarks.mlvu.anotations", "'annotations'")),
        ({"benchmarks": {"mlvu": {"media": "x"}}}, ("evaluation.benchmarks.mlvu", "annotations: PATH")),
        ({"benchmarks": {"mlvu": {"annotations": 3}}}, ("evaluation.benchmarks.mlvu.annotations", "path", "3")),
        ({"benchmarks": {"mlvu": None}}, ("evaluation.benchmarks.mlvu", "None")),
        ({"benchmarks": ["mlvu"]}, ("evaluation.benchmarks", "folder")),
        ({"rules": "lax"}, ("lax", "official")),
        ({"rules": "lmms-eval", "benchmarks": {"vnbench": "x"}}, ("vnbench", "lmms-eval", "official, strict")),
        ({"fps": 0}, ("fps", "0")),
        ({"max_frames": 0}, ("max_frames", "0")),
        ({"batch_size": 0}, ("evaluation.batch_size", "0")),
        ({"max_new_tokens": -1}, ("evaluation.max_new_tokens", "-1")),
        ({"validation_items": -1}, ("evaluation.validation_items", "-1")),
        ({"workers": -1}, ("evaluation.workers", "-1")),
        ({"time_limit": 0}, ("evaluation.time_limit", "0")),
        ({"time_limit": float("inf")}, ("evaluation.time_limit", "86,400 seconds", "inf")),
        ({"time_limit": float("nan")}, ("evaluation.time_limit", "nan")),
        ({"decoder": "decrod"}, ("evaluation.decoder", "did you mean 'decord'")),
        ({"frame_choice": "segment"}, ("evaluation.frame_choice", "did you mean 'segments'")),
        ({"missing_media": "score rest"}, ("evaluation.missing_media", "did you mean 'score_rest'")),
        ({"baselines": ["blnd"]}, ("evaluation.baselines", "did you mean 'blind'")),
        ({"baselines": ["full"]}, ("evaluation.baselines", "full")),
        ({"baselines": "blind"}, ("evaluation.baselines", "list", "'blind'")),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words, one_line):
    with pytest.raises(ConfigError) as caught:
        EvaluationConfig(**settings)
    one_line(caught.value, *words)


def test_baselines_are_all_none_or_those_that_are_named():
    assert EvaluationConfig().modes == ("full", "shuffled", "single_frame", "blind")
    assert EvaluationConfig(baselines=False).modes == EvaluationConfig(baselines=[]).modes == ("full",)
    assert EvaluationConfig(baselines=["blind", "single_frame"]).modes == ("full", "single_frame", "blind")


def test_media_lie_beside_the_annotations_unless_said_otherwise(tmp_path):
    (tmp_path / "a.json").touch()
    assert place_of("mlvu", str(tmp_path)) == (tmp_path, tmp_path)
    assert place_of("mlvu", {"annotations": str(tmp_path / "a.json")}) == (tmp_path / "a.json", tmp_path)
    apart = {"annotations": str(tmp_path), "media": str(tmp_path / "m")}
    assert place_of("mlvu", apart) == (tmp_path, tmp_path / "m")


def test_the_longest_answer_is_the_settings_then_the_benchmarks_then_16():
    class Talks(type(get_benchmark("mlvu"))):
        max_new_tokens = 1024

    assert EvaluationConfig().answer_tokens(get_benchmark("mlvu")) == 16
    assert EvaluationConfig().answer_tokens(Talks("mlvu")) == 1024
    assert EvaluationConfig(max_new_tokens=4).answer_tokens(Talks("mlvu")) == 4


def test_workers_are_half_the_cores_of_each_process_and_at_least_one(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(12), raising=False)
    config = EvaluationConfig()
    assert [config.decoding_workers(n) for n in (1, 2, 4, 40)] == [4, 3, 1, 1]
    assert EvaluationConfig(workers=0).decoding_workers() == 0
    assert EvaluationConfig(workers=7).decoding_workers(8) == 7


LAYOUTS = {
    "mvbench": ("action_sequence.json", "star/Charades_segment/a.mp4"),
    "videomme": ("test.jsonl", "data/abc.mkv"),
    "videomme_subtitles": ("test.jsonl", "data/abc.mkv"),
    "nextqa": ("test.jsonl", "NExTVideo/7.mp4"),
    "lvbench": ("video_info.meta.jsonl", "videos/key.mp4"),
}
ROWS = {
    "mvbench": [{"video": "a.mp4", "question": "?", "candidates": ["x", "y"], "answer": "x", "start": 1, "end": 2}],
    "videomme": {
        **dict.fromkeys(("domain", "sub_category", "task_type", "question", "video_id"), "x"),
        "videoID": "abc",
        "duration": "short",
        "question_id": "1-1",
        "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."],
        "answer": "A",
    },
    "nextqa": {"video": 7, "question": "?", "answer": 0, "qid": 1, "type": "CW"} | {f"a{n}": str(n) for n in range(5)},
    "lvbench": {
        "key": "key",
        "type": "live",
        "qa": [
            {
                "uid": "1",
                "question": "?\n(A) 1\n(B) 2\n(C) 3\n(D) 4",
                "answer": "A",
                "question_type": ["entity recognition"],
            }
        ],
    },
}


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_how_media_are_laid_out_is_looked_up_where_they_lie(tmp_path, name, apart):
    annotations, medium = LAYOUTS[name]
    rows = ROWS.get(name, ROWS["videomme"])
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions" / annotations).write_text(json.dumps(rows) + "\n")
    root = tmp_path / ("media" if apart else "questions")
    for path in (root / medium, root / "subtitle" / "abc.srt"):
        path.parent.mkdir(parents=True)
        path.touch()
    place = {"annotations": str(tmp_path / "questions"), "media": str(root)}
    suite = open_suite(name, EvaluationConfig(benchmarks={name: place if apart else str(root)}))
    (asked,) = suite.asked
    assert asked.media == medium
    assert asked.window is None  # the clip is cut already
    assert asked.subtitles == ("subtitle/abc.srt" if name == "videomme_subtitles" else "")
    assert suite.media[medium, "video"].parts[0].path == root / medium


def test_subtitles_that_are_nowhere_stop_a_suite_that_shows_them(tmp_path, one_line):
    name, rows = (
        "videomme_subtitles",
        [ROWS["videomme"] | {"question_id": "2", "videoID": "none", "video_id": "y"}, ROWS["videomme"]],
    )
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    media = tmp_path / "media"
    for path in [media / "data" / f"{row['videoID']}.mp4" for row in rows] + [tmp_path / "subtitle" / "abc.srt"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    config = EvaluationConfig(benchmarks={name: {"annotations": str(tmp_path), "media": str(media)}})
    with pytest.raises(DataError) as caught:  # they lie beside the table only
        open_suite(name, config)
    one_line(caught.value, f"{name}: no video has subtitles", str(media), f"evaluation.benchmarks.{name}.media")
    (tmp_path / "subtitle").rename(media / "subtitle")
    assert [i.subtitles for i in open_suite(name, config).asked] == ["", "subtitle/abc.srt"]
    assert [i.subtitles for i in open_suite(name, config, limit=1).asked] == [""]
    assert len(get_benchmark(name).load(tmp_path / "test.jsonl")) == 2  # answers are scored without


def test_a_video_in_a_tar_is_found_by_whatever_ending_it_has(tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps(ROWS["videomme"]) + "\n")
    with tarfile.open(tmp_path / "videos.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("data/abc.mkv"))
    (medium,) = open_suite("videomme", EvaluationConfig(benchmarks={"videomme": str(tmp_path)})).media.values()
    assert medium.parts[0].member == "data/abc.mkv"


@pytest.mark.parametrize(
    ("name", "tar", "member"),
    [
        ("nextqa", "NExTVideo.tar", "NExTVideo/7.mp4"),
        ("nextqa", "NExTVideo.tar", "7.mp4"),
        ("mvbench", "star/Charades_segment.tar", "a.mp4"),
        ("mvbench", "star/Charades_segment.tar", "Charades_segment/a.mp4"),
        ("lvbench", "all.tar", "videos/key.mp4"),
    ],
)
def test_a_tar_stands_for_what_unpacking_it_would_leave(tmp_path, name, tar, member):
    annotations, medium = LAYOUTS[name]
    (tmp_path / annotations).write_text(json.dumps(ROWS[name]) + "\n")
    (tmp_path / "star" / "Charades_v1_480").mkdir(parents=True)  # empty
    with tarfile.open(tmp_path / tar, "w") as file:
        file.addfile(tarfile.TarInfo(member))
    suite = open_suite(name, EvaluationConfig(benchmarks={name: str(tmp_path / annotations)}))
    (asked,) = suite.asked
    assert asked.media in (medium, member)
    assert suite.media[asked.media, "video"].parts[0].member == member
