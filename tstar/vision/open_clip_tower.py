"""Image towers of open_clip: ConvNeXt trunks (last-stage map) and vision transformers (second-to-last layer).

Published encoders: ``convnext_large_d_320`` (320 px, 10 x 10 patches of width 1536) and ``ViT-L-14-336`` (24 x 24 of 1024).
"""

import contextlib
import difflib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tstar.errors import ConfigError, DataError
from tstar.vision.base import VisionEncoder


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Which frozen encoder looks at the frames."""

    model: str
    """An open_clip model name, or a folder with ``open_clip_config.json`` and ``open_clip_model.safetensors``."""
    pretrained: str | None = None
    """open_clip tag or checkpoint file; not for a folder, which brings its weights. "random" draws them from the seed.

    A file does not say which activation it was trained with: for OpenAI's weights add ``-quickgelu`` to the model's name.
    """
    layer_norm: bool = False
    """Normalise a ConvNeXt trunk's map with its head's own LayerNorm."""
    slice_size: int = 32
    """Frames encoded at once."""

    def __post_init__(self) -> None:
        if self.slice_size < 1:
            raise ConfigError(f"vision.slice_size must be at least 1, got {self.slice_size}")

    def build(self) -> "OpenClipTower":
        """Load the encoder, frozen."""
        return OpenClipTower(self)


class OpenClipTower(VisionEncoder):
    """The image half of an open_clip model, reduced to what gives patch tokens.

    Args:
        config: which model.
        weights: load them; without, none are looked for.
    """

    def __init__(self, config: VisionConfig, *, weights: bool = True) -> None:
        super().__init__()
        self.config = config
        with _no_weights_is_no_news():
            visual = _load(config, weights).visual
        self.is_trunk = hasattr(visual, "trunk")
        self.tower: Any = visual.trunk if self.is_trunk else visual
        if not self.is_trunk and not hasattr(visual, "transformer"):
            raise ConfigError(
                f"vision.model '{config.model}' is a {type(visual).__name__}; tstar reads vision transformers and timm trunks"
            )
        if config.layer_norm and not isinstance(getattr(getattr(self.tower, "head", None), "norm", None), nn.LayerNorm):
            raise ConfigError(
                f"vision.layer_norm is for ConvNeXt trunks with a LayerNorm in their head, not {config.model}"
            )
        size = visual.image_size
        sides = {int(s) for s in size} if isinstance(size, (tuple, list)) else {int(size)}
        if len(sides) != 1:
            raise ConfigError(
                f"vision.model '{config.model}' wants pictures of {size} pixels; only square ones are made"
            )
        (self.image_size,) = sides
        for name, default in (
            ("mean", (0.48145466, 0.4578275, 0.40821073)),
            ("std", (0.26862954, 0.26130258, 0.27577711)),
        ):
            values = getattr(visual, f"image_{name}", None) or default
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.freeze()
        black = torch.zeros(1, 3, self.image_size, self.image_size)
        with torch.no_grad():
            # a trunk gives [B, C, h, w], that of a transformer [B, 1 + N, C]
            self.is_transformer = not self.is_trunk or self.tower.forward_features(black).ndim == 3
            shape = self._features(black).shape  # [1, C, h, w]
        self.d_vision, self.grid = shape[1], (shape[2], shape[3])

    @classmethod
    def skeleton(cls, config: VisionConfig) -> "OpenClipTower":
        """The encoder on torch's meta device: every shape, no weights and no memory."""
        with torch.device("meta"):
            return cls(config, weights=False)

    def _features(self, pixels: Tensor) -> Tensor:
        if not self.is_transformer:
            features = self.tower.forward_features(pixels)
            return self.tower.head.norm(features) if self.config.layer_norm else features
        if self.is_trunk:
            return self.tower.forward_intermediates(
                pixels, indices=[-2], norm=False, stop_early=True, intermediates_only=True, output_fmt="NCHW"
            )[0]
        found = self.tower.forward_intermediates(
            pixels,
            indices=[-2],
            stop_early=True,
            normalize_intermediates=False,
            intermediates_only=True,
            output_fmt="NCHW",
        )
        return found["image_intermediates"][0]

    def encode(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, S, S] to patch tokens, [B, N, d_vision]."""
        return self._features(pixels).flatten(2).mT

    def forward(self, frames: Tensor, slice_size: int | None = None) -> Tensor:
        """Frames uint8 [M, 3, S, S] to patch tokens [M, N, d_vision]."""
        return super().forward(frames, slice_size or self.config.slice_size)


@contextlib.contextmanager
def _no_weights_is_no_news() -> Iterator[None]:
    """Without open_clip's warning of random weights, which nobody gets but by asking for them."""

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No pretrained weights loaded")

    logging.getLogger().addFilter(is_news)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(is_news)


def _load(config: VisionConfig, weights: bool) -> Any:
    import open_clip

    folder = Path(config.model)
    random = config.pretrained == "random" or not weights
    place = {} if weights else {"device": "meta", "pretrained_text": False}
    try:
        if (folder / "open_clip_config.json").is_file():
            if config.pretrained not in (None, "random"):
                raise ConfigError(
                    f"vision.pretrained must be left out for the folder {config.model}, which brings its weights; "
                    f"got '{config.pretrained}'"
                )
            return open_clip.create_model(
                f"local-dir:{folder.resolve()}",
                load_weights=not random,
                require_pretrained=not random,
                weights_only=True,
                **place,
            )
        if ("/" in config.model and ":" not in config.model) or folder.is_dir():
            raise DataError(
                f"no encoder in {config.model} (open_clip_config.json is missing); `tstar miniature-models` makes the miniature's"
            )
        if ":" not in config.model and config.model not in open_clip.list_models():
            close = difflib.get_close_matches(config.model, open_clip.list_models(), n=3, cutoff=0.4)
            near = f"; did you mean {' or '.join(close)}" if close else ""
            raise ConfigError(
                f"unknown vision.model '{config.model}'{near}; it must be a folder or one of open_clip.list_models()"
            )
        if config.pretrained is None and ":" not in config.model:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(config.model))
            raise ConfigError(
                f"vision.pretrained must name weights for {config.model}: a file, 'random', or one of {tags}"
            )
        tag = open_clip.get_pretrained_cfg(config.model, config.pretrained or "") or {}
        openai = open_clip.get_pretrained_cfg(config.model, "openai") or {}
        is_file = config.pretrained is not None and Path(config.pretrained).is_file()
        if is_file and openai.get("quick_gelu") and not config.model.endswith("-quickgelu"):
            warnings.warn(
                f"vision.pretrained is a file; if it holds OpenAI's weights, whose activation is QuickGELU, vision.model must be "
                f"{config.model}-quickgelu",
                stacklevel=2,
            )
        return open_clip.create_model(
            config.model,
            pretrained=None if random else config.pretrained,
            load_weights=not random,
            require_pretrained=not random,
            # OpenAI's weights were trained with an activation of their own; by itself open_clip only warns of it
            force_quick_gelu=bool(tag.get("quick_gelu")),
            weights_only=True,
            **place,
        )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError, UnpicklingError) as error:
        raise DataError(f"cannot load vision.model '{config.model}': {' '.join(str(error).split())[:300]}") from error
