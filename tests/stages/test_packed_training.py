"""Trainings whose samples share rows of the language model."""

import pytest

from tstar.errors import ConfigError
from tstar.stages import Align, VideoSFT


@pytest.mark.parametrize(("kind", "shards"), [(VideoSFT, "image_sft"), (Align, "align")])
def test_losses_are_those_of_rows_of_ones_own(kind, shards, make_stage, train):
    losses, shapes = [], []
    for pack_tokens in (None, 160):
        stage = make_stage(kind, pack_tokens=pack_tokens)
        seen = []
        stage.lmm.language.model.base_model.register_forward_pre_hook(
            lambda module, args, kwargs, seen=seen: seen.append(kwargs["inputs_embeds"].shape[:2]), with_kwargs=True
        )
        seen.clear()
        losses.append(train(stage, shards, batch_size=8).losses.values)
        shapes.append(seen)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert [rows for rows, _ in shapes[0]] == [8, 8, 8]
    assert all(rows < 8 and positions <= 160 for rows, positions in shapes[1])


def test_rows_too_short_to_share_are_refused(make_stage, one_line):
    with pytest.raises(ConfigError) as caught:
        make_stage(VideoSFT, pack_tokens=1)
    one_line(caught.value, "model.init_args.pack_tokens", "at least 2", "got 1")
