"""Small evaluations in one or several processes, some of which are killed, that the tests of them start. Not a test.

python evaluations.py      reads lines of JSON settings, forks the processes of an evaluation for each, says how they ended
"""

import faulthandler
import importlib
import json
import os
import signal
import socket
import sys
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

torch.set_num_threads(1)
LIMIT = 120
"""Seconds after which an evaluation is taken to hang."""
IMPORTED_WHERE_USED = (
    *("open_clip", "torchvision.models.feature_extraction", "transformers.models.llama.modeling_llama"),
    *("tstar.ops.conv_kernels", "tstar.ops.norm_kernels", "tstar.ops.scan_kernels"),
    "torch.distributed.algorithms.ddp_comm_hooks",
)
"""What every evaluation imports when it first uses it."""


def evaluate(
    rank,
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
        rank: of the process.
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
    folder = Path(folder)
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


def process(rank, port, settings):
    """What a forked process does, its errors into a file."""
    devices = settings.get("devices", 1)
    if devices > 1:
        here = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": devices,
            "NODE_RANK": 0,
            "LOCAL_RANK": rank,
        }
        os.environ.update({name: str(value) for name, value in here.items()})
    log = os.open(Path(settings["folder"]) / f"log.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    evaluate(rank, **settings)


def stored_lines(folder):
    """Lines of all prediction files."""
    return sum(path.read_bytes().count(b"\n") for path in Path(folder).glob("predictions/*/*.jsonl"))


def serve():
    """Fork the processes of an evaluation for every line; say their exit statuses when all have ended.

    ``kill_at``: once so many answers are stored, all processes are killed.
    """
    for module in IMPORTED_WHERE_USED:
        importlib.import_module(module)  # once, not in every fork
    print("ready", flush=True)
    for line in sys.stdin:
        settings = json.loads(line)
        kill_at = settings.pop("kill_at", None)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = []
        for rank in range(settings.get("devices", 1)):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    process(rank, port, settings)
                    status = 0
                except BaseException:
                    import traceback

                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(status)
            children.append(child)
        while kill_at is not None and os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if stored_lines(settings["folder"]) >= kill_at:
                for child in children:
                    os.kill(child, signal.SIGKILL)
                break
            time.sleep(0.002)
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    serve()
