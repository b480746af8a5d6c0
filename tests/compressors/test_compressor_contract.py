"""What every compressor in the table must do, at the smallest scale, over short and long clips, images and text."""

import pytest
import torch

from tstar.compressors import build_compressor, compressor_options, list_compressors
from tstar.errors import ConfigError

GRID, D_VISION, D_LANGUAGE = (4, 6), 20, 28
LONG, SHORT, IMAGE, TEXT = 11, 3, 1, 0
BATCHES = {"short": [SHORT], "long": [LONG], "image": [IMAGE], "mixed": [SHORT, IMAGE, LONG, TEXT, IMAGE, SHORT]}


def batches(*quick):
    """Names of all batches; those that are not quick belong to the slow tests."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in BATCHES]


VARIANTS = {
    "mamba1": {"ssm": "mamba1"},
    "mamba2": {"ssm": "mamba2"},
    "per_frame": {"per_frame": True},
    "mamba2 per_frame": {"ssm": "mamba2", "per_frame": True},
}
"""Runs of those that have the options and another value of them."""
MEMBERS = [
    *list_compressors(),
    *(
        f"{name}, {variant}"
        for variant, options in VARIANTS.items()
        for name in list_compressors()
        if all(compressor_options(name, "tiny").get(option, value) != value for option, value in options.items())
    ),
]


SLOW = "mamba2 per_frame"
"""Of two options that the quick tests try one by one."""


@pytest.fixture(params=[pytest.param(m, marks=pytest.mark.slow) if m.endswith(SLOW) else m for m in MEMBERS])
def name(request):
    return request.param


def build(name, seed=0, **options):
    torch.manual_seed(seed)
    name, _, variant = name.partition(", ")
    sizes = {"d_vision": D_VISION, "d_language": D_LANGUAGE, "grid": GRID, "preset": "tiny"}
    return build_compressor(name, **(sizes | VARIANTS.get(variant, {}) | options)).eval()


def features(frame_counts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(frame_counts), GRID[0] * GRID[1], D_VISION, generator=generator)


@pytest.mark.parametrize("batch", batches("mixed"))
def test_token_counts_are_kept_and_values_are_finite(name, batch):
    compressor, frame_counts = build(name), BATCHES[batch]
    tokens = compressor(features(frame_counts), frame_counts)
    assert [clip.shape for clip in tokens] == [(compressor.num_tokens(m), D_LANGUAGE) for m in frame_counts]
    assert all(clip.isfinite().all() for clip in tokens)


@pytest.mark.parametrize("name", [name for name in list_compressors() if "query_interval" in compressor_options(name)])
@pytest.mark.parametrize("interval", [1, 3, 6, 24])
@pytest.mark.parametrize("options", [{}, {"per_frame": True}])
def test_token_counts_are_kept_at_any_query_interval(name, interval, options):
    compressor, frame_counts = build(name, query_interval=interval, **options), list(range(8))
    tokens = compressor(features(frame_counts), frame_counts)
    assert [len(clip) for clip in tokens] == [compressor.num_tokens(m) for m in frame_counts]
    assert compressor.num_tokens(1) == 24 // interval


@pytest.mark.parametrize("mode", [True, False])
def test_the_same_call_gives_the_same_bits(name, mode):
    compressor, frame_counts = build(name).train(mode), BATCHES["mixed"]
    results = []
    for _ in range(2):
        torch.manual_seed(3)  # dropout
        compressor.zero_grad()
        tokens = torch.cat(compressor(features(frame_counts), frame_counts))
        tokens.square().sum().backward()
        results.append([tokens, *(p.grad for p in compressor.parameters())])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


LOOKS_AHEAD = {"bi_gpt_neox", "bimamba", "bimba", "mambamia", "mambamia_taa", "resampler3d"}
"""Compressors whose first visual token depends on the last frames of a long clip, but for runs per frame; others see one group."""


@torch.no_grad()
def test_later_frames_are_seen_by_those_that_look_ahead_alone(name):
    compressor, x = build(name), features([LONG])
    changed = x.clone()
    changed[-2:] += 1.0
    (before,), (after,) = compressor(x, [LONG]), compressor(changed, [LONG])
    assert not torch.equal(before[-1], after[-1])
    name, _, variant = name.partition(", ")
    assert torch.equal(before[0], after[0]) is (name not in LOOKS_AHEAD or "per_frame" in variant)


@pytest.mark.parametrize("ssm", [None, "mamba1", "mamba2"])
@pytest.mark.parametrize("name", [name for name in list_compressors() if "per_frame" in compressor_options(name)])
def test_per_frame_equals_the_whole_clip_at_one_frame(name, ssm):
    if ssm and "ssm" not in compressor_options(name):
        return
    version = {"ssm": ssm} if ssm else {}
    whole, alone = build(name, per_frame=False, **version), build(name, per_frame=True, **version)
    alone.load_state_dict(whole.state_dict())
    torch.testing.assert_close(whole(features([1]), [1]), alone(features([1]), [1]), rtol=0, atol=0)


def test_a_reader_that_gives_other_frames_is_refused(name):
    compressor, x = build(name), features([LONG])
    with pytest.raises(
        ValueError, match=r"features must be \[frames, N, d_vision\] = \[11, 24, 20\], got \[10, 24, 20\]"
    ):
        compressor.compress(lambda first, last: x[: last - 1], LONG)
    with pytest.raises(ValueError, match=r"got \[11, 12, 20\]"):
        compressor.compress(lambda first, last: x[first:last, ::2], LONG)


WITHOUT_A_PAST = {("mambamia_taa", "image"): {"time_axis.mixer.A_log"}}
"""Parameters that one frame alone leaves still: nothing decays before the first step of a scan over frames."""


@pytest.mark.parametrize("batch", batches("mixed", "image"))
def test_a_gradient_reaches_every_parameter(name, batch):
    compressor, frame_counts = build(name).train(), BATCHES[batch]
    x = features(frame_counts).requires_grad_()
    sum(clip.square().sum() for clip in compressor(x, frame_counts)).backward()
    silent = [key for key, p in compressor.named_parameters() if p.grad is None or not p.grad.any()]
    assert set(silent) == WITHOUT_A_PAST.get((name.partition(",")[0], batch), set())
    assert x.grad.isfinite().all()


def test_no_clip_is_changed_by_its_neighbours(name):
    compressor, frame_counts = build(name), BATCHES["mixed"]
    x = features(frame_counts)
    together = compressor(x, frame_counts)
    for clip, m, tokens in zip(x.split(frame_counts), frame_counts, together, strict=True):
        (alone,) = compressor(clip, [m])
        torch.testing.assert_close(tokens, alone, rtol=1e-5, atol=1e-6)


def test_clips_come_back_in_their_order(name):
    compressor, frame_counts = build(name), BATCHES["mixed"]
    clips = features(frame_counts).split(frame_counts)
    backwards = compressor(torch.cat(clips[::-1]), frame_counts[::-1])
    for tokens, other in zip(compressor(torch.cat(clips), frame_counts), backwards[::-1], strict=True):
        torch.testing.assert_close(tokens, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frame_counts", [[], [TEXT], [TEXT, TEXT]])
def test_a_batch_of_text_alone_gives_empty_clips(name, frame_counts):
    tokens = build(name)(features(frame_counts), frame_counts)
    assert [clip.shape for clip in tokens] == [(0, D_LANGUAGE)] * len(frame_counts)


def test_weights_survive_a_round_trip(name):
    compressor, frame_counts = build(name), BATCHES["mixed"]
    other = build(name, seed=1)
    other.load_state_dict(compressor.state_dict())
    x = features(frame_counts)
    torch.testing.assert_close(other(x, frame_counts), compressor(x, frame_counts), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("segments", [1, 2, 5])
def test_segments_give_what_the_whole_clip_gives(name, segments):
    whole = build(name)
    if whole.config.needs_whole_clips is not None:
        with pytest.raises(ConfigError, match="segment_frames must be left out"):
            build(name, segment_frames=3)
        return
    size = segments * whole.config.segment_step
    split, frame_counts = build(name, segment_frames=size), BATCHES["mixed"]
    split.load_state_dict(whole.state_dict())
    x = features(frame_counts)
    for ours, expected in zip(split(x, frame_counts), whole(x, frame_counts), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    asked = []

    def read(first, last):
        asked.append(last - first)
        return x[:LONG][first:last]

    torch.testing.assert_close(split.compress(read, LONG), whole(x[:LONG], [LONG])[0], rtol=1e-4, atol=1e-5)
    assert max(asked) <= size
    assert sum(asked) in (LONG, 2 * LONG - min(LONG, size))  # once, or twice but for the first segment


def test_segments_are_for_inference(name):
    split = build(name, **({} if build(name).config.needs_whole_clips else {"segment_frames": 6})).train()
    x = features([LONG]).requires_grad_()
    split(x, [LONG])[0].square().sum().backward()
    assert x.grad.any()


def test_planning_on_the_meta_device_needs_no_memory(name):
    with torch.device("meta"):
        planned = build(name)
    built = build(name)
    assert {k: v.shape for k, v in planned.state_dict().items()} == {k: v.shape for k, v in built.state_dict().items()}
    assert [planned.num_tokens(m) for m in range(9)] == [built.num_tokens(m) for m in range(9)]


def test_features_that_do_not_fit_are_refused(name):
    compressor = build(name)
    with pytest.raises(ValueError, match=r"features must be \[frames, N, d_vision\] = \[4, 24, 20\]"):
        compressor(features([3]), [3, 1])
    with pytest.raises(ValueError, match=r"frame_counts must be 0 or more, got \[4, -1\]"):
        compressor(features([3]), [4, -1])


def test_vectors_have_no_weight_decay(name):
    for key, parameter in build(name).named_parameters():
        if parameter.dim() < 2 or key.endswith(("A_log", "A_b_log")):
            assert getattr(parameter, "_no_weight_decay", False), key


def test_bfloat16_autocast(name):
    compressor, frame_counts = build(name), BATCHES["mixed"]
    x = features(frame_counts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = torch.cat(compressor(x, frame_counts))
    exact = torch.cat(compressor(x, frame_counts))
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("width", [D_VISION, D_LANGUAGE])
def test_widths_that_agree_need_no_projection(name, width):
    compressor = build(name, d_vision=width, d_language=width)
    (tokens,) = compressor(torch.randn(2, 24, width), [2])
    assert tokens.shape == (compressor.num_tokens(2), width)
