"""One position at a time equals the whole sequence, for each operator that has a step form."""

import pytest
import torch

from tstar.ops import causal_conv1d, selective_scan
from tstar.ops.ssd import ssd_scan
from tstar.ops.steps import causal_conv1d_step, selective_scan_step, ssd_step

LENGTH = 23


def randoms(dtype, **shapes):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def scan_case(dtype):
    along = randoms(dtype, u=(2, LENGTH, 6), dt=(2, LENGTH, 6), B=(2, LENGTH, 4), C=(2, LENGTH, 4), z=(2, LENGTH, 6))
    fixed = randoms(dtype, A=(6, 4), D=(6,), dt_bias=(6,))
    fixed["A"] = -fixed["A"].exp()
    return selective_scan, selective_scan_step, along, fixed, torch.randn(2, 6, 4, dtype=torch.float64)


def ssd_case(dtype):
    along = randoms(dtype, x=(2, LENGTH, 4, 3), dt=(2, LENGTH, 4), B=(2, LENGTH, 2, 5), C=(2, LENGTH, 2, 5))
    fixed = randoms(dtype, A=(4,), D=(4,), dt_bias=(4,))
    fixed["A"] = -fixed["A"].exp()
    return ssd_scan, ssd_step, along, fixed, torch.randn(2, 4, 3, 5, dtype=torch.float64)


def conv_case(dtype):
    along = randoms(dtype, x=(2, LENGTH, 6))
    return causal_conv1d, causal_conv1d_step, along, randoms(dtype, weight=(6, 4), bias=(6,)), torch.randn(2, 3, 6)


CASES = pytest.mark.parametrize("case", [scan_case, ssd_case, conv_case])


def walk(step, along, fixed, state, **options):
    ys = []
    for t in range(LENGTH):
        y, state = step(**{name: tensor[:, t] for name, tensor in along.items()}, **fixed, state=state, **options)
        ys.append(y)
    return torch.stack(ys, 1), state


@CASES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_equal_the_whole_sequence(case, dtype):
    torch.manual_seed(0)
    whole, step, along, fixed, state = case(dtype)
    options = {"activation": "silu"} if case is conv_case else {}
    state = state.to(dtype)
    before = state.clone()
    y, last = walk(step, along, fixed, state, **options)
    assert torch.equal(state, before)
    exact = {name: tensor.double() for name, tensor in (along | fixed).items()}
    exact_options = options if case is conv_case else {"backend": "reference"}
    for inputs, more in ((along | fixed, options), (exact, exact_options)):
        expected = whole(**inputs, **more, initial_state=state.to(next(iter(inputs.values())).dtype),
                         return_final_state=True)  # fmt: skip
        for got, want in zip((y, last), expected, strict=True):
            assert (got - want).abs().max() < 1e-6 * want.abs().max()


@CASES
def test_optional_inputs_can_be_left_out(case):
    whole, step, along, fixed, state = case(torch.float64)
    for name in ("D", "z", "dt_bias", "bias"):
        fewer_along, fewer_fixed = ({n: t for n, t in d.items() if n != name} for d in (along, fixed))
        y, last = walk(step, fewer_along, fewer_fixed, state.double())
        expected = whole(**fewer_along, **fewer_fixed, initial_state=state.double(), return_final_state=True)
        torch.testing.assert_close((y, last), expected)


@pytest.mark.parametrize("case", [scan_case, ssd_case])
def test_steps_are_taken_as_they_are_without_softplus(case):
    whole, step, along, fixed, state = case(torch.float64)
    along["dt"], fixed["dt_bias"] = along["dt"].exp(), fixed["dt_bias"].exp()
    expected = whole(**along, **fixed, initial_state=state, return_final_state=True, dt_softplus=False)
    torch.testing.assert_close(walk(step, along, fixed, state, dt_softplus=False), expected)


@CASES
def test_half_precision_keeps_the_types_of_the_whole_sequence(case):
    whole, step, along, fixed, state = case(torch.bfloat16)
    state = state.float() if case is not conv_case else state.bfloat16()
    y, last = walk(step, along, fixed, state)
    expected = whole(**along, **fixed, initial_state=state, return_final_state=True)
    assert [t.dtype for t in (y, last)] == [t.dtype for t in expected]
    torch.testing.assert_close((y, last), expected, rtol=0.02, atol=0.02)


@CASES
def test_a_state_of_the_wrong_shape_is_named(case):
    _, step, along, fixed, state = case(torch.float32)
    with pytest.raises(ValueError, match=f"{step.__name__}: state must be"):
        step(**{name: tensor[:, 0] for name, tensor in along.items()}, **fixed, state=state[..., :-1])
