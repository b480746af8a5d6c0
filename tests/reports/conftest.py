"""What tests of the plan share: settings on the miniature's parts, and a count of what torch's counter does not know."""

import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tstar.nn.mamba import BidirectionalMambaMixer, MambaMixer
from tstar.nn.mamba2 import BidirectionalMamba2Mixer, Mamba2Mixer
from tstar.reports.plan import Planner
from tstar.reports.plan_setup import Asked

ROOT = Path(__file__).parents[2]
MINIATURE = ROOT / "tstar" / "pretrained" / "miniature"


def stage_config(
    kind="VideoSFT", *, compressor=None, language=None, batch=2, precision="32-true", trainer=None, **more
):
    """A resolved stage on the miniature's parts."""
    return {
        "model": {
            "class_path": kind,
            "init_args": {
                "vision": {"model": str(MINIATURE / "vision")},
                "language": {"path": str(MINIATURE / "language"), "template": "miniature", **(language or {})},
                "compressor": compressor or {"name": "mambamia", "preset": "miniature", "query_interval": 6},
                "max_length": 1024,
                **more,
            },
        },
        "data": {"batch_size": batch},
        "trainer": {"accelerator": "cpu", "devices": 1, "precision": precision, **(trainer or {})},
    }


def planned(kind, config, **asked):
    """A planner and the one stage of a recipe."""
    planner = Planner(Asked(**asked), 16)
    return planner, planner.setup("only", kind, config)


@contextmanager
def counted():
    """torch's own counter over real tensors; attention as products, which it knows on a CPU."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def recurrences(module, positions, backward):
    """FLOPs of scans and convolutions of a model's mixers over so many positions, which torch's counter passes over."""
    total = 0
    for mixer in module.modules():
        if isinstance(mixer, MambaMixer | BidirectionalMambaMixer):
            ways, S, width = 1 + isinstance(mixer, BidirectionalMambaMixer), mixer.d_state, mixer.d_inner
            scan = positions * mixer.d_inner * (6 * S + 4)
            back = positions * mixer.d_inner * (19 * S + 7)
        elif isinstance(mixer, Mamba2Mixer | BidirectionalMamba2Mixer):
            ways, S, width = 1 + isinstance(mixer, BidirectionalMamba2Mixer), mixer.d_state, mixer.d_mixed
            scan = positions * mixer.d_inner * (5 * S + 3)
            back = positions * mixer.d_inner * (14 * S + 5)
        else:
            continue
        convolution = 2 * positions * width * mixer.d_conv
        total += ways * (scan + convolution + backward * (back + 2 * convolution))
    return total


@pytest.fixture(scope="session")
def plans():
    """Helpers: ``stage_config``, ``planned``, ``counted``, ``recurrences``."""
    return SimpleNamespace(
        stage_config=stage_config, planned=planned, counted=counted, recurrences=recurrences, miniature=MINIATURE
    )


@pytest.fixture(scope="session")
def small_convnext(tmp_path_factory):
    """A folder of an open_clip model with a small ConvNeXt, whose frames have 2 x 2 patches; without weights."""
    folder = tmp_path_factory.mktemp("convnext")
    vision = {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64}
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder
