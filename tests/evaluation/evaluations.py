"""A small evaluation in one or several processes, which the tests of them start and kill. Not a test."""

import json
import os
import time
import warnings
from datetime import timedelta
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from tstar.cli.quiet import quiet_libraries
from tstar.data.datamodule import ClipDataModule
from tstar.evaluation.callbacks import BenchmarkEvaluation
from tstar.evaluation.prediction_store import PredictionStore
from tstar.evaluation.runner import _Asking
from tstar.evaluation.settings import EvaluationConfig
from tstar.language import LanguageConfig
from tstar.stages import FullySharded, OptimizerConfig, VideoSFT
from tstar.vision import VisionConfig


def evaluate(
    folder,
    models,
    evaluation,
    devices=1,
    strategy="ddp",
    shards=None,
    late=0.0,
    timeout=1800,
    slow=0.0,
    hide=False,
    **callback,
):
    """One process of an evaluation; with ``shards``, of a short training with a validation in it.

    Args:
        folder: where everything is written; ``asked.<rank>`` lists what this process asked.
        models: folder of the miniature's parts.
        evaluation: settings.
        devices: processes.
        strategy: of the trainer where there are several.
        shards: what is trained on.
        late: seconds that the last process takes longer.
        timeout: seconds that a collective operation waits.
        slow: seconds that every batch takes longer.
        hide: the first process does not see what others wrote.
    """
    warnings.simplefilter("ignore")
    quiet_libraries()
    torch.manual_seed(0)
    folder, rank = Path(folder), int(os.environ.get("LOCAL_RANK", "0"))
    stage = VideoSFT(
        vision=VisionConfig(model=f"{models}/vision"),
        language=LanguageConfig(path=f"{models}/language", template="miniature"),
        compressor={"name": "mambamia", "preset": "tiny"},
        optimizer=OptimizerConfig(lr=1e-3),
        max_length=768,
    )
    generate = _Asking._generate

    def noted(asking, questions):
        time.sleep(slow + (late if rank == devices - 1 and not (folder / f"asked.{rank}").exists() else 0.0))
        generate(asking, questions)
        with (folder / f"asked.{rank}").open("a") as file:
            file.write(json.dumps([item.id for _, item in questions]) + "\n")

    _Asking._generate = noted
    if hide and rank == 0:
        PredictionStore._parts = lambda store: []
    together = FullySharded() if strategy == "fully_sharded" else DDPStrategy(timeout=timedelta(seconds=timeout))
    suites = BenchmarkEvaluation(EvaluationConfig(**evaluation), folder, **callback)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=together if devices > 1 else "auto",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[suites],
        default_root_dir=str(folder),
        num_sanity_val_steps=0,
    )
    if shards:
        data = ClipDataModule(stage.processor(), [shards], val_shards=[shards], batch_size=2, limit=4)
        trainer.fit(stage, datamodule=data)
    else:
        trainer.validate(stage, dataloaders=DataLoader([None], batch_size=None), verbose=False)
    assert bool(suites.reports) is (rank == 0)
    if rank == 0:
        reports = {name: {m: report.to_json() for m, report in modes.items()} for name, modes in suites.reports.items()}
        (folder / "reports.json").write_text(json.dumps(reports))
