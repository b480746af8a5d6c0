"""How exactly float32 matrices are multiplied."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Let torch multiply float32 matrices with this precision, and afterwards as before.

    With "medium" on a CPU that multiplies in bfloat16, attention is computed as whole matrix products: torch's fused kernel hands
    every small block of a product to a library call of its own, which took the miniature's attention up to seven times as long
    (in float32 throughout, it is the quicker one). Memory then grows with the square of the length, but not in
    :func:`tstar.ops.attention`, which takes the fused kernel for long sequences again.

    Args:
        name: as torch names them: "highest" is float32 throughout, "high" TensorFloat32 on CUDA, "medium" products in
            bfloat16, summed in float32. Where the hardware has none of these, it is float32 all the same.
    """
    if name not in ("highest", "high", "medium"):  # torch only warns
        raise ValueError(f"precision must be highest, high or medium, got {name!r}")
    before, fused = torch.get_float32_matmul_precision(), torch.backends.cuda.flash_sdp_enabled()
    torch.set_float32_matmul_precision(name)
    if name == "medium" and not torch.cuda.is_available() and cpu_multiplies_bfloat16():  # one switch for CUDA and CPU
        torch.backends.cuda.enable_flash_sdp(False)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cuda.enable_flash_sdp(fused)


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 about as fast as in float32, or faster: those with AVX-512 do.

    On others torch falls back on loops: with AVX2 (Zen 3) such products took 3 to 30 times as long as in float32.
    """
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")
