"""A plain resumable training loop for the miniature's small frozen parts; the recipes' stages have Lightning."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tstar.errors import DataError
from tstar.nn.muon import Muon, hidden_matrices


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast."""

    steps: int
    lr: float = 2e-3
    """Peak, for matrices (Muon, scaled to match Adam's steps) and for everything else (AdamW)."""
    warmup_steps: int = 100
    decay: float = 0.4
    """Share of the steps, at the end, over which the rate falls; until then it is the peak, or late courses learn nothing."""
    floor: float = 0.02
    """Share of the peak that the fall ends at."""
    weight_decay: float = 0.05
    """On matrices only."""
    checkpoint_every: int = 200
    """Steps between states that a stopped training goes on from."""

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be above 0 and at most 1, got {self.decay}")

    def share(self, step: int) -> float:
        """Share of the peak rate at ``step`` (from 0)."""
        rise = (step + 1) / max(1, min(self.warmup_steps, self.steps // 10))
        left = (self.steps - step) / self.steps
        return min(1.0, rise, max(self.floor, left / self.decay))


@dataclass
class History:
    """What a training leaves beside its weights."""

    losses: list[float] = field(default_factory=list)
    """One a step."""
    seconds: float = 0.0
    """Spent in steps, over all starts."""

    def recent(self, steps: int) -> float:
        """Mean loss over the last so many steps."""
        last = self.losses[-steps:]
        return sum(last) / max(1, len(last))


def build_optimizers(model: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, vectors and what is tied to them."""
    chosen = hidden_matrices(model)
    inner = [p for p in model.parameters() if id(p) in chosen]
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        Muon(inner, lr=schedule.lr, weight_decay=schedule.weight_decay),
        torch.optim.AdamW(rest, lr=schedule.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    schedule: Schedule,
    state_path: Path | None,
    identity: Any,
    *,
    after_step: Callable[[], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> History:
    """Train a model, or go on with a training that was stopped; a start anywhere gives the same weights.

    Args:
        model: learns in place.
        loss_of: loss of step k; everything random in it must follow from k.
        schedule: steps and rates.
        state_path: file that the state is kept in; None keeps none. It is deleted by the caller when its result is safe.
        identity: plain data that says what is trained on what; a state of another training is refused.
        after_step: called after every step, e.g. to clamp a parameter.
        progress: called with (steps done, steps in all).

    Raises:
        DataError: the state cannot be read, or is of another training.
    """

    optimizers = build_optimizers(model, schedule)
    name = hashlib.sha256(json.dumps([identity, asdict(schedule)], sort_keys=True, default=str).encode()).hexdigest()
    history, first = History(), 0
    if state_path is not None and state_path.is_file():
        first = _restore(state_path, name, model, optimizers, history)
    model.train()
    for step in range(first, schedule.steps):
        begun = time.perf_counter()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr * schedule.share(step)
            optimizer.zero_grad()
        loss = loss_of(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if after_step:
            after_step()
        history.losses.append(loss.item())
        history.seconds += time.perf_counter() - begun
        if not math.isfinite(history.losses[-1]):
            raise DataError(f"the loss became {history.losses[-1]} at step {step + 1}; lower the learning rate")
        done = step + 1
        if state_path is not None and done % schedule.checkpoint_every == 0 and done < schedule.steps:
            _save(state_path, name, model, optimizers, history)
        if progress:
            progress(done, schedule.steps)
    if state_path is not None:
        _save(state_path, name, model, optimizers, history)
    return history


def _save(path: Path, name: str, model: nn.Module, optimizers: list[torch.optim.Optimizer], history: History) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    state = {
        "name": name,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "losses": history.losses,
        "seconds": history.seconds,
    }
    torch.save(state, part)
    os.replace(part, path)


def _restore(path: Path, name: str, model: nn.Module, optimizers: list[torch.optim.Optimizer], history: History) -> int:
    """Take up a state; how many steps are done."""
    try:
        state = torch.load(path, weights_only=True)
        found = state["name"]
    except Exception as error:  # a damaged zip raises many types
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path} cannot be read ({reason}); delete it to train from the start") from error
    if found != name:
        raise DataError(f"{path} is the state of a training with other settings; delete it to train from the start")
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    history.losses, history.seconds = list(state["losses"]), state["seconds"]
    return len(history.losses)
