"""A small training that ``test_kills.py`` starts, kills and goes on with. Not a test.

Every step's samples go into ``FOLDER/log.<rank>`` before the step, the weights into ``FOLDER/weights.pt`` after the last.
"""

import json
import time
import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer

from tstar.data.batch import Sample
from tstar.data.datamodule import ClipDataModule
from tstar.stages.callbacks import resume_checkpoints
from tstar.stages.checkpoint_io import VerifiedCheckpointIO, newest_verified


class Toy(LightningModule):
    """Its weights depend on every sample, on their order, and on every step that was taken."""

    def __init__(self, log: Path, pause: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -1.0], dtype=torch.float64))
        self.log_path, self.pause = log, pause

    def training_step(self, batch, batch_idx):
        step = self.trainer.global_step
        with self.log_path.with_suffix(f".{self.global_rank}").open("a") as stream:
            stream.write(f"{json.dumps([step, batch.ids])}\n")
        time.sleep(self.pause)
        x = torch.stack([ids[0] for ids in batch.input_ids]).double() / 61
        return ((self.weight[0] * x + self.weight[1] - x.square() + 0.1 * step) ** 2).mean()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97), "interval": "step"},
        }


def prepare(raw, features=None, room=None):
    """One number a sample."""
    name = raw.meta["id"]
    return Sample(name, torch.zeros(0, 3, 2, 2, dtype=torch.uint8), torch.tensor([int(name)]), torch.ones(1))


def train(shards, folder, workers=0, devices=1, batch=4, epochs=3, max_steps=-1, pause=0.0, data=None):
    """Train, or go on from the newest checkpoint that is whole."""
    warnings.simplefilter("ignore")
    folder = Path(folder)
    found = newest_verified(folder / "checkpoints")[0] if (folder / "checkpoints").is_dir() else None
    stage = Toy(folder / "log", pause)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=epochs,
        max_steps=max_steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[resume_checkpoints(folder / "checkpoints", 2)],
        plugins=[VerifiedCheckpointIO()],
        default_root_dir=str(folder),
    )
    module = ClipDataModule(prepare, [shards], batch_size=batch, num_workers=workers, seed=5, **(data or {}))
    trainer.fit(stage, datamodule=module, ckpt_path=str(found) if found else None)
    if trainer.is_global_zero:
        torch.save(stage.weight.detach(), folder / "weights.pt")
