"""Bytes of the plan against tensors that are there, and against what the system says a process took."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tstar.compressors import build_compressor
from tstar.errors import ConfigError
from tstar.language import LanguageConfig
from tstar.language.splice import IGNORE, VISUAL
from tstar.reports.plan_flops import Meter
from tstar.reports.plan_memory import Precision, get_precision, get_strategy, held
from tstar.reports.plan_parts import fake, shapes_only
from tstar.stages import Align, OptimizerConfig, VideoSFT
from tstar.stages.optimizers import build_optimizer
from tstar.vision import VisionConfig


def real_stage(kind, config):
    arguments = config["model"]["init_args"]
    return kind(
        vision=VisionConfig(**arguments["vision"]),
        language=LanguageConfig(**arguments["language"]),
        compressor=arguments["compressor"],
        optimizer=OptimizerConfig(**arguments.get("optimizer", {})),
        max_length=arguments["max_length"],
    )


def a_batch(stage, batch, frames, text, answer):
    size = stage.lmm.encoder.image_size
    ids = torch.tensor([VISUAL, *[5] * (text + answer)])
    labels = torch.tensor([IGNORE] * (1 + text) + [5] * answer)
    pixels = torch.zeros(batch * frames, 3, size, size, dtype=torch.uint8)
    return pixels, [frames] * batch, [ids] * batch, [labels] * batch


def total(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("kind", [Align, VideoSFT])
@pytest.mark.parametrize("matrices", ["adam", "muon"])
@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-true", torch.bfloat16)])
def test_weights_gradients_and_optimizer_are_those_of_a_real_step(plans, kind, matrices, precision, dtype):
    config = plans.stage_config(kind.__name__, precision=precision, optimizer={"matrices": matrices, "lr": 1e-3})
    stage = real_stage(kind, config).to(dtype)
    optimizer, _ = build_optimizer(stage.lmm, stage.optimizer_config, 10)
    for parameter in stage.lmm.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    _, setup = plans.planned(kind, config)
    setup.parts.let_learn(kind.trains)
    pieces = held(setup.parts, "ddp", 1, setup.optimizer)
    for name, part in stage.lmm.named_children():
        trained = [p for p in part.parameters() if p.requires_grad]
        states = [
            value
            for p in trained
            for key, value in optimizer.state[p].items()
            if isinstance(value, torch.Tensor) and key != "step"  # one number, in the CPU's memory on GPUs too
        ]
        assert pieces[name].weights == total([*part.parameters(), *part.buffers()])
        assert pieces[name].gradients == total(trained)
        assert pieces[name].optimizer == total(states)


def test_strategies_share_out_what_they_say(plans):
    config = plans.stage_config(precision="bf16-mixed")
    numbers = {}
    for strategy in ("ddp", "fsdp", "zero2", "zero3"):
        _, setup = plans.planned(VideoSFT, config, strategy=strategy, devices=4)
        setup.parts.let_learn(setup.kind.trains)
        pieces = held(setup.parts, strategy, 4, setup.optimizer)["language"]
        numbers[strategy] = (pieces.weights, pieces.gradients, pieces.optimizer)
    count = sum(p.numel() for p in setup.parts.language.parameters())
    buffers = numbers["ddp"][0] - 4 * count
    assert numbers["ddp"] == (4 * count + buffers, 4 * count, 8 * count)
    assert numbers["fsdp"] == (-(-(4 * count + buffers) // 4), count, 2 * count)
    assert numbers["zero2"][1:] == numbers["zero3"][1:] == (-(-2 * count // 4), 3 * count)
    assert numbers["zero2"][0] == pytest.approx(2 * count, rel=0.001)
    assert numbers["zero3"][0] == pytest.approx(2 * count / 4, rel=0.001)


def test_buckets_that_view_gradients_are_no_copy_and_fsdp_gathers_units(plans):
    view = {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"gradient_as_bucket_view": True}}
    found = {}
    for name, strategy in (("copy", "ddp"), ("view", view), ("fsdp", {"class_path": "tstar.stages.FullySharded"})):
        planner, setup = plans.planned(VideoSFT, plans.stage_config(batch=1, trainer={"strategy": strategy}), devices=2)
        found[name], _, pieces = planner.training(setup, setup.parts, 1)
    assert found["copy"].communication == found["copy"].gradients
    assert found["view"].communication == 0
    assert pieces["encoder"].weights == total([*setup.parts.encoder.parameters(), *setup.parts.encoder.buffers()])
    language: dict[str, list] = {"layers": [], "rest": []}
    for name, parameter in setup.parts.language.named_parameters():
        language["layers" if ".layers." in name else "rest"].append(parameter)
    layer = total(language["layers"]) // 4  # all weights learn, so its gradients are as large
    assert found["fsdp"].communication == total(language["rest"]) + 3 * layer


def test_layers_that_are_not_let_go_are_all_there_at_once(plans):
    found = {}
    for reshard in (True, False):
        strategy = {"class_path": "tstar.stages.FullySharded", "init_args": {"reshard_after_forward": reshard}}
        config = plans.stage_config(batch=1, trainer={"strategy": strategy})
        planner, setup = plans.planned(VideoSFT, config, devices=2)
        found[reshard], _, _ = planner.training(setup, setup.parts, 1)
    language, compressor = setup.parts.language, total(setup.parts.compressor.parameters())
    layers = total(p for name, p in language.named_parameters() if ".layers." in name)
    rest = total(language.parameters()) - layers
    assert found[True].communication == rest + 3 * layers // 4  # two of four layers, and the gradients of one
    assert found[False].communication == rest + compressor + layers + layers // 4
    assert found[False].peak - found[True].peak == found[False].communication - found[True].communication


def saved_bytes(run, known):
    """Bytes of different storages that autograd keeps in ``run``, without those in ``known``; and what it returns."""
    skip = {t.untyped_storage().data_ptr() for t in known}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in skip:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    return sum(size for size, _ in found.values()), result


@pytest.mark.parametrize(
    ("kind", "frames", "precision", "checkpointing"),
    [
        (Align, 1, "32-true", False),
        (Align, 1, "bf16-mixed", True),
        (VideoSFT, 6, "bf16-mixed", False),
        pytest.param(Align, 1, "bf16-mixed", False, marks=pytest.mark.slow),
        pytest.param(VideoSFT, 6, "32-true", False, marks=pytest.mark.slow),
        pytest.param(VideoSFT, 6, "bf16-mixed", True, marks=pytest.mark.slow),
    ],
)
def test_activations_are_what_autograd_keeps(plans, kind, frames, precision, checkpointing):
    language = {"gradient_checkpointing": checkpointing}
    config = plans.stage_config(kind.__name__, batch=4, precision=precision, language=language)
    stage = real_stage(kind, config)
    batch = a_batch(stage, 4, frames, 60, 16)
    stage.lmm.encoder(batch[0][:1])  # kernels are compiled and caches filled
    known = [*stage.lmm.parameters(), *stage.lmm.buffers()]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed", cache_enabled=False):
        real, _ = saved_bytes(lambda: stage.lmm(*batch), known)
    planner, setup = plans.planned(kind, config, text_tokens=60, answer_tokens=16)
    dtype = planner.encode(setup, setup.parts, 4 * frames, True)[1]
    compress = planner.compress(setup, setup.parts, [frames] * 4, dtype, True)
    learn = planner.learn(setup, setup.parts, 4, setup.parts.compressor.num_tokens(frames))
    features = 4 * frames * 36 * 128 * dtype.itemsize
    planned = compress.forward.kept + learn.forward.kept + features
    print(f"{kind.__name__} {precision}: autograd keeps {real / 2**20:.2f} MiB, planned {planned / 2**20:.2f} MiB")
    assert planned == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize(
    ("label", "name", "options"),
    [
        ("MambaMia", "mambamia", {}),
        ("MambaMia, Mamba-2", "mambamia", {"ssm": "mamba2"}),
        ("GPT-NeoX", "gpt_neox", {}),
        ("C-Abstractor 30M, 10x1", "c_abstractor", {"preset": "paper_30m", "kernel": (10, 1)}),
    ],
)
def test_a_clip_at_the_published_size_takes_what_the_benchmark_measured(label, name, options):
    report = json.loads((Path(__file__).parents[2] / "reports" / "compressors.json").read_text())
    measured = report["sections"][f"clip: {label}: 128"]["peak_bytes"]
    sizes = {"d_vision": 1536, "d_language": report["settings"]["d_language"], "grid": (10, 10)}
    mode = FakeTensorMode()
    with torch.device("meta"):
        compressor = build_compressor(name, **{**sizes, "preset": "paper", **options}).eval()
    fake(compressor, mode)
    known = [*compressor.parameters(), *compressor.buffers()]
    with shapes_only(), mode, Meter(known) as meter:
        features = meter.adopt(torch.empty(128, 100, 1536))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            compressor(features, [128])
    print(f"{label}: measured {measured / 2**20:.0f} MiB, planned {meter.peak / 2**20:.0f} MiB")
    assert meter.peak == pytest.approx(measured, rel=0.15)


CHILD = """
import json, re, sys
import torch
sys.path[:0] = [{tests!r}]
from test_plan_memory import a_batch, real_stage
from tstar.stages import VideoSFT
from tstar.stages.optimizers import build_optimizer

def status(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])

torch.set_num_threads(1)
configs, shape = json.loads(sys.argv[1])
for config in configs:
    stage = real_stage(VideoSFT, config)
    optimizer, _ = build_optimizer(stage.lmm, stage.optimizer_config, 10)

    def step(batch):
        loss, *_ = stage.lmm(*batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step(a_batch(stage, 1, 1, 8, 4))  # the optimizer's states are there, and kernels compiled
    batch = a_batch(stage, *shape)
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    step(batch)
    print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system does not tell a peak apart")
def test_a_process_takes_what_the_plan_says(plans):
    batch, frames, text, answer = 8, 16, 400, 100
    configs = [
        plans.stage_config(batch=batch),
        plans.stage_config(batch=batch, language={"gradient_checkpointing": True}),
    ]
    code = CHILD.format(tests=os.path.dirname(__file__))
    # freed memory goes back at once, so that a peak is one of the step
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-c", code, json.dumps([configs, [batch, frames, text, answer]])]
    done = subprocess.run(call, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for config, line in zip(configs, done.stdout.split(), strict=True):
        planner, setup = plans.planned(VideoSFT, config, text_tokens=text, answer_tokens=answer)
        device, _, _ = planner.training(setup, setup.parts, frames)
        pixels = batch * frames * 3 * setup.parts.encoder.image_size**2  # there before the step begins
        expected = device.peak - device.weights - device.optimizer - pixels
        print(f"measured {int(line) / 2**20:.1f} MiB, planned {expected / 2**20:.1f} MiB")
        assert expected == pytest.approx(int(line), rel=0.1)


def test_precision_and_strategy_are_read_as_lightning_means_them():
    assert get_precision(None).name == "32-true"
    assert get_precision(16).name == "16-mixed"
    assert get_precision("bf16").autocast("ddp") is torch.bfloat16
    assert Precision("bf16-true").cast("ddp") is torch.bfloat16
    assert Precision("bf16-mixed").cast("zero2") is torch.bfloat16
    assert Precision("bf16-mixed").autocast("zero2") is None
    for given, strategy in (
        ("auto", "ddp"),
        ("ddp_find_unused_parameters_true", "ddp"),
        ("deepspeed", "zero2"),
        ("deepspeed_stage_3", "zero3"),
        ({"class_path": "lightning.pytorch.strategies.DeepSpeedStrategy", "init_args": {"stage": 3}}, "zero3"),
        ({"class_path": "tstar.stages.FullySharded"}, "fsdp"),
        (
            {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"gradient_as_bucket_view": True}},
            "ddp",
        ),
    ):
        assert get_strategy(None, {"strategy": given}) == strategy
    assert get_strategy("zero2", {"strategy": "ddp"}) == "zero2"
    for refused in ("fsdp_cpu_offload", {"class_path": "lightning.pytorch.strategies.ModelParallelStrategy"}):
        with pytest.raises(ConfigError, match=r"cannot keep tstar's checkpoints; tstar\.stages\.FullySharded does"):
            get_strategy(None, {"strategy": refused})
    for wrong in ("64-true", "int8"):
        with pytest.raises(ConfigError, match=r"trainer\.precision"):
            get_precision(wrong)
    with pytest.raises(ConfigError, match=r"trainer\.strategy 'xla'"):
        get_strategy(None, {"strategy": "xla"})
