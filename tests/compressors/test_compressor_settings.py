"""Settings that cannot work: the message names the setting, what it got and what would do."""

import pytest
import torch

from tstar.compressors import build_compressor, compressor_config, compressor_options, list_compressors
from tstar.errors import ConfigError

SIZES = {"d_vision": 16, "d_language": 16, "grid": (10, 10)}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("manba", {}, "unknown compressor 'manba'; did you mean 'mamba'? (known: "),
        ("mamba", {"preset": "papr"}, "unknown compressor.preset 'papr'; did you mean 'paper'? (known: mini"),
        ("mambamia", {"keeps": "last"}, "unknown option compressor.keeps of compressor 'mambamia'; did you mean 'keep"),
        ("bimamba", {"gpa": True}, "unknown option compressor.gpa of compressor 'bimamba'"),
        ("none", {"kernel": 2}, "unknown option compressor.kernel of compressor 'none' (known: segment_frames)"),
        ("mambamia", {"query_interval": 7}, "compressor.query_interval must be a divisor of the 100 patches of"),
        ("mambamia", {"query_interval": 0}, "compressor.query_interval must be a divisor of the 100 patches"),
        ("mambamia", {"query_interval": "ten"}, "compressor.query_interval must be a whole number, got 'ten'"),
        ("mambamia", {"temporal_stride": 0}, "compressor.temporal_stride must be a whole number from 1 up, got 0"),
        ("mambamia", {"temporal_stride": 1.5}, "compressor.temporal_stride must be a whole number, got 1.5"),
        ("mambamia", {"keep": "frist"}, "compressor.keep cannot be 'frist'; did you mean 'first'? (known: "),
        ("mambamia", {"keep": 1}, "compressor.keep cannot be 1 (known: first, last)"),
        ("mambamia", {"num_layers": True}, "compressor.num_layers must be a whole number, got True"),
        ("mambamia", {"num_layers": 0}, "compressor.num_layers must be a positive whole number, got 0"),
        ("mambamia", {"d_state": -1}, "compressor.d_state must be a positive whole number, got -1"),
        ("mambamia", {"gpa": "yes"}, "compressor.gpa must be true or false, got 'yes'"),
        ("mambamia", {"dropout": 1.0}, "compressor.dropout must be at least 0 and below 1, got 1.0"),
        ("mambamia", {"dropout": "0.1"}, "compressor.dropout must be a number, got '0.1'"),
        ("mambamia", {"head_dim": 0}, "compressor.head_dim must be a positive whole number, got 0"),
        ("mambamia", {"ssm": "mamba2", "d_model": 6, "head_dim": 5}, "compressor.head_dim must be a divisor of expand * "
         "d_model = 12 with mamba2 (1, 2, 3, 4, 6, 12), got 5"),
        ("mambamia", {"merge": "cat"}, "compressor.merge cannot be 'cat'; did you mean 'concat'?"),
        ("mamba", {"merge": "mean"}, "unknown option compressor.merge of compressor 'mamba'"),
        ("mambamia", {"norm_before_gate": False}, "compressor.norm_before_gate must be true with mamba1"),
        ("mambamia", {"ssm": "mamba3"}, "compressor.ssm cannot be 'mamba3'; did you mean"),
        ("avg_pool", {"kernel": (11, 2)}, "compressor.kernel must be between (1, 1) and the grid, (10, 10), got"),
        ("avg_pool", {"kernel": [2, 0]}, "compressor.kernel must be between (1, 1) and the grid, (10, 10), got (2"),
        ("avg_pool", {"kernel": 2}, "compressor.kernel must be 2 whole numbers, got 2"),
        ("bilinear", {"size": (0, 3)}, "compressor.size must be two positive whole numbers, rows and columns, got (0, 3)"),
        ("bilinear", {"antialias": 1}, "compressor.antialias must be true or false, got 1"),
        ("pool3d", {"mode": "mean"}, "compressor.mode cannot be 'mean'"),
        ("pool3d", {"kernel": (0, 2, 2)}, "compressor.kernel must be from 1 up in time, and between (1, 1) and the grid"),
        ("c_abstractor", {"kernel": (3, 2)}, "compressor.kernel must be divisors of the grid's rows (1, 2, 5, 10) and"),
        ("c_abstractor", {"depth": 0}, "compressor.depth must be a positive whole number, got 0"),
        ("resampler2d", {"num_queries": 0}, "compressor.num_queries must be a positive whole number, got 0"),
        ("resampler2d", {"num_heads": 15}, "compressor.num_heads must be a divisor of d_model = 1024, got 15"),
        ("resampler2d", {"dropout": -0.1}, "compressor.dropout must be at least 0 and below 1, got -0.1"),
        ("resampler2d", {"residual": "norm"}, "compressor.residual cannot be 'norm'; did you mean 'normed'?"),
        ("resampler3d", {"d_model": 15, "num_heads": 3}, "compressor.d_model must be even, for the frame positions"),
        ("token_merging", {"tokens_per_group": 101}, "compressor.tokens_per_group must be from 1 to the 100 patches of a"),
        ("kmeans", {"iterations": -1}, "compressor.iterations must be a whole number from 0 up, got -1"),
        ("density_peaks", {"neighbours": 0}, "compressor.neighbours must be a positive whole number, got 0"),
        ("kmeans", {"frames_per_group": 0}, "compressor.frames_per_group must be a positive whole number, got 0"),
        ("bimba", {"queries": "learned"}, "unknown option compressor.queries of compressor 'bimba'"),
        ("mambamia", {"queries": "pool"}, "compressor.queries cannot be 'pool'; did you mean 'pooled'?"),
        ("mambamia_taa", {"temporal_stride": 3}, "compressor.temporal_stride must be left out or 1 with select: threshold"),
        ("mambamia_taa", {"select_threshold": 0}, "compressor.select_threshold must be a number above 0, got 0.0"),
        ("mambamia_taa", {"d_reduced": 3}, "compressor.d_reduced must be such that head_dim 64 divides 2 x 10 queries x"),
        ("resampler3d", {"segment_frames": 8}, "compressor.segment_frames must be left out: its queries weigh all frames of"),
        ("bi_gpt_neox", {"segment_frames": 9}, "compressor.segment_frames must be left out: every position weighs all others"),
        ("mambamia", {"segment_frames": 8}, "compressor.segment_frames must be a positive multiple of 3, got 8"),
        ("kmeans", {"segment_frames": 0}, "compressor.segment_frames must be a positive multiple of 3, got 0"),
        ("gpt_neox", {"num_heads": 10}, "compressor.num_heads must be a divisor of d_model = 768, got 10"),
        ("gpt_neox", {"rotary_fraction": 0.01}, "compressor.rotary_fraction must be such that an even number of a"),
        ("gpt_neox", {"rotary_fraction": float("nan")}, "compressor.rotary_fraction must be a number, got nan"),
        ("mambamia_taa", {"select_threshold": float("inf")}, "compressor.select_threshold must be a number, got inf"),
        ("gpt_neox", {"rotary_fraction": 1.5}, "compressor.rotary_fraction must be such that an even number of a"),
        ("bi_gpt_neox", {"rope_base": 1}, "compressor.rope_base must be a number above 1, got 1.0"),
        ("gpt_neox", {"causal": False}, "unknown option compressor.causal of compressor 'gpt_neox'"),
        ("none", {"grid": (0, 10)}, "compressor.grid must be two positive whole numbers, rows and columns, got"),
        ("none", {"d_language": 0}, "compressor.d_language must be a positive whole number, got 0"),
    ],
)  # fmt: skip
def test_messages(name, options, message):
    with pytest.raises(ConfigError) as caught:
        build_compressor(name, **(SIZES | options))
    assert str(caught.value).startswith(message)


def test_defaults_follow_the_grid_and_the_variant():
    whole, frames = (compressor_config("mambamia", **SIZES, per_frame=per_frame) for per_frame in (False, True))
    assert (whole.interval, whole.stride) == (10, 3)
    assert (frames.interval, frames.stride) == (10, 1)
    assert compressor_config("mambamia", **SIZES, per_frame=True, temporal_stride=3).stride == 3
    assert compressor_config("mambamia", **(SIZES | {"grid": (4, 6)})).interval == 6


def test_states_follow_the_version_unless_given():
    for options, states in (({}, 16), ({"ssm": "mamba2"}, 128), ({"ssm": "mamba2", "d_state": 64}, 64)):
        assert compressor_config("mambamia", **SIZES, **options).states == states
    assert compressor_config("mambamia", **SIZES, preset="wide2").states == 128


def test_explicit_options_win_over_the_preset():
    config = compressor_config("mambamia", **SIZES, preset="tiny", d_model=32, dropout=0)
    assert (config.d_model, config.num_layers, config.dropout) == (32, 2, 0.0)


@pytest.mark.parametrize("name", list_compressors())
def test_listed_options_build_what_they_describe(name):
    options = compressor_options(name, "tiny")
    assert compressor_config(name, **SIZES, preset="paper", **options) == compressor_config(
        name, **SIZES, preset="tiny"
    )


def test_mambamia_without_aggregation_is_bimamba():
    torch.manual_seed(0)
    ours = build_compressor("mambamia", **SIZES, preset="tiny", gpa=False)
    theirs = build_compressor("bimamba", **SIZES, preset="tiny")
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 100, 16)
    torch.testing.assert_close(ours(x, [4]), theirs(x, [4]), rtol=0, atol=0)


def test_lists_from_yaml_serve_as_pairs():
    assert build_compressor("avg_pool", d_vision=16, d_language=16, grid=[10, 10], kernel=[5, 2]).num_tokens(1) == 10


def test_a_ragged_edge_is_left_out_of_pooling():
    compressor = build_compressor("avg_pool", d_vision=4, d_language=4, grid=(5, 4), kernel=(2, 3))
    x = torch.randn(2, 20, 4)
    y = compressor.projector(x).view(2, 5, 4, 4)
    windows = [y[m, i : i + 2, 0:3].mean((0, 1)) for m in range(2) for i in (0, 2)]
    torch.testing.assert_close(compressor(x, [2])[0], torch.stack(windows))


def test_an_interval_that_does_not_divide_lists_those_that_do():
    with pytest.raises(ConfigError, match=r"of a frame \(1, 2, 4, 5, 10, 20, 25, 50, 100\), got 7$"):
        build_compressor("mambamia", **SIZES, query_interval=7)
