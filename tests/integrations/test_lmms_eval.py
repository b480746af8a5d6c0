"""tstar as lmms-eval's chat model, against a stand-in for the harness: answers are those of `tstar validate`."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tstar.cli.main import main
from tstar.data.decoding import read_video
from tstar.data.frame_sampling import FrameSampling
from tstar.errors import ConfigError, DataError
from tstar.evaluation import get_benchmark

from . import stand_ins

ROOT = Path(__file__).parents[2]
SUITE = "mini-mlvu"
LIMITED = {"max_new_tokens": 6, "do_sample": False, "temperature": 0.0, "top_p": 1.0, "num_beams": 1, "until": ["\n\n"]}


@pytest.fixture
def lmms_eval(monkeypatch):
    stand_ins.install(monkeypatch, stand_ins.LMMS_EVAL)


@pytest.fixture
def make(lmms_eval, checkpoint, tmp_path):
    """A function that makes the model as the harness does, out of words."""
    from tstar.integrations.lmms_eval import manifest

    def build(words="", **config):
        kind = stand_ins.get_model_class(manifest())
        own = f"checkpoint={checkpoint},store={tmp_path / 'store'}"
        config = {"batch_size": 2, "max_batch_size": None, "device": "cpu"} | config
        return kind.create_from_arg_string(f"{own},{words}" if words else own, config)

    return build


def messages_of(item, folder):
    """An item as a task's document turned into messages: system, video and question, start of the answer."""
    video = {"type": "video", "url": str(Path(folder) / item.media)}
    messages = [{"role": "user", "content": [video, {"type": "text", "text": item.prompt}]}]
    if item.system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": item.system}]})
    if item.prefill:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": item.prefill}]})
    return messages


def requests_of(model, docs, settings=LIMITED, task="mini", doc_to_messages=lambda doc: doc):
    """Requests about documents that the harness has put into the model."""
    model.task_dict.setdefault(task, {})["test"] = docs
    return [
        SimpleNamespace(args=("context", doc_to_messages, dict(settings), number, task, "test"), metadata={})
        for number in range(len(docs))
    ]


@pytest.fixture(scope="module")
def suite(tiny_world):
    folder = tiny_world / "benchmarks" / SUITE
    return folder, get_benchmark(SUITE).load(folder)


def rows_of(store, task="mini"):
    return [json.loads(line) for line in (store / task / "full.0.jsonl").read_text().splitlines()]


def test_answers_are_those_of_validate(make, checkpoint, suite, tmp_path):
    command = ["validate", "--ckpt", str(checkpoint), "--benchmarks", SUITE, "--no-baselines"]
    assert main([*command, "--out", str(tmp_path / "validated"), "--json"]) == 0
    path = tmp_path / "validated" / "predictions" / SUITE / "full.jsonl"
    stored = {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    folder, items = suite
    model = make()
    results = model.generate_until(requests_of(model, [messages_of(item, folder) for item in items]))
    assert [result.text for result in results] == [stored[item.id]["response"] for item in items]
    assert len({result.text for result in results}) > 1
    for item, result, row in zip(items, results, rows_of(tmp_path / "store"), strict=True):
        assert row["visual_tokens"] == stored[item.id]["visual_tokens"] > 0
        assert result.token_counts.input_tokens == row["visual_tokens"] + row["prompt_tokens"]
        assert row["frame_count"] == stored[item.id]["frame_count"]
        assert (result.token_counts.output_tokens == 0) == (result.text == "")
        assert row["model"] == stored[item.id]["model"]


def test_a_model_that_was_started_again_asks_nothing_again(make, suite, tmp_path, monkeypatch):
    folder, items = suite
    docs = [messages_of(item, folder) for item in items[:4]]
    first = make()
    before = first.generate_until(requests_of(first, docs))
    again = make()
    monkeypatch.setattr(again.model.answerer.stage, "generate", lambda *_, **__: pytest.fail("asked again"))
    assert again.generate_until(requests_of(again, docs)) == before
    assert len(rows_of(tmp_path / "store")) == 4


@pytest.mark.parametrize(
    "change",
    [{"words": "frames=3"}, {"words": "fps=2"}, {"settings": {"max_new_tokens": 2}}, {"settings": {"until": "x"}}],
)
def test_other_conditions_are_asked_anew(make, suite, tmp_path, change):
    folder, items = suite
    docs = [messages_of(item, folder) for item in items[:2]]
    first = make()
    first.generate_until(requests_of(first, docs))
    other = make(change.get("words", ""))
    other.generate_until(requests_of(other, docs, LIMITED | change.get("settings", {})))
    assert len(rows_of(tmp_path / "store")) == 4


def test_one_broken_video_costs_no_other_answer(make, suite, tmp_path, caplog):
    folder, items = suite
    docs = [messages_of(item, folder) for item in items[:5]]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    whole = make()
    expected = [result.text for result in whole.generate_until(requests_of(whole, docs, task="whole"))]
    docs[2] = [{"role": "user", "content": [{"type": "video", "url": str(broken)}, {"type": "text", "text": "What?"}]}]
    model = make()
    with caplog.at_level(logging.WARNING, "tstar"):
        results = model.generate_until(requests_of(model, docs))
    assert [result.text for result in results] == [*expected[:2], "", *expected[3:]]
    assert results[2].token_counts is None
    assert "1 of 5 requests failed" in caplog.text
    (row,) = [row for row in rows_of(tmp_path / "store") if row["error"]]
    assert row["response"] is None
    assert "broken.mp4" in row["error"]
    docs[2] = messages_of(items[2], folder)  # it is whole now
    assert model.generate_until(requests_of(model, docs))[2].text == expected[2]


def test_a_model_that_fails_on_a_batch_is_asked_one_by_one(make, suite, monkeypatch, caplog):
    folder, items = suite
    docs = [messages_of(item, folder) for item in items[:5]]
    model = make(batch_size=5)
    generate = model.model.answerer.stage.generate
    asked = []

    def fails_on_the_third(prompts, visual, **settings):
        asked.append(len(prompts))
        if any(len(prompt) == len(third) and (prompt == third).all() for prompt in prompts):
            raise RuntimeError("out of memory")
        return generate(prompts, visual, **settings)

    from tstar.evaluation.answering import Prompt

    own = items[2]
    third = model.model.answerer.tokens(Prompt(own.prompt, own.system, own.prefill), True)
    monkeypatch.setattr(model.model.answerer.stage, "generate", fails_on_the_third)
    results = model.generate_until(requests_of(model, docs))
    assert asked == [5, 1, 1, 1, 1, 1]
    assert [result.text == "" and result.token_counts is None for result in results] == [
        False,
        False,
        True,
        False,
        False,
    ]


def test_when_nothing_can_be_answered_the_run_ends(make, tmp_path):
    docs = [
        [{"role": "user", "content": [{"type": "video", "url": str(tmp_path / name)}, {"type": "text", "text": "?"}]}]
        for name in ("a.mp4", "b.mp4")
    ]
    model = make()
    with pytest.raises(DataError, match=r"2 of 2 requests failed, the first: mini test/0: no such video"):
        model.generate_until(requests_of(model, docs))


def test_order_is_kept_whatever_is_stored_or_asked_together(make, suite):
    folder, items = suite
    docs = [messages_of(item, folder) for item in items[:5]]
    model = make()
    requests = requests_of(model, docs)
    some = model.generate_until([requests[3], requests[1]])
    every = model.generate_until(requests + [requests[4]] * 2)  # padded, as a rank's requests are
    assert [every[3], every[1]] == some
    assert every[4:] == [every[4]] * 3


def test_a_video_is_looked_at_once_for_all_its_questions(make, tiny_world, monkeypatch):
    folder = tiny_world / "benchmarks" / "mini-tempcompass"
    items = get_benchmark("mini-tempcompass").load(folder)
    own = sorted(items, key=lambda item: item.media)
    model = make()
    seen = []
    see = model.model.answerer.see
    monkeypatch.setattr(model.model.answerer, "see", lambda clips: seen.append(len(clips)) or see(clips))
    model.generate_until(requests_of(model, [messages_of(item, folder) for item in own]))
    assert len(seen) == len({item.media for item in items}) < len(items)


def test_until_ends_an_answer_and_the_bound_bounds_it(make, suite, tmp_path):
    folder, items = suite
    doc = messages_of(items[0], folder)
    model = make()

    def text(**settings):
        return model.generate_until(requests_of(model, [doc], LIMITED | settings))[0].text

    whole = text(max_new_tokens=12, until=[])
    assert len(whole) > 2
    end = whole[1]
    assert text(max_new_tokens=12, until=[end]) == text(max_new_tokens=12, until=end) == whole[: whole.index(end)]
    assert len(text(max_new_tokens=1, until=[])) < len(whole)
    assert text(max_new_tokens=None, until=None).startswith(whole)  # a task that says nothing


def test_pictures_are_one_clip(make, tmp_path):
    draw = np.random.default_rng(0)
    pictures = [Image.fromarray(draw.integers(0, 256, (60, 80, 3), dtype=np.uint8)) for _ in range(3)]
    pictures[1].save(tmp_path / "p.png")
    texts = {"type": "text", "text": "What is it?"}
    docs = [
        [{"role": "user", "content": [{"type": "image", "url": picture} for picture in chosen] + [texts]}]
        for chosen in ([pictures[0]], [str(tmp_path / "p.png")], pictures, [])
    ]
    model = make()
    model.generate_until(requests_of(model, docs))
    rows = rows_of(tmp_path / "store")
    assert [row["frames"] for row in rows] == ["1 pictures", "1 pictures", "3 pictures", "0 pictures"]
    assert [row["frame_count"] for row in rows] == [1, 1, 3, 0]
    assert rows[0]["visual_tokens"] == rows[1]["visual_tokens"] > 0 == rows[3]["visual_tokens"]
    frames = model.model.answerer.stacked([model.model.answerer.square(np.asarray(pictures[0]))])
    small = np.asarray(pictures[0].resize((96, 96), Image.Resampling.BICUBIC))
    assert np.array_equal(frames[0], small)


def test_the_frames_are_those_that_the_recipe_or_the_words_say(make, suite, monkeypatch):
    folder, items = suite
    for words, sampling in (
        ("", FrameSampling(fps=1, max_frames=4)),
        ("frames=3,fps=0.5", FrameSampling(fps=0.5, max_frames=3)),
    ):
        model = make(words)
        seen = []
        see = model.model.answerer.see
        monkeypatch.setattr(
            model.model.answerer, "see", lambda clips, see=see, seen=seen: seen.append(clips[0]) or see(clips)
        )
        model.generate_until(requests_of(model, [messages_of(items[0], folder)], task=words or "own"))
        assert np.array_equal(seen[0], read_video(Path(folder) / items[0].media, sampling).frames)


def test_the_manifest_is_what_the_registry_asks_for(lmms_eval):
    from tstar.integrations.lmms_eval import manifest

    own = manifest()
    assert (own.model_id, own.simple_class_path) == ("tstar", None)
    assert stand_ins.get_model_class(own).__name__ == "TstarChat"
    tomllib = pytest.importorskip("tomllib")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert groups["lmms_eval.models"] == {"tstar": "tstar.integrations.lmms_eval:manifest"}


def test_ranks_are_told_and_have_files_of_their_own(make, suite, tmp_path, monkeypatch):
    folder, items = suite
    docs = [messages_of(item, folder) for item in items[:2]]
    first = make()
    assert (first.rank, first.world_size, first.device.type) == (0, 1, "cpu")
    expected = first.generate_until(requests_of(first, docs))
    accelerate = SimpleNamespace(Accelerator=lambda: SimpleNamespace(is_main_process=False))
    stand_ins.install(monkeypatch, {"accelerate": vars(accelerate)})
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    from tstar.integrations.lmms_eval import manifest

    second = stand_ins.get_model_class(manifest()).create_from_arg_string(
        f"checkpoint={first.model.restored.path},store={tmp_path / 'store'}", {"device": "cpu"}
    )
    assert (second.rank, second.world_size) == (1, 2)
    assert hasattr(second, "accelerator")
    monkeypatch.setattr(second.model.answerer.stage, "generate", lambda *_, **__: pytest.fail("asked again"))
    assert second.generate_until(requests_of(second, docs)) == expected  # found in the other one's file


def test_a_cleaned_model_is_loaded_again_when_it_is_needed(make, suite):
    folder, items = suite
    model = make()
    model.clean()
    assert model.cleaned
    assert model._model is None
    assert len(model.generate_until(requests_of(model, [messages_of(items[0], folder)]))) == 1


def test_what_the_model_cannot_do_is_said(make):
    model = make()
    with pytest.raises(NotImplementedError, match="likelihood"):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError, match="several rounds"):
        model.generate_until_multi_round([])
    video = {"type": "video", "url": "v.mp4"}
    text = {"type": "text", "text": "?"}
    for content, words in (
        ([{"type": "audio", "url": "a.wav"}, text], "audio, which tstar does not hear"),
        ([video, video, text], "2 videos and 0 pictures with one question"),
        ([video, {"type": "image", "url": "p.png"}, text], "1 videos and 1 pictures"),
        ([{"type": "video", "url": [1, 2]}, text], "gives a list for a video"),
    ):
        with pytest.raises(NotImplementedError, match=words):
            model.generate_until(requests_of(model, [[{"role": "user", "content": content}]]))
    several = [{"role": role, "content": [text]} for role in ("user", "assistant", "user")]
    with pytest.raises(NotImplementedError, match="more than one question"):
        model.generate_until(requests_of(model, [several]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_sample": True}, "sets do_sample=True, but tstar answers greedily"),
        ({"temperature": 0.7}, "sets temperature=0.7"),
        ({"num_beams": 4}, "sets num_beams=4"),
        ({"min_pixels": 3}, "sets min_pixels=3, which tstar does not know"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(make, suite, settings, message):
    folder, items = suite
    model = make()
    with pytest.raises(ConfigError, match=message):
        model.generate_until(requests_of(model, [messages_of(items[0], folder)], LIMITED | settings))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("frams=3", "unknown model argument 'frams'; did you mean 'frames'"),
        ("pretrained=x", "needs checkpoint=PATH"),
        ("frames=0", "max_frames must be at least 1, got 0"),
        ("decoder=decrod", "unknown evaluation.decoder 'decrod'; did you mean 'decord'"),
    ],
)
def test_words_that_cannot_be_are_refused(make, words, message):
    with pytest.raises(ConfigError, match=message):
        make(words)
    for batch_size in ("auto", 0):
        with pytest.raises(ConfigError, match="batch_size must be"):
            make(batch_size=batch_size)
    with pytest.raises(ConfigError, match="device must be like cpu"):
        make(device="gpu please")


def test_a_checkpoint_that_is_not_there_is_named(lmms_eval, tmp_path):
    from tstar.integrations.lmms_eval import TstarChat

    with pytest.raises(DataError, match=f"checkpoint: no such checkpoint: {re.escape(str(tmp_path / 'no'))}"):
        TstarChat(checkpoint=str(tmp_path / "no"))
    with pytest.raises(ConfigError, match="needs checkpoint=PATH"):
        TstarChat()


def test_without_the_harness_only_its_parts_are_missing():
    code = (
        "import sys; sys.modules['lmms_eval'] = sys.modules['vlmeval'] = None\n"
        "import tstar.integrations, tstar.integrations.lmms_eval as a, tstar.integrations.vlmeval as b\n"
        "assert 'torch' not in sys.modules\n"
        "from tstar.errors import ConfigError\n"
        "for use in (a.manifest, lambda: a.TstarChat, b.register, lambda: b.TstarVLMEval):\n"
        "    try: use()\n"
        "    except ConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all("needs lmms-eval 0.7" in line for line in lines[:2])
    assert all("needs VLMEvalKit" in line for line in lines[2:])
