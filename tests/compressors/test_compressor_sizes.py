"""Token counts and parameter totals of the published scale."""

import pytest
import torch

from tstar.compressors import build_compressor

CONVNEXT = {"d_vision": 1536, "d_language": 3072, "grid": (10, 10)}
VIT = {"d_vision": 1024, "d_language": 3072, "grid": (24, 24)}


def meta(name, sizes=CONVNEXT, **options):
    with torch.device("meta"):
        return build_compressor(name, **sizes, **options)


@pytest.mark.parametrize(
    ("name", "sizes", "options", "counts"),
    [
        (
            "mambamia",
            CONVNEXT,
            {"query_interval": 10, "temporal_stride": 3},
            {0: 0, 1: 10, 30: 100, 32: 110, 64: 220, 128: 430, 256: 860, 384: 1280},
        ),
        ("mambamia", CONVNEXT, {"per_frame": True}, {1: 10, 30: 300, 128: 1280, 256: 2560, 384: 3840}),
        ("mambamia", VIT, {"query_interval": 24}, {1: 24, 30: 240, 128: 1032, 256: 2064, 384: 3072}),
        ("avg_pool", CONVNEXT, {}, {1: 25, 30: 750, 128: 3200, 256: 6400}),
        ("avg_pool", VIT, {"kernel": (6, 6)}, {1: 16, 128: 2048}),
        ("none", CONVNEXT, {}, {0: 0, 1: 100, 30: 3000, 128: 12800}),
        ("none", VIT, {}, {5: 2880}),
    ],
)
def test_token_counts(name, sizes, options, counts):
    compressor = meta(name, sizes, **options)
    assert {m: compressor.num_tokens(m) for m in counts} == counts


@pytest.mark.parametrize(
    ("name", "options", "body", "total"),
    [
        ("mamba", {}, 90_520_320, 94.06e6),
        ("bimamba", {}, 96_086_784, 99.63e6),
        ("mambamia", {}, 96_289_800, 99.83e6),
        ("mamba", {"ssm": "mamba2"}, 90_368_448, 93.91e6),
        ("bimamba", {"ssm": "mamba2"}, 90_622_080, 94.17e6),
        ("mambamia", {"ssm": "mamba2"}, 90_825_096, 94.37e6),
        ("mambamia", {"preset": "wide2"}, 115.64e6, 120.36e6),
        ("none", {}, 0, 14.16e6),
        ("avg_pool", {}, 0, 14.16e6),
    ],
)
def test_parameters_of_the_published_presets(name, options, body, total):
    sizes = {key: parameter.numel() for key, parameter in meta(name, **options).named_parameters()}
    ours = sum(size for key, size in sizes.items() if key.startswith(("layers.", "final_norm.")))
    if isinstance(body, int):
        assert ours == body
    assert ours == pytest.approx(body, rel=2e-4)
    assert sum(sizes.values()) == pytest.approx(total, rel=2e-4)


@pytest.mark.parametrize("ssm", ["mamba1", "mamba2"])
@pytest.mark.parametrize("name", ["mamba", "bimamba", "mambamia"])
def test_smaller_presets_are_small(name, ssm):
    miniature, tiny = (
        sum(p.numel() for p in meta(name, preset=preset, ssm=ssm).parameters()) for preset in ("miniature", "tiny")
    )
    assert tiny < miniature < 1e6
