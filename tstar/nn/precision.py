"""How exactly float32 matrices are multiplied."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Let torch multiply float32 matrices with this precision, and afterwards as before.

    Args:
        name: as torch names them: "highest" is float32 throughout, "high" TensorFloat32 on CUDA, "medium" products in
            bfloat16, summed in float32. Where the hardware has none of these, it is float32 all the same.
    """
    if name not in ("highest", "high", "medium"):  # torch only warns
        raise ValueError(f"precision must be highest, high or medium, got {name!r}")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
