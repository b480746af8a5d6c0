"""Cases of a profile and results that are known beforehand. Not a test."""

from tstar.reports.measured_cost import Spread
from tstar.reports.profile_cases import ANSWER, Case, Model

HERE = {
    **{"cpu": "a processor", "cores": 2, "threads": 1, "memory_gib": 8.0, "system": "Linux x86_64"},
    "versions": {"python": "3.11.7", "torch": "2.14.1"},
}
MIB = 2**20


def model(**more):
    given = {
        "stage": "tstar.stages.video_sft.VideoSFT",
        "vision": {"model": "tstar/pretrained/miniature/vision"},
        "language": {"path": "tstar/pretrained/miniature/language", "template": "miniature"},
        "compressor": {"name": "mambamia", "preset": "miniature", "query_interval": 6, "keep": "last"},
    }
    return Model(**{**given, **more})


def case(frames=8, label="MambaMia", protocol="parts", **more):
    given = {
        **{"model": model(), "parts": ANSWER, "device": "cpu", "precision": "fp32", "matmul_precision": "highest"},
        **{"warmup": 1, "samples": 5, "text_tokens": 256, "seed": 0, "group": "g"},
    }
    return Case(**{**given, "frames": frames, "label": label, "protocol": protocol, **more})


def measured(*parts, seconds=0.5, calls=5, **more):
    """A result whose parts took ``seconds`` each, and all of them as much together."""
    times = {part: [seconds * (1 + 0.1 * n) for n in range(calls)] for part in parts}
    times = {name: vars(Spread.of(own)) for name, own in times.items()}
    memory = {"weights": 3 * MIB, "input": 1 * MIB, "needed": 200 * MIB, "total": 204 * MIB, "by_part": {}}
    common = {"visual_tokens": 18, "positions": 274, "native_context": 2048, "parameters": {}, "decoders": []}
    return {"status": "measured", "seconds": times, "memory": memory, "distinct_frames": None, **common, **more}
