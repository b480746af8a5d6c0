"""Suites asked of a stage: what is encoded and asked, what is stored, and what a second run does again."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tstar.data.decoding import read_video
from tstar.data.frame_sampling import FrameSampling
from tstar.errors import DataError
from tstar.evaluation import get_benchmark
from tstar.evaluation import runner as module
from tstar.evaluation.clips import Decoders, shuffled_order
from tstar.evaluation.mlvu import MLVU
from tstar.evaluation.prediction_store import FIELDS, MODES, prompt_sha
from tstar.evaluation.runner import SuiteRunner
from tstar.evaluation.settings import EvaluationConfig
from tstar.evaluation.subtitles import read_subtitles
from tstar.language import LanguageConfig
from tstar.stages import VideoSFT
from tstar.vision import VisionConfig

SUITE = "mini-tempcompass"


class Spy:
    """Counts what a stage is asked for, and answers every question with its own number."""

    def __init__(self, stage, patch):
        self.clips, self.prompts, self.visual, self.modes, self.batches, self.encoded = [], [], [], [], [], []
        self.fail_after = None
        see, generate = stage.lmm.visual_tokens, stage.generate

        def visual_tokens(frames, counts):
            assert len(set(counts)) == 1
            self.clips += [clip.clone() for clip in frames.split(counts)]
            self.encoded.append(counts)
            return see(frames, counts)

        def answer(prompts, visual, *, max_new_tokens):
            if self.fail_after is not None and len(self.prompts) >= self.fail_after:
                raise KeyboardInterrupt
            self.modes.append((stage.training, torch.is_grad_enabled()))
            self.batches.append([len(tokens) for tokens in visual])
            self.prompts += prompts
            self.visual += visual
            texts = generate(prompts, visual, max_new_tokens=max_new_tokens)
            return [f"{text} #{len(self.prompts) - len(prompts) + i}" for i, text in enumerate(texts)]

        patch.setattr(stage.lmm, "visual_tokens", visual_tokens)
        patch.setattr(stage, "generate", answer)


@pytest.fixture(scope="module")
def stage(miniature_parts):
    torch.manual_seed(0)
    return VideoSFT(
        vision=VisionConfig(model=str(miniature_parts / "vision")),
        language=LanguageConfig(path=str(miniature_parts / "language"), template="miniature"),
        compressor={"name": "mambamia", "preset": "tiny"},
        max_length=768,
    )


@pytest.fixture
def spy(stage, monkeypatch):
    return Spy(stage, monkeypatch)


@pytest.fixture
def config(tiny_world):
    suites = {path.name: str(path) for path in (tiny_world / "benchmarks").iterdir()}
    return EvaluationConfig(benchmarks=suites, fps=1, max_frames=4, max_new_tokens=2, batch_size=5, workers=0)


def items_of(config, name=SUITE):
    return get_benchmark(name).load(config.benchmarks[name])


def rows_of(folder, mode="full", name=SUITE):
    return [json.loads(line) for line in (folder / name / f"{mode}.jsonl").read_text().splitlines()]


def pixels(clip):
    """A clip as the encoder was given it, as bytes: what it may be found by."""
    return clip.permute(0, 2, 3, 1).numpy().tobytes()


def test_every_video_is_encoded_once_and_every_question_asked_once(stage, spy, config, tmp_path):
    items = items_of(config)
    videos = {item.media for item in items}
    assert len(videos) < len(items)
    report = SuiteRunner(stage, config, tmp_path, "m").run(SUITE, "full")
    sampling = FrameSampling(fps=1, max_frames=4)
    # squares of the encoder's own side already: nothing is resized on the way
    expected = [read_video(f"{config.benchmarks[SUITE]}/{media}", sampling).frames.tobytes() for media in videos]
    assert Counter(map(pixels, spy.clips)) == Counter(expected)
    assert len(spy.prompts) == len(items)
    assert [i.id for i in report.items] == [i.id for i in items]
    assert {i.response.rsplit("#", 1)[1] for i in report.items} == {str(n) for n in range(len(items))}


@pytest.mark.parametrize("size", [1, 3, 16])
def test_batches_hold_whole_videos_of_equal_frame_counts(stage, spy, config, tmp_path, size):
    varied = replace(config, max_frames=30, fps=2, batch_size=size)
    questions = Counter(item.media for item in items_of(config))
    SuiteRunner(stage, varied, tmp_path, "m").run(SUITE, "full")
    assert len({len(clip) for clip in spy.clips}) > 1
    assert all(len(set(lengths)) == 1 for lengths in spy.batches)  # nothing visual is padded
    assert max(map(len, spy.batches)) <= size
    assert sum(map(len, spy.batches)) == sum(questions.values())
    for counts in spy.encoded:  # short clips are encoded together, long ones alone
        assert sum(counts) <= max(counts[0], module.ENCODED_TOGETHER)
        assert len(counts) == 1 or size > 1
    batch_of = {}
    answers = {row["id"]: int(row["response"].rsplit("#", 1)[1]) for row in rows_of(tmp_path)}
    starts = np.cumsum([0, *map(len, spy.batches)])
    for item in items_of(config):
        batch = int(np.searchsorted(starts, answers[item.id], side="right"))
        if questions[item.media] <= size:
            assert batch_of.setdefault(item.media, batch) == batch


@pytest.mark.parametrize(
    "settings", [{"batch_size": 1}, {"batch_size": 3}, {"workers": 2}, {"decoder": "pyav"}], ids=str
)
def test_answers_are_the_same_however_the_work_is_cut(stage, config, tmp_path, settings):
    varied = replace(config, max_frames=12, fps=2, batch_size=16, max_new_tokens=4)
    expected = SuiteRunner(stage, varied, tmp_path / "a", "m").run(SUITE, "full")
    with SuiteRunner(stage, replace(varied, **settings), tmp_path / "b", "m") as runner:
        found = runner.run(SUITE, "full")
    assert {i.id: i.response for i in found.items} == {i.id: i.response for i in expected.items}
    assert len({i.response for i in expected.items}) > 1


def test_each_question_meets_its_own_video_and_prompt(stage, spy, config, tmp_path):
    SuiteRunner(stage, config, tmp_path, "m").run(SUITE, "full")
    stage.eval()
    tokenizer = stage.lmm.language.tokenizer
    items = {item.id: item for item in items_of(config)}
    for row in rows_of(tmp_path):
        asked = int(row["response"].rsplit("#", 1)[1])
        item, prompt = items[row["id"]], spy.prompts[asked]
        assert prompt.tolist().count(-200) == 1
        text = tokenizer.decode(prompt[prompt != -200])
        assert item.prompt in text
        assert text.startswith("<|user|>")
        assert text.endswith("<|assistant|>\n" + item.prefill)
        frames = read_video(f"{config.benchmarks[SUITE]}/{item.media}", FrameSampling(fps=1, max_frames=4)).frames
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
        with torch.no_grad():
            (expected,) = type(stage.lmm).visual_tokens(stage.lmm, clip, [len(clip)])
        torch.testing.assert_close(spy.visual[asked], expected)


def test_what_is_stored(stage, spy, config, tmp_path):
    report = SuiteRunner(stage, config, tmp_path, "abc").run(SUITE, "full")
    rows = rows_of(tmp_path)
    scored = {item.id: item for item in report.items}
    assert [row["id"] for row in rows] == [item.id for item in report.items]
    for row in rows:
        item = scored[row["id"]]
        assert set(FIELDS) <= set(row)
        assert (row["model"], row["mode"], row["frames"], row["error"]) == ("abc", "full", "4 at 1 fps", None)
        assert row["prompt_sha"] == prompt_sha({i.id: i for i in items_of(config)}[row["id"]])
        assert (row["correct"], row["extracted"], row["how"]) == (item.correct, item.extracted, item.how)
        assert row["visual_tokens"] == stage.lmm.compressor.num_tokens(row["frame_count"])
        assert set(row["seconds"]) == {"decode", "encode", "generate"}
        assert all(seconds >= 0 for seconds in row["seconds"].values())
        assert row["category"] == item.categories
        assert "timestamps" not in row  # the prompt does not depend on them


def test_a_verdict_says_by_which_rules_and_answers_to_an_older_prompt_keep_theirs(stage, spy, config, tmp_path):
    SuiteRunner(stage, config, tmp_path, "m").run(SUITE, "full")
    path = tmp_path / SUITE / "full.jsonl"
    assert {row["rules"] for row in rows_of(tmp_path)} == {"official"}
    older = rows_of(tmp_path)[0] | {"prompt_sha": "older", "extracted": "Z"}
    path.write_text(json.dumps(older) + "\n" + path.read_text())
    report = SuiteRunner(stage, replace(config, rules="strict"), tmp_path, "m").run(SUITE, "full")
    first, *rows = rows_of(tmp_path)
    assert first == older
    assert {row["rules"] for row in rows} == {"strict"}
    assert [(row["extracted"], row["counted"]) for row in rows] == [(i.extracted, i.counted) for i in report.items]


def test_the_stage_answers_in_eval_mode_and_is_left_as_it_was(stage, spy, config, tmp_path):
    for training in (True, False):
        stage.train(training)
        SuiteRunner(stage, config, tmp_path / str(training), "m").run("mini-mlvu", "full", limit=2)
        assert stage.training is training
        assert stage.lmm.compressor.training is training
        assert not stage.lmm.encoder.training
    assert set(spy.modes) == {(False, False)}
    stage.train()


def test_a_second_run_asks_nothing_again(stage, spy, config, tmp_path):
    told = []
    first = SuiteRunner(stage, config, tmp_path, "m").run(SUITE, "full")
    before = (tmp_path / SUITE / "full.jsonl").read_bytes()
    asked, clips = len(spy.prompts), len(spy.clips)
    runner = SuiteRunner(stage, config, tmp_path, "m", lambda *args: told.append(args))
    assert runner.run(SUITE, "full") == first
    assert (len(spy.prompts), len(spy.clips)) == (asked, clips)
    assert (tmp_path / SUITE / "full.jsonl").read_bytes() == before
    assert told == [(f"{SUITE}, full", asked, asked)]


@pytest.mark.parametrize("stop", [1, 8, 15])
def test_an_interrupted_run_goes_on_with_the_batches_of_an_uninterrupted_one(stage, spy, config, tmp_path, stop):
    varied = replace(config, max_frames=30, fps=2)
    items = items_of(config)
    SuiteRunner(stage, varied, tmp_path / "whole", "m").run(SUITE, "full")
    whole, spy.batches = spy.batches, []
    kept, spy.prompts = spy.prompts, []
    spy.fail_after = stop
    with pytest.raises(KeyboardInterrupt):
        SuiteRunner(stage, varied, tmp_path / "cut", "m").run(SUITE, "full")
    stored = len(rows_of(tmp_path / "cut"))
    assert stop <= stored < len(items)
    spy.fail_after = None
    with (tmp_path / "cut" / SUITE / "full.jsonl").open("a") as stream:
        stream.write('{"id": "cut off he')
    report = SuiteRunner(stage, varied, tmp_path / "cut", "m").run(SUITE, "full")
    assert spy.batches == whole
    assert all(torch.equal(a, b) for a, b in zip(spy.prompts, kept, strict=True))
    rows = rows_of(tmp_path / "cut")
    assert [row["id"] for row in rows] == [item.id for item in items]
    assert report.counts["missing"] == report.counts["failed"] == 0
    times = {"seconds": None}
    assert [row | times for row in rows] == [row | times for row in rows_of(tmp_path / "whole")]


@pytest.mark.parametrize("change", [{"max_frames": 3}, {"fps": 2}, {"max_new_tokens": 1}, {"model": "n"}], ids=str)
def test_other_conditions_are_asked_anew(stage, spy, config, tmp_path, change):
    model = change.get("model", "m")
    settings = {k: v for k, v in change.items() if k != "model"}
    SuiteRunner(stage, config, tmp_path, "m").run("mini-mlvu", "full")
    asked = len(spy.prompts)
    other = replace(config, **settings)
    SuiteRunner(stage, other, tmp_path, model).run("mini-mlvu", "full")
    assert len(spy.prompts) == 2 * asked
    SuiteRunner(stage, other, tmp_path, model).run("mini-mlvu", "full")
    assert len(spy.prompts) == 2 * asked
    SuiteRunner(stage, replace(config, batch_size=2, frame_choice="segments"), tmp_path, "m").run("mini-mlvu", "full")
    assert len(spy.prompts) == 3 * asked


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_a_video_that_cannot_be_decoded_fails_alone(stage, spy, config, tmp_path, damage):
    suite = shutil.copytree(config.benchmarks[SUITE], tmp_path / "suite")
    config.benchmarks[SUITE] = str(suite)
    items = items_of(config)
    media = sorted({item.media for item in items})[1]
    whole = (suite / media).read_bytes()
    (suite / media).unlink()
    (suite / media).write_bytes(b"no video" if damage == "text" else whole[:200])
    told = []
    runner = SuiteRunner(stage, config, tmp_path / "out", "m", lambda *args: told.append(args[1:]))
    report = runner.run(SUITE, "full")
    failed = {item.id for item in items if item.media == media}
    assert set(report.named("failed")) == failed
    assert report.counts["failed"] == len(failed) > 0
    assert report.counts["missing"] == 0
    assert set(report.reasons) == failed
    assert all(media in reason for reason in report.reasons.values())
    assert len(spy.prompts) == len(items) - len(failed)
    assert told[-1] == (len(items), len(items))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    for item in items:
        row = rows[item.id]
        assert (row["response"] is None) is (row["error"] is not None) is (item.id in failed)
        if item.id in failed:
            assert media in row["error"]
            assert row["how"] == "failed"
    (suite / media).write_bytes(whole)  # whole again: only its questions are asked
    again = runner.run(SUITE, "full")
    assert again.counts["failed"] == 0
    assert again.reasons == {}
    assert len(spy.prompts) == len(items)
    assert len(rows_of(tmp_path / "out")) == len(items)


def test_missing_media_stop_a_suite_before_anything_is_decoded_and_the_rest_is_asked_when_told_to(
    stage, spy, config, tmp_path, monkeypatch, one_line
):
    suite = shutil.copytree(config.benchmarks[SUITE], tmp_path / "suite")
    config.benchmarks[SUITE] = str(suite)
    items = items_of(config)
    media = sorted({item.media for item in items})
    gone = {item.id for item in items if item.media in media[:2]}
    for name in media[:2]:
        (suite / name).unlink()
    runner = SuiteRunner(stage, config, tmp_path / "out", "m")
    monkeypatch.setattr(Decoders, "_submit", lambda *_: pytest.fail("something was decoded"))
    with pytest.raises(DataError) as caught:
        runner.run(SUITE, "full")
    listing = tmp_path / "missing" / f"{SUITE}.txt"
    one_line(caught.value, f"{len(gone)} of {len(items)} questions", media[0], media[1], "score_rest", str(listing))
    assert sorted(listing.read_text().splitlines()) == media[:2]
    monkeypatch.undo()
    told = []
    rest = replace(config, missing_media="score_rest")
    runner = SuiteRunner(stage, rest, tmp_path / "out", "m", lambda *args: told.append(args[1:]))
    for mode in ("full", "blind"):
        report = runner.run(SUITE, mode)
        assert set(report.named("missing")) == gone == set(report.reasons)
        assert report.counts["n"] == len(items)
        assert report.counts["missing"] == len(gone)
        assert all(media[0] in report.reasons[i.id] for i in items if i.media == media[0])
        assert {row["id"] for row in rows_of(tmp_path / "out", mode)} == {i.id for i in items} - gone
        assert told[-1] == (len(items) - len(gone), len(items) - len(gone))


def test_blind_gives_the_question_without_any_video(stage, spy, config, tmp_path, monkeypatch):
    monkeypatch.setattr(Decoders, "clips", lambda *_: pytest.fail("a video was opened"))
    SuiteRunner(stage, config, tmp_path, "m").run(SUITE, "blind")
    assert all(len(clip) == 0 for clip in spy.clips)
    assert all(len(visual) == 0 for visual in spy.visual)
    assert not any((prompt == -200).any() for prompt in spy.prompts)
    assert not any("<image>" in stage.lmm.language.tokenizer.decode(prompt) for prompt in spy.prompts)
    rows = rows_of(tmp_path, "blind")
    assert {(row["mode"], row["frames"], row["visual_tokens"]) for row in rows} == {("blind", "none", 0)}
    assert len(rows) == len(items_of(config))


def test_single_frame_gives_the_middle_one(stage, spy, config, tmp_path):
    SuiteRunner(stage, config, tmp_path, "m").run(SUITE, "single_frame")
    expected = []
    for media in {item.media for item in items_of(config)}:
        frames = read_video(f"{config.benchmarks[SUITE]}/{media}", FrameSampling(fps=1, max_frames=4)).frames
        expected.append(frames[len(frames) // 2][None].tobytes())
    assert Counter(map(pixels, spy.clips)) == Counter(expected)
    one = stage.lmm.compressor.num_tokens(1)
    assert {(row["visual_tokens"], row["frame_count"]) for row in rows_of(tmp_path, "single_frame")} == {(one, 1)}


def test_shuffled_gives_the_same_frames_in_another_order_that_stays(stage, spy, config, tmp_path):
    SuiteRunner(stage, config, tmp_path / "one", "m").run(SUITE, "shuffled")
    first = Counter(map(pixels, spy.clips))
    expected = []
    for media in {item.media for item in items_of(config)}:
        clip = read_video(f"{config.benchmarks[SUITE]}/{media}", FrameSampling(fps=1, max_frames=4))
        order = shuffled_order(media, clip.timestamps)
        assert sorted(order) == list(range(len(order)))
        expected.append(clip.frames[order].tobytes())
    assert first == Counter(expected)
    assert {row["frames"] for row in rows_of(tmp_path / "one", "shuffled")} == {"shuffled 4 at 1 fps"}
    config.benchmarks[SUITE] = str(shutil.copytree(config.benchmarks[SUITE], tmp_path / "elsewhere"))
    spy.clips.clear()
    SuiteRunner(stage, config, tmp_path / "two", "m").run(SUITE, "shuffled")
    assert Counter(map(pixels, spy.clips)) == first


def test_modes_are_kept_apart(stage, spy, config, tmp_path):
    runner = SuiteRunner(stage, config, tmp_path, "m")
    assert runner.modes("mini-mlvu") == list(config.modes)
    for mode in config.modes:
        runner.run("mini-mlvu", mode)
    assert sorted(p.stem for p in (tmp_path / "mini-mlvu").iterdir()) == sorted(MODES)
    assert len(spy.prompts) == len(MODES) * len(items_of(config, "mini-mlvu"))


def test_the_order_of_other_conditions_answers_stays_in_front(stage, spy, config, tmp_path):
    few = replace(config, max_frames=2)
    for settings in (config, few, config):
        SuiteRunner(stage, settings, tmp_path, "m").run("mini-mlvu", "full")
    rows = rows_of(tmp_path, name="mini-mlvu")
    order = [item.id for item in items_of(config, "mini-mlvu")]
    assert [row["id"] for row in rows] == order * 2
    assert [row["frames"] for row in rows] == ["2 at 1 fps"] * len(order) + ["4 at 1 fps"] * len(order)
    assert all(row["how"] for row in rows)


def test_frames_are_brought_to_the_encoders_size(stage, spy, config, tmp_path, monkeypatch):
    suite = written(tmp_path, [("p.png", "image", {})])
    frame = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(frame).save(tmp_path / "p.png")
    asked(stage, suite, config, tmp_path, monkeypatch)
    (clip,) = spy.clips
    assert (clip.shape, clip.dtype) == ((1, 3, 96, 96), torch.uint8)
    small = np.asarray(Image.fromarray(frame).resize((96, 96), Image.Resampling.BICUBIC))
    assert np.abs(clip[0].permute(1, 2, 0).numpy().astype(int) - small.astype(int)).max() <= 1


class Written(MLVU):
    """Questions as a test gives them; media and kinds beside."""

    media: tuple = ()

    def read(self, annotations, media=None):
        items = super().read(annotations)
        return [
            replace(item, media=media, media_kind=kind, cluster=media, **more)
            for item, (media, kind, more) in zip(items, self.media, strict=True)
        ]


def written(folder, media, kind=Written):
    """A benchmark of one question about each of ``media``; its annotations lie in ``folder``."""
    question = {"video": "v", "question": "?", "candidates": ["1", "2"], "answer": "2", "question_type": "count"}
    (folder / "4_count.json").write_text(json.dumps([question] * len(media)))
    suite = kind("mini-mlvu")
    suite.media = tuple(media)
    return suite


def asked(stage, suite, config, folder, monkeypatch, mode="full"):
    """Ask a written benchmark."""
    monkeypatch.setattr("tstar.evaluation.suites.get_benchmark", lambda name: suite)
    config = replace(config, benchmarks={"mini-mlvu": {"annotations": str(folder)}})
    runner = SuiteRunner(stage, config, folder / "out", "m")
    return runner, runner.run("mini-mlvu", mode)


def test_pictures_are_asked_about_together_and_have_no_order_to_shuffle(stage, spy, config, tmp_path, monkeypatch):
    for n in range(7):
        Image.new("RGB", (96, 96), (30 * n, 0, 0)).save(tmp_path / f"{n}.png")
    suite = written(tmp_path, [(str(n), "image", {}) for n in range(7)])
    suite.pictures_only = True
    runner, report = asked(stage, suite, config, tmp_path, monkeypatch)
    assert report.counts["failed"] == 0
    assert [len(counts) for counts in spy.encoded] == [5, 2]
    assert runner.modes("mini-mlvu") == ["full", "blind"]
    assert sorted(int(clip[0, 0, 0, 0]) for clip in spy.clips) == [30 * n for n in range(7)]


def test_questions_about_windows_see_their_own_seconds(stage, spy, config, tmp_path, monkeypatch, tiny_world):
    video = next((tiny_world / "benchmarks" / "mini-mlvu").rglob("*.mp4"))
    shutil.copy(video, tmp_path / "v.mp4")
    windows = [(0.0, 1.0), (2.0, 4.0), (2.0, 4.0), None, (900.0, 990.0)]
    suite = written(tmp_path, [("v", "video", {"window": window}) for window in windows])
    _, report = asked(stage, suite, replace(config, fps=2), tmp_path, monkeypatch)
    sampling = FrameSampling(fps=2, max_frames=4)
    expected = [read_video(video, sampling, "auto", window).frames.tobytes() for window in (*windows[:2], None)]
    assert Counter(map(pixels, spy.clips)) == Counter(expected)
    assert report.counts["failed"] == 1
    assert "900 s to 990 s" in report.reasons["4_count:4"]


class Subtitled(Written):
    """Shows the model what was said by the frames it sees, as Video-MME with subtitles does."""

    said = "hello"

    def prompt_for(self, item, folder, timestamps):
        assert folder.is_dir()
        return f"{item.prompt} ({self.said} {len(timestamps)} {sum(timestamps):.3f})" if timestamps else item.prompt


def test_a_prompt_that_depends_on_the_frames_is_asked_hashed_and_found_again(
    stage, spy, config, tmp_path, monkeypatch, tiny_world
):
    for name, video in zip(("a.mp4", "b.mp4"), sorted((tiny_world / "benchmarks").rglob("*.mp4")), strict=False):
        shutil.copy(video, tmp_path / name)
    suite = written(tmp_path, [("a", "video", {}), ("b", "video", {}), ("a", "video", {})], Subtitled)
    asked(stage, suite, config, tmp_path, monkeypatch)
    texts = [stage.lmm.language.tokenizer.decode(prompt[prompt != -200]) for prompt in spy.prompts]
    items = {item.id: item for item in suite.load(tmp_path)}
    rows = rows_of(tmp_path / "out", name="mini-mlvu")
    for row in rows:
        item = items[row["id"]]
        sampling = FrameSampling(fps=1, max_frames=4)
        times = read_video(tmp_path / f"{item.media}.mp4", sampling).timestamps
        prompt = f"{item.prompt} (hello {len(times)} {sum(times):.3f})"
        assert prompt in texts[int(row["response"].rsplit("#", 1)[1])]
        assert row["prompt_sha"] == prompt_sha(replace(item, prompt=prompt)) != prompt_sha(item)
    monkeypatch.setattr(Decoders, "_decode", lambda *_: pytest.fail("a video was opened"))
    asked(stage, suite, config, tmp_path, monkeypatch)  # found without a look at the videos
    monkeypatch.undo()
    suite.said = "something else"
    Spy(stage, monkeypatch)
    _, report = asked(stage, suite, config, tmp_path, monkeypatch)
    assert len(rows_of(tmp_path / "out", name="mini-mlvu")) == 6  # the first answers stay, for what they were to
    assert report.counts["missing"] == 0


def test_a_video_that_failed_before_its_prompt_was_known_leaves_no_failure_behind(
    stage, spy, config, tmp_path, monkeypatch, tiny_world
):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    suite = written(tmp_path, [("a", "video", {})], Subtitled)
    _, report = asked(stage, suite, config, tmp_path, monkeypatch)
    assert report.counts["failed"] == 1
    shutil.copy(next((tiny_world / "benchmarks").rglob("*.mp4")), tmp_path / "a.mp4")
    _, report = asked(stage, suite, config, tmp_path, monkeypatch)
    assert report.counts["failed"] == 0
    assert [row["error"] for row in rows_of(tmp_path / "out", name="mini-mlvu")] == [None]


class FromFiles(Subtitled):
    """Reads what was said from a file, as soon as it has frames."""

    def prompt_for(self, item, folder, timestamps):
        said = " ".join(s.text for s in read_subtitles(folder / f"{item.media}.srt")) if timestamps else ""
        return f"{item.prompt} {said}"


def test_subtitles_that_cannot_be_read_cost_their_own_questions(stage, spy, config, tmp_path, monkeypatch, tiny_world):
    texts = {name: f"1\n00:00:00,000 --> 00:00:09,000\nCaf\u00e9 {name}\n" for name in "abc"}
    for name, video in zip(texts, sorted((tiny_world / "benchmarks").rglob("*.mp4")), strict=False):
        shutil.copy(video, tmp_path / f"{name}.mp4")
        (tmp_path / f"{name}.srt").write_text(texts[name], "latin-1" if name == "b" else "utf-8")
    suite = written(tmp_path, [(name, "video", {}) for name in "abbc"], FromFiles)
    for _ in range(2):
        _, report = asked(stage, suite, config, tmp_path, monkeypatch)
        assert report.named("failed") == ["4_count:1", "4_count:2"]
        assert all("b.srt: not UTF-8" in report.reasons[name] for name in report.named("failed"))
        assert len(spy.prompts) == 2
    (tmp_path / "b.srt").write_text(texts["b"], "utf-8")
    (tmp_path / "c.srt").write_bytes(b"\xff")  # was read before
    _, report = asked(stage, suite, config, tmp_path, monkeypatch)
    assert report.named("failed") == ["4_count:3"]
    (tmp_path / "c.srt").write_text(texts["c"], "utf-8")
    _, report = asked(stage, suite, config, tmp_path, monkeypatch)
    assert report.counts["failed"] == 0
    assert len(spy.prompts) == 4
    _, report = asked(stage, suite, config, tmp_path, monkeypatch, "blind")  # nothing is seen, so nothing is said
    assert report.counts["failed"] == 0


class Talkative(Written):
    max_new_tokens = 3


@pytest.mark.parametrize(("given", "expected"), [(None, 3), (2, 2)])
def test_a_benchmark_may_want_longer_answers(stage, config, tmp_path, monkeypatch, given, expected):
    Image.new("RGB", (96, 96)).save(tmp_path / "p.png")
    lengths = []
    monkeypatch.setattr(
        stage,
        "generate",
        lambda prompts, visual, max_new_tokens: lengths.append(max_new_tokens) or ["A"] * len(prompts),
    )
    suite = written(tmp_path, [("p", "image", {})], Talkative)
    asked(stage, suite, replace(config, max_new_tokens=given), tmp_path, monkeypatch)
    assert lengths == [expected]
    assert rows_of(tmp_path / "out", name="mini-mlvu")[0]["max_new_tokens"] == expected


@pytest.mark.parametrize("name", ["mini-mlvu", "mini-videomme", "mini-tempcompass", "mini-vnbench"])
def test_every_suite_of_the_world_can_be_asked(stage, config, tmp_path, name):
    report = SuiteRunner(stage, config, tmp_path, "m").run(name, "full")
    assert report.counts["n"] == len(items_of(config, name))
    assert report.counts["failed"] == report.counts["missing"] == 0
