"""Stages over the tiny world, and a trainer that does nothing but train."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from tstar.cli.quiet import quiet_libraries
from tstar.data.datamodule import ClipDataModule
from tstar.language import LanguageConfig
from tstar.stages import OptimizerConfig, VideoSFT
from tstar.stages.checkpoint_io import VerifiedCheckpointIO
from tstar.vision import VisionConfig

MAX_FRAMES = 6
"""Of a clip; the tiny world's have up to 42."""


class Losses(Callback):
    """Remembers the loss and the rate of every batch, and what it came with."""

    def __init__(self):
        self.values, self.rates, self.samples = [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.samples.append(tuple(batch.ids))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(float(outputs["loss"]))


@pytest.fixture(scope="session")
def make_stage(miniature_parts):
    """A function that builds a stage from seed 0; ``lr`` and further optimizer settings, those of the
    language model, and those of the stage, by name."""
    quiet_libraries()

    def make(kind=VideoSFT, *, lr=1e-3, optimizer=None, models=None, language=None, seed=0, **settings):
        seed_everything(seed, verbose=False)
        models = models or miniature_parts
        settings.setdefault("compressor", {"name": "mambamia", "preset": "tiny"})
        settings.setdefault("max_length", 768)
        return kind(
            vision=VisionConfig(model=str(models / "vision")),
            language=LanguageConfig(**{"path": str(models / "language"), "template": "miniature", **(language or {})}),
            optimizer=OptimizerConfig(lr=lr, **(optimizer or {})),
            **settings,
        )

    return make


@pytest.fixture(scope="session")
def train(tiny_world):
    """A function that fits a stage on shards of the tiny world and returns its trainer; losses are in ``trainer.losses``.

    Clips have ``MAX_FRAMES``, unless ``data`` are given: longer ones show nothing but their length.
    """

    def fit(stage, shards="align", *, ckpt=None, callbacks=(), batch_size=4, limit=None, data=None, **settings):
        losses = Losses()
        settings.setdefault("max_epochs", 1)
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            enable_checkpointing=any(type(c).__name__ == "_AtOptimizerSteps" for c in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=[VerifiedCheckpointIO()],
            callbacks=[losses, *callbacks],
            logger=settings.pop("logger", False),
            gradient_clip_val=1.0,
            **settings,
        )
        trainer.losses = losses
        data = data or ClipDataModule(
            stage.processor(),
            [str(tiny_world / "shards" / shards)],
            batch_size=batch_size,
            limit=limit,
            max_frames=MAX_FRAMES,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(stage, datamodule=data, ckpt_path=ckpt)
        return trainer

    return fit


@pytest.fixture
def snapshot():
    """A function that copies all tensors of a model by name."""

    def copy(module):
        return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    return copy


@pytest.fixture(scope="session")
def train_on(forks, miniature_parts, tiny_world, tmp_path_factory):
    """A function that trains on so many processes; returns the folder, with ``steps`` (losses, tokens, ...) and ``weights``."""
    program = Path(__file__).with_name("training_on_several.py")

    def run(devices=1, *, fails=False, shards="video_sft", folder=None, **settings):
        folder = folder or tmp_path_factory.mktemp("training")
        names = [shards] if isinstance(shards, str) else shards
        places = [str(tiny_world / "shards" / name) for name in names]
        given = {"folder": str(folder), "models": str(miniature_parts), "shards": places, "devices": devices}
        outputs = [folder / f"output.{rank}" for rank in range(devices)]
        forks.start(program, "train", given | settings, outputs)
        ended = forks.statuses()
        said = [path.read_text()[-3000:] for path in outputs]
        if fails:
            assert all(ended)
            return said
        assert not any(ended), said
        return Trained(folder)

    return run


@pytest.fixture(scope="session")
def plan():
    """A function that makes micro-batches for two processes out of 24 pictures and the clips after them.

    The second process's samples are text alone in some, and without supervision in others.
    """

    def make(steps, kinds=("", "", "t", "", "u"), each=2):
        numbers = iter(range(10_000))
        made = []
        for step in range(steps):
            kind = kinds[step % len(kinds)]
            first, second = ([next(numbers) % 24 for _ in range(each)] for _ in range(2))
            if step % 2:
                first[0] = 24 + step % 16
            made.append([first, [f"{kind}{n}" if kind else n for n in second]])
        return made

    return make


class Trained:
    """What a training left."""

    def __init__(self, folder):
        self.folder = folder
        self.steps = json.loads((folder / "steps.json").read_text())
        self.weights = torch.load(folder / "weights.pt", weights_only=True)
