"""What the sequence compressors add: two samplings, per-frame runs, aggregation, checkpointing."""

import pytest
import torch

from tstar.compressors import build_compressor, compressor_config, compressor_options, list_compressors
from tstar.errors import ConfigError, DataError
from tstar.nn.time_axis import frames_over_threshold

GRID, D_VISION, D_LANGUAGE = (4, 6), 20, 28
WITH_TIME_AXIS = ("mambamia_taa",)
"""These mix frames once more after the layers, and choose frames in ways of their own."""
SEQUENCE = [n for n in list_compressors() if "per_frame" in compressor_options(n) and n not in WITH_TIME_AXIS]
CAUSAL = [n for n in SEQUENCE if compressor_config(n, d_vision=D_VISION, d_language=D_LANGUAGE, grid=GRID).causal]


def build(name, **options):
    torch.manual_seed(0)
    return build_compressor(name, d_vision=D_VISION, d_language=D_LANGUAGE, grid=GRID, preset="tiny", **options).eval()


def clip(num_frames, seed=0):
    return torch.randn(num_frames, 24, D_VISION, generator=torch.Generator().manual_seed(seed))


def pair(name, first, second):
    """Two compressors of one name with the same weights and different options."""
    one, other = build(name, **first), build(name, **second)
    other.load_state_dict(one.state_dict())
    return one, other


def test_the_causal_ones_are_known():
    assert CAUSAL == ["gpt_neox", "mamba"]


@pytest.mark.parametrize("name", SEQUENCE)
def test_per_frame_sees_one_frame_and_the_whole_clip_sees_all(name):
    whole, alone = pair(name, {"temporal_stride": 1}, {"per_frame": True})
    x, changed = clip(5), clip(5)
    changed[2] += 1.0

    def moved(compressor):
        difference = compressor(x, [5])[0] - compressor(changed, [5])[0]
        return difference.abs().amax(-1).view(5, 4).amax(-1) > 0

    assert moved(alone).tolist() == [False, False, True, False, False]
    assert moved(whole).tolist() == [name not in CAUSAL, name not in CAUSAL, True, True, True]


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_first_frame_is_the_same_per_frame(name):
    whole, alone = pair(name, {"temporal_stride": 1}, {"per_frame": True})
    torch.testing.assert_close(whole(clip(3), [3])[0][:4], alone(clip(3), [3])[0][:4])


@pytest.mark.parametrize(("keep", "frames"), [("first", [0, 3, 6]), ("last", [2, 5, 7])])
def test_secondary_sampling_keeps_frames_after_they_have_been_mixed(keep, frames):
    every, some = pair("mambamia", {"temporal_stride": 1}, {"temporal_stride": 3, "keep": keep})
    all_tokens = every(clip(8), [8])[0].view(8, 4, D_LANGUAGE)
    torch.testing.assert_close(some(clip(8), [8])[0], all_tokens[frames].flatten(0, 1))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_query_sees_its_own_run_of_patches(name):
    compressor = build(name, query_interval=6)
    x, changed = clip(1), clip(1)
    changed[0, 11] += 1.0  # last patch of the second run
    moved = (compressor(x, [1])[0] - compressor(changed, [1])[0]).abs().amax(-1) > 0
    assert moved.tolist() == [False, True, True, True]


def test_mambamia_with_its_gate_shut_is_nearly_bimamba():
    mambamia, bimamba = build("mambamia"), build("bimamba")
    bimamba.load_state_dict(mambamia.state_dict(), strict=False)
    for layer in mambamia.layers:
        torch.nn.init.constant_(layer.gpa.gate_head.bias, -1e4)  # g = 0.01
    with_gate, without = mambamia(clip(4), [4])[0], bimamba(clip(4), [4])[0]
    assert 0 < (with_gate - without).abs().max() < 0.03 * without.abs().max()


def test_writing_aggregates_back_adds_the_query_step_to_the_residual():
    layer = build("mambamia", gpa_residual="write_back").layers[0]
    x = torch.randn(1, 14, 64)
    normed = layer.norm(x)
    aggregated = layer.gpa(normed)
    expected = x + layer.mixer(aggregated)
    expected[:, [6, 13]] += (aggregated - normed)[:, [6, 13]]
    torch.testing.assert_close(layer(x), expected)
    layer.write_back = False
    torch.testing.assert_close(layer(x), x + layer.mixer(aggregated))


@pytest.mark.parametrize("options", [{}, {"per_frame": True}, {"input_norm": True}])
def test_checkpointing_changes_no_gradient(options):
    plain, checkpointed = pair("mambamia", options, options | {"gradient_checkpointing": True})
    grads = []
    for compressor in (plain, checkpointed):
        torch.manual_seed(3)  # the aggregation's dropout
        compressor.train()(clip(4), [3, 1])
        torch.manual_seed(3)
        tokens = torch.cat(compressor(clip(4), [3, 1]))
        grads.append(torch.autograd.grad(tokens.square().sum(), list(compressor.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))  # dropout included


@pytest.mark.parametrize("name", SEQUENCE)
def test_checkpointing_keeps_the_inputs_of_layers_and_not_their_insides(name):
    held = []
    for compressor in pair(name, {"num_layers": 4}, {"num_layers": 4, "gradient_checkpointing": True}):
        kept = {}
        own = {p.untyped_storage().data_ptr() for p in compressor.parameters()}

        def keep(tensor, kept=kept, own=own):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            tokens = compressor.train()(clip(4), [4])  # alive, so that no address is used twice
        held.append(sum(kept.values()))
        assert tokens[0].requires_grad
    assert held[1] < 0.5 * held[0]


def test_the_query_starts_at_the_scale_of_its_norm():
    assert 0.5 / 8 < build("bimamba").query.std() < 2 / 8  # D^-1/2, D = 64
    assert 0.5 < build("bimamba", input_norm=True).query.std() < 2


@torch.no_grad()
@pytest.mark.parametrize("keep", ["first", "last"])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("options", [{}, {"ssm": "mamba2"}, {"per_frame": True}])
@pytest.mark.parametrize("name", SEQUENCE)
def test_frames_may_come_one_by_one_where_no_later_one_is_seen(name, options, stride, keep):
    if "ssm" in options and "neox" in name:
        return
    compressor = build(name, **options, temporal_stride=stride, keep=keep)
    x = clip(11)
    if name not in CAUSAL and "per_frame" not in options:
        with pytest.raises(ConfigError, match="it looks at later frames"):
            compressor.stream(x)
        return
    for sizes in ([1] * 11, [4, 0, 1, 6], [11]):
        parts, state = [], None
        for i, segment in enumerate(x.split(sizes)):
            tokens, state = compressor.stream(segment, state, end=i == len(sizes) - 1)
            parts.append(tokens)
        torch.testing.assert_close(torch.cat(parts), compressor(x, [11])[0], rtol=1e-4, atol=1e-5)
        assert state.frames == 11


def test_pooled_queries_look_ahead_and_cannot_be_streamed():
    with pytest.raises(ConfigError, match="queries must be learned, or temporal_stride 1"):
        build("mamba", queries="pooled").stream(clip(2))
    with pytest.raises(ConfigError, match="mambamia_taa cannot be streamed"):
        build("mambamia_taa", per_frame=True).stream(clip(2))


@torch.no_grad()
@pytest.mark.parametrize(
    "options", [{"per_frame": True}, {"queries": "pooled"}, {"keep": "last"}, {"gradient_checkpointing": True}]
)
@pytest.mark.parametrize("name", ["mambamia", "mamba"])
def test_segments_with_other_samplings(name, options):
    whole, split = pair(name, options, options | {"segment_frames": 3})
    torch.testing.assert_close(split(clip(11), [11])[0], whole(clip(11), [11])[0], rtol=1e-4, atol=1e-5)


def test_streamed_frames_must_fit():
    with pytest.raises(ValueError, match=r"got \[2, 12, 20\]"):
        build("mamba").stream(clip(2)[:, ::2])


@pytest.mark.parametrize("per_frame", [False, True])
def test_a_reader_that_stops_early_leaves_no_token_unset(per_frame):
    split = build("mambamia", segment_frames=3, per_frame=per_frame)
    with pytest.raises(ValueError, match=r"= \[2, 24, 20\], got \[1, 24, 20\]"):
        split.compress(lambda first, last: clip(10)[first:last], 11)


def test_a_full_disk_names_the_folder(monkeypatch):
    class Full:
        def seek(self, *_):
            return 0

        def write(self, _):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
    with pytest.raises(DataError, match=r"No space left on device.*TMPDIR"):
        build("mambamia", segment_frames=3).compress(lambda first, last: clip(11)[first:last], 11)


def test_two_passes_want_evaluation_mode():
    split = build("mambamia", segment_frames=3).train()
    with pytest.raises(ValueError, match=r"call eval\(\) first"), torch.no_grad():
        split.compress(lambda first, last: clip(11)[first:last], 11)
    with torch.no_grad():
        assert len(split(clip(11), [11])[0]) == split.num_tokens(11)


def test_pooled_queries_are_one_switch():
    learned, pooled = build("bimamba"), build("bimamba", queries="pooled")
    assert set(learned.state_dict()) - set(pooled.state_dict()) == {"query"}
    bimba = build("bimba")
    bimba.load_state_dict(pooled.state_dict())
    torch.testing.assert_close(bimba(clip(7), [7]), pooled(clip(7), [7]), rtol=0, atol=0)
    learned.load_state_dict(pooled.state_dict(), strict=False)
    assert not torch.allclose(learned(clip(7), [7])[0], pooled(clip(7), [7])[0])


def test_steps_choose_the_frames_of_long_clips_outside_training():
    threshold = build("mambamia_taa", select_above=5).calibrate(clip(9), [9], keep_rate=0.4)
    compressor = build("mambamia_taa", select_above=5, select_threshold=threshold)
    mixed, steps = compressor.time_axis(compressor.frame_queries(clip(9), [9])[0])
    kept = frames_over_threshold(steps, threshold)
    assert 1 < len(kept) < 9
    expected = compressor.out_proj(compressor.final_norm(mixed[kept].flatten(0, 1)))
    torch.testing.assert_close(compressor(clip(9), [9])[0], expected)
    assert len(compressor(clip(5), [5])[0]) == compressor.num_tokens(5) == 5 * 4
    assert len(compressor.train()(clip(9), [9])[0]) == compressor.num_tokens(9) == 9 * 4


@torch.no_grad()
@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("select", [{"select": "budget"}, {"select_above": 4, "select_threshold": 0.06}])
def test_steps_add_up_over_all_segments(per_frame, select):
    options = select | {"per_frame": per_frame}
    whole, split = pair("mambamia_taa", options, options | {"segment_frames": 3})
    torch.testing.assert_close(split(clip(11), [11])[0], whole(clip(11), [11])[0], rtol=1e-4, atol=1e-5)


def test_clips_that_keep_all_do_not_count_in_a_calibration():
    compressor = build("mambamia_taa", select_above=20)
    both, long = (compressor.calibrate(clip(sum(m)), m, keep_rate=0.5) for m in ([30, 20], [30]))
    assert both == pytest.approx(long)
    with pytest.raises(ValueError, match="got 0 frames"):
        compressor.calibrate(clip(20), [20], keep_rate=0.5)
    with pytest.raises(ValueError, match=r"call eval\(\) first"):
        compressor.train().calibrate(clip(30), [30], keep_rate=0.5)


def test_a_calibrated_threshold_keeps_about_the_wanted_share():
    compressor, x = build("mambamia_taa", select_above=0), clip(60)
    threshold = compressor.calibrate(x, [40, 20], keep_rate=0.5)
    calibrated = build("mambamia_taa", select_above=0, select_threshold=threshold)
    calibrated.load_state_dict(compressor.state_dict())
    kept = sum(len(tokens) // 4 for tokens in calibrated(x, [40, 20]))
    assert 30 <= kept <= 32


def test_a_budget_of_steps_and_a_stride_keep_as_many_frames():
    budget, stride = pair("mambamia_taa", {"select": "budget"}, {"select": "stride"})
    for frames in (1, 2, 3, 10):
        assert (
            len(budget(clip(frames), [frames])[0])
            == len(stride(clip(frames), [frames])[0])
            == budget.num_tokens(frames)
        )
    mixed, _ = stride.time_axis(stride.frame_queries(clip(10), [10])[0])
    expected = stride.out_proj(stride.final_norm(mixed[[0, 3, 6, 9]].flatten(0, 1)))
    torch.testing.assert_close(stride(clip(10), [10])[0], expected)


def test_depth_shrinks_the_output_projections():
    shallow, deep = build("bimamba", num_layers=1), build("bimamba", num_layers=4)
    largest = [compressor.layers[0].mixer.out_proj.weight.abs().max() for compressor in (shallow, deep)]
    torch.testing.assert_close(largest[0] / largest[1], torch.tensor(2.0), rtol=0.02, atol=0)


def test_the_residual_stream_stays_single_precision_under_autocast():
    compressor, seen = build("mambamia"), []
    for layer in compressor.layers:
        layer.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0].dtype, output.dtype]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compressor(clip(2), [2])
    assert set(seen) == {torch.float32}
