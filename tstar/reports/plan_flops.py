"""What runs on fake tensors, counted: FLOPs and bytes, nothing computed and no memory taken.

A multiply-add is two FLOPs. Matrix products, convolutions and attention are counted by torch's own formulas
(``torch.utils.flop_counter``); elementwise operations, norms, softmax and exponentials are not. Attention counts all pairs of
positions, masked ones too. What torch has no formula for, or a wrong one, stands here.

Letters: B batch, L positions, I inner channels, S states of a channel, K taps or keys, H heads, P channels of a head.
"""

import weakref
from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import tstar.ops  # noqa: F401 - registers the operators that FORMULAS names
from tstar.compressors import CompressorConfig
from tstar.compressors.token_clustering import DensityPeaksConfig, KMeansConfig, TokenClusteringConfig

Formula = Callable[..., int]
"""Arguments of an operator, and ``out_val``, its result, to FLOPs."""


def scan_forward(u: Tensor, dt: Tensor, z: Tensor | None, rates: Tensor, *rest: Any, out_val: Any = None) -> int:
    """Selective scan of u [B, L, I] with rates [S, I].

    A state takes six: the products delta A, decay h, (delta u) B and C h, and the sums of the state and of the output. A channel
    takes three more, delta u and D u added to the output, and one for the gate.
    """
    return u.numel() * (6 * rates.shape[0] + 3 + (z is not None))


def scan_backward(
    grad_y: Tensor, grad_state: Tensor, u: Tensor, dt: Tensor, z: Tensor | None, rates: Tensor, *rest: Any, **more: Any
) -> int:
    """Its gradients: of a state fifteen, and four to compute it again from the kept state before its chunk.

    Fifteen: C h to C and h (2 products, the sum over channels), the sum with the later position's gradient, (delta u) B to both (2
    products, 2 sums), decay h to both (2 products), the exponential (1), and delta A to both (2 products, 2 sums). A channel takes
    five, delta u to both and D u to both with a sum, and two for the gate.
    """
    return u.numel() * (19 * rates.shape[0] + 5 + 2 * (z is not None))


def ssd_forward(x: Tensor, steps: Tensor, decays: Tensor, B: Tensor, *rest: Any, out_val: Any = None) -> int:
    """State-space dual scan of x [B, L, H, P] with B [B, L, G, S], by its recurrence.

    A state takes five: decay h, (delta x) B and C h, and two sums; a decay is a head's, not a state's. A channel takes three more.
    Kernels that work in chunks multiply matrices in its place, of other sizes.
    """
    return x.numel() * (5 * B.shape[3] + 3)


def ssd_backward(
    grad_y: Tensor, grad_state: Tensor, x: Tensor, steps: Tensor, decays: Tensor, B: Tensor, *rest: Any, **more: Any
) -> int:
    """Its gradients: of a state eleven (3 for C h, a sum, 4 for (delta x) B, 3 for decay h), and three to compute it again."""
    return x.numel() * (14 * B.shape[3] + 5)


def conv_forward(x: Tensor, weight: Tensor, *rest: Any, out_val: Any = None) -> int:
    """Depthwise convolution of x [B, L, I] with weight [K, I]: a multiply-add a tap."""
    return 2 * x.numel() * weight.shape[0]


def conv_backward(grad_y: Tensor, x: Tensor, weight: Tensor, *rest: Any, **more: Any) -> int:
    """Gradients of input and taps: each as much as the convolution."""
    return 4 * x.numel() * weight.shape[0]


def attention_forward(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **more: Any) -> int:
    """Attention of q [B, H, L, P] over k [B, heads, K, P]: scores and their product with the values."""
    return 2 * prod(q.shape[:3]) * k.shape[2] * (q.shape[3] + v.shape[3])


def attention_backward(grad_y: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **more: Any) -> int:
    """Its gradients: the scores again, and two products each for the scores and for the values."""
    return 2 * prod(q.shape[:3]) * k.shape[2] * (3 * q.shape[3] + 2 * v.shape[3])


def any_conv_backward(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor,
    _sizes: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    *rest: Any,
    **more: Any,
) -> int:
    """Gradients of a convolution: each that is wanted takes as many multiply-adds as the convolution.

    torch's formula takes a grouped convolution's taps for those of a dense one, which is C times too much for a depthwise one.
    """
    transposed, _output_padding, _groups, wanted = rest
    places = x if transposed else grad_y
    return 2 * places.shape[0] * prod(places.shape[2:]) * weight.numel() * sum(map(bool, wanted[:2]))


def distances(a: Tensor, b: Tensor, *rest: Any, **more: Any) -> int:
    """Euclidean distances of a [..., L, C] to b [..., K, C]: a multiply-add for each pair and number."""
    return 2 * a.numel() * b.shape[-2]


_aten, _own = torch.ops.aten, torch.ops.tstar
FORMULAS: dict[Any, Formula] = {
    _own.scan_tiles: scan_forward,
    _own.scan_tiles_backward: scan_backward,
    _own.ssd_heads: ssd_forward,
    _own.ssd_heads_backward: ssd_backward,
    _own.conv_rows: conv_forward,
    _own.conv_rows_backward: conv_backward,
    _aten._scaled_dot_product_flash_attention_for_cpu: attention_forward,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    _aten.convolution_backward: any_conv_backward,
    _aten._cdist_forward: distances,
    _aten._euclidean_dist: distances,
}
"""Beside, and before, torch's own."""


def clustering_flops(config: CompressorConfig, frame_counts: Iterable[int]) -> int:
    """What finding the clusters of patch tokens takes; 0 where a compressor finds none.

    It depends on values, so it is not run. Products and distances of K tokens of a group of width C, n clusters: merging takes the
    means of the clusters that are left, 2 left K C, and the likenesses of their halves; k-means the distances and means of every
    round, 2 n K C each, the first distances too, and may end earlier; density peaks all distances, 2 K K C.
    """
    if not isinstance(config, TokenClusteringConfig):
        return 0
    step, total = config.frames_per_group, 0
    for count in frame_counts:
        for start in range(0, count, step):
            K, C = min(step, count - start) * config.num_patches, config.d_vision
            n = config.tokens
            if isinstance(config, KMeansConfig):
                total += 2 * n * K * C * (1 + 2 * config.iterations)
            elif isinstance(config, DensityPeaksConfig):
                total += 2 * K * K * C
            else:
                left = K
                while left > n:
                    total += 2 * left * K * C + 2 * ((left + 1) // 2) * (left // 2) * C
                    left -= min(left - n, left // 2)
    return total


class Meter(TorchDispatchMode):
    """FLOPs and bytes of what runs inside: with ``FakeTensorMode`` below it, of tensors that are not there.

    A storage counts from the operation that makes it until nothing holds it.

    Args:
        known: tensors whose storages do not count, such as weights.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.flops = 0
        self.live = 0
        """Bytes alive now."""
        self.peak = 0
        """Most bytes that were alive at once."""
        self.peak_without_gradients = 0
        """The same without those of gradients that are finished, see :meth:`watch`."""
        self.gradients = 0
        """Bytes of finished gradients."""
        self._sizes: dict[int, int] = {}
        self._formulas: dict[Any, Formula] = {**flop_registry, **FORMULAS}
        self._known = list(known)  # held, so that no other storage takes the place of one
        for tensor in self._known:
            self._sizes[tensor.untyped_storage()._cdata] = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = self._formulas.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return out

    def adopt(self, tensor: Tensor) -> Tensor:
        """Take a tensor's storage off the count; returns it."""
        self._known.append(tensor)
        key = tensor.untyped_storage()._cdata
        self.live -= self._sizes.get(key, 0)
        self._sizes[key] = 0
        self.restart()
        return tensor

    def restart(self) -> None:
        """Count FLOPs and peaks from here."""
        self.flops, self.peak, self.peak_without_gradients = 0, self.live, self.live - self.gradients

    def watch(self, parameters: Iterable[Tensor]) -> list[Any]:
        """Tell the gradients of these from other bytes; returns handles to ``remove()``."""
        return [parameter.register_post_accumulate_grad_hook(self._finished) for parameter in parameters]

    def _finished(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self.gradients += parameter.grad.numel() * parameter.grad.element_size()

    def _see(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.live += self._sizes[key]
        self.peak = max(self.peak, self.live)
        self.peak_without_gradients = max(self.peak_without_gradients, self.live - self.gradients)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)
