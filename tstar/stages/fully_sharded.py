"""Training with parameters, gradients and optimizer state in slices, one a process (FSDP2), and whole checkpoints all the same.

A checkpoint is the file that one process or DDP writes, so a run may go on with another strategy or number of processes.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tstar.errors import ConfigError
from tstar.language import VideoLMM
from tstar.language.blocks import language_blocks
from tstar.nn.weight_decay import exempt_from_weight_decay
from tstar.stages.checkpoint_io import load_checkpoint
from tstar.stages.freezing import trained_tensors


def other_slices(strategy: str) -> ConfigError:
    """The error that refuses Lightning's own ways to keep slices.

    Args:
        strategy: name of one.
    """
    return ConfigError(
        f"trainer.strategy {strategy} cannot keep tstar's checkpoints; tstar.stages.FullySharded does what it does "
        "(configs/trainer/fsdp.yaml)"
    )


class FullySharded(ModelParallelStrategy):
    """Every process keeps a slice of each layer and gathers the whole layer when it is its turn.

    Args:
        reshard_after_forward: let go of a layer after the forward pass and gather it again for the backward pass: less memory,
            half as much traffic again.
        process_group_backend: by default nccl on GPUs and gloo on CPUs.
        timeout_minutes: after which a process that waits for the others gives up.
    """

    def __init__(
        self, reshard_after_forward: bool = True, process_group_backend: str | None = None, timeout_minutes: float = 30
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self.reshard_after_forward = reshard_after_forward

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The optimizer is restored after the stage has looked at the checkpoint, as with one process."""
        return True

    def setup_environment(self) -> None:
        """All processes share the slices."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def _stage(self) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What is trained, gathered in the first process; nothing in the others."""
        return {f"lmm.{name}": tensor for name, tensor in whole_tensors(self._stage().lmm, self.is_global_zero).items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this process's slices of what was trained."""
        own = dict(self._stage().named_parameters())
        sliced = {name: slice_like(t, own[name]) if name in own else t for name, t in checkpoint["state_dict"].items()}
        self._stage().load_state_dict(sliced, strict=strict)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """An optimizer's state as one process would have it, gathered in the first; nothing in the others."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        state = optimizer.state_dict()
        keep = self.is_global_zero
        moments = {
            number: {name: _gather(value, keep) for name, value in of.items()} for number, of in state["state"].items()
        }
        return {**state, "state": moments} if keep else {}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this process's slices of the optimizers' states."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            numbers = [n for group in state["param_groups"] for n in group["params"]]
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            owner = dict(zip(numbers, parameters, strict=True))
            moments = {
                number: {name: slice_like(value, owner[number]) for name, value in of.items()}
                for number, of in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": moments})

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint as data; its tensors stay in the file until they are sliced."""
        return load_checkpoint(Path(self.broadcast(checkpoint_path)), mmap=True)


def shard(lmm: VideoLMM, mesh: DeviceMesh, reshard_after_forward: bool = True) -> None:
    """Slice a model in place: each layer of the language model, the compressor, and all else but the encoder, which stays whole.

    The compressor is gathered as one: how often its layers run depends on the clips of a batch, and processes must gather alike.

    Args:
        lmm: the model, whole and the same in every process.
        mesh: the processes.
        reshard_after_forward: see :class:`FullySharded`.
    """
    exempt = [name for name, p in lmm.named_parameters() if getattr(p, "_no_weight_decay", False)]
    for unit in (*language_blocks(lmm.language.model), lmm.compressor):
        fully_shard(unit, mesh=mesh, reshard_after_forward=reshard_after_forward)
    fully_shard(lmm, mesh=mesh, ignored_params=set(lmm.encoder.parameters()))
    parameters = dict(lmm.named_parameters())
    exempt_from_weight_decay(*(parameters[name] for name in exempt))  # slices are new objects


@contextmanager
def gathered(lmm: nn.Module) -> Iterator[None]:
    """Whole parameters in every process, so that one of them may run the model alone; all have to enter and leave together.

    Meanwhile the units' own hooks are off: a forward pass would change what a process gathers next, and others would wait in vain.
    """
    units: list[Any] = [module for module in lmm.modules() if isinstance(module, FSDPModule)]
    hooks = [(unit._forward_pre_hooks, unit._forward_hooks) for unit in units]
    for unit in units:
        unit.unshard()
        unit._forward_pre_hooks, unit._forward_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for unit, (before, after) in zip(units, hooks, strict=True):
            unit._forward_pre_hooks, unit._forward_hooks = before, after
            unit.reshard()


def whole_tensors(lmm: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """The trained tensors, whole and on the CPU; a call in every process, of which those that do not ``keep`` get nothing."""
    tensors = {name: _gather(tensor, keep) for name, tensor in trained_tensors(lmm).items()}
    return tensors if keep else {}


def _gather(value: Any, keep: bool) -> Any:
    """A slice to the whole, on the CPU; None where it is not kept."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    elif hasattr(value, "ds_id"):  # of DeepSpeed's ZeRO-3
        from deepspeed.zero import GatheredParameters

        with GatheredParameters([value]):
            value = value.detach().clone()
    if not keep:
        return None
    return value.detach().cpu() if isinstance(value, Tensor) else value


def slice_like(value: Any, like: Tensor) -> Any:
    """This process's slice of a whole tensor, cut as ``like`` is; anything of another shape as it is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    placed = value.to(like.device)
    sliced = distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)
    return DTensor.from_local(
        sliced.to_local().clone(),
        like.device_mesh,
        like.placements,
        shape=like.shape,
        stride=like.stride(),
        run_check=False,
    )
