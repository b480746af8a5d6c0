"""What the Mamba mixers of both versions share: initial values, padding, the convolution, streams, two directions.

Letters: B batch, L positions, I channels, K taps.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from tstar.ops import causal_conv1d
from tstar.ops.steps import causal_conv1d_step

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 0.1, 1e-4
"""At init a step is drawn log-uniformly between the first two, and is never below the third."""

Merge = Literal["sum", "mean", "concat"]
"""How two directions become one: added, averaged, or side by side into an ``out_proj`` of twice the input width, which
costs d_inner * d_model more parameters a layer (1.18M at width 768: 28M over 24 layers)."""

BackwardDtInit = Literal["same", "reference"]
"""Whether the backward direction's steps start as the forward ones do, or as in published code."""


class MixerState(NamedTuple):
    """All that a scan knows of the positions it has passed: enough to go on as if the sequence had never been cut."""

    conv: Tensor
    """The K - 1 inputs of the convolution next to the cut, in order of position, [B, K-1, I]."""
    ssm: Tensor
    """State of the scan."""


def initial_dt_bias(count: int) -> Tensor:
    """[count] numbers whose softplus is distributed as a step at init; Gu & Dao, arXiv:2312.00752, section 3.6."""
    step = torch.empty(count).uniform_(math.log(DT_MIN), math.log(DT_MAX)).exp().clamp(min=DT_FLOOR)
    return step + torch.log(-torch.expm1(-step))  # softplus of this is the step


def depthwise_conv1d(channels: int, taps: int) -> nn.Conv1d:
    """Only holds weight [I, 1, K] and bias [I], under their published names."""
    return nn.Conv1d(channels, channels, taps, groups=channels)


def output_projection(d_in: int, d_out: int, n_layers: int) -> nn.Linear:
    """A Linear that starts sqrt(n_layers) times smaller, so that the residual's variance does not grow with depth."""
    out_proj = nn.Linear(d_in, d_out, bias=False)
    with torch.no_grad():
        out_proj.weight /= math.sqrt(n_layers)
    return out_proj


def at_least_single(tensor: Tensor) -> Tensor:
    """Half precision to fp32; A_log, D and step biases are never used in less."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def zero_padding(x: Tensor, mask: Tensor | None) -> Tensor:
    """x [B, L, I] with zeros where ``mask`` [B, L] is False."""
    return x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0.0)


def convolve(
    x: Tensor,
    conv1d: nn.Conv1d,
    *,
    mask: Tensor | None = None,
    reverse: bool = False,
    state: MixerState | None = None,
) -> tuple[Tensor, Tensor | None]:
    """SiLU of the convolution of x [B, L, I], zero at padding; with ``state`` also the next state's ``conv``."""
    weight, bias = conv1d.weight.squeeze(1), conv1d.bias
    if state is None:
        # without a mask the bias would make padding non-zero again, and a scan would carry it along
        return causal_conv1d(x, weight, bias, activation="silu", reverse=reverse, mask=mask), None
    if x.shape[1] == 1 and not reverse:
        y, conv = causal_conv1d_step(x.squeeze(1), weight, bias, activation="silu", state=state.conv)
        return y.unsqueeze(1), conv
    return causal_conv1d(
        x, weight, bias, activation="silu", reverse=reverse, initial_state=state.conv, return_final_state=True
    )


def check_choice(mixer: str, option: str, value: str, legal: object) -> None:
    """Raise ValueError unless ``value`` is one of the names of a Literal."""
    names = get_args(legal)
    if value not in names:
        raise ValueError(f"{mixer}: {option} must be one of {', '.join(map(repr, names))}, got {value!r}")


def check_stream(mixer: str, mask: Tensor | None, streaming: bool) -> None:
    """Raise ValueError where padding would end up in a state."""
    if streaming and mask is not None:
        raise ValueError(f"{mixer}: padding cannot be streamed; cut it off, and leave mask out where states are used")


def merged_width(d_inner: int, merge: Merge) -> int:
    """Input width of ``out_proj``."""
    return 2 * d_inner if merge == "concat" else d_inner


def merge_directions(ahead: Tensor, back: Tensor, merge: Merge) -> Tensor:
    """Two [B, L, I] to the input of ``out_proj``."""
    if merge == "concat":
        return torch.cat([ahead, back], dim=-1)  # [B, L, 2I]
    return ahead + back if merge == "sum" else (ahead + back) * 0.5
