"""Clips and questions go through a model in the precision of its training."""

import numpy as np
import pytest
import torch

from tstar.evaluation.answering import Answerer, Prompt
from tstar.language import LanguageConfig
from tstar.stages import VideoSFT
from tstar.vision import VisionConfig


@pytest.fixture(scope="module")
def stage(miniature_parts):
    torch.manual_seed(0)
    return VideoSFT(
        vision=VisionConfig(model=str(miniature_parts / "vision")),
        language=LanguageConfig(path=str(miniature_parts / "language"), template="miniature"),
        compressor={"name": "mambamia", "preset": "tiny"},
        max_length=768,
    ).eval()


@pytest.fixture
def clip(stage):
    side = stage.lmm.encoder.image_size
    return np.random.default_rng(0).integers(0, 256, (6, side, side, 3), dtype=np.uint8)


def seen_in(stage, clip, dtype):
    pixels = torch.from_numpy(clip).permute(0, 3, 1, 2)
    with torch.no_grad(), torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        return stage.lmm.visual_tokens(pixels, [len(clip)])[0]


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16), ("32-true", None), ("64-true", None)],
)
def test_answers_are_computed_in_the_precision_of_training(stage, clip, precision, dtype, monkeypatch):
    answerer, casts = Answerer(stage, precision), []
    generate = stage.generate

    def spied(*args, **kwargs):
        casts.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return generate(*args, **kwargs)

    monkeypatch.setattr(stage, "generate", spied)
    (visual,) = answerer.see([clip])
    torch.testing.assert_close(visual, seen_in(stage, clip, dtype), rtol=0, atol=0)
    assert torch.equal(visual.float(), seen_in(stage, clip, None).float()) == (dtype is None)
    (answer,) = answerer.ask([Prompt("What is red?")], [visual], max_new_tokens=3)
    assert answer.visual_tokens == len(visual)
    assert casts == [dtype]
    assert not torch.is_autocast_enabled("cpu")
