"""Compiled layers of the language model: the same losses, and answers without compiling for every length."""

import pytest
import torch

from tstar.stages import Align, VideoSFT


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", [Align, VideoSFT])
def test_compiled_layers_train_alike_and_still_answer(kind, checkpointing, make_stage, train):
    compressor = {"name": "mambamia", "preset": "tiny", "dropout": 0.0}
    settings = {"compressor": compressor, "language": {"gradient_checkpointing": checkpointing}}
    losses, answers = [], []
    for compiled in (False, True):
        stage = make_stage(kind, **settings)
        stage.compiled = compiled
        losses.append(train(stage, limit=12).losses.values)
        blocks = stage.lmm.language.model.model.layers
        assert all((block._compiled_call_impl is not None) == compiled for block in blocks)
        assert list(stage.state_dict()) == list(make_stage(kind, **settings).state_dict())
        ids = torch.tensor(stage.lmm.language.tokenizer("What moves?").input_ids)
        nothing = torch.zeros(0, stage.lmm.language.d_language)
        torch._dynamo.utils.counters.clear()
        answers.append(stage.eval().generate([ids], [nothing], max_new_tokens=5))
        assert not torch._dynamo.utils.counters["stats"]  # nothing was compiled to answer
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert answers[1] == answers[0]
