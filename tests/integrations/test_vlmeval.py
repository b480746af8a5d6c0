"""tstar as VLMEvalKit's video model, against a stand-in for the kit."""

import json
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest

from tstar.data.frame_sampling import FrameSampling
from tstar.errors import ConfigError
from tstar.evaluation import get_benchmark
from tstar.evaluation.clips import Decoders
from tstar.evaluation.response_layouts import FAILURE

from . import stand_ins


@pytest.fixture
def kit(monkeypatch):
    """The kit's modules."""
    modules = stand_ins.vlmeval_modules()
    stand_ins.install(monkeypatch, modules)
    import vlmeval.config
    import vlmeval.vlm

    return vlmeval


@pytest.fixture
def model(kit, checkpoint, tmp_path):
    """The model as ``run.py`` makes it."""
    from tstar.integrations.vlmeval import register

    register("tstar", checkpoint=str(checkpoint), store=str(tmp_path / "store"), device="cpu", max_new_tokens=6)
    return kit.config.supported_VLM["tstar"]()


@pytest.fixture(scope="module")
def asked(tiny_world):
    """An item of the miniature's MLVU and where its video lies: it has a system text and a started answer."""
    folder = tiny_world / "benchmarks" / "mini-mlvu"
    return get_benchmark("mini-mlvu").load(folder)[0], folder


def message_of(item, folder):
    """As the kit's MVBench writes it."""
    question, _, instruction = item.prompt.rpartition("\n")
    return [
        {"type": "text", "value": item.system, "role": "system"},
        {"type": "text", "value": question},
        {"type": "video", "value": str(Path(folder) / item.media)},
        {"type": "text", "value": instruction},
        {"type": "text", "value": item.prefill, "role": "assistant"},
    ]


def rows_of(store, dataset):
    return [json.loads(line) for line in (store / dataset / "full.0.jsonl").read_text().splitlines()]


def test_an_answer_is_that_of_the_runner(model, asked, checkpoint, tmp_path):
    from tstar.evaluation.checkpoints import restore
    from tstar.evaluation.runner import SuiteRunner
    from tstar.evaluation.settings import EvaluationConfig

    item, folder = asked
    text = model.generate(message_of(item, folder), dataset="MVBench")
    config = EvaluationConfig(benchmarks={"mini-mlvu": str(folder)}, fps=1, max_frames=4, max_new_tokens=6, workers=0)
    with SuiteRunner(restore(checkpoint).stage, config, tmp_path / "own", "m") as runner:
        report = runner.run("mini-mlvu", "full")
    assert text == next(score.response for score in report.items if score.id == item.id)
    (row,) = rows_of(tmp_path / "store", "MVBench")
    assert row["visual_tokens"] == model.model.restored.stage.lmm.compressor.num_tokens(row["frame_count"])


def test_a_second_question_is_asked_and_the_same_is_not(model, asked, tmp_path, monkeypatch):
    item, folder = asked
    message = message_of(item, folder)
    first = model.generate(message, dataset="MVBench")
    other = [*message[:1], {"type": "text", "value": "What else?"}, *message[2:]]
    model.generate(other, dataset="MVBench")
    assert len(rows_of(tmp_path / "store", "MVBench")) == 2
    monkeypatch.setattr(model.model.answerer.stage, "generate", lambda *_, **__: pytest.fail("asked again"))
    assert model.generate(message, dataset="MVBench") == first


def test_the_runner_sets_frames_or_rate_and_the_other_stays_the_recipes(model, asked, tmp_path):
    item, folder = asked
    for nframe, fps, sampling in (
        (3, -1, FrameSampling(fps=1, max_frames=3)),
        (0, 0.5, FrameSampling(fps=0.5, max_frames=4)),
        (2, -1, FrameSampling(fps=1, max_frames=2)),
    ):
        stand_ins.look_as_the_runner_does(model, nframe, fps)
        assert model.model.config.sampling == sampling
        model.generate(message_of(item, folder), dataset="X")
    keys = [row["frames"] for row in rows_of(tmp_path / "store", "X")]
    assert keys == ["3 at 1 fps", "4 at 0.5 fps", "2 at 1 fps"]


def test_a_failure_is_the_kits_own_word_and_counted(model, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    message = [{"type": "video", "value": str(tmp_path / "broken.mp4")}, {"type": "text", "value": "?"}]
    assert model.generate(message, dataset="X") == FAILURE
    assert model.generate(message, dataset="X") == FAILURE
    assert model.failed == 2
    assert [row["response"] for row in rows_of(tmp_path / "store", "X")] == [None, None]


def crash_on_broken(asked):
    """What a decoder's crash does to a worker; has to be importable there."""
    from tstar.evaluation.clips import decode_clip

    if "broken" in asked[0].name:
        os._exit(9)
    return decode_clip(asked)


def test_a_decoder_that_crashes_costs_one_answer(model, asked, tmp_path, monkeypatch):
    monkeypatch.setattr("tstar.evaluation.clips.decode_clip", crash_on_broken)
    item, folder = asked
    with Decoders(1, 60.0) as decoders:
        monkeypatch.setattr(model.model, "decoders", decoders)
        shutil.copy(folder / item.media, tmp_path / "broken.mp4")
        broken = [{"type": "video", "value": str(tmp_path / "broken.mp4")}, {"type": "text", "value": "?"}]
        assert model.generate(broken, dataset="X") == FAILURE
        assert model.generate(message_of(item, folder), dataset="X") != FAILURE
    failed, answered = rows_of(tmp_path / "store", "X")
    assert "the decoder crashed" in failed["error"]
    assert answered["error"] is None


def test_a_setting_that_cannot_work_is_no_failure_of_a_question(model, asked, tmp_path, monkeypatch):
    monkeypatch.setattr("tstar.evaluation.clips.take_frames", missing := Mock(side_effect=ConfigError("not installed")))
    with pytest.raises(ConfigError, match="not installed"):
        model.generate(message_of(*asked), dataset="X")
    assert missing.called
    monkeypatch.undo()
    monkeypatch.setattr(model.model.answerer, "ask", Mock(side_effect=ConfigError("no room")))
    with pytest.raises(ConfigError, match="no room"):
        model.generate(message_of(*asked), dataset="X")
    assert not (tmp_path / "store").exists()


def test_pictures_are_one_clip(model, tmp_path):
    from PIL import Image

    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / name)
    parts = [{"type": "image", "value": str(tmp_path / name)} for name in ("a.png", "b.png")]
    model.generate([*parts, {"type": "text", "value": "?"}], dataset="MMStar")
    assert rows_of(tmp_path / "store", "MMStar")[0]["frames"] == "2 pictures"


def test_the_class_is_found_by_configs(kit):
    from tstar.integrations.vlmeval import TstarVLMEval, register

    register()
    assert kit.vlm.TstarVLMEval is TstarVLMEval
    assert issubclass(TstarVLMEval, stand_ins.BaseModel)
    assert TstarVLMEval.VIDEO_LLM
    assert TstarVLMEval.INTERLEAVE
    assert kit.config.supported_VLM == {}
    with pytest.raises(ConfigError, match="frames without a checkpoint"):
        register(frames=3)


def test_what_cannot_be_is_refused(model, checkpoint):
    from tstar.integrations.vlmeval import TstarVLMEval

    with pytest.raises(ConfigError, match="unknown setting 'frams' of TstarVLMEval; did you mean 'frames'"):
        TstarVLMEval(str(checkpoint), frams=3, device="cpu")
    for message, error, words in (
        ([{"type": "audio", "value": "a.wav"}], ConfigError, "a message holds audio"),
        ([{"type": "text", "value": "?", "role": "judge"}], ConfigError, "has the role 'judge'"),
        ([{"type": "video", "value": "a.mp4"}] * 2, NotImplementedError, "shows 2 videos and 0 pictures"),
    ):
        with pytest.raises(error, match=words):
            model.generate_inner(message, dataset="X")
