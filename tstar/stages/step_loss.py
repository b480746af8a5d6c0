"""The loss of an optimizer step: one mean over all its supervised tokens, in however many processes and micro-batches they come."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from tstar.language.hf_causal_lm import LossSum


class Share(NamedTuple):
    """What a micro-batch of one process adds to a step."""

    loss: Tensor
    """To go backward from; frameworks average gradients over processes and micro-batches."""
    mean: Tensor
    """Loss of all processes' micro-batches of this step so far, for the log."""
    tokens: Tensor | float
    """How many are supervised in them."""


class StepLoss:
    """Cuts the loss of an optimizer step into shares whose gradients add up to that of one process with all its samples.

    A mean of means would give a token more weight where its process or micro-batch has fewer of them. With several micro-batches
    the sum of weights is known after the last one only: until then the first one's stands for it, and :meth:`finish` puts that
    right.
    """

    def __init__(self) -> None:
        self._divisor: Tensor | None = None
        self._seen: tuple[Tensor, Tensor, Tensor | float] | None = None

    def share(self, losses: LossSum, world: int, accumulated: bool) -> Share:
        """Share of one micro-batch of this process; every process has to ask for its own.

        Args:
            losses: of the micro-batch.
            world: processes whose gradients are averaged.
            accumulated: more micro-batches may follow before the step, which ends by :meth:`finish`.
        """
        seen = sums_of_all(losses, world)
        divisor = _above_zero(seen[1])
        if accumulated:
            if self._divisor is None or self._seen is None:
                self._divisor, self._seen = divisor, seen
            else:
                self._seen = (self._seen[0] + seen[0], self._seen[1] + seen[1], self._seen[2] + seen[2])
            divisor, seen = self._divisor, self._seen
        loss = losses.total / (divisor / world).to(losses.total.dtype)
        return Share(loss, seen[0] / _above_zero(seen[1]), seen[2])

    def finish(self, parameters: Iterable[nn.Parameter], micro_batches: int) -> None:
        """Make the accumulated gradients those of the mean over the whole step.

        Args:
            parameters: whose gradients were accumulated.
            micro_batches: by whose number each loss was divided.
        """
        if self._divisor is None or self._seen is None:
            return
        factor = micro_batches * self._divisor / _above_zero(self._seen[1])
        self._divisor = self._seen = None
        gradients = [p.grad for p in parameters if p.grad is not None]
        local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for gradient in local:
            by_type.setdefault(gradient.dtype, []).append(gradient)
        for dtype, some in by_type.items():
            torch._foreach_mul_(some, factor.to(dtype))


class HeldOutLoss:
    """The loss over all batches of a validation, in however many they and processes they come: each token with its weight."""

    def __init__(self) -> None:
        self._seen: list[LossSum] = []

    def add(self, losses: LossSum) -> None:
        """Take a batch in."""
        self._seen.append(LossSum(losses.total.detach(), losses.weight, losses.tokens))

    def mean(self, world: int) -> Tensor | None:
        """The loss of what was taken in, which is then forgotten; None where nothing is supervised.

        Args:
            world: processes, each of which has to ask and has taken in as many batches.
        """
        if not self._seen:
            return None
        totals, weights, tokens = zip(*self._seen, strict=True)
        self._seen = []
        own = LossSum(torch.stack(totals).sum(), torch.stack(weights).sum(), sum(tokens))
        total, weight, count = sums_of_all(own, world)
        return total / weight if count > 0 else None


def sums_of_all(losses: LossSum, world: int) -> tuple[Tensor, Tensor, Tensor | float]:
    """Sum of losses, sum of weights and number of tokens over all processes, without gradients; one all-reduce of three numbers."""
    total, weight = losses.total.detach(), losses.weight
    if world == 1:
        return total, weight, float(losses.tokens)
    sums = torch.stack([total.double(), weight.double(), torch.full_like(weight, losses.tokens, dtype=torch.float64)])
    distributed.all_reduce(sums)
    return sums[0], sums[1], sums[2]


def _above_zero(weight: Tensor) -> Tensor:
    """The weight, or 1 where nothing is supervised and the sum of losses is 0 anyhow."""
    return torch.where(weight > 0, weight, 1.0)
