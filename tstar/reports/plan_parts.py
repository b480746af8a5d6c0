"""The parts of a recipe's model as fake tensors: every shape and operation, no weights, no memory.

They pretend to be on the CPU, so that the operators are those of tstar's CPU kernels, which say what they keep. Language models
of transformers with Mamba layers, whose own code walks over positions one by one, get the same block in tstar's operators.

Letters: B samples, L positions, D width, I inner channels, S states, R rank of the step projection, H heads.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tstar.compressors import Compressor, build_compressor, mambamia
from tstar.compressors.token_clustering import TokenClusteringConfig
from tstar.language import LanguageConfig
from tstar.language.backbones import skeleton
from tstar.language.blocks import checkpoint_blocks
from tstar.language.lora import LoraSettings, add_adapters, is_adapter
from tstar.ops import causal_conv1d, selective_scan, ssd_scan
from tstar.vision import OpenClipTower, VisionConfig


@dataclass(frozen=True)
class Parts:
    """A stage's model."""

    encoder: OpenClipTower
    compressor: Compressor
    language: nn.Module
    """The causal language model of transformers."""
    lora: LoraSettings | None

    def named(self) -> dict[str, nn.Module]:
        """By the names that stages use."""
        return {"encoder": self.encoder, "compressor": self.compressor, "language": self.language}

    @property
    def d_language(self) -> int:
        """D."""
        embeddings: Any = self.language.get_input_embeddings()  # type: ignore[operator]
        return embeddings.weight.shape[1]

    def let_learn(self, trains: frozenset[str]) -> None:
        """Gradients and training mode as a stage sets them; with LoRA only the adapters of a language model learn."""
        for name, part in self.named().items():
            part.requires_grad_(name in trains)
            part.train(name in trains)
        if self.lora is not None and "language" in trains:
            for name, parameter in self.language.named_parameters():
                parameter.requires_grad_(is_adapter(name))


class Workshop:
    """Builds parts; those of several stages that are alike are one."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode()
        self._made: dict[str, Any] = {}

    def parts(
        self,
        vision: VisionConfig,
        language: LanguageConfig,
        compressor: dict[str, Any],
        lora: LoraSettings | None,
        dtypes: dict,
    ) -> Parts:
        """The parts of a stage.

        Args:
            vision, language, compressor: settings as a stage takes them.
            lora: adapters of the language model.
            dtypes: of the weights of each part; a part left out has its own.
        """
        encoder = self._once(
            f"{vision} {dtypes.get('encoder')}", lambda: self._cast(OpenClipTower.skeleton(vision), dtypes, "encoder")
        )
        path, attention = language.path, language.attention
        checkpointing = language.gradient_checkpointing
        dtype, cast = dtypes["language"], dtypes.get("encoder")  # a cast is one of all parts, buffers too
        key = f"{path} {attention} {checkpointing} {lora} {dtype} {cast}"
        model = self._once(key, lambda: self._language(path, attention, checkpointing, lora, dtype).to(cast))
        width = model.get_input_embeddings().weight.shape[1]
        sizes = {"d_vision": encoder.d_vision, "d_language": width, "grid": encoder.grid}
        key = json.dumps([compressor, sizes, str(dtypes.get("compressor"))], sort_keys=True, default=str)

        def build() -> nn.Module:
            with torch.device("meta"):
                return self._cast(build_compressor(**sizes, **compressor), dtypes, "compressor")

        return Parts(encoder, self._once(key, build), model, lora)

    def _once(self, key: str, make: Any) -> Any:
        if key not in self._made:
            self._made[key] = fake(make(), self.mode)
        return self._made[key]

    def _cast(self, part: nn.Module, dtypes: dict, name: str) -> nn.Module:
        return part.to(dtypes[name]) if dtypes.get(name) is not None else part

    def _language(
        self, path: str, attention: str | None, checkpointing: bool, lora: LoraSettings | None, dtype: torch.dtype
    ) -> nn.Module:
        model = skeleton(path, str(dtype).removeprefix("torch."))
        if attention == "eager":  # any other keeps no table of scores, as sdpa
            model.set_attn_implementation("eager")
        if checkpointing:
            checkpoint_blocks(model)
        for module in model.modules():
            block = _FUSED.get(type(module).__name__)
            if block is not None:
                module.forward = partial(block, module)
        if lora is not None:
            add_adapters(model, lora)
        return model


def fake(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Replace the tensors of a module on the meta device by fake ones on the CPU, shared ones by shared ones; returns it."""
    known: dict[int, Tensor] = {}
    for child in module.modules():
        tables: tuple[dict[str, Any], ...] = (child._parameters, child._buffers)
        for table in tables:
            for name, tensor in table.items():
                if tensor is None:
                    continue
                if id(tensor) not in known:
                    with mode:
                        made = torch.empty(tensor.shape, dtype=tensor.dtype)
                    parameter = isinstance(tensor, nn.Parameter)
                    known[id(tensor)] = nn.Parameter(made, tensor.requires_grad) if parameter else made
                table[name] = known[id(tensor)]
    return module


@contextmanager
def shapes_only() -> Iterator[None]:
    """What depends on values, and so cannot run on fake tensors, gives some values of the right shape.

    That is clusters of patch tokens; the frames that a block over frames keeps, the first ones of a budget, all by a threshold; and
    whether positions are of several packed samples, for which transformers would make tables of a mask. Also keeps torch from its
    fused encoder layers, which no formula counts.
    """
    from transformers import masking_utils

    changes: list[tuple[Any, str, Any]] = [
        (kind, "cluster", _one_cluster) for kind in _subclasses(TokenClusteringConfig) if "cluster" in vars(kind)
    ]
    changes += [(mambamia, "frames_within_budget", _first_frames), (mambamia, "frames_over_threshold", _all_frames)]
    if hasattr(masking_utils, "find_packed_sequence_indices"):
        changes.append((masking_utils, "find_packed_sequence_indices", _not_packed))
    before = [vars(owner)[name] for owner, name, _ in changes]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for owner, name, stand_in in changes:
            setattr(owner, name, stand_in)
        yield
    finally:
        for (owner, name, _), own in zip(changes, before, strict=True):
            setattr(owner, name, own)
        torch.backends.mha.set_fastpath_enabled(fast)


def _subclasses(kind: type) -> list[type]:
    children: list[type] = kind.__subclasses__()
    return children + [found for child in children for found in _subclasses(child)]


def _one_cluster(config: Any, tokens: Tensor) -> Tensor:
    return tokens.new_zeros(tokens.shape[:2], dtype=torch.long)


def _first_frames(steps: Tensor, count: int) -> list[int]:
    return list(range(count))


def _not_packed(position_ids: Tensor) -> None:
    return None


def _all_frames(steps: Tensor, threshold: float) -> list[int]:
    return list(range(len(steps)))


def fused_mamba(mixer: Any, hidden_states: Tensor, *unused: Any, **more: Any) -> Tensor:
    """transformers' Mamba-1 mixer, [B, L, D] to [B, L, D], from its own weights."""
    u, z = mixer.in_proj(hidden_states).chunk(2, dim=-1)  # [B, L, I] each
    u = causal_conv1d(u, mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias, activation="silu")
    sizes = [mixer.time_step_rank, mixer.ssm_state_size, mixer.ssm_state_size]
    step, B, C = mixer.x_proj(u).split(sizes, dim=-1)
    step = F.linear(step, mixer.dt_proj.weight)  # its bias is added by the scan
    A = -torch.exp(mixer.A_log.float())
    return mixer.out_proj(selective_scan(u, step, A, B, C, mixer.D.float(), z, mixer.dt_proj.bias.float()))


def fused_mamba2(mixer: Any, hidden_states: Tensor, *unused: Any, **more: Any) -> Tensor:
    """transformers' Mamba-2 mixer, [B, L, D] to [B, L, D], from its own weights."""
    shared = mixer.n_groups * mixer.ssm_state_size
    widths = [mixer.intermediate_size, mixer.intermediate_size + 2 * shared, mixer.num_heads]
    gate, mixed, dt = mixer.in_proj(hidden_states).split(widths, dim=-1)
    mixed = causal_conv1d(mixed, mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias, activation="silu")
    x, B, C = mixed.split([mixer.intermediate_size, shared, shared], dim=-1)
    B, C = (t.unflatten(-1, (mixer.n_groups, mixer.ssm_state_size)) for t in (B, C))
    A = -torch.exp(mixer.A_log.float())
    y = ssd_scan(x.unflatten(-1, (mixer.num_heads, -1)), dt, A, B, C, mixer.D.float(), mixer.dt_bias.float())
    return mixer.out_proj(mixer.norm(y.flatten(2), gate))


_FUSED = {"MambaMixer": fused_mamba, "Mamba2Mixer": fused_mamba2}


def recurrent_state_bytes(language: Any) -> int:
    """What a language model's Mamba layers remember of one sequence: inputs of the convolution, and states in fp32."""
    total = 0
    for mixer in language.modules():
        if type(mixer).__name__ in _FUSED:
            states = mixer.intermediate_size * mixer.ssm_state_size * 4
            weight = mixer.conv1d.weight  # [channels, 1, K]
            total += states + weight.numel() * weight.element_size()
    return total
