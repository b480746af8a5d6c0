"""A checkpoint of the miniature that knows its recipe, for the harnesses to load."""

import pytest
import torch
from lightning.pytorch import Trainer

from tstar.language import LanguageConfig
from tstar.stages import VideoSFT
from tstar.stages.checkpoint_io import VerifiedCheckpointIO
from tstar.vision import VisionConfig


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tiny_world, miniature_parts):
    """A run's folder with one stage, hardly trained. Its predictions go elsewhere: not to be written to."""
    run = tmp_path_factory.mktemp("runs") / "demo"
    torch.manual_seed(0)
    arguments = {
        "vision": {"model": str(miniature_parts / "vision")},
        "language": {"path": str(miniature_parts / "language"), "template": "miniature"},
        "compressor": {"name": "mambamia", "preset": "tiny"},
        "max_length": 768,
    }
    stage = VideoSFT(
        vision=VisionConfig(**arguments["vision"]),
        language=LanguageConfig(**arguments["language"]),
        compressor=arguments["compressor"],
        max_length=768,
    )
    suites = {path.name: str(path) for path in (tiny_world / "benchmarks").iterdir()}
    evaluation = {"benchmarks": suites, "fps": 1, "max_frames": 4, "max_new_tokens": 6, "workers": 0}
    stage.recipe = {
        "model": {"class_path": "VideoSFT", "init_args": arguments},
        "trainer": {"accelerator": "cpu"},
        "run": {"matmul_precision": "highest"},
        "evaluation": evaluation,
        "cwd": str(run),
    }
    content = {"state_dict": stage.state_dict(), "global_step": 1}
    stage.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    stage.on_save_checkpoint(content)
    VerifiedCheckpointIO().save_checkpoint(content, run / "1-video_sft" / "checkpoints" / "last.ckpt")
    (run / "config.yaml").write_text("stages: {video_sft: {}}\n")
    return run
