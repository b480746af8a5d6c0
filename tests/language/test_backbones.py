"""Published architectures without their weights."""

import pytest

from tstar.errors import DataError
from tstar.language.backbones import BACKBONES, architecture, skeleton

WIDTHS = {"phi3_mini": 3072, "vicuna_7b": 4096, "vicuna_13b": 5120, "qwen2_7b": 3584, "qwen2_5_7b": 3584}
WIDTHS |= {"pythia_2_8b": 2560, "mamba_2_8b": 2560, "mamba2_2_7b": 2560, "smollm2_135m": 576}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_skeleton_has_the_published_size(name):
    backbone = BACKBONES[name]
    model = skeleton(backbone.hub, "bfloat16")
    assert sum(p.numel() for p in model.parameters()) == backbone.parameters
    assert all(p.is_meta for p in model.parameters())
    assert model.get_input_embeddings().weight.shape[1] == WIDTHS[name]


def test_a_folder_says_its_own_architecture():
    assert architecture("tstar/pretrained/miniature/language").hidden_size > 0
    with pytest.raises(DataError, match=r"cannot read the architecture of language\.path 'tests'"):
        architecture("tests")
