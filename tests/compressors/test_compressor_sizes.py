"""Token counts and parameter totals of the published scale."""

import pytest
import torch

from tstar.compressors import build_compressor, compressor_options, list_compressors

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
        ("bilinear", CONVNEXT, {}, {1: 25, 30: 750, 128: 3200}),
        ("bilinear", VIT, {"size": (4, 4)}, {128: 2048}),
        ("pool3d", CONVNEXT, {}, {0: 0, 1: 25, 2: 25, 3: 50, 128: 1600}),
        ("pool3d", CONVNEXT, {"mode": "st_mean"}, {0: 0, 1: 101, 128: 228}),
        *(
            ("c_abstractor", CONVNEXT, {"preset": "paper_30m", "kernel": kernel}, {128: tokens})
            for kernel, tokens in (((2, 2), 3200), ((5, 1), 2560), ((10, 1), 1280), ((5, 5), 512), ((10, 10), 128))
        ),
        ("c_abstractor", CONVNEXT, {"kernel": (2, 2)}, {1: 25, 128: 3200}),
        ("c_abstractor", CONVNEXT, {"kernel": (5, 1)}, {1: 20, 128: 2560}),
        ("c_abstractor", CONVNEXT, {"kernel": (10, 1)}, {1: 10, 128: 1280}),
        ("c_abstractor", CONVNEXT, {"kernel": (5, 5)}, {1: 4, 128: 512}),
        ("c_abstractor", CONVNEXT, {"kernel": (10, 10)}, {0: 0, 1: 1, 128: 128}),
        ("resampler2d", CONVNEXT, {}, {0: 0, 1: 10, 128: 1280}),
        ("resampler3d", CONVNEXT, {"num_queries": 96}, {0: 0, 1: 96, 128: 96}),
        ("resampler3d", CONVNEXT, {}, {0: 0, 1: 256, 128: 256}),
        ("resampler3d", CONVNEXT, {"num_queries": 512}, {0: 0, 1: 512, 256: 512}),
        ("token_merging", CONVNEXT, {}, {0: 0, 1: 10, 3: 10, 4: 20, 128: 430, 256: 860}),
        ("kmeans", CONVNEXT, {"frames_per_group": 1}, {1: 10, 128: 1280}),
        ("density_peaks", VIT, {"tokens_per_group": 24}, {1: 24, 128: 1032}),
        ("mambamia_taa", CONVNEXT, {"select": "budget"}, {0: 0, 1: 10, 128: 430, 256: 860}),
        ("mambamia_taa", CONVNEXT, {}, {1: 10, 64: 640, 384: 3840}),
        ("bimba", CONVNEXT, {}, {1: 10, 128: 430, 256: 860}),
        ("gpt_neox", CONVNEXT, {}, {1: 10, 128: 430, 256: 860}),
        ("bi_gpt_neox", CONVNEXT, {"per_frame": True}, {1: 10, 128: 1280}),
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
        ("gpt_neox", {}, 92_143_872, 95.69e6),
        ("bi_gpt_neox", {}, 92_143_872, 95.69e6),
        ("gpt_neox", {"num_layers": 12}, 85_056_000, 88.60e6),
        ("none", {}, 0, 14.16e6),
        ("avg_pool", {}, 0, 14.16e6),
        ("bilinear", {}, 0, 14.16e6),
        ("pool3d", {}, 0, 14.16e6),
        ("token_merging", {}, 0, 14.16e6),
        ("bimba", {}, 96_086_784, 99.63e6),
        ("c_abstractor", {}, 0, 101.62e6),
        ("c_abstractor", {"preset": "paper_30m"}, 0, 30.93e6),
        ("resampler2d", {"patch_positions": False}, 100_829_184, 105.56e6),
        ("resampler3d", {"patch_positions": False, "num_queries": 96}, 100_829_184, 105.65e6),
        ("resampler3d", {"patch_positions": False}, 100_829_184, 105.81e6),
        ("resampler3d", {"patch_positions": False, "num_queries": 512}, 100_829_184, 106.08e6),
    ],
)
def test_parameters_of_the_published_presets(name, options, body, total):
    sizes = {key: parameter.numel() for key, parameter in meta(name, **options).named_parameters()}
    ours = sum(size for key, size in sizes.items() if key.startswith(("layers.", "final_norm.")))
    if isinstance(body, int):
        assert ours == body
    assert ours == pytest.approx(body, rel=2e-4)
    assert sum(sizes.values()) == pytest.approx(total, rel=2e-4)


def test_the_block_over_frames_has_the_width_that_suits_its_queries():
    for sizes, expected in ((CONVNEXT, 2.64e6), (VIT, 3.76e6)):
        block = meta("mambamia_taa", sizes).time_axis.mixer
        assert sum(p.numel() for p in block.parameters()) == pytest.approx(expected, rel=2e-3)


def test_places_add_a_vector_each():
    with_places, without = (meta("resampler2d", patch_positions=p) for p in (True, False))
    sizes = [sum(p.numel() for p in compressor.parameters()) for compressor in (with_places, without)]
    assert sizes[0] - sizes[1] == 100 * 1536


SMALL = {"d_vision": 96, "d_language": 160, "grid": (6, 6)}
WITH_TWO = [name for name in list_compressors() if "ssm" in compressor_options(name)]


@pytest.mark.parametrize(
    ("name", "options"), [*((n, {}) for n in list_compressors()), *((n, {"ssm": "mamba2"}) for n in WITH_TWO)]
)
def test_smaller_presets_are_small(name, options):
    miniature, tiny = (
        sum(p.numel() for p in meta(name, SMALL, preset=preset, **options).parameters())
        for preset in ("miniature", "tiny")
    )
    assert tiny <= miniature < 1e6
