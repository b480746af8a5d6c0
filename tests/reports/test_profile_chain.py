"""A model's parts in a row: the same answer as the model's own, the frames that decoding gives, and only what runs is built."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tstar.data.decoding import read_video
from tstar.data.frame_sampling import FrameSampling
from tstar.data.images import to_square
from tstar.errors import ConfigError
from tstar.language import LanguageConfig, VideoLMM
from tstar.language.backbones import skeleton, with_random_weights
from tstar.language.splice import splice
from tstar.reports import profile_case
from tstar.reports.measured_cost import PeakMeter
from tstar.reports.profile_case import is_out_of_memory, main, measure
from tstar.reports.profile_cases import ANSWER, PARTS, Case, Model
from tstar.reports.profile_chain import build_chain, load_stage
from tstar.stages import VideoSFT
from tstar.vision import VisionConfig


@pytest.fixture(scope="session")
def small_case(miniature_parts):
    """A function that makes a case of the miniature's parts, hardly trained."""

    def make(name="mambamia", random=False, **more):
        model = Model(
            stage="tstar.stages.video_sft.VideoSFT",
            vision={"model": str(miniature_parts / "vision"), "slice_size": 2},
            language={"path": str(miniature_parts / "language"), "template": "miniature"},
            compressor={"name": name, "preset": "tiny"},
            random=random,
        )
        given = {"frames": 5, "protocol": "parts", "parts": ANSWER, "device": "cpu", "precision": "fp32", "seed": 0}
        calls = {"matmul_precision": "highest", "warmup": 0, "samples": 2, "text_tokens": 7}
        return Case(**{"model": model, **given, **calls, **more})

    return make


@pytest.mark.parametrize("name", ["none", "avg_pool", "mambamia"])
def test_the_first_token_is_the_models(small_case, name):
    case = small_case(name)
    chain = build_chain(case)
    frames = next(chain.inputs())
    assert (frames.shape, frames.dtype) == ((5, 3, 96, 96), torch.uint8)
    language = LanguageConfig(**case.model.language).build().eval()
    lmm = VideoLMM(chain.encoder, chain.compressor, language)
    with torch.no_grad():
        (visual,) = lmm.visual_tokens(frames, [5])
        batch = splice(language.embed, [chain.prompt], [visual], pad="left")
        (expected,) = language.model.generate(
            inputs_embeds=batch.embeds,
            attention_mask=batch.mask,
            max_new_tokens=1,
            do_sample=False,
            pad_token_id=0,
        ).tolist()
    assert [chain.through(frames)] == expected
    assert chain.visual_tokens == len(visual) == chain.compressor.num_tokens(5)
    seconds, peaks = chain.by_parts(frames, PeakMeter())
    assert list(seconds) == list(peaks) == list(ANSWER)
    assert min(seconds.values()) > 0


def test_frames_of_a_video_are_those_that_decoding_gives(small_case, tiny_world):
    path = next((tiny_world / "benchmarks" / "mini-vnbench").rglob("*.mp4"))
    case = small_case(parts=tuple(PARTS), videos=(str(path),), frames=6)
    chain = build_chain(case)
    frames, seconds = chain.read(str(path))
    clip = read_video(path, FrameSampling(fps=1e6, max_frames=6))
    expected = np.stack([to_square(frame, 96) for frame in clip.frames]).transpose(0, 3, 1, 2)
    assert np.array_equal(frames.numpy(), expected)
    assert list(seconds) == ["decode", "preprocess"]
    assert chain.seen.distinct == len(set(clip.timestamps)) == 6
    assert chain.seen.decoders == (clip.decoder,)
    result = measure(replace(case, frames=2000, parts=("decode", "preprocess"), samples=1))
    assert 6 < result["distinct_frames"] < 2000  # a short video has no more
    assert set(result["seconds"]) == {"decode", "preprocess", "total"}
    assert set(result["memory"]["by_part"]) == {"decode"}


def test_only_what_runs_is_built(small_case):
    for parts, held in [
        (("encode",), {"encoder"}),
        (("compress",), {"compressor"}),
        (("prefill", "first_token"), {"language"}),
        (("first_token",), {"language"}),
        (("compress", "prefill"), {"compressor", "language"}),
    ]:
        chain = build_chain(small_case(parts=parts))
        assert set(chain.held()) == held
        modules = {"encoder": chain.encoder, "compressor": chain.compressor, "language": chain.language}
        for name, module in modules.items():
            assert next(module.parameters()).is_meta == (name not in held)
        chain.through(next(chain.inputs()))


def test_random_weights_are_drawn_and_none_looked_for(small_case, miniature_parts, tmp_path):
    (tmp_path / "config.json").write_text((miniature_parts / "language" / "config.json").read_text())
    expected = {name: p.shape for name, p in skeleton(str(tmp_path)).named_parameters()}
    torch.manual_seed(0)
    drawn = with_random_weights(str(tmp_path), "bfloat16")
    assert {name: p.shape for name, p in drawn.named_parameters()} == expected
    assert {p.dtype for p in drawn.parameters()} == {torch.bfloat16}
    assert all(p.isfinite().all() for p in drawn.parameters())
    case = small_case(random=True)
    bare = replace(case.model, language={"path": str(tmp_path), "template": "miniature"})  # has no tokenizer either
    one, other = (build_chain(replace(case, model=bare, seed=seed)) for seed in (0, 1))
    same = build_chain(replace(case, model=bare))
    for chain, equal in ((same, True), (other, False)):
        for ours, theirs in ((one.language, chain.language), (one.encoder, chain.encoder)):
            a, b = (max(m.parameters(), key=torch.numel) for m in (ours, theirs))
            assert torch.equal(a, b) == equal


def test_half_precision_is_that_of_encoder_and_language_model(small_case):
    chain = build_chain(small_case(precision="bf16"))
    kinds = {name: {p.dtype for p in module.parameters()} for name, module in chain.held().items()}
    half = {torch.bfloat16}
    assert kinds == {"encoder": half, "compressor": {torch.float32}, "language": half}
    features = chain.step("encode", next(chain.inputs()))
    assert features.dtype == torch.bfloat16
    assert chain.step("compress", features).dtype == torch.bfloat16


def checkpoint_of(stage, path, **more):
    kept = {f"lmm.{name}": p for name, p in stage.lmm.named_parameters() if p.requires_grad}
    own = {"format": 1, "stage": "VideoSFT", "recipe": {}, "frozen": stage.frozen_digest, **more}
    torch.save({"state_dict": kept, "tstar": own}, path)


def test_trained_weights_are_those_of_the_checkpoint(small_case, tmp_path):
    model = small_case().model
    language = LanguageConfig(**model.language)
    torch.manual_seed(5)
    stage = VideoSFT(vision=VisionConfig(**model.vision), language=language, compressor=model.compressor)
    with torch.no_grad():
        for parameter in stage.lmm.language.parameters():
            parameter.add_(0.01)
    path = tmp_path / "last.ckpt"
    checkpoint_of(stage, path)
    case = replace(small_case(), model=replace(model, checkpoint=str(path)))
    chain = build_chain(case)
    for name, ours in (("compressor", chain.compressor), ("language", chain.language)):
        theirs = stage.lmm.compressor if name == "compressor" else stage.lmm.language.model
        for key, parameter in theirs.named_parameters():
            assert torch.equal(ours.get_parameter(key), parameter), key
    assert not any(p.requires_grad for module in chain.held().values() for p in module.parameters())
    checkpoint_of(stage, path, frozen="of others")
    with pytest.raises(ConfigError, match="frozen parts"):
        load_stage(case.model)


def test_each_protocol_gives_its_numbers(small_case):
    paper = measure(small_case(protocol="paper", samples=3))
    assert {name: own["calls"] for name, own in paper["seconds"].items()} == {"total": 3, "without_encoding": 3}
    parts = measure(small_case())
    assert list(parts["seconds"]) == [*ANSWER, "total"]
    assert set(parts["memory"]["by_part"]) == set(ANSWER)
    assert parts["memory"]["needed"] >= max(parts["memory"]["by_part"].values())
    chain = build_chain(small_case())
    weights = sum(t.nbytes for m in chain.held().values() for t in (*m.parameters(), *m.buffers()))
    tied = chain.language.get_input_embeddings().weight.nbytes if chain.language.config.tie_word_embeddings else 0
    assert weights - tied <= parts["memory"]["weights"] <= weights
    assert parts["memory"]["input"] == 5 * 3 * 96 * 96
    assert parts["positions"] == parts["visual_tokens"] + 7
    assert parts["parameters"]["compressor"] == sum(p.numel() for p in chain.compressor.parameters())
    alone = measure(small_case(parts=("compress",)))
    assert list(alone["seconds"]) == ["compress"]
    assert alone["memory"]["input"] == 5 * 36 * chain.encoder.d_vision * 4


def test_a_process_tells_mistakes_and_memory_and_shows_bugs(small_case, monkeypatch, capsys):
    monkeypatch.setattr(
        profile_case, "limit_memory", lambda case: 12
    )  # bytes that are free; this process is the tests' own
    monkeypatch.setattr(profile_case, "yield_first", lambda: None)

    def ended_by(error):
        def measure(case, begun):
            raise error

        monkeypatch.setattr(profile_case, "measure", measure)
        status = main(["measure", json.dumps(small_case().to_json())])
        assert status == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    assert ended_by(ConfigError("a setting")) == {"status": "mistake", "reason": "a setting"}
    assert ended_by(MemoryError("6 GiB"))["status"] == "out of memory"
    said = (
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    )
    assert ended_by(RuntimeError(said)) == {"status": "out of memory", "reason": said, "free_bytes": 12}
    with pytest.raises(RuntimeError, match="size mismatch"):
        ended_by(RuntimeError("size mismatch"))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA"))
