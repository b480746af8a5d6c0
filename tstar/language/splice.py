"""Visual tokens into the place of the visual id, and sequences of different length into one batch.

Letters: B samples, T visual tokens of a sample, L text ids of a sample, P longest spliced sequence, D width of the language model.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

IGNORE = -100
"""Label of a position without loss."""
VISUAL = -200
"""Id that the visual tokens replace."""


@dataclass
class Spliced:
    """A batch the language model can read."""

    embeds: Tensor
    """[B, P, D]; zeros where padded."""
    mask: Tensor
    """[B, P], 1 at real positions."""
    labels: Tensor
    """[B, P], ``IGNORE`` at visual and padded positions."""
    cut: int = 0
    """Samples that were longer than allowed and lost their end."""
    dropped: int = 0
    """Samples that lost all supervised tokens with their end, and are not in the batch."""
    lengths: list[int] = field(default_factory=list)
    """Positions of each sample, without padding."""
    positions: Tensor | None = None
    """[B, P], places within each sample where several share a row."""


def splice(
    embed: Callable[[Tensor], Tensor],
    input_ids: Sequence[Tensor],
    visual_tokens: Sequence[Tensor],
    labels: Sequence[Tensor] | None = None,
    *,
    max_length: int | None = None,
    pad: Literal["right", "left"] = "right",
) -> Spliced:
    """Build the language model's input.

    Args:
        embed: ids to embeddings.
        input_ids: [L] of each sample, with at most one ``VISUAL``.
        visual_tokens: [T, D] of each sample; T = 0 where there is none.
        labels: [L] of each sample.
        max_length: sequences are cut to this many positions after splicing. One that has then nothing to learn from is
            dropped, unless no other is left.
        pad: side of the padding; generation wants "left".

    Raises:
        ValueError: a sample has several places for visual tokens, or a place and no tokens or the other way round.
    """
    rows, row_labels, cut, dropped = [], [], 0, 0
    for number, (ids, visual) in enumerate(zip(input_ids, visual_tokens, strict=True)):
        places = (ids == VISUAL).nonzero().flatten().tolist()
        if len(places) > 1 or bool(places) != bool(len(visual)):
            raise ValueError(f"sample {number} has {len(places)} visual places and {len(visual)} visual tokens")
        own = labels[number] if labels is not None else torch.full_like(ids, IGNORE)
        if places:
            at = places[0]
            text = embed(torch.cat([ids[:at], ids[at + 1 :]]))  # [L - 1, D]
            row = torch.cat([text[:at], visual.to(text.dtype), text[at:]])  # [L - 1 + T, D]
            own = torch.cat([own[:at], own.new_full((len(visual),), IGNORE), own[at + 1 :]])
        else:
            row = embed(ids)
        cut += max_length is not None and len(row) > max_length
        rows.append(row[:max_length])
        row_labels.append(own[:max_length])
    if labels is not None and cut:
        learnt = [bool((own[1:] != IGNORE).any()) for own in row_labels]
        dropped = len(learnt) - sum(learnt)
        kept = learnt if any(learnt) else [True, *[False] * (len(learnt) - 1)]
        rows, row_labels = (list(itertools.compress(column, kept)) for column in (rows, row_labels))
    spliced = _pad(rows, row_labels, left=pad == "left")
    spliced.cut, spliced.dropped = cut, dropped
    return spliced


def _pad(rows: list[Tensor], labels: list[Tensor], left: bool) -> Spliced:
    longest = max(len(row) for row in rows)
    batch = len(rows)
    embeds = rows[0].new_zeros(batch, longest, rows[0].shape[-1])
    mask = torch.zeros(batch, longest, dtype=torch.long, device=embeds.device)
    padded_labels = torch.full_like(mask, IGNORE)
    for number, (row, own) in enumerate(zip(rows, labels, strict=True)):
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        embeds[number, place] = row
        mask[number, place] = 1
        padded_labels[number, place] = own
    return Spliced(embeds, mask, padded_labels, lengths=[len(row) for row in rows])
