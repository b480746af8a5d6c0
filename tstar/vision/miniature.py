"""The miniature encoder: a small open_clip image-text model, trained on generated pictures and captions.

The loss is open_clip's contrastive one plus, as in CoCa (arXiv:2205.01917), the captioning loss of a decoder that reads the
picture's tokens: telling pictures of a batch apart needs a few details, saying what is on one needs all of them. The decoder
is left behind; what is saved is an ordinary open_clip model with its tokenizer. Pictures and captions are chosen by the
caller (``tstar.data.miniature.captioned``).
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tstar.nn.small_training import History, Schedule, train

IMAGE_SIZE = 96
"""Side of the input, pixels; patches of 16 give a 6 x 6 grid."""
CONTEXT = 32
"""Longest caption, tokens, its two marks included."""
MEAN, STD = 0.5, 0.25
PREPROCESS = {"mean": [MEAN] * 3, "std": [STD] * 3, "interpolation": "bicubic", "resize_mode": "squash"}


@dataclass(frozen=True, kw_only=True)
class MiniatureEncoder:
    """Sizes of the model."""

    layers: int = 4
    width: int = 128
    embed_dim: int = 128
    """Width of the space that pictures and captions share."""
    text_layers: int = 3
    text_width: int = 128
    caption_layers: int = 2
    """Of the decoder that is there in training only."""
    caption_weight: float = 2.0
    """Of the captioning loss, beside 1 for the contrastive loss, as in CoCa."""

    def open_clip_config(self, vocabulary: int, end: int) -> dict[str, Any]:
        """The model as open_clip describes it; captions end with token ``end``."""
        return {
            "embed_dim": self.embed_dim,
            "custom_text": True,
            "vision_cfg": {
                "image_size": IMAGE_SIZE,
                "patch_size": 16,
                "layers": self.layers,
                "width": self.width,
                "head_width": 32,
                "pool_type": "avg",
                "pos_embed_type": "sin_cos_2d",  # learnt ones start too faint: places stay unknown for thousands of steps
            },
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": vocabulary,
                "hf_tokenizer_name": "tokenizer",  # open_clip takes the one in the model's own folder
                "width": self.text_width,
                "heads": 4,
                "layers": self.text_layers,
                "pool_type": "eos",
                "eos_id": end,
            },
        }


@dataclass(frozen=True)
class Gallery:
    """Some steps on one set of pictures."""

    pictures: np.ndarray
    """uint8, [n, S, S, 3]."""
    captions: Sequence[str]
    """n of them."""
    steps: int


def train_miniature_encoder(
    out: Path,
    galleries: Sequence[Gallery],
    *,
    group: int,
    sizes: MiniatureEncoder = MiniatureEncoder(),
    schedule: Schedule | None = None,
    groups_per_step: int = 16,
    seed: int = 0,
    state: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    compiled: bool = False,
) -> History:
    """Train both towers and write the model into ``out``.

    Args:
        out: folder for ``open_clip_config.json``, ``open_clip_model.safetensors`` and the tokenizer.
        galleries: pictures, captions and steps, in order.
        group: pictures that follow each other and stay together in a batch, because they differ in a detail.
        sizes: of the model.
        schedule: rates; default a peak of 2e-3 over all steps.
        groups_per_step: a batch is this many groups.
        seed: of weights and order.
        state: file from which a stopped training goes on.
        progress: called with (steps done, steps in all).
        compiled: let torch compile the model first; the same up to rounding.
    """
    from open_clip.loss import CoCaLoss

    least = group * groups_per_step
    for gallery in galleries:
        if len(gallery.pictures) != len(gallery.captions) or len(gallery.captions) < least:
            raise ValueError(
                f"at least {least} pictures, each with a caption, are needed; "
                f"got {len(gallery.pictures)} and {len(gallery.captions)}"
            )
    schedule = schedule or Schedule(steps=sum(gallery.steps for gallery in galleries))
    tokenizer = caption_tokenizer([caption for gallery in galleries for caption in gallery.captions])
    config = sizes.open_clip_config(len(tokenizer), tokenizer.eos_token_id)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _with_decoder(config, sizes)
    sets = [(torch.from_numpy(g.pictures), _cut(caption_ids(tokenizer, g.captions))) for g in galleries]
    causal = model.text.attn_mask  # [CONTEXT, CONTEXT]
    ends = np.cumsum([gallery.steps for gallery in galleries])
    orders = [_Groups(len(g.captions) // group, groups_per_step, seed) for g in galleries]
    loss_of = CoCaLoss(caption_loss_weight=sizes.caption_weight, clip_loss_weight=1.0, pad_id=tokenizer.pad_token_id)
    forward = torch.compile(model) if compiled else model

    def step_loss(step: int) -> Tensor:
        which = int(np.searchsorted(ends, step, side="right"))
        pixels, texts = sets[which]
        chosen = (orders[which][step][:, None] * group + torch.arange(group)).flatten()
        model.text.attn_mask = causal[: texts.shape[1], : texts.shape[1]]  # open_clip would take whole contexts only
        contrastive, captioning = loss_of(**forward(normalise(pixels[chosen]), texts[chosen]))
        return contrastive + captioning

    def bound_scale() -> None:
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))

    seen = hashlib.sha256("\n".join(c for gallery in galleries for c in gallery.captions).encode())
    for gallery in galleries:
        seen.update(np.ascontiguousarray(gallery.pictures).data)
    identity = {
        "vision": asdict(sizes),
        "seed": seed,
        "batch": [group, groups_per_step],
        "steps": [gallery.steps for gallery in galleries],
        "seen": seen.hexdigest(),
        "compiled": compiled,
    }
    history = train(model, step_loss, schedule, state, identity, after_step=bound_scale, progress=progress)
    _save(out, model, tokenizer, config)
    return history


def _with_decoder(config: dict[str, Any], sizes: MiniatureEncoder) -> Any:
    """The two towers with CoCa's decoder on top."""
    from open_clip.coca_model import CoCa

    decoder = {
        "context_length": CONTEXT,
        "vocab_size": config["text_cfg"]["vocab_size"],
        "width": sizes.text_width,
        "heads": config["text_cfg"]["heads"],
        "layers": sizes.caption_layers,
    }
    model = CoCa(
        embed_dim=config["embed_dim"],
        multimodal_cfg=decoder,
        text_cfg={**config["text_cfg"], "output_tokens": True},
        vision_cfg={**config["vision_cfg"], "output_tokens": True},
    )
    # open_clip 3.3 leaves this one as the memory was
    torch.nn.init.normal_(model.text_decoder.text_projection, std=sizes.text_width**-0.5)
    return model


def _save(out: Path, model: torch.nn.Module, tokenizer: Any, config: dict[str, Any]) -> None:
    """Weights but the decoder's, configuration and tokenizer as open_clip reads them."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("text_decoder.")}
    weights = {name: tensor.contiguous() for name, tensor in kept.items()}
    save_file(weights, out / "open_clip_model.safetensors")
    text = json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESS}, indent=1)
    (out / "open_clip_config.json").write_text(text + "\n")


def normalise(pixels: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] to [B, 3, S, S] as the model wants it."""
    return (pixels.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


class _Groups:
    """The groups of every step: each comes once an epoch, in an order of its own."""

    def __init__(self, number: int, size: int, seed: int) -> None:
        self.number, self.size, self.seed = number, size, seed
        self.per_epoch = number // size

    def __getitem__(self, step: int) -> Tensor:
        """Group numbers, [size]."""
        epoch, place = divmod(step, self.per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.number)
        return torch.from_numpy(order[place * self.size :][: self.size])


def caption_tokenizer(captions: Sequence[str]) -> Any:
    """Words and punctuation as whole tokens, between ``<s>`` and ``<|end|>``."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["<pad>", "<unk>", "<|end|>", "<s>"], show_progress=False)
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A <|end|>", special_tokens=[("<|end|>", 2), ("<s>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<|end|>", bos_token="<s>"
    )


def _cut(ids: Tensor) -> Tensor:
    """Captions without the columns that are padding in all of them."""
    return ids[:, : int((ids != 0).sum(1).max())]


def caption_ids(tokenizer: Any, captions: Sequence[str]) -> Tensor:
    """Token ids [n, CONTEXT], as open_clip's own wrapper gives them."""
    return tokenizer(
        list(captions), return_tensors="pt", max_length=CONTEXT, padding="max_length", truncation=True
    ).input_ids
