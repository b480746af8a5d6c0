"""Samples end to end in one row of the language model, each seeing itself alone: short ones leave no padding.

Letters: B samples, P longest sample, R rows, N longest row, D width of the language model.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from tstar.errors import ConfigError
from tstar.language.splice import IGNORE, Spliced

PROBE = ((7, 5), (4, 8))
"""Lengths of the samples that :func:`check_packing` compares, by row."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Of what a sample becomes in a shared row, relative to its largest number; samples that see each other differ by much more."""


def share_rows(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Which samples share a row: longest first, each into the first row that has room.

    Args:
        lengths: of the samples.
        most: positions of a row; a longer sample has one of its own.

    Returns:
        Numbers of the samples of each row, in order.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        fits = next((row for row, left in enumerate(room) if left >= lengths[number]), None)
        if fits is None:
            fits = len(rows)
            rows.append([])
            room.append(most)
        rows[fits].append(number)
        room[fits] -= lengths[number]
    return sorted(sorted(row) for row in rows)


def pack(batch: Spliced, most: int) -> Spliced:
    """A batch padded on the right [B, P, D] with its samples in as few rows [R, N, D] as :func:`share_rows` finds.

    Args:
        batch: one sample a row.
        most: positions of a row.
    """
    lengths = batch.lengths
    rows = share_rows(lengths, most)
    if len(rows) == len(lengths):
        return batch
    longest = max(sum(lengths[number] for number in row) for row in rows)
    embeds = batch.embeds.new_zeros(len(rows), longest, batch.embeds.shape[-1])
    mask, labels = batch.mask.new_zeros(len(rows), longest), batch.labels.new_full((len(rows), longest), IGNORE)
    positions = torch.zeros_like(mask)  # 0 at padding, too: a sample of its own at every place
    for row, numbers in enumerate(rows):
        start = 0
        for number in numbers:
            length = lengths[number]
            place = slice(start, start + length)
            embeds[row, place] = batch.embeds[number, :length]
            mask[row, place] = 1
            positions[row, place] = torch.arange(length, device=positions.device)
            labels[row, start + 1 : start + length] = batch.labels[number, 1:length]  # nothing foretells a first token
            start += length
    return replace(batch, embeds=embeds, mask=mask, labels=labels, positions=positions)


@torch.no_grad()
def check_packing(model: Any) -> None:
    """Try on a few tokens that samples in one row do not see each other.

    Args:
        model: a Hugging Face causal language model, whole.

    Raises:
        ConfigError: they do; the model has a state that runs through, or does not take positions.
    """
    kind = type(model).__name__
    if not getattr(model.config, "num_attention_heads", 0) or "mamba" in model.config.model_type:
        raise ConfigError(
            f"model.init_args.pack_tokens: {kind} hands a state from token to token, so samples cannot share a row; set it to null"
        )
    attention = model.config._attn_implementation or ""
    if "flash" in attention:
        raise ConfigError(
            f"model.init_args.pack_tokens: with language.attention '{attention}' transformers keeps samples apart in batches of a "
            "single row only; set it to null, or language.attention to sdpa"
        )
    was, base = model.training, model.base_model
    model.eval()
    weight = model.get_input_embeddings().weight
    tokens = torch.arange(sum(map(sum, PROBE)), device=weight.device) % weight.shape[0]
    rows = model.get_input_embeddings()(tokens).unflatten(0, (len(PROBE), -1))  # [R, N, D]
    positions = torch.stack([torch.cat([torch.arange(n, device=weight.device) for n in row]) for row in PROBE])
    try:
        together = base(inputs_embeds=rows, position_ids=positions, use_cache=False)[0]
        parts = [part[None] for row, lengths in zip(rows, PROBE, strict=True) for part in row.split(lengths)]
        alone = torch.cat([base(inputs_embeds=part, use_cache=False)[0] for part in parts], 1).view_as(together)
    except TypeError:
        together, alone = rows, rows + float("inf")
    finally:
        model.train(was)
    error = ((together - alone).abs().max() / alone.abs().max()).item()
    if not error <= TOLERANCE.get(rows.dtype, 1e-3):
        raise ConfigError(
            f"model.init_args.pack_tokens: in {kind} with attention '{attention}' samples of one row see "
            "each other; set it to null, or try another language.attention"
        )
