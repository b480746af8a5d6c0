"""What the stages share: the model, the loss step, the optimizer, and checkpoints that hold only what was trained."""

import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor

from tstar.compressors import build_compressor
from tstar.data.batch import Batch, Processor
from tstar.data.conversations import Template, get_template
from tstar.errors import ConfigError
from tstar.language import LanguageConfig, VideoLMM
from tstar.language.blocks import compile_blocks
from tstar.stages.freezing import frozen_digest, train_only, trained_tensors
from tstar.stages.fully_sharded import FullySharded, gathered, other_slices, shard, whole_tensors
from tstar.stages.optimizers import OptimizerConfig, build_optimizer, check_whole_matrices
from tstar.stages.step_loss import HeldOutLoss, StepLoss
from tstar.stages.weights import import_part
from tstar.vision import VisionConfig
from tstar.vision.feature_cache import features_key

PARTS = ("compressor", "language")


class Stage(LightningModule):
    """One step of a recipe: a model of which some parts learn.

    Args:
        vision: the frozen encoder.
        language: the language model and its prompt template.
        compressor: ``name``, ``preset`` and options, as :func:`tstar.compressors.build_compressor` takes them.
        optimizer: Adam and its schedule.
        init_from: weights files of earlier stages by part ("compressor", "language").
        max_length: longest sequence of the language model, visual tokens included.
        pack_tokens: short samples of a batch share a row of at most so many positions of the language model, each seeing itself
            alone; left out, every sample has its own.
        lr_on_resume: which learning rate goes on after a resume where they differ, "checkpoint" or "config".
    """

    trains: ClassVar[frozenset[str]] = frozenset()
    """Parts that learn: "compressor", "language"."""
    resized: ClassVar[str] = "square"
    """How pictures become the encoder's square; see :func:`tstar.data.images.to_square`."""
    fixed_compressor: ClassVar[dict[str, Any] | None] = None
    """Set where the protocol leaves no choice."""

    def __init__(
        self,
        vision: VisionConfig,
        language: LanguageConfig,
        compressor: dict[str, Any],
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 - frozen
        init_from: dict[str, str] | None = None,
        max_length: int = 4096,
        pack_tokens: int | None = None,
        lr_on_resume: str = "checkpoint",
    ) -> None:
        super().__init__()
        if lr_on_resume not in ("checkpoint", "config"):
            raise ConfigError(f"model.init_args.lr_on_resume must be checkpoint or config, got '{lr_on_resume}'")
        get_template(language.template)  # an unknown one shall not be found out at the first question
        self.optimizer_config, self.lr_on_resume = optimizer, lr_on_resume
        if max_length < 2:
            raise ConfigError(f"model.init_args.max_length must be at least 2, got {max_length}")
        if pack_tokens is not None and pack_tokens < 2:
            raise ConfigError(f"model.init_args.pack_tokens must be at least 2, got {pack_tokens}")
        spec = self.compressor_settings(compressor)
        encoder, llm = vision.build(), language.build()
        mixer = build_compressor(d_vision=encoder.d_vision, d_language=llm.d_language, grid=encoder.grid, **spec)
        self.lmm = VideoLMM(encoder, mixer, llm, max_length, pack_tokens)
        self.compressor_name: str = spec["name"]
        self.descriptions: dict[str, Any] = {
            "compressor": mixer.config.weights_of(spec["name"]),
            "language": llm.description,
        }
        for part, path in (init_from or {}).items():
            if part not in PARTS:
                raise ConfigError(f"init_from knows {' and '.join(PARTS)}, got '{part}'")
            import_part(self.lmm, part, Path(path), self.descriptions[part])
        train_only(self.lmm, self.trains)
        self.train()
        self.recipe: dict[str, Any] = {}
        self.notes: list[str] = []
        self.strict_loading = False
        self.compiled = False
        """Set before the training: compile the language model's layers."""
        self.supervised = 0
        """Supervised tokens of this process's last training batch."""
        self._frozen_digest = ""
        self._cut_before = (0, 0)
        self._placed = False
        self._step_loss, self._held_out = StepLoss(), HeldOutLoss()

    @classmethod
    def compressor_settings(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Name, preset and options of the compressor that a stage with these settings has."""
        spec = dict(cls.fixed_compressor or given)
        if "name" not in spec:
            raise ConfigError("model.init_args.compressor needs a name, as in {name: mambamia, preset: miniature}")
        for key in ("d_vision", "d_language", "grid"):
            if key in spec:
                raise ConfigError(f"model.init_args.compressor.{key} follows from vision and language; remove it")
        return spec

    # what the data and the evaluation need to know

    @property
    def template(self) -> Template:
        """Prompt template of the training conversations."""
        return get_template(self.answer_template)

    @property
    def answer_template(self) -> str:
        """Name of the template that questions are asked with."""
        return self.lmm.language.config.template

    def processor(self) -> Processor:
        """Stored samples to this model's tensors."""
        return Processor(self.lmm.language.tokenizer, self.template, self.lmm.encoder.image_size, self.resized)

    def features_key(self, dtype: str) -> str:
        """Key of stored features that may stand for this stage's frames."""
        return features_key(self.lmm.encoder, self.resized, dtype)

    @property
    def frozen_digest(self) -> str:
        """Hash of the parts that do not learn, as they were loaded; computed once, before a trainer casts or slices them."""
        self._frozen_digest = self._frozen_digest or frozen_digest(self.lmm)
        return self._frozen_digest

    # training

    def configure_model(self) -> None:
        """Compile and slice what is to be, now that the processes know one another."""
        if self._placed:
            return
        self._placed = True
        _ = self.frozen_digest  # while every tensor is whole and of the type it was loaded in
        strategy = self.trainer.strategy
        if isinstance(strategy, (FSDPStrategy, ModelParallelStrategy)) and not isinstance(strategy, FullySharded):
            raise other_slices(type(strategy).__name__)
        if self.compiled:
            compile_blocks(self.lmm.language.model)
        if isinstance(strategy, (FullySharded, DeepSpeedStrategy)):
            check_whole_matrices(self.optimizer_config, type(strategy).__name__)
        if isinstance(strategy, FullySharded):
            shard(self.lmm, strategy.device_mesh["data_parallel"], strategy.reshard_after_forward)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss over the supervised tokens of all processes' batches, and of the step's micro-batches."""
        losses = self.lmm(batch.frames, batch.frame_counts, batch.input_ids, batch.labels)
        self.supervised = losses.tokens
        trainer = self.trainer
        accumulated = trainer.accumulate_grad_batches > 1 and not trainer.strategy.handles_gradient_accumulation
        loss, mean, tokens = self._step_loss.share(losses, trainer.world_size, accumulated)
        self.log("train/loss", mean, prog_bar=True, batch_size=len(batch))
        self.log("train/supervised_tokens", tokens, batch_size=len(batch))
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Weigh the step's micro-batches by what they hold."""
        self._step_loss.finish(self.parameters(), self.trainer.accumulate_grad_batches)

    def validation_step(self, batch: Batch | None, batch_idx: int) -> None:
        """Take the supervised tokens of a held-out batch in; None where only benchmarks are wanted."""
        if batch is not None:
            self._held_out.add(self.lmm(batch.frames, batch.frame_counts, batch.input_ids, batch.labels))

    def on_validation_epoch_end(self) -> None:
        """Log the loss over all held-out tokens, weighed as in training."""
        loss = self._held_out.mean(self.trainer.world_size)
        if loss is not None:
            self.log("val/loss", loss.float())

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed every micro-batch from where it stands: nothing random has to be stored, any restart draws the same."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        place = (seed, self.trainer.global_step, batch_idx % self.trainer.accumulate_grad_batches, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1))

    def train(self, mode: bool = True) -> "Stage":
        """Frozen parts stay in eval mode."""
        super().train(mode)
        for name, child in self.lmm.named_children():
            child.train(mode and name in self.trains)
        return self

    def whole_model(self) -> AbstractContextManager[None]:
        """While open, one process may use the model alone; all have to open and close it together."""
        return gathered(self.lmm)

    def transfer_batch_to_device(self, batch: Batch | None, device: torch.device, dataloader_idx: int) -> Batch | None:
        """Move a batch's tensors."""
        return None if batch is None else batch.to(device)

    @property
    def total_steps(self) -> int:
        """Optimizer steps from the first to the last epoch.

        Lightning's own estimate is not asked: it sets the loaders up before a checkpoint is restored, and then they never
        hear where to go on.
        """
        trainer = self.trainer
        bounds = [trainer.max_steps] if trainer.max_steps >= 0 else []
        if trainer.max_epochs is not None and trainer.max_epochs >= 0:
            loader = trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
            batches, limit = len(loader), trainer.limit_train_batches
            batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
            bounds.append(trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches))
        if not bounds:
            raise ConfigError(
                "trainer.max_epochs or trainer.max_steps must bound the training: the learning rate falls to its end"
            )
        return min(bounds)

    def configure_optimizers(self) -> Any:
        """Adam, or Muon and Adam, over what learns, with warm-up and cosine a step."""
        optimizer, schedule = build_optimizer(self.lmm, self.optimizer_config, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def cut_samples(self) -> tuple[int, int]:
        """Training sequences that were longer than ``max_length`` and lost their end, and those of them that had no answer left.

        Of all processes, which have to ask together, and since the stage began, however often it was gone on with.
        """
        strategy = self.trainer.strategy
        own = torch.tensor([self.lmm.truncated, self.lmm.dropped], device=strategy.root_device)
        truncated, dropped = (int(n) for n in strategy.reduce(own, reduce_op="sum"))
        return self._cut_before[0] + truncated, self._cut_before[1] + dropped

    # checkpoints: the trained part, and enough to know the rest again

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained tensors only; add the recipe."""
        trained = {f"lmm.{name}" for name in trained_tensors(self.lmm)}
        checkpoint["state_dict"] = {n: t for n, t in checkpoint["state_dict"].items() if n in trained}
        checkpoint["tstar"] = {
            "format": 1,
            "stage": type(self).__name__,
            "recipe": self.recipe,
            "frozen": self.frozen_digest,
            "descriptions": self.descriptions,
            "cut_samples": list(self.cut_samples()),
        }

    def whole_weights(self) -> dict[str, Tensor]:
        """The trained tensors for export, in the first process; every process has to ask."""
        return whole_tensors(self.lmm, self.trainer.is_global_zero)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another stage's checkpoint or other frozen parts; note where the recipe differs, which then wins."""
        theirs = check_checkpoint(checkpoint)
        if theirs["stage"] != type(self).__name__:
            raise ConfigError(
                f"this is the checkpoint of a {theirs['stage']} stage and cannot resume {type(self).__name__}; "
                "to start from its weights use init_from"
            )
        self.check_frozen(theirs["frozen"])
        truncated, dropped = theirs.get("cut_samples", (0, 0))
        self._cut_before = truncated, dropped
        changed = differences(theirs["recipe"], self.recipe)
        rates = tuple(
            f"model.init_args.{name} " for name in ("optimizer.lr", "optimizer.compressor_lr", "lr_on_resume")
        )
        self.notes += [f"{line} (the recipe wins)" for line in changed if not line.startswith(rates)]
        self._restore_optimizer_settings(checkpoint)

    def check_frozen(self, digest: str) -> None:
        """Refuse frozen parts other than those a checkpoint was trained with."""
        if digest != self.frozen_digest:
            raise ConfigError(
                "the frozen parts (encoder, or a language model that this stage does not train) are not those the "
                "checkpoint was trained with; restore vision.model, language.path and init_from"
            )

    def _restore_optimizer_settings(self, checkpoint: dict[str, Any]) -> None:
        """An optimizer's state brings its settings along: the recipe's win, but for the rate, where ``lr_on_resume`` decides."""
        fresh, _ = build_optimizer(self.lmm, self.optimizer_config, 1)
        peaks = [group["initial_lr"] for group in fresh.param_groups]
        states, schedules = checkpoint.get("optimizer_states", []), checkpoint.get("lr_schedulers", [])
        for state, schedule in zip(states, schedules, strict=True):
            then, now = (any("muon" in g for g in groups) for groups in (state["param_groups"], fresh.param_groups))
            if then != now:
                raise ConfigError(
                    f"model.init_args.optimizer.matrices is {self.optimizer_config.matrices} and was not in the checkpoint; "
                    "restore it or start a new run"
                )
            for group, own in zip(state["param_groups"], fresh.param_groups, strict=True):
                group.update({name: own[name] for name in ("betas", "eps", "weight_decay") if name in own})
            saved = [group["initial_lr"] for group in state["param_groups"]]
            if saved == peaks:
                continue
            if self.lr_on_resume == "config":
                for group, peak in zip(state["param_groups"], peaks, strict=True):
                    group["lr"] *= peak / group["initial_lr"]
                    group["initial_lr"] = peak
                schedule["base_lrs"] = peaks
                schedule["_last_lr"] = [group["lr"] for group in state["param_groups"]]
            kept = "the recipe's" if self.lr_on_resume == "config" else "the checkpoint's"
            self.notes.append(
                f"peak learning rates are {peaks} in the recipe and {saved} in the checkpoint: {kept} go on "
                "(model.init_args.lr_on_resume: checkpoint or config)"
            )

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load the trained tensors; exactly those must be there."""
        wanted = {f"lmm.{name}" for name in trained_tensors(self.lmm)}
        if wanted != set(state_dict):
            missing, extra = sorted(wanted - set(state_dict)), sorted(set(state_dict) - wanted)
            raise ConfigError(
                f"the checkpoint is of another model: {len(missing)} tensors are missing (e.g. {missing[:1]}), "
                f"{len(extra)} are unknown (e.g. {extra[:1]})"
            )
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    # answering

    def generate(
        self, prompts: Sequence[Tensor], visual: Sequence[Tensor], *, max_new_tokens: int = 16, stop: Sequence[str] = ()
    ) -> list[str]:
        """Greedy answers to prompts, given each one's visual tokens; see :meth:`VideoLMM.generate`.

        The template's own end mark stops an answer beside the texts in ``stop``.
        """
        end = get_template(self.answer_template).answer_end
        with (
            torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()
        ):  # every length would compile anew
            return self.lmm.generate(prompts, visual, max_new_tokens=max_new_tokens, stop=(end, *stop))


def check_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint that is tstar's own; :class:`ConfigError` if there is none."""
    theirs = checkpoint.get("tstar")
    if not isinstance(theirs, dict) or theirs.get("format") != 1:
        raise ConfigError("this is not a checkpoint of tstar, or of a version that this one cannot read")
    return theirs


def differences(then: Any, now: Any, path: str = "") -> list[str]:
    """Where two recipes differ, a line a setting."""
    if isinstance(then, dict) and isinstance(now, dict):
        lines = []
        for key in sorted({*then, *now}):
            lines += differences(then.get(key), now.get(key), f"{path}.{key}" if path else key)
        return lines
    return [] if then == now else [f"{path} was {then!r} and is {now!r}"]
