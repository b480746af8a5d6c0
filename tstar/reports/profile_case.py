"""One case of ``tstar profile``, measured in a process of its own.

Started by :mod:`tstar.reports.profile_child`; the last line it prints is JSON.
"""

import contextlib
import json
import resource
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tstar.errors import TstarError
from tstar.nn.precision import matmul_precision
from tstar.reports.measured_cost import GIB, PeakMeter, Spread, free_bytes, repeated, seconds_of
from tstar.reports.profile_cases import CUT, FAILED, FREE, RESET, Case
from tstar.reports.profile_chain import Chain, UnreadableVideoError, build_chain

MARGIN = 0.95
"""Share of the time limit that is used: measuring ends by itself before the process is ended."""
NO_MEMORY = ("out of memory", "not enough memory", "allocate memory", "bad_alloc", "could not create a memory object")
"""What libraries say in errors of other types."""


def main(argv: list[str]) -> int:
    """Measure the case and print what was found."""
    begun = time.monotonic()
    case = Case.from_json(json.loads(argv[1]))
    yield_first()
    free = limit_memory(case)
    try:
        result = measure(case, begun)
    except UnreadableVideoError as error:
        result = {"status": FAILED, "reason": str(error)}
    except TstarError as error:
        result = {"status": "mistake", "reason": str(error)}
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        result = {"status": "out of memory", "reason": " ".join(str(error).split())[:200], FREE: free}
    print(json.dumps(result))
    return 0


def measure(case: Case, begun: float | None = None) -> dict[str, Any]:
    """Times and memory of a case.

    Args:
        case: what to measure.
        begun: when the process did, by :func:`time.monotonic`; default now.
    """
    until = (time.monotonic() if begun is None else begun) + MARGIN * case.time_limit
    with matmul_precision(case.matmul_precision):
        chain = build_chain(case)
        chain.rehearse()
        protocol = _paper if case.protocol == "paper" else _parts
        times, memory, cut = protocol(chain, until)
    running = chain.held()
    weights = sum(_bytes(module) for module in running.values())
    given = memory.pop("input")
    total = (
        memory.pop("base") + memory["needed"] if case.device.startswith("cuda") else weights + given + memory["needed"]
    )
    visual = chain.visual_tokens or chain.compressor.num_tokens(case.frames)
    return {
        "status": "measured",
        "seconds": {name: asdict(Spread.of(own)) for name, own in times.items()},
        "memory": {"weights": weights, "input": given, "total": total, **memory},
        "visual_tokens": visual,
        "positions": visual + case.text_tokens,
        "native_context": getattr(chain.language.config, "max_position_embeddings", None),
        "parameters": {name: sum(p.numel() for p in module.parameters()) for name, module in running.items()},
        "distinct_frames": chain.seen.distinct or None,
        "decoders": list(chain.seen.decoders),
        "threads": torch.get_num_threads(),
        CUT: cut,
    }


Found = tuple[dict[str, list[float]], dict[str, Any], bool]
"""Seconds by name, memory, and whether the time limit left calls out."""


def _paper(chain: Chain, until: float) -> Found:
    """All from decoded frames to the first token; then, if there is time, the same without the encoder, whose memory does not
    count."""
    case, frames = chain.case, next(chain.inputs())
    meter = PeakMeter(case.device)
    given = {"input": _input(frames, case), "base": meter.base}
    begun = time.monotonic()
    times, cut = repeated(
        lambda: {"total": seconds_of(lambda: chain.through(frames), case.device)},
        warmup=case.warmup,
        samples=case.samples,
        until=begun + (until - begun) / 2,  # the other half of the time is for what follows
    )
    memory = {"needed": meter.peak(), "by_part": {}, RESET: meter.resets, **given}
    if time.monotonic() + max(times["total"]) > until:  # it would be ended, and what is measured lost
        return times, memory, True
    features = chain.step("encode", frames)
    after, cut_after = repeated(
        lambda: {"without_encoding": seconds_of(lambda: chain.compute(features, after="encode"), case.device)},
        warmup=case.warmup,
        samples=case.samples,
        until=until,
    )
    return times | after, memory, cut or cut_after


def _parts(chain: Chain, until: float) -> Found:
    """Each part apart, and directly all of them, by turns."""
    case, inputs = chain.case, chain.inputs()
    meter = PeakMeter(case.device)
    memory: dict[str, Any] = {"input": _input(next(inputs), case), "base": meter.base}
    highest: dict[str, int] = {}

    def once() -> dict[str, float]:
        given = next(inputs)
        seconds, peaks = chain.by_parts(given, meter)
        if len(case.parts) > 1:
            meter.restart()
            seconds["total"] = seconds_of(lambda: chain.through(given), case.device)
            peaks["total"] = meter.peak()
        for name, peak in peaks.items():
            highest[name] = max(peak, highest.get(name, 0))
        return seconds

    times, cut = repeated(once, warmup=case.warmup, samples=case.samples, until=until)
    by_part = {name: peak for name, peak in highest.items() if name != "total"}
    return times, {**memory, "needed": max(highest.values()), "by_part": by_part, RESET: meter.resets}, cut


def _input(given: Any, case: Case) -> int:
    """Bytes on the device of what the first part is given."""
    tensor = given[0] if isinstance(given, tuple) else given
    there = isinstance(tensor, torch.Tensor) and tensor.device.type == torch.device(case.device).type
    return tensor.nbytes if there else 0


def _bytes(module: nn.Module) -> int:
    return sum(t.nbytes for t in {id(t): t for t in (*module.parameters(), *module.buffers())}.values())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it was for want of memory, whatever its type."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error).lower() for words in NO_MEMORY
    )


def yield_first() -> None:
    """Where the system runs out of memory, let it end this process and no other (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def limit_memory(case: Case) -> int:
    """Let what asks for more memory than there is fail at once instead of slowing the machine down to a halt.

    Returns:
        Bytes that are free now, whatever the limit.
    """
    free = free_bytes(case.device)
    asked = None if case.memory_limit_gib is None else int(case.memory_limit_gib * GIB)
    if case.device.startswith("cuda"):
        if asked is not None:
            whole = torch.cuda.get_device_properties(case.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(asked / whole, 1.0), case.device)
        return free
    with contextlib.suppress(OSError, ValueError):  # not on every system
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (asked or free, hard))
    return free
