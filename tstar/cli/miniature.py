"""``tstar miniature``: the generated world, the small frozen parts, and the world's shards, ready for ``tstar fit``."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from tstar.cli.progress import bar
from tstar.data.miniature import SCALES, WorldConfig, generate_world
from tstar.data.miniature.contact_sheet import contact_sheet

SHARDED = ("align", "image_sft", "video_sft", "video_val")
TEXT_DOCUMENTS = {"default": 12_000, "tiny": 200}
LANGUAGE_STEPS = {"default": 600, "tiny": 4}


def run(arguments: argparse.Namespace) -> int:
    """Make what is missing; everything that is there already is kept."""
    out = Path(arguments.out)
    config = SCALES[arguments.scale]
    if arguments.seed is not None or arguments.haystack_dir is not None:
        haystack = Path(arguments.haystack_dir) if arguments.haystack_dir else None
        config = WorldConfig(**{**vars(config), "seed": arguments.seed or 0, "haystack_dir": haystack})
    begun = time.monotonic()
    with bar("world", "files", quiet=arguments.json) as update:
        manifest = generate_world(out, config, workers=arguments.workers, progress=update)
    contact_sheet(out, out / "contact_sheet.png")
    seconds = {"world": round(time.monotonic() - begun, 1)}
    begun = time.monotonic()
    make_shards(out, arguments)
    seconds["shards"] = round(time.monotonic() - begun, 1)
    begun = time.monotonic()
    loss = make_models(out, config, arguments)
    seconds["models"] = round(time.monotonic() - begun, 1)
    if arguments.json:
        print(
            json.dumps(
                {"out": str(out), "seconds": seconds, "language_loss": loss, "world": manifest}, indent=1, default=str
            )
        )
    else:
        told = f", language model at {loss:.2f} nats a token" if loss is not None else ""
        spent = ", ".join(f"{what} {s:.0f} s" for what, s in seconds.items())
        print(f"miniature world in {out}: {spent}{told}; a few of its videos: {out / 'contact_sheet.png'}", flush=True)
    return 0


def make_shards(out: Path, arguments: argparse.Namespace) -> None:
    """The training sets as shards: pictures and up to 16 frames of each video, 2 a second."""
    from tstar.cli.shard import describe
    from tstar.data.annotations import read_annotations
    from tstar.data.sharding import ShardSettings, write_shards

    settings = ShardSettings(fps=2, max_frames=16, short_side=0, samples_per_shard=256)
    for name in SHARDED:
        records = read_annotations(out / "annotations" / f"{name}.json")
        with bar(f"shards of {name}", "samples", quiet=arguments.json) as update:
            summary = write_shards(
                records, out, out / "shards" / name, settings, workers=arguments.workers, progress=update
            )
        if not arguments.json:
            print(describe(summary), flush=True)


def make_models(out: Path, config: WorldConfig, arguments: argparse.Namespace) -> float | None:
    """The frozen encoder and the language model; None if they were there already."""
    done = out / "models" / "models.json"
    if done.is_file():
        return None
    from tstar.data.conversations import get_template
    from tstar.data.miniature import plain_captions, text_documents
    from tstar.language.miniature import build_miniature_language
    from tstar.stages.checkpoint_io import write_atomically
    from tstar.vision.miniature import build_miniature_encoder

    count, steps = TEXT_DOCUMENTS[arguments.scale], LANGUAGE_STEPS[arguments.scale]
    chat, plain = get_template("miniature"), get_template("plain")
    documents: list[Any] = [chat.pieces(turns) for turns in text_documents(count, config.seed)]
    captions = [
        ({"from": "human", "value": ""}, {"from": "gpt", "value": c}) for c in plain_captions(count // 4, config.seed)
    ]
    documents += [plain.pieces(turns) for turns in captions]
    build_miniature_encoder(out / "models" / "vision", config.seed)
    with bar("language model", "steps", quiet=arguments.json) as update:
        loss = build_miniature_language(
            out / "models" / "language", documents, steps=steps, seed=config.seed, progress=update
        )
    write_atomically(done, json.dumps({"seed": config.seed, "documents": len(documents), "steps": steps, "loss": loss}))
    return loss
