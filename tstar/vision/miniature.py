"""The miniature encoder: a small open_clip image-text model drawn from a seed, saved as any open_clip model is."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

IMAGE_SIZE = 96
"""Side of the input, pixels; patches of 16 give a 6 x 6 grid."""
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": IMAGE_SIZE, "patch_size": 16, "layers": 3, "width": 128, "head_width": 32},
    "text_cfg": {"context_length": 32, "vocab_size": 512, "width": 64, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic", "resize_mode": "squash"}


def build_miniature_encoder(out: Path, seed: int = 0) -> None:
    """Write ``open_clip_config.json`` and ``open_clip_model.safetensors`` into ``out``; the weights are random."""
    from open_clip.model import CLIP

    out.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIP(**MODEL)
    save_file(model.state_dict(), out / "open_clip_model.safetensors")
    config = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=1))
