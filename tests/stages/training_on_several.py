"""A small training in one or several processes, which the tests of devices start. Not a test.

What is trained is a plan: for every micro-batch, for every process, its samples. ``5`` is sample 5 of the shards, ``t5`` its text
alone, ``u5`` the same with no token supervised. Without a plan the batches are those of the DataModule.
"""

import json
import signal
import time
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from lightning.pytorch.plugins import MixedPrecision

from tstar import stages
from tstar.cli.quiet import quiet_libraries
from tstar.data.batch import Sample, collate
from tstar.data.datamodule import ClipDataModule
from tstar.language import LanguageConfig
from tstar.language.splice import IGNORE, VISUAL
from tstar.stages.callbacks import GracefulStop, resume_checkpoints
from tstar.stages.checkpoint_io import VerifiedCheckpointIO
from tstar.vision import VisionConfig


class Steps(Callback):
    """The logged loss and number of supervised tokens of every optimizer step, and what each cost."""

    def __init__(self):
        self.losses, self.tokens, self.seconds = [], [], []

    def on_train_batch_start(self, *args):
        self.begun = time.monotonic()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seconds.append(time.monotonic() - self.begun)
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.losses.append(float(trainer.callback_metrics["train/loss"]))
            self.tokens.append(float(trainer.callback_metrics["train/supervised_tokens"]))


class Answers(Callback):
    """Has the first process alone ask the stage something after a step, as benchmarks do."""

    def __init__(self, step):
        self.step, self.given = step, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step != self.step:
            return
        pl_module.eval()
        batch = trainer.train_dataloader.batches[0]  # of one or two processes: its first sample is the same
        batch = collate(
            [(Sample(batch.ids[0], batch.frames[: batch.frame_counts[0]], batch.input_ids[0], batch.labels[0]), [])]
        )
        with pl_module.whole_model(), torch.no_grad():
            if trainer.is_global_zero:
                ids = batch.input_ids[0]
                visual = pl_module.lmm.visual_tokens(batch.frames, batch.frame_counts)
                losses = pl_module.lmm(batch.frames, batch.frame_counts, batch.input_ids, batch.labels)
                answers = pl_module.generate([ids[: len(ids) // 2]], visual, max_new_tokens=8)
                self.given = [*answers, round(float(losses.mean), 3)]
            trainer.strategy.barrier()
        pl_module.train()


class Signal(Callback):
    """Sends one of the processes a signal in the middle of a step."""

    def __init__(self, rank, step):
        self.rank, self.step = rank, step

    def on_before_optimizer_step(self, trainer, *args):
        if (trainer.global_rank, trainer.global_step) == (self.rank, self.step):
            signal.raise_signal(signal.SIGTERM)


class Planned(LightningDataModule):
    """Micro-batches by hand; a single process takes what the plan gives to all."""

    def __init__(self, stage, shards, plan, features):
        super().__init__()
        self.source = ClipDataModule(stage.processor(), shards).train_source
        self.encoder, self.plan, self.features = stage.lmm.encoder, plan, features

    def sample(self, name):
        kind, number = (name[0], int(name[1:])) if isinstance(name, str) else ("", name)
        sample, _ = self.source[number]
        frames = self.encoder(sample.frames) if self.features else sample.frames
        sample = replace(sample, frames=frames)
        if kind == "t":
            kept = sample.input_ids != VISUAL
            sample = replace(sample, frames=frames[:0], input_ids=sample.input_ids[kept], labels=sample.labels[kept])
        if kind == "u":
            sample = replace(sample, labels=torch.full_like(sample.labels, IGNORE))
        return sample

    def train_dataloader(self):
        world, rank = self.trainer.world_size, self.trainer.global_rank
        mine = [step[rank] if world > 1 else [name for part in step for name in part] for step in self.plan]
        return Batches([collate([(self.sample(name), []) for name in names]) for names in mine])


class Batches:
    """A loader of given batches; to Lightning, a list would be many loaders."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def train(
    folder,
    models,
    shards,
    kind="VideoSFT",
    devices=1,
    strategy="ddp",
    plan=None,
    features=False,
    batch=4,
    compressor=None,
    language=None,
    optimizer=None,
    save_every=None,
    answers_after=None,
    signal_to=None,
    ckpt=None,
    init_seed=0,
    half=None,
    max_length=768,
    **settings,
):
    """One process of a training."""
    warnings.simplefilter("ignore")
    quiet_libraries()
    seed_everything(init_seed, verbose=False)
    stage = getattr(stages, kind)(
        vision=VisionConfig(model=f"{models}/vision"),
        language=LanguageConfig(path=f"{models}/language", template="miniature", **(language or {})),
        compressor=compressor or {"name": "mambamia", "preset": "tiny", "dropout": 0.0},
        optimizer=stages.OptimizerConfig(**({"lr": 1e-3} | (optimizer or {}))),
        max_length=max_length,
    )
    sharding = settings.pop("sharding", {})
    if strategy == "fully_sharded":
        strategy = stages.FullySharded(**sharding)
    if plan:
        data = Planned(stage, shards, plan, features)
    else:
        data = ClipDataModule(stage.processor(), shards, batch_size=batch)
    steps, answers, folder = Steps(), Answers(answers_after), Path(folder)
    stop = GracefulStop(folder)
    signals = [Signal(*signal_to), stop] if signal_to else []
    mixed = [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", **half))] if half is not None else []
    saving = [resume_checkpoints(folder / "checkpoints", save_every)] if save_every else []
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy if devices > 1 else "auto",
        max_epochs=1,
        logger=False,
        enable_checkpointing=bool(saving),
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        callbacks=[steps, answers, *signals, *saving],
        plugins=[VerifiedCheckpointIO(), *mixed],
        default_root_dir=str(folder),
        **settings,
    )
    trainer.fit(stage, datamodule=data, ckpt_path=ckpt)
    if save_every:
        trainer.save_checkpoint(folder / "last.ckpt")
    whole, cut = stage.whole_weights(), stage.cut_samples()
    if trainer.is_global_zero:
        torch.save(whole, folder / "weights.pt")
        seconds = sum(steps.seconds[2:]) / max(len(steps.seconds) - 2, 1)
        numbers = {"losses": steps.losses, "tokens": steps.tokens, "step": trainer.global_step, "seconds": seconds}
        numbers["answers"], numbers["cut"] = answers.given, cut
        numbers["local"] = sum(
            p._local_tensor.numel() if hasattr(p, "_local_tensor") else p.numel() for p in stage.parameters()
        )
        numbers["received"] = stop.received
        (folder / "steps.json").write_text(json.dumps(numbers))
