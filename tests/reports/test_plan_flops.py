"""FLOPs of the plan against torch's counter on models that really run."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from tstar.compressors import build_compressor
from tstar.compressors.token_clustering import TokenClusteringConfig
from tstar.language.splice import IGNORE, VISUAL
from tstar.ops import selective_scan, ssd_scan
from tstar.reports import plan_phases
from tstar.reports.plan_flops import FORMULAS, Meter, clustering_flops
from tstar.reports.plan_parts import fused_mamba, fused_mamba2
from tstar.stages import Align, ImageSFT, OptimizerConfig, VideoSFT
from tstar.vision import OpenClipTower, VisionConfig

WITHIN = 0.02


class Arithmetic(TorchDispatchMode):
    """Counts products and sums over tensors of one shape."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.count = list(shape), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        tensor = out if name in ("mul", "add", "add_") else args[0] if name == "sum" else None
        if tensor is not None and list(tensor.shape) == self.shape:
            self.count += tensor.numel()
        return out


def test_a_scan_takes_what_its_reference_multiplies_and_adds():
    B, L, I, S = 2, 96, 6, 16  # noqa: E741
    inputs = [
        torch.randn(*shape) for shape in ((B, L, I), (B, L, I), (I, S), (B, L, S), (B, L, S), (I,), (B, L, I), (I,))
    ]
    inputs[2] = -inputs[2].exp()
    inputs = [x.requires_grad_() for x in inputs]
    with Arithmetic((B, I, S)) as forward:
        y = selective_scan(*inputs, backend="reference")
    with Arithmetic((B, I, S)) as backward:
        y.sum().backward()
    u, dt, A, *_, z, _bias = inputs
    rates = A.mT
    per_channel = 4 * u.numel()  # delta u, D u and its sum, the gate
    assert FORMULAS[torch.ops.tstar.scan_tiles](u, dt, z, rates) - per_channel == forward.count
    again = 4 * u.numel() * S  # the fused kernels compute states again in backward
    ours = FORMULAS[torch.ops.tstar.scan_tiles_backward](y, None, u, dt, z, rates) - 7 * u.numel() - again
    assert abs(ours / backward.count - 1) < WITHIN


def test_a_dual_scan_takes_what_its_reference_multiplies_and_adds():
    B, L, H, P, S = 2, 96, 3, 5, 8
    inputs = [torch.randn(*shape) for shape in ((B, L, H, P), (B, L, H), (H,), (B, L, H, S), (B, L, H, S), (H,))]
    inputs[2] = -inputs[2].exp()
    inputs = [x.requires_grad_() for x in inputs]
    with Arithmetic((B, H, P, S)) as forward:
        y = ssd_scan(*inputs, backend="reference")
    with Arithmetic((B, H, P, S)) as backward:
        y.sum().backward()
    x, B_ = inputs[0], inputs[3]
    assert FORMULAS[torch.ops.tstar.ssd_heads](x, None, None, B_) - 3 * x.numel() == forward.count
    ours = FORMULAS[torch.ops.tstar.ssd_heads_backward](y, None, x, None, None, B_) - 5 * x.numel() - 3 * x.numel() * S
    assert abs(ours / backward.count - 1) < WITHIN


def test_gradients_of_a_depthwise_convolution_are_two_convolutions():
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    with Meter() as meter:
        y = conv(x)
        forward = meter.flops
        y.sum().backward()
    assert forward == 2 * y.numel() * 9
    assert meter.flops == 3 * forward


def test_an_encoder_takes_what_torch_counts(plans, small_convnext):
    for model in (small_convnext, plans.miniature / "vision"):
        vision = {"model": str(model), "pretrained": "random", "slice_size": 2}
        planner, setup = plans.planned(VideoSFT, plans.stage_config(vision=vision, compressor={"name": "none"}))
        real = OpenClipTower(VisionConfig(**vision))
        assert sum(p.numel() for p in real.parameters()) == sum(p.numel() for p in setup.parts.encoder.parameters())
        assert (real.grid, real.d_vision) == (setup.parts.encoder.grid, setup.parts.encoder.d_vision)
        with plans.counted() as counter:
            real(torch.zeros(5, 3, real.image_size, real.image_size, dtype=torch.uint8))
        cost, _ = planner.encode(setup, setup.parts, 5, False)
        assert cost.flops == counter.get_total_flops() > 0


COMPRESSORS = sorted((Path(__file__).parents[2] / "configs" / "compressors").glob("*.yaml"))


@pytest.mark.parametrize("path", COMPRESSORS, ids=lambda path: path.stem)
def test_a_compressor_takes_what_torch_counts_and_its_recurrences(plans, path):
    spec = yaml.safe_load(path.read_text())["model"]["init_args"]["compressor"]
    planner, setup = plans.planned(VideoSFT, plans.stage_config(compressor=spec))
    real = build_compressor(d_vision=128, d_language=160, grid=(6, 6), **spec)
    counts = [5, 2]
    features = torch.randn(sum(counts), 36, 128)
    with plans.counted() as counter:
        tokens = real(features, counts)
        forward = counter.get_total_flops()
        torch.cat(tokens).sum().backward()
    backward = counter.get_total_flops() - forward
    with sdpa_kernel(SDPBackend.MATH):
        cost = planner.compress(setup, setup.parts, counts, torch.float32, True)
    positions = sum(counts) * (36 + 36 // 6)
    scans = plans.recurrences(real.layers, positions, False) if hasattr(real, "layers") else 0
    gradients = plans.recurrences(real.layers, positions, True) - scans if scans else 0
    if hasattr(real, "time_axis"):  # over the frames of each clip
        scans += plans.recurrences(real.time_axis, sum(counts), False)
        gradients += plans.recurrences(real.time_axis, sum(counts), True) - plans.recurrences(
            real.time_axis, sum(counts), False
        )
    if isinstance(real.config, TokenClusteringConfig):  # finding clusters depends on values: a formula
        found = clustering_flops(real.config, counts)
        inside = forward - (cost.forward.flops - found)  # what torch saw of it
        print(f"{path.stem}: torch sees {inside / found:.3f} of what finding clusters takes")
        assert 0 <= inside <= 1.02 * found
        return
    torch_sees = backward
    if path.stem == "c_abstractor":  # torch takes a grouped convolution's gradient for that of a dense one
        depthwise = [m for m in real.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
        sizes = [(36, depthwise[0]), (6, depthwise[1])]
        torch_sees -= sum(2 * sum(counts) * n * m.weight.numel() * (m.groups - 1) for n, m in sizes)
    off = (cost.forward.flops / (forward + scans) - 1, cost.backward.flops / (torch_sees + gradients) - 1)
    print(f"{path.stem}: forward {off[0]:+.3%}, backward {off[1]:+.3%}")
    assert cost.forward.flops == pytest.approx(forward + scans, rel=WITHIN)
    assert cost.backward.flops == pytest.approx(torch_sees + gradients, rel=WITHIN)


def train_really(plans, kind, config, frames, text, answer):
    """FLOPs of a real step of a stage by torch's counter, forward and backward, and the stage."""
    arguments = config["model"]["init_args"]
    from tstar.language import LanguageConfig

    stage = kind(
        vision=VisionConfig(**arguments["vision"]),
        language=LanguageConfig(**arguments["language"]),
        compressor=arguments["compressor"],
        optimizer=OptimizerConfig(),
        max_length=arguments["max_length"],
    )
    batch, size = config["data"]["batch_size"], stage.lmm.encoder.image_size
    pixels = torch.zeros(batch * frames, 3, size, size, dtype=torch.uint8)
    ids = torch.tensor([VISUAL, *[5] * (text + answer)])
    labels = torch.tensor([IGNORE] * (1 + text) + [5] * answer)
    with plans.counted() as counter:
        loss, *_, count = stage.lmm(pixels, [frames] * batch, [ids] * batch, [labels] * batch)
        loss.backward()
    assert count == batch * answer
    return counter.get_total_flops(), stage


@pytest.mark.parametrize(
    ("kind", "frames", "checkpointing"),
    [
        (Align, 1, False),
        (ImageSFT, 1, False),
        (VideoSFT, 6, False),
        (VideoSFT, 6, True),
        (Align, 1, True),
        pytest.param(ImageSFT, 1, True, marks=pytest.mark.slow),
    ],
)
def test_a_training_step_takes_what_torch_counts_through_autograd(plans, kind, frames, checkpointing):
    compressor = {"name": "mambamia", "preset": "miniature", "query_interval": 6}
    language = {"gradient_checkpointing": checkpointing}
    if checkpointing:
        compressor["gradient_checkpointing"] = True
    config = plans.stage_config(kind.__name__, compressor=compressor, language=language)
    flops, stage = train_really(plans, kind, config, frames, 50, 12)
    planner, setup = plans.planned(kind, config, text_tokens=50, answer_tokens=12)
    with sdpa_kernel(SDPBackend.MATH):
        _, found, _ = planner.training(setup, setup.parts, frames)
    layers = getattr(stage.lmm.compressor, "layers", nn.ModuleList())
    positions = 2 * frames * 42
    again = plans.recurrences(layers, positions, False) if checkpointing else 0
    expected = flops + plans.recurrences(layers, positions, True) + again
    print(f"{kind.__name__}{' with checkpointing' * checkpointing}: {found['total'] / expected - 1:+.3%}")
    assert found["total"] == pytest.approx(expected, rel=WITHIN)


def test_fused_attention_adds_its_scores_again_and_nothing_else(plans):
    planner, setup = plans.planned(VideoSFT, plans.stage_config(), text_tokens=50, answer_tokens=12)
    other, again = plans.planned(VideoSFT, plans.stage_config(), text_tokens=50, answer_tokens=12)
    with sdpa_kernel(SDPBackend.MATH):
        plain = planner.learn(setup, setup.parts, 2, 24)
    fused = other.learn(again, again.parts, 2, 24)
    assert fused.forward.flops == plain.forward.flops
    layers, heads, width, P = 4, 4, 40, 24 + 62
    assert fused.backward.flops - plain.backward.flops == layers * 2 * 2 * heads * P * P * width


def language_folder(tmp_path, settings):
    folder = tmp_path / settings["model_type"]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    return str(folder)


LLAMA = {
    "model_type": "llama",
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
NEOX = {
    "model_type": "gpt_neox",
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
MAMBA = {"model_type": "mamba", "vocab_size": 500, "hidden_size": 32, "num_hidden_layers": 5, "state_size": 8}
MAMBA2 = {
    "model_type": "mamba2",
    "vocab_size": 500,
    "hidden_size": 32,
    "num_hidden_layers": 5,
    "state_size": 16,
    "num_heads": 4,
    "head_dim": 16,
    "n_groups": 1,
    "expand": 2,
}


@pytest.mark.parametrize("settings", [LLAMA, NEOX], ids=lambda s: s["model_type"])
def test_a_language_model_takes_what_torch_counts(plans, tmp_path, settings):
    from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

    planner, setup = plans.planned(
        VideoSFT,
        plans.stage_config(language={"path": language_folder(tmp_path, settings)}),
        text_tokens=20,
        answer_tokens=6,
    )
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / settings["model_type"]))
    embeds = torch.randn(2, 36, 64, requires_grad=True)
    with plans.counted() as counter:
        hidden = model.base_model(inputs_embeds=embeds, use_cache=False)[0]
        model.get_output_embeddings()(hidden[:, -7:-1]).sum().backward()
    with sdpa_kernel(SDPBackend.MATH):
        cost = planner.learn(setup, setup.parts, 2, 10)
        answer = planner.answer(setup, setup.parts, 10)
    both = cost.forward.flops + cost.backward.flops
    print(f"{settings['model_type']}: {both / counter.get_total_flops() - 1:+.3%}")
    assert both == pytest.approx(counter.get_total_flops(), rel=WITHIN)
    cache, flops = DynamicCache(config=model.config), []
    name = next(iter(plan_phases._empty_cache(model)))
    for length in (30, 1, 1, 1, 1, 1):  # the prompt gives the first of six tokens
        with plans.counted() as counter, torch.no_grad():
            step = model.base_model(inputs_embeds=torch.randn(1, length, 64), use_cache=True, **{name: cache})[0]
            model.get_output_embeddings()(step[:, -1:])
        flops.append(counter.get_total_flops())
    assert answer.prefill.flops == pytest.approx(flops[0], rel=WITHIN)
    assert answer.decode == pytest.approx(sum(flops[1:]), rel=WITHIN)
    assert answer.token == pytest.approx(flops[1], rel=WITHIN)
    assert answer.cache == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


@pytest.mark.parametrize("settings", [MAMBA, MAMBA2], ids=lambda s: s["model_type"])
def test_a_mamba_language_model_is_counted_by_a_block_that_computes_the_same(plans, tmp_path, settings):
    from transformers import AutoConfig, AutoModelForCausalLM

    planner, setup = plans.planned(
        VideoSFT,
        plans.stage_config(language={"path": language_folder(tmp_path, settings)}),
        text_tokens=20,
        answer_tokens=6,
    )
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / settings["model_type"])).eval()
    block = fused_mamba if settings["model_type"] == "mamba" else fused_mamba2
    mixer = model.base_model.layers[0].mixer
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        x = torch.randn(2, 11, 32)
        torch.testing.assert_close(block(mixer, x), mixer(x), atol=1e-5, rtol=1e-4)
    answer = planner.answer(setup, setup.parts, 10)
    per_token = answer.prefill.flops - answer.token * 30  # the head is needed once in a prompt, for every token later
    assert per_token == -29 * 2 * 500 * 32
    linear = sum(m.weight.numel() for m in model.base_model.modules() if isinstance(m, nn.Linear))
    inner, states, taps = mixer.intermediate_size, mixer.ssm_state_size, mixer.conv1d.weight.numel()
    scan = inner * (6 * states + 4) if block is fused_mamba else inner * (5 * states + 3)
    assert answer.token == 2 * (linear + 500 * 32) + 5 * (scan + 2 * taps)
    cached = inner * states * 4 + taps * 4
    assert answer.cache == 5 * cached


@pytest.mark.parametrize(
    "settings",
    [LLAMA, pytest.param(NEOX, marks=pytest.mark.slow), pytest.param(MAMBA, marks=pytest.mark.slow)],
    ids=lambda s: s["model_type"],
)
def test_one_and_two_layers_tell_what_all_take(plans, tmp_path, settings, monkeypatch):
    path = {"path": language_folder(tmp_path, settings)}
    for checkpointing in (False, True):
        config = plans.stage_config(language={**path, "gradient_checkpointing": checkpointing})
        planner, setup = plans.planned(VideoSFT, config, text_tokens=20, answer_tokens=6)
        short = [planner.learn(setup, setup.parts, 2, 10), planner.answer(setup, setup.parts, 10)]
        other, whole = plans.planned(VideoSFT, config, text_tokens=20, answer_tokens=6)
        with monkeypatch.context() as patched:
            patched.setattr(plan_phases, "alike_layers", lambda part: None)
            full = [other.learn(whole, whole.parts, 2, 10), other.answer(whole, whole.parts, 10)]
        for few, all_ in zip(short, full, strict=True):
            for name, value in dataclasses.asdict(few).items():
                assert flat(value) == pytest.approx(flat(dataclasses.asdict(all_)[name]), rel=0.01), name


def flat(value):
    return list(value.values()) if isinstance(value, dict) else value
