"""The other implementation that timings stand beside: what transformers runs where no vendor kernel is installed.

Whole layers are compared with whole layers of the same weights. The scan alone is compared where the installed version
has it as a function of its own (5.x); before, it stood inside the layer.
"""

from collections.abc import Callable
from typing import Any

import torch
from operators_settings import Settings
from torch import Tensor, nn
from transformers import Mamba2Config, MambaConfig
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba2 import modeling_mamba2

from tstar.nn import Mamba2Mixer, MambaMixer
from tstar.reports.measured_cost import available_bytes

MEMORY_SHARE = 0.7
"""Of the memory at hand, what a call may be expected to need."""


def layers(version: int, settings: Settings) -> dict[str, nn.Module]:
    """A layer of ours and one of transformers' that compute the same, under "tstar" and "transformers"."""
    torch.manual_seed(settings.seed)
    expand = settings.d_inner // settings.d_model
    shared: dict[str, Any] = {"hidden_size": settings.d_model, "conv_kernel": settings.taps}
    shared |= {"expand": expand, "num_hidden_layers": 1}
    theirs: nn.Module
    ours: nn.Module
    if version == 1:
        first = MambaConfig(state_size=settings.scan_states, **shared)
        theirs = modeling_mamba.MambaMixer(first, layer_idx=0)
        ours = MambaMixer(settings.d_model, settings.scan_states, settings.taps, expand)
    else:
        second = Mamba2Config(
            state_size=settings.dual_states, head_dim=settings.head_dim, num_heads=settings.heads, n_groups=1,
            chunk_size=settings.chunk, layer_norm_epsilon=1e-5, **shared,
        )  # fmt: skip
        theirs = modeling_mamba2.Mamba2Mixer(second, layer_idx=0)
        ours = Mamba2Mixer(
            settings.d_model, settings.dual_states, settings.taps, expand, settings.head_dim, norm_before_gate=False
        )
    theirs.load_state_dict(ours.state_dict())  # published names on both sides; ours has the published initialisation
    return {"tstar": ours.eval(), "transformers": theirs.eval()}


def scan_alone() -> Callable[..., Tensor] | None:
    """transformers' loop over positions with arguments in our layout, or None where it cannot be had by itself."""
    scan = getattr(modeling_mamba, "mamba_selective_scan", None)
    if scan is None:
        return None

    def run(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, dt_softplus: bool, **rest: Any) -> Tensor:
        optional = {"D": rest.get("D"), "z": rest.get("z"), "delta_bias": rest.get("dt_bias")}
        if optional["z"] is not None:
            optional["z"] = optional["z"].mT
        y = scan(u.mT, dt.mT, A, B.mT, C.mT, **optional, delta_softplus=dt_softplus)  # views: its layer has them so
        return y.mT

    return run


def scan_bytes(settings: Settings, length: int) -> int:
    """About what that loop holds at once: decays and inputs of every state at every position, and temporary ones."""
    return 4 * settings.d_inner * settings.scan_states * length * 4


def dual_bytes(settings: Settings, length: int) -> int:
    """About what its Mamba-2 holds: six arrays of every pair of positions in a chunk, eight of every head's states."""
    return 4 * settings.heads * length * (6 * settings.chunk + 8 * settings.dual_states)


def fitting_length(needs: Callable[[Settings, int], int], settings: Settings) -> int:
    """L, halved until what ``needs`` says fits into memory."""
    length = settings.length
    while length > 1 and needs(settings, length) > MEMORY_SHARE * available_bytes():
        length //= 2
    return length
