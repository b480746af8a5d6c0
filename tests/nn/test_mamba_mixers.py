"""Mamba mixers of both versions: against Hugging Face's, and what causal and bidirectional mixers must have."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Mamba2Config, MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer as HuggingFaceMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer as HuggingFaceMixer2

from tstar.nn import BidirectionalMamba2Mixer, BidirectionalMambaMixer, Mamba2Mixer, MambaMixer
from tstar.nn.mamba_parts import DT_MAX, DT_MIN

DIRECTIONS = {
    "conv1d": "conv1d_b",
    "x_proj": "x_proj_b",
    "dt_proj": "dt_proj_b",
    "dt_bias": "dt_bias_b",
    "A_log": "A_b_log",
    "D": "D_b",
    "norm": "norm_b",
}


def mamba1(**options):
    return MambaMixer(24, d_state=6, **options)


def both_ways1(**options):
    return BidirectionalMambaMixer(24, d_state=6, **options)


def mamba2(**options):
    return Mamba2Mixer(24, d_state=6, head_dim=8, n_groups=2, **options)


def both_ways2(**options):
    return BidirectionalMamba2Mixer(24, d_state=6, head_dim=8, n_groups=2, **options)


CAUSAL = pytest.mark.parametrize("build", [mamba1, mamba2])
BOTH_WAYS = pytest.mark.parametrize("build", [both_ways1, both_ways2])
EVERY = pytest.mark.parametrize("build", [mamba1, mamba2, both_ways1, both_ways2])


def randomised(module, seed=0):
    """The module with every parameter random, none left at an initial value that hides it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def sequence(batch=2, length=33, width=24, seed=1):
    return torch.randn(batch, length, width, generator=torch.Generator().manual_seed(seed))


def rename(names, weights):
    """``weights`` under other names, given by the part before the first dot."""
    split = {name: name.partition(".") for name in weights}
    return {names.get(head, head) + dot + tail: weights[name] for name, (head, dot, tail) in split.items()}


def assert_same_function(ours, theirs, x):
    x = x.requires_grad_()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    grads = []
    for mixer in (ours, theirs):
        named = {"x": x, **dict(mixer.named_parameters())}
        grads.append(dict(zip(named, torch.autograd.grad(mixer(x).square().sum(), list(named.values())), strict=True)))
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():  # relative to the largest of a tensor: sums over L of either sign
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-3, atol=1e-5 * float(grad.abs().max()) + 1e-4)


@pytest.mark.parametrize("length", [1, 5, 70])
def test_causal_mixer_matches_hugging_face(length):
    config = MambaConfig(hidden_size=24, state_size=6, conv_kernel=4, expand=2, num_hidden_layers=1)
    theirs = randomised(HuggingFaceMixer(config, layer_idx=0).eval())
    ours = mamba1()
    ours.load_state_dict(theirs.state_dict())  # published names: nothing is renamed
    assert_same_function(ours, theirs, sequence(length=length))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("length", [1, 13, 64, 149])  # shortest, prime, one chunk, several
def test_causal_mamba2_matches_hugging_face(length, groups):
    config = Mamba2Config(hidden_size=24, state_size=16, conv_kernel=4, expand=2, head_dim=8, num_heads=6,
                          n_groups=groups, chunk_size=32, num_hidden_layers=1, layer_norm_epsilon=1e-5)  # fmt: skip
    theirs = randomised(HuggingFaceMixer2(config, layer_idx=0).eval())
    ours = Mamba2Mixer(24, d_state=16, head_dim=8, n_groups=groups, norm_before_gate=False)
    ours.load_state_dict(theirs.state_dict())
    assert_same_function(ours, theirs, sequence(length=length))


def test_where_mamba2_puts_its_gate_matters():
    before, after = randomised(mamba2()), mamba2(norm_before_gate=False)
    after.load_state_dict(before.state_dict())
    assert (before(sequence()) - after(sequence())).abs().max() > 0.1


@pytest.mark.parametrize("merge", ["sum", "mean", "concat"])
@BOTH_WAYS
def test_swapped_directions_flip_the_output(build, merge):
    mixer, swapped = randomised(build(merge=merge)), build(merge=merge)
    weights = rename(DIRECTIONS | {other: name for name, other in DIRECTIONS.items()}, mixer.state_dict())
    if merge == "concat":
        weights["out_proj.weight"] = weights["out_proj.weight"].roll(mixer.d_inner, dims=1)
    swapped.load_state_dict(weights)
    torch.testing.assert_close(swapped(sequence().flip(1)), mixer(sequence()).flip(1))


@pytest.mark.parametrize(("build", "build_one"), [(both_ways1, mamba1), (both_ways2, mamba2)])
def test_each_direction_is_a_causal_mixer(build, build_one):
    both = randomised(build())
    weights = both.state_dict()
    ahead, back = build_one(), build_one()
    ahead.load_state_dict({name: weights[name] for name in ahead.state_dict()})
    back.load_state_dict(
        {name: weights[other] for other, name in rename(DIRECTIONS, {n: n for n in ahead.state_dict()}).items()}
    )
    x = sequence()
    torch.testing.assert_close(both(x), ahead(x) + back(x.flip(1)).flip(1))


@BOTH_WAYS
def test_forms_of_merging(build):
    added, averaged, joined = (build(merge=merge) for merge in ("sum", "mean", "concat"))
    averaged.load_state_dict(randomised(added).state_dict())
    torch.testing.assert_close(averaged(sequence()), added(sequence()) / 2)
    weights = added.state_dict()
    joined.load_state_dict(weights | {"out_proj.weight": weights["out_proj.weight"].repeat(1, 2)})
    torch.testing.assert_close(joined(sequence()), added(sequence()))
    extra = sum(p.numel() for p in joined.parameters()) - sum(p.numel() for p in added.parameters())
    assert extra == 48 * 24  # d_inner * d_model


@pytest.mark.parametrize("side", ["right", "left"])
@EVERY
def test_padding_changes_nothing(build, side):
    mixer, x = randomised(build()), sequence(batch=3, length=40)
    lengths = [40, 17, 1]
    mask = torch.arange(40) < torch.tensor(lengths)[:, None]
    mask = mask if side == "right" else mask.flip(1)
    x = torch.where(mask[..., None], x, torch.nan)  # whatever stands there
    together = mixer(x, mask)
    for i in range(3):
        alone = mixer(x[i : i + 1, mask[i]])[0]
        torch.testing.assert_close(together[i, mask[i]], alone, rtol=1e-5, atol=1e-6)
    assert not together[~mask].any()


@EVERY
def test_no_sequence_is_changed_by_its_neighbours(build):
    mixer, x = randomised(build()), sequence(batch=4, length=70)
    torch.testing.assert_close(mixer(x)[2:3], mixer(x[2:3]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("build", "sees_later"), [
    (mamba1, False), (mamba2, False), (both_ways1, True), (both_ways2, True)
])  # fmt: skip
def test_who_sees_later_positions(build, sees_later):
    mixer, x = randomised(build()), sequence(batch=1)
    changed = x.clone()
    changed[:, 20] += 1.0
    moved = (mixer(x) - mixer(changed)).abs().amax(-1)[0]
    assert bool((moved[:20] > 0).any()) == sees_later
    assert (moved[20:23] > 0).all()


@pytest.mark.parametrize("cuts", [[0, 1, 2, 3, 4, 40], [0, 17, 40], [0, 2, 38, 39, 40], list(range(41))])
@CAUSAL
def test_a_stream_in_pieces_equals_the_whole(build, cuts):
    mixer, x = randomised(build()), sequence(length=40)
    whole, last = mixer(x, return_state=True)
    torch.testing.assert_close(whole, mixer(x))
    state, pieces = mixer.empty_state(2), []
    for start, end in itertools.pairwise(cuts):
        y, state = mixer(x[:, start:end], state=state, return_state=True)
        pieces.append(y)
    for got, want in zip((torch.cat(pieces, 1), *state), (whole, *last), strict=True):
        assert (got - want).abs().max() < 1e-6 * max(1.0, float(want.abs().max()))
    with pytest.raises(ValueError, match="padding cannot be streamed"):
        mixer(x, mask=torch.ones(2, 40, dtype=torch.bool), return_state=True)


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


def test_initial_values_of_mamba2():
    torch.manual_seed(0)
    mixer = BidirectionalMamba2Mixer(64, head_dim=1, d_state=8, n_layers=4)
    ahead = (mixer.A_log, mixer.D, mixer.dt_bias, mixer.norm)
    for A_log, D, dt_bias, norm in (ahead, (mixer.A_b_log, mixer.D_b, mixer.dt_bias_b, mixer.norm_b)):
        torch.testing.assert_close(A_log.exp(), torch.arange(1.0, 129.0))
        assert (D == 1).all()
        assert (norm.weight == 1).all()
        step = torch.nn.functional.softplus(dt_bias)
        assert DT_MIN * 0.99 < step.min() < 3e-3 < 3e-2 < step.max() < DT_MAX * 1.01
    bound = 1 / math.sqrt(128) / math.sqrt(4)
    assert 0.9 * bound < mixer.out_proj.weight.abs().max() <= bound
    assert (BidirectionalMamba2Mixer(64, backward_dt_init="reference").dt_bias_b == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_dim": 7}, "Mamba2Mixer: head_dim must divide the inner width 128, got 7"),
        ({"n_groups": 3}, "Mamba2Mixer: n_groups must divide the 2 heads, got 3"),
        ({"merge": "stack"}, "BidirectionalMamba2Mixer: merge must be one of 'sum', 'mean', 'concat', got 'stack'"),
        ({"backward_dt_init": "zero"}, "Mixer: backward_dt_init must be one of 'same', 'reference', got 'zero'"),
    ],
)
def test_sizes_and_choices_that_cannot_work_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        BidirectionalMamba2Mixer(64, **options)
    if "merge" in options:
        with pytest.raises(ValueError, match="BidirectionalMambaMixer: merge must be"):
            BidirectionalMambaMixer(64, **options)


@EVERY
def test_parameters_without_weight_decay(build):
    mixer = build()
    exempt = {name for name, p in mixer.named_parameters() if getattr(p, "_no_weight_decay", False)}
    decayed = ("in_proj.weight", "out_proj.weight", "conv1d.weight", "x_proj.weight", "dt_proj.weight")
    names = {name for name, _ in mixer.named_parameters()}
    assert exempt == names - {*decayed, "conv1d_b.weight", "x_proj_b.weight", "dt_proj_b.weight"}
    assert {"A_log", "D", "conv1d.bias"} < exempt


@pytest.mark.parametrize(
    ("mixer_class", "count"),
    [
        (MambaMixer, 3_770_880),
        (BidirectionalMambaMixer, 4_002_816),
        (Mamba2Mixer, 3_764_552),
        (BidirectionalMamba2Mixer, 3_775_120),
    ],
)
def test_parameters_at_width_768(mixer_class, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in mixer_class(768).parameters()) == count


class MatmulTypes(TorchDispatchMode):
    """Types of every matrix product of Linear layers, and of what a scan is given."""

    def __init__(self):
        super().__init__()
        self.products, self.scans = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name in ("aten::mm", "aten::addmm", "aten::linear"):
            self.products.append({a.dtype for a in args if isinstance(a, torch.Tensor)})
        if name in ("tstar::ssd_heads", "tstar::ssd_chunks"):
            self.scans.append([a.dtype for a in args if isinstance(a, torch.Tensor)])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("build", "linears"), [(both_ways1, 6), (both_ways2, 2)])
def test_autocast_runs_the_projections_in_half_precision(build, linears):
    mixer, x = randomised(build()), sequence()
    with MatmulTypes() as seen, torch.autocast("cpu", dtype=torch.bfloat16):
        half = mixer(x)
    assert half.dtype == torch.bfloat16
    assert seen.products.count({torch.bfloat16}) >= linears
    assert all(p.dtype == torch.float32 for p in mixer.parameters())
    if build is both_ways2:  # x as it came, everything that decides a decay in fp32
        assert [types[0] for types in seen.scans] == [torch.bfloat16] * 2
        assert all(types[1] == types[2] == torch.float32 for types in seen.scans)
    error = (half - mixer(x)).abs().max() / mixer(x).abs().max()
    assert error < 0.03  # measured 0.008
