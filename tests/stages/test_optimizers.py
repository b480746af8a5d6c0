"""The learning rate's course, and what weight decay leaves alone."""

import math

import pytest
import torch
import transformers
from torch import nn

from tstar.compressors import build_compressor
from tstar.errors import ConfigError
from tstar.stages import OptimizerConfig
from tstar.stages.optimizers import build_optimizer, parameter_groups, warmup_cosine


@pytest.mark.parametrize(
    ("total", "fraction", "warmup"), [(100, 0.03, 3), (2181, 0.03, 66), (100, 0.07, 7), (10, 0.0, 0), (1, 0.5, 1)]
)
def test_the_rate_rises_linearly_then_falls_as_a_half_cosine(total, fraction, warmup):
    for step in range(total):
        if step < warmup:
            expected = (step + 1) / warmup
        else:
            expected = (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
        assert warmup_cosine(step, total, fraction) == pytest.approx(expected, abs=1e-12)
    assert warmup_cosine(total, total, fraction) == pytest.approx(0, abs=1e-12)
    assert warmup_cosine(total + 5, total, fraction) == pytest.approx(0, abs=1e-12)


def test_the_schedule_drives_every_group_at_its_own_peak():
    model = nn.ModuleDict({"compressor": nn.Linear(2, 2), "language": nn.Linear(2, 2)})
    config = OptimizerConfig(lr=1.0, compressor_lr=10.0, warmup_fraction=0.5)
    optimizer, schedule = build_optimizer(model, config, total_steps=4)
    seen = []
    for _ in range(4):
        seen.append({g["name"]: g["lr"] for g in optimizer.param_groups})
        optimizer.step()
        schedule.step()
    assert [s["language"] for s in seen] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    assert [s["compressor"] for s in seen] == pytest.approx([5.0, 10.0, 10.0, 5.0])


def groups_of(model, **settings):
    config = OptimizerConfig(weight_decay=0.1, **settings)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = parameter_groups(model, config)
    return {g["name"]: ({names[id(p)] for p in g["params"]}, g["weight_decay"]) for g in groups}


@pytest.mark.parametrize(
    ("name", "options"), [("mambamia", {}), ("mamba", {}), ("bimamba", {}), ("mambamia", {"input_norm": True})]
)
def test_only_matrices_of_a_compressor_decay(name, options):
    compressor = build_compressor(name, d_vision=8, d_language=12, grid=(2, 2), preset="tiny", **options)
    model = nn.ModuleDict({"compressor": compressor})
    groups = groups_of(model)
    spared, none = groups["compressor, no decay"]
    decayed, some = groups["compressor"]
    assert (none, some) == (0.0, 0.1)
    for parameter in spared | decayed:
        last = parameter.rsplit(".", 1)[-1]
        exempt = last in ("bias", "query", "A_log", "A_b_log", "D", "D_b", "dt_bias") or "norm" in parameter
        assert (parameter in spared) is exempt, parameter
    kinds = {p.rsplit(".", 1)[-1] for p in spared}
    assert {"A_log", "D", "query", "bias"} <= kinds
    assert any(p.endswith("dt_proj.bias") for p in spared)
    assert any("norm" in p for p in spared)


def test_the_state_matrix_of_a_published_mamba_does_not_decay(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "vocab_size": 20}
    transformers.MambaForCausalLM(transformers.MambaConfig(**sizes)).save_pretrained(tmp_path)
    model = nn.ModuleDict({"language": transformers.MambaForCausalLM.from_pretrained(tmp_path)})
    spared, _ = groups_of(model)["language, no decay"]
    assert {n.rsplit(".", 1)[-1] for n in spared} >= {"A_log", "D", "bias"}


def test_frozen_parameters_are_in_no_group():
    model = nn.ModuleDict({"compressor": nn.Linear(2, 2), "language": nn.Linear(2, 2)})
    model["language"].requires_grad_(False)
    groups = groups_of(model)
    assert {n for names, _ in groups.values() for n in names} == {"compressor.weight", "compressor.bias"}
    assert all(name.startswith("compressor") for name in groups)


def test_without_decay_it_is_plain_adam():
    def run(make):
        torch.manual_seed(0)
        model = nn.ModuleDict({"compressor": nn.Linear(3, 2)})
        optimizer = make(model)
        for _ in range(3):
            optimizer.zero_grad()
            model["compressor"](torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
        return model["compressor"].weight.detach()

    ours = run(lambda m: build_optimizer(m, OptimizerConfig(lr=0.1, warmup_fraction=0.0), 100)[0])
    torch.testing.assert_close(ours, run(lambda m: torch.optim.Adam(m.parameters(), lr=0.1)))


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.0},
        {"compressor_lr": -1.0},
        {"warmup_fraction": 1.0},
        {"betas": (0.9, 1.0)},
        {"eps": -1e-8},
        {"weight_decay": -0.1},
    ],
)
def test_settings_that_cannot_work_are_refused(settings, one_line):
    with pytest.raises(ConfigError) as caught:
        OptimizerConfig(**settings)
    one_line(caught.value, f"optimizer.{next(iter(settings))}")
