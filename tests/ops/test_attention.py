"""Attention: the formula by a loop, every backend against it, and xFormers by a stand-in with its signature."""

import functools
import math
import sys
import types

import pytest
import torch

from tstar.errors import ConfigError
from tstar.nn.precision import matmul_precision
from tstar.ops import attention, attention_cuda, cuda_check
from tstar.ops.attention_reference import attention_reference


def tensors(batch=2, queries=5, keys=7, heads=3, channels=4, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, queries, heads, channels), *[(batch, keys, heads, channels)] * 2)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def loop(q, k, v, causal):
    y = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            for i in range(q.shape[1]):
                seen = range(i + 1 + k.shape[1] - q.shape[1] if causal else k.shape[1])
                weights = [math.exp(float(q[b, i, h] @ k[b, j, h]) / math.sqrt(q.shape[3])) for j in seen]
                y[b, i, h] = sum(w * v[b, j, h] for w, j in zip(weights, seen, strict=True)) / sum(weights)
    return y


@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
@pytest.mark.parametrize(
    ("queries", "keys", "causal"), [(5, 7, False), (6, 6, True), (1, 1, True), (4, 1, False), (3, 7, True)]
)
def test_it_is_the_formula(backend, queries, keys, causal):
    q, k, v = tensors(queries=queries, keys=keys)
    torch.testing.assert_close(
        attention(q, k, v, causal=causal, backend=backend), loop(q.detach(), k.detach(), v.detach(), causal)
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_long_sequences_and_their_gradients(causal, precision):
    given = tensors(batch=1, queries=300, keys=300, heads=2, channels=16, dtype=torch.float32)
    exact = [x.detach().double().requires_grad_() for x in given]
    expected = torch.autograd.grad(attention_reference(*exact, causal, 0.0)[0].square().sum(), exact)
    with matmul_precision(precision):
        found = torch.autograd.grad(attention(*given, causal=causal).square().sum(), given)
    tolerance = 1e-4 if precision == "highest" else 3e-2
    for ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), right, rtol=tolerance, atol=tolerance * float(right.abs().max()))


@pytest.mark.parametrize(
    "length", [4096, pytest.param(14080, marks=pytest.mark.slow)]
)  # the longer is a published clip's
@pytest.mark.parametrize(("precision", "causal"), [("highest", True), ("medium", True), ("medium", False)])
def test_a_long_clip_needs_no_table_of_scores(precision, causal, length):
    q, k, v = tensors(batch=1, queries=length, keys=length, heads=1, channels=8, dtype=torch.float32)
    with matmul_precision(precision), torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        attention(q, k, v, causal=causal)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < 0.05 * length**2 * 4


def test_the_last_of_many_keys_need_no_table_of_a_mask_either():
    q, k, v = tensors(batch=1, queries=700, keys=900, heads=2, channels=8, dtype=torch.float32)
    expected = attention_reference(q, k, v, True, 0.0)[0]
    torch.testing.assert_close(attention(q, k, v, causal=True), expected, rtol=1e-4, atol=1e-5)


def test_autocast_does_not_reach_inside():
    q, k, v = tensors(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [attention(q, k, v, backend=backend) for backend in ("reference", "torch")]
    assert all(y.dtype == torch.float32 for y in outputs)
    torch.testing.assert_close(*outputs)


def test_dropout_scales_what_is_left():
    q, k, v = tensors(batch=1, queries=200, keys=50)
    torch.manual_seed(0)
    dropped, plain = attention(q, k, torch.ones_like(v), dropout=0.5), attention(q, k, torch.ones_like(v))
    torch.testing.assert_close(plain, torch.ones_like(plain))
    assert dropped.std() > 0.05
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("shapes", "causal", "words"),
    [
        (((2, 5, 3, 4), (2, 7, 3, 5), (2, 7, 3, 5)), False, "q must be [B, L, H, P]"),
        (((2, 5, 3, 4), (1, 7, 3, 4), (1, 7, 3, 4)), False, "got [2, 5, 3, 4], [1, 7, 3, 4]"),
        (((2, 5, 3, 4), (2, 7, 3, 4), (2, 6, 3, 4)), False, "k and v [B, K, H, P]"),
        (((2, 5, 3, 4), (2, 0, 3, 4), (2, 0, 3, 4)), False, "with K >= 1"),
        (((5, 3, 4), (5, 3, 4), (5, 3, 4)), False, "q must be"),
        (((2, 7, 3, 4), (2, 5, 3, 4), (2, 5, 3, 4)), True, "causal needs a key for every query, got 7 queries and 5"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, causal, words):
    with pytest.raises(ValueError, match="attention: ") as caught:
        attention(*(torch.zeros(shape) for shape in shapes), causal=causal)
    assert words in str(caught.value)


class LowerTriangularMask:
    """What xFormers calls its causal bias."""


class LowerTriangularFromBottomRightMask(LowerTriangularMask):
    """The same for fewer queries than keys, whose last ones stand together."""


def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None, *, op=None, wrong=0.0):
    """The documented meaning: [B, M, H, K] in and out, softmax(Q K^T / sqrt(K) + bias) V."""
    assert all(x.is_contiguous() and x.dtype == query.dtype for x in (query, key, value))
    assert attn_bias is None or isinstance(attn_bias, LowerTriangularMask)
    scores = (query.transpose(1, 2) @ key.permute(0, 2, 3, 1)) * (scale or query.shape[-1] ** -0.5 * (1 + wrong))
    if attn_bias is not None:
        bottom_right = isinstance(attn_bias, LowerTriangularFromBottomRightMask)
        later = scores.shape[-1] - scores.shape[-2] if bottom_right else 0
        scores = scores + torch.full(scores.shape[-2:], -torch.inf, dtype=query.dtype).triu(1 + later)
    return (torch.dropout(scores.softmax(-1), p, True) @ value.transpose(1, 2)).transpose(1, 2)


def forget():
    """Let the package and its types be asked about anew."""
    attention_cuda.find_fault.cache_clear()
    attention_cuda.check_type.cache_clear()


@pytest.fixture
def xformers(monkeypatch):
    """Put the stand-in in the package's place; its check then runs on the CPU."""

    def install(**options):
        for name in ("xformers", "xformers.ops", "xformers.ops.fmha", "xformers.ops.fmha.attn_bias"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        module, biases = sys.modules["xformers.ops"], sys.modules["xformers.ops.fmha.attn_bias"]
        biases.LowerTriangularMask = LowerTriangularMask
        biases.LowerTriangularFromBottomRightMask = LowerTriangularFromBottomRightMask
        module.memory_efficient_attention = functools.partial(memory_efficient_attention, **options)
        forget()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_cpu = lambda *a, **k: cuda_check.check_kernel(*a, **k | {"device": "cpu"})  # noqa: E731
    monkeypatch.setattr(attention_cuda, "check_kernel", on_cpu)
    forget()
    yield install
    forget()


def test_xformers_is_used_once_it_has_agreed(xformers):
    xformers()
    assert attention_cuda.xformers_missing() is None
    for queries, causal in ((6, False), (6, True), (2, True)):
        q, k, v = tensors(queries=queries, keys=6, channels=8)
        ours = attention_cuda.attention_cuda(q, k, v, causal, 0.0)[0]
        torch.testing.assert_close(ours, attention_reference(q, k, v, causal, 0.0)[0])


def test_each_type_is_checked_before_its_first_use(xformers, monkeypatch):
    xformers()
    assert [attention_cuda.type_fault(dtype) for dtype in attention_cuda.TOLERANCES] == [None] * 3
    xformers()

    def no_bfloat16(query, *args, **kwargs):
        if query.dtype == torch.bfloat16:
            raise NotImplementedError("bf16 is only supported on A100+ GPUs")
        return memory_efficient_attention(query, *args, **kwargs)

    monkeypatch.setattr(sys.modules["xformers.ops"], "memory_efficient_attention", no_bfloat16)
    assert attention_cuda.xformers_missing() is None
    assert attention_cuda.type_fault(torch.float16) is None
    assert "it raised NotImplementedError: bf16 is only" in attention_cuda.type_fault(torch.bfloat16)


def test_xformers_that_is_wrong_or_broken_is_refused_with_the_reason(xformers, monkeypatch):
    xformers(wrong=0.5)
    assert "the check against the reference failed: y is off by" in attention_cuda.xformers_missing()
    xformers()
    monkeypatch.setattr(sys.modules["xformers.ops"], "memory_efficient_attention", lambda *a, **k: 1 / 0)
    assert "it raised ZeroDivisionError" in attention_cuda.xformers_missing()
    forget()
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    assert "pip install xformers" in attention_cuda.xformers_missing()


def test_what_xformers_cannot_take_is_named():
    with pytest.raises(ConfigError, match=r"backend 'cuda' of attention .* cannot be used: PyTorch finds no CUDA"):
        attention(*tensors(), backend="cuda")
    fits = attention_cuda.not_for_xformers
    assert "is on cpu" in fits(torch.zeros(1, 1, 1, 8), None, False)

    class OnDevice:
        device, dtype, shape = torch.device("cuda"), torch.float16, (1, 1, 1, 12)
        numel = staticmethod(lambda: 12)

    assert "a multiple of 8 channels, got 12" in fits(OnDevice, None, False)
    OnDevice.dtype = torch.float64
    assert "does not know inputs of type float64" in fits(OnDevice, None, False)
    OnDevice.numel = staticmethod(lambda: 0)
    assert "its input is empty" in fits(OnDevice, None, False)
