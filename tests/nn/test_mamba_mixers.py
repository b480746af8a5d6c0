"""Mamba mixers: against Hugging Face's, and the symmetries and invariances that bidirectional scans must have."""

import math

import pytest
import torch
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer as HuggingFaceMixer

from tstar.nn import BidirectionalMambaMixer, MambaMixer
from tstar.nn.mamba import DT_MAX, DT_MIN

DIRECTIONS = [
    ("conv1d", "conv1d_b"),
    ("x_proj", "x_proj_b"),
    ("dt_proj", "dt_proj_b"),
    ("A_log", "A_b_log"),
    ("D", "D_b"),
]


def randomised(module, seed=0):
    """The module with every parameter random, none left at an initial value that hides it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def sequence(batch=2, length=33, width=24, seed=1):
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [1, 5, 70])
def test_causal_mixer_matches_hugging_face(length):
    config = MambaConfig(hidden_size=24, state_size=6, conv_kernel=4, expand=2, num_hidden_layers=1)
    theirs = randomised(HuggingFaceMixer(config, layer_idx=0).eval())
    ours = MambaMixer(24, d_state=6)
    ours.load_state_dict(theirs.state_dict())  # published names: nothing is renamed
    x = sequence(length=length).requires_grad_()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    grads = [torch.autograd.grad(mixer(x).square().sum(), [x, *mixer.parameters()]) for mixer in (ours, theirs)]
    by_name = [
        dict(zip(["x", *(name for name, _ in mixer.named_parameters())], grad, strict=True))
        for mixer, grad in zip((ours, theirs), grads, strict=True)
    ]
    torch.testing.assert_close(*by_name, rtol=1e-3, atol=1e-4)


def test_swapped_directions_flip_the_output():
    mixer, swapped = randomised(BidirectionalMambaMixer(24, d_state=6)), BidirectionalMambaMixer(24, d_state=6)
    weights = mixer.state_dict()
    exchange = {name: other for pair in DIRECTIONS for name, other in (pair, pair[::-1])}

    def other_direction(name):
        head, dot, tail = name.partition(".")
        return exchange.get(head, head) + dot + tail

    swapped.load_state_dict({other_direction(name): tensor for name, tensor in weights.items()})
    x = sequence()
    torch.testing.assert_close(swapped(x.flip(1)), mixer(x).flip(1))


def test_each_direction_is_a_causal_mixer():
    both = randomised(BidirectionalMambaMixer(24, d_state=6))
    weights = both.state_dict()
    ahead, back = MambaMixer(24, d_state=6), MambaMixer(24, d_state=6)
    ahead.load_state_dict({name: weights[name] for name in ahead.state_dict()})
    renamed = dict(DIRECTIONS)
    back.load_state_dict(
        {name: weights[renamed.get(head, head) + dot + tail] for name in weights if name in back.state_dict()
         for head, dot, tail in [name.partition(".")]}
    )  # fmt: skip
    x = sequence()
    torch.testing.assert_close(both(x), ahead(x) + back(x.flip(1)).flip(1))


def test_merge_mean_is_half_the_sum():
    added, averaged = BidirectionalMambaMixer(24, merge="sum"), BidirectionalMambaMixer(24, merge="mean")
    averaged.load_state_dict(randomised(added).state_dict())
    torch.testing.assert_close(averaged(sequence()), added(sequence()) / 2)


@pytest.mark.parametrize("mixer_class", [MambaMixer, BidirectionalMambaMixer])
def test_right_padding_changes_nothing(mixer_class):
    mixer, x = randomised(mixer_class(24, d_state=6)), sequence(batch=3, length=40)
    lengths = [40, 17, 1]
    mask = torch.arange(40) < torch.tensor(lengths)[:, None]
    x = torch.where(mask[..., None], x, torch.nan)  # whatever stands there
    together = mixer(x, mask)
    for i, length in enumerate(lengths):
        torch.testing.assert_close(together[i, :length], mixer(x[i : i + 1, :length])[0], rtol=1e-5, atol=1e-6)
        assert not together[i, length:].any()


@pytest.mark.parametrize(("mixer_class", "sees_later"), [(MambaMixer, False), (BidirectionalMambaMixer, True)])
def test_who_sees_later_positions(mixer_class, sees_later):
    mixer, x = randomised(mixer_class(24, d_state=6)), sequence(batch=1)
    changed = x.clone()
    changed[:, 20] += 1.0
    moved = (mixer(x) - mixer(changed)).abs().amax(-1)[0]
    assert bool((moved[:20] > 0).any()) == sees_later
    assert (moved[20:23] > 0).all()


def test_initial_values():
    torch.manual_seed(0)
    mixer = BidirectionalMambaMixer(64, d_state=8, n_layers=4)
    assert mixer.dt_rank == 4
    ahead, back = (mixer.A_log, mixer.D, mixer.dt_proj), (mixer.A_b_log, mixer.D_b, mixer.dt_proj_b)
    for A_log, D, dt_proj in (ahead, back):
        torch.testing.assert_close(A_log[3].exp(), torch.arange(1.0, 9.0))
        assert (D == 1).all()
        step = torch.nn.functional.softplus(dt_proj.bias)
        assert DT_MIN * 0.99 < step.min() < 3e-3 < 3e-2 < step.max() < DT_MAX * 1.01
        assert dt_proj.weight.abs().max() <= mixer.dt_rank**-0.5
    bound = 1 / math.sqrt(mixer.d_inner) / math.sqrt(4)  # a Linear's usual bound, over the root of the depth
    assert 0.9 * bound < mixer.out_proj.weight.abs().max() <= bound
    assert not BidirectionalMambaMixer(64, backward_dt_init="reference").dt_proj_b.bias.any()
    with pytest.raises(ValueError, match="merge must be"):
        BidirectionalMambaMixer(64, merge="concat")


def test_parameters_without_weight_decay():
    mixer = BidirectionalMambaMixer(24)
    exempt = {name for name, p in mixer.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert exempt == {
        *("conv1d.bias", "dt_proj.bias", "A_log", "D"),
        *("conv1d_b.bias", "dt_proj_b.bias", "A_b_log", "D_b"),
    }


def test_half_precision_mixer_stays_close():
    mixer, x = randomised(BidirectionalMambaMixer(24, d_state=6)), sequence()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = mixer(x)
    assert half.dtype == torch.bfloat16
    error = (half - mixer(x)).abs().max() / mixer(x).abs().max()
    assert error < 0.03  # measured 0.008
