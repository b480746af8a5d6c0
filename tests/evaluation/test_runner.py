"""Suites asked of a stage: what is encoded and asked, what is stored, and what a second run does again."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tstar.data.decoding import read_video
from tstar.data.frame_sampling import FrameSampling
from tstar.errors import ConfigError, DataError
from tstar.evaluation import get_benchmark
from tstar.evaluation.prediction_store import FIELDS, MODES, prompt_sha
from tstar.evaluation.runner import EvaluationConfig, SuiteRunner, batched, shuffled_order, subset
from tstar.language import LanguageConfig
from tstar.stages import VideoSFT
from tstar.vision import VisionConfig

SUITE = "mini-tempcompass"


class Spy:
    """Counts what a stage is asked for, and answers every question with its own number."""

    def __init__(self, stage, patch):
        self.clips, self.prompts, self.visual, self.modes, self.batches = [], [], [], [], []
        self.fail_after = None
        see, generate = stage.lmm.visual_tokens, stage.generate

        def visual_tokens(frames, counts):
            assert counts == [len(frames)]
            self.clips.append(frames.clone())
            return see(frames, counts)

        def answer(prompts, visual, *, max_new_tokens):
            if self.fail_after is not None and len(self.prompts) >= self.fail_after:
                raise KeyboardInterrupt
            self.modes.append((stage.training, torch.is_grad_enabled()))
            self.batches.append(len(prompts))
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
    return EvaluationConfig(benchmarks=suites, fps=1, max_frames=4, max_new_tokens=2, batch_size=5)


def items_of(config, name=SUITE):
    return get_benchmark(name).load(config.benchmarks[name])


def rows_of(folder, mode="full", name=SUITE):
    return [json.loads(line) for line in (folder / name / f"{mode}.jsonl").read_text().splitlines()]


def test_every_video_is_encoded_once_and_every_question_asked_once(stage, spy, config, tmp_path):
    items = items_of(config)
    videos = sorted({item.media for item in items})
    assert len(videos) < len(items)
    report = SuiteRunner(stage, config, tmp_path, "m").run(SUITE, "full")
    assert len(spy.clips) == len(videos)
    sampling = FrameSampling(fps=1, max_frames=4)
    for media, clip in zip(videos, spy.clips, strict=True):
        # squares of the encoder's own side already: nothing is resized on the way
        frames = read_video(f"{config.benchmarks[SUITE]}/{media}", sampling).frames
        assert np.array_equal(clip.permute(0, 2, 3, 1).numpy(), frames)
    assert len(spy.prompts) == len(items)
    assert max(spy.batches) == 5
    assert sum(spy.batches) == len(items)
    assert [i.response for i in report.items] == [
        i.response for i in sorted(report.items, key=lambda i: order(items, i))
    ]
    assert {i.response.rsplit("#", 1)[1] for i in report.items} == {str(n) for n in range(len(items))}


def order(items, scored):
    return [item.id for item in items].index(scored.id)


def test_each_question_meets_its_own_video_and_prompt(stage, spy, config, tmp_path):
    SuiteRunner(stage, config, tmp_path, "m").run(SUITE, "full")
    stage.eval()
    tokenizer = stage.lmm.language.tokenizer
    items = {item.id: item for item in items_of(config)}
    videos = sorted({item.media for item in items.values()})
    rows = rows_of(tmp_path)
    for row in rows:
        asked = int(row["response"].rsplit("#", 1)[1])
        item, prompt = items[row["id"]], spy.prompts[asked]
        assert prompt.tolist().count(-200) == 1
        text = tokenizer.decode(prompt[prompt != -200])
        assert item.prompt in text
        assert text.startswith("<|user|>")
        assert text.endswith("<|assistant|>\n" + item.prefill)
        with torch.no_grad():
            clip = spy.clips[videos.index(item.media)]
            (expected,) = type(stage.lmm).visual_tokens(stage.lmm, clip, [len(clip)])
        torch.testing.assert_close(spy.visual[asked], expected)


def test_what_is_stored(stage, spy, config, tmp_path):
    report = SuiteRunner(stage, config, tmp_path, "abc").run(SUITE, "full")
    rows = rows_of(tmp_path)
    scored = {item.id: item for item in report.items}
    for row in rows:
        item = scored[row["id"]]
        assert set(FIELDS) <= set(row)
        assert (row["model"], row["mode"], row["frames"], row["error"]) == ("abc", "full", "4 at 1 fps", None)
        assert row["prompt_sha"] == prompt_sha({i.id: i for i in items_of(config)}[row["id"]])
        assert (row["correct"], row["extracted"], row["how"]) == (bool(item.correct), item.extracted, item.how)
        assert row["visual_tokens"] == stage.lmm.compressor.num_tokens(row["frame_count"])
        assert set(row["seconds"]) == {"decode", "encode", "generate"}
        assert all(seconds >= 0 for seconds in row["seconds"].values())
        assert row["category"] == item.categories


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


def test_an_interrupted_run_goes_on_where_it_stopped(stage, spy, config, tmp_path):
    total = len(items_of(config))
    spy.fail_after = 10
    with pytest.raises(KeyboardInterrupt):
        SuiteRunner(stage, config, tmp_path, "m").run(SUITE, "full")
    assert len(rows_of(tmp_path)) == 10
    spy.fail_after = None
    with (tmp_path / SUITE / "full.jsonl").open("a") as stream:
        stream.write('{"id": "cut off he')
    report = SuiteRunner(stage, config, tmp_path, "m").run(SUITE, "full")
    assert len(spy.prompts) == total
    assert [row["id"] for row in rows_of(tmp_path)] != []
    assert len({row["id"] for row in rows_of(tmp_path)}) == len(rows_of(tmp_path)) == total
    assert report.counts["missing"] == report.counts["failed"] == 0


@pytest.mark.parametrize("change", [{"max_frames": 3}, {"fps": 2}, {"max_new_tokens": 1}, {"model": "n"}], ids=str)
def test_other_conditions_are_asked_anew(stage, spy, config, tmp_path, change):
    model = change.get("model", "m")
    settings = {k: v for k, v in change.items() if k != "model"}
    SuiteRunner(stage, config, tmp_path, "m").run("mini-mlvu", "full")
    asked = len(spy.prompts)
    other = EvaluationConfig(**{**vars(config), **settings})
    SuiteRunner(stage, other, tmp_path, model).run("mini-mlvu", "full")
    assert len(spy.prompts) == 2 * asked
    SuiteRunner(stage, other, tmp_path, model).run("mini-mlvu", "full")
    assert len(spy.prompts) == 2 * asked


@pytest.mark.parametrize("damage", ["missing", "text", "cut"])
def test_a_video_that_cannot_be_decoded_fails_alone(stage, spy, config, tmp_path, damage):
    suite = shutil.copytree(config.benchmarks[SUITE], tmp_path / "suite")
    config.benchmarks[SUITE] = str(suite)
    items = items_of(config)
    media = sorted({item.media for item in items})[1]
    whole = (suite / media).read_bytes()
    (suite / media).unlink()
    if damage != "missing":
        (suite / media).write_bytes(b"no video" if damage == "text" else whole[:200])
    told = []
    runner = SuiteRunner(stage, config, tmp_path / "out", "m", lambda *args: told.append(args[1:]))
    report = runner.run(SUITE, "full")
    failed = {item.id for item in items if item.media == media}
    assert set(report.named("failed")) == failed
    assert report.counts["failed"] == len(failed) > 0
    assert report.counts["missing"] == 0
    assert len(spy.prompts) == len(items) - len(failed)
    assert told[0] == (5 + len(failed), len(items))  # the first batch, when the second video had failed
    assert told[-1] == (len(items), len(items))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    for item in items:
        row = rows[item.id]
        assert (row["response"] is None) is (row["error"] is not None) is (item.id in failed)
        if item.id in failed:
            assert media in row["error"]
    (suite / media).write_bytes(whole)  # whole again: only its questions are asked
    assert runner.run(SUITE, "full").counts["failed"] == 0
    assert len(spy.prompts) == len(items)
    assert len(rows_of(tmp_path / "out")) == len(items)


def test_blind_gives_the_question_without_any_video(stage, spy, config, tmp_path, monkeypatch):
    monkeypatch.setattr("tstar.evaluation.runner.read_video", lambda *_: pytest.fail("a video was opened"))
    SuiteRunner(stage, config, tmp_path, "m").run(SUITE, "blind")
    assert all(len(clip) == 0 for clip in spy.clips)
    assert all(len(visual) == 0 for visual in spy.visual)
    assert not any((prompt == -200).any() for prompt in spy.prompts)
    assert not any("<image>" in stage.lmm.language.tokenizer.decode(prompt) for prompt in spy.prompts)
    rows = rows_of(tmp_path, "blind")
    assert {(row["mode"], row["frames"], row["visual_tokens"]) for row in rows} == {("blind", "none", 0)}


def test_single_frame_gives_the_middle_one(stage, spy, config, tmp_path):
    SuiteRunner(stage, config, tmp_path, "m").run(SUITE, "single_frame")
    videos = sorted({item.media for item in items_of(config)})
    for media, clip in zip(videos, spy.clips, strict=True):
        frames = read_video(f"{config.benchmarks[SUITE]}/{media}", FrameSampling(fps=1, max_frames=4)).frames
        assert np.array_equal(clip.permute(0, 2, 3, 1).numpy(), frames[len(frames) // 2][None])
    one = stage.lmm.compressor.num_tokens(1)
    assert {(row["visual_tokens"], row["frame_count"]) for row in rows_of(tmp_path, "single_frame")} == {(one, 1)}


def test_shuffled_gives_the_same_frames_in_another_order_that_stays(stage, spy, config, tmp_path):
    SuiteRunner(stage, config, tmp_path / "one", "m").run(SUITE, "shuffled")
    videos = sorted({item.media for item in items_of(config)})
    first = list(spy.clips)
    for media, clip in zip(videos, first, strict=True):
        frames = read_video(f"{config.benchmarks[SUITE]}/{media}", FrameSampling(fps=1, max_frames=4)).frames
        seen = clip.permute(0, 2, 3, 1).numpy()
        assert sorted(f.tobytes() for f in seen) == sorted(f.tobytes() for f in frames)
        if len({f.tobytes() for f in frames}) >= 3:
            assert not np.array_equal(seen, frames)
    assert {row["frames"] for row in rows_of(tmp_path / "one", "shuffled")} == {"shuffled 4 at 1 fps"}
    config.benchmarks[SUITE] = str(shutil.copytree(config.benchmarks[SUITE], tmp_path / "elsewhere"))
    SuiteRunner(stage, config, tmp_path / "two", "m").run(SUITE, "shuffled")
    assert all(torch.equal(a, b) for a, b in zip(first, spy.clips[len(first) :], strict=True))


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


def test_modes_are_kept_apart(stage, spy, config, tmp_path):
    runner = SuiteRunner(stage, config, tmp_path, "m")
    for mode in config.modes:
        runner.run("mini-mlvu", mode)
    assert sorted(p.stem for p in (tmp_path / "mini-mlvu").iterdir()) == sorted(MODES)
    assert len(spy.prompts) == len(MODES) * len(items_of(config, "mini-mlvu"))


def test_frames_are_brought_to_the_encoders_size(stage, tmp_path, monkeypatch, config):
    frames = np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3), dtype=np.uint8)
    monkeypatch.setattr(
        "tstar.evaluation.runner.read_video", lambda *_: SimpleNamespace(frames=frames, timestamps=(0.0, 1.0))
    )
    tensor, _ = SuiteRunner(stage, config, tmp_path, "m")._frames(tmp_path, "x.mp4", "full")
    assert (tensor.shape, tensor.dtype) == ((2, 3, 96, 96), torch.uint8)
    small = np.asarray(Image.fromarray(frames[1]).resize((96, 96), Image.Resampling.BICUBIC))
    assert np.abs(tensor[1].permute(1, 2, 0).numpy().astype(int) - small.astype(int)).max() <= 1


@pytest.mark.parametrize("name", ["mini-mlvu", "mini-videomme", "mini-tempcompass", "mini-vnbench"])
def test_every_suite_of_the_world_can_be_asked(stage, config, tmp_path, name):
    report = SuiteRunner(stage, config, tmp_path, "m").run(name, "full")
    assert report.counts["n"] == len(items_of(config, name))
    assert report.counts["failed"] == report.counts["missing"] == 0


def item(number, cluster):
    return SimpleNamespace(id=str(number), cluster=cluster)


def test_a_subset_is_even_and_tears_no_video_apart():
    items = [item(n, f"v{n // 4}") for n in range(40)]
    assert subset(items, None) is items
    assert subset(items, 40) is items
    chosen = subset(items, 12)
    assert [i.cluster for i in chosen] == [c for c in ("v0", "v3", "v6") for _ in range(4)]
    assert subset(items, 1) == items[:4]
    shuffled = items[::2] + items[1::2]
    assert [i.id for i in subset(shuffled, 8)] == [i.id for i in shuffled if i.cluster in ("v0", "v5")]


def test_batches_hold_at_most_their_size():
    assert list(batched(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batched(iter([]), 2)) == []


def test_a_suite_that_is_not_there_is_named(stage, tmp_path, one_line):
    config = EvaluationConfig(benchmarks={"mini-mlvu": str(tmp_path / "none")})
    with pytest.raises(DataError) as caught:
        SuiteRunner(stage, config, tmp_path, "m").run("mini-mlvu", "full")
    one_line(caught.value, str(tmp_path / "none"), "evaluation.benchmarks.mini-mlvu", "tstar miniature")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"benchmarks": {"mini-mlv": "x"}}, ("mini-mlv", "did you mean")),
        ({"rules": "lax"}, ("lax", "official")),
        ({"fps": 0}, ("fps", "0")),
        ({"max_frames": 0}, ("max_frames", "0")),
        ({"batch_size": 0}, ("evaluation.batch_size", "0")),
        ({"max_new_tokens": -1}, ("evaluation.max_new_tokens", "-1")),
        ({"validation_items": -1}, ("evaluation.validation_items", "-1")),
        ({"decoder": "decrod"}, ("evaluation.decoder", "did you mean 'decord'")),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words, one_line):
    with pytest.raises(ConfigError) as caught:
        EvaluationConfig(**settings)
    one_line(caught.value, *words)


def test_baselines_can_be_left_out():
    assert EvaluationConfig().modes == ("full", "shuffled", "single_frame", "blind")
    assert EvaluationConfig(baselines=False).modes == ("full",)
