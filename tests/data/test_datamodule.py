"""A real Trainer over real shards: stopped anywhere and resumed, it trains exactly the samples that were left."""

import os
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from tstar.data.annotations import Record
from tstar.data.batch import Batch, Processor, Sample, Skipped, collate
from tstar.data.conversations import get_template
from tstar.data.datamodule import ClipDataModule
from tstar.data.plan import epoch_order
from tstar.data.sample_source import REPLACEMENT_TRIES, SampleSource
from tstar.data.shard_index import RawSample, index_paths
from tstar.data.shard_plan import plan_shards
from tstar.data.shard_set import ShardSet
from tstar.data.sharding import ShardWork, write_shards
from tstar.data.sharding_settings import ShardSettings
from tstar.errors import ConfigError, DataError

SAMPLES, SEED = 29, 5
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def prepare(raw: RawSample, features=None, room=None) -> Sample:
    """Small enough to pickle and quick: one number a sample."""
    number = int(raw.meta["id"])
    return Sample(
        raw.meta["id"], torch.zeros(len(raw.frames), 3, 2, 2, dtype=torch.uint8), torch.tensor([number]), torch.ones(1)
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """29 samples in shards of 5; every third has a picture."""
    root = tmp_path_factory.mktemp("data")
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(root / "p.png")
    turns = ({"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"})
    records = [
        Record(str(n), *(("text", "") if n % 3 else ("image", "p.png")), conversations=turns) for n in range(SAMPLES)
    ]
    write_shards(plan_shards(records, root, root / "shards", ShardSettings(samples_per_shard=5)), ShardWork(workers=1))
    return root / "shards"


@pytest.fixture
def copy(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "copy")


class Toy(LightningModule):
    """Its weight depends on every sample and on their order, so that equal weights mean equal training."""

    def __init__(self, sets_up_early=False):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0], dtype=torch.float64))
        self.log_of = []
        self.sets_up_early = sets_up_early

    def training_step(self, batch: Batch, batch_idx: int):
        self.log_of.append((self.trainer.global_step, list(batch.ids)))
        x = torch.stack([ids[0] for ids in batch.input_ids]).double() / SAMPLES
        return ((self.weight[0] * x + self.weight[1] - x.square() + 0.1 * self.trainer.global_step) ** 2).mean()

    def validation_step(self, batch: Batch, batch_idx: int):
        pass

    def configure_optimizers(self):
        if self.sets_up_early:
            assert self.trainer.estimated_stepping_batches > 0  # which makes Lightning set the loaders up
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97), "interval": "step"},
        }


class SaveAt(Callback):
    """As GracefulStop: a checkpoint at a given batch of the whole run, then stop."""

    def __init__(self, path, batches):
        self.path, self.batches, self.count = path, batches, 0

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.count += 1
        if self.count == self.batches:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True
            trainer.fit_loop.epoch_loop.min_steps = trainer.fit_loop.min_epochs = None


def fit(
    shards,
    root,
    *,
    callbacks=(),
    ckpt=None,
    batch=4,
    accumulate=1,
    workers=0,
    seed=SEED,
    data=None,
    early=False,
    **trainer,
):
    """Train the toy; returns it."""
    stage = Toy(early)
    module = ClipDataModule(prepare, [str(shards)], batch_size=batch, num_workers=workers, seed=seed, **(data or {}))
    settings = {"max_epochs": 2, **trainer}
    runner = Trainer(
        accelerator="cpu",
        devices=1,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        default_root_dir=str(root),
        **settings,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner.fit(stage, datamodule=module, ckpt_path=str(ckpt) if ckpt else None)
    stage.steps = runner.global_step
    stage.logged = runner.fit_loop.epoch_loop._batches_that_stepped  # the step that loggers are told
    return stage


def ids(stage):
    return [batch for _, batch in stage.log_of]


def planned(epochs=2, size=4, total=SAMPLES, window=4):
    """Micro-batches of ``size`` straight from the plan of global batches of ``window``."""
    orders = [epoch_order(total, window, SEED, e) for e in range(epochs)]
    return [[str(n) for n in o[i : i + size]] for o in orders for i in range(0, len(o), size)]


PER_EPOCH = SAMPLES // 4


def test_a_run_trains_the_plan(shards, tmp_path):
    assert ids(fit(shards, tmp_path)) == planned()
    assert ids(fit(shards, tmp_path, batch=2, accumulate=2)) == planned(size=2)


@pytest.mark.parametrize("stop", range(1, 2 * PER_EPOCH + 1))
def test_a_run_stopped_after_any_batch_goes_on_exactly(shards, tmp_path, stop):
    whole = fit(shards, tmp_path)
    first = fit(shards, tmp_path, callbacks=[SaveAt(tmp_path / "a.ckpt", stop)])
    second = fit(shards, tmp_path, ckpt=tmp_path / "a.ckpt")
    assert ids(first) + ids(second) == ids(whole) == planned()
    assert first.log_of + second.log_of == whole.log_of  # at the same steps
    assert torch.equal(second.weight, whole.weight)
    assert second.steps == whole.steps == 2 * PER_EPOCH
    assert second.logged == whole.logged or not second.log_of


@pytest.mark.parametrize("stop", [1, 2, 3, 6, 13, 14, 15, 16, 17, 27, 28])
def test_with_accumulation_a_window_cut_short_is_gone_through_again(shards, tmp_path, stop):
    whole = fit(shards, tmp_path, batch=2, accumulate=2)
    first = fit(shards, tmp_path, batch=2, accumulate=2, callbacks=[SaveAt(tmp_path / "a.ckpt", stop)])
    second = fit(shards, tmp_path, batch=2, accumulate=2, ckpt=tmp_path / "a.ckpt")
    assert ids(first)[: stop // 2 * 2] + ids(second) == ids(whole) == planned(size=2)
    assert torch.equal(second.weight, whole.weight)
    assert second.steps == whole.steps == 2 * PER_EPOCH
    assert second.logged == whole.logged or not second.log_of


@pytest.mark.parametrize("stop", [1, 3, PER_EPOCH, PER_EPOCH + 2, 2 * PER_EPOCH])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_loaders_set_up_before_the_checkpoint_is_restored_go_on_exactly_too(shards, tmp_path, stop, accumulate):
    common = {"batch": 4 // accumulate, "accumulate": accumulate, "early": True}
    whole = fit(shards, tmp_path, **common)
    fit(shards, tmp_path, callbacks=[SaveAt(tmp_path / "a.ckpt", stop * accumulate)], **common)
    rest = fit(shards, tmp_path, ckpt=tmp_path / "a.ckpt", **common)
    assert rest.log_of == whole.log_of[stop * accumulate :]
    assert torch.equal(rest.weight, whole.weight)
    if stop == 3:
        with pytest.raises(ConfigError, match=r"cannot go on: data\.seed"):
            fit(shards, tmp_path, ckpt=tmp_path / "a.ckpt", **common, seed=6)


def test_loaders_set_up_too_early_for_a_window_cut_short_are_refused(shards, tmp_path):
    common = {"batch": 2, "accumulate": 2, "early": True}
    fit(shards, tmp_path, callbacks=[SaveAt(tmp_path / "a.ckpt", 3)], **common)
    with pytest.raises(ConfigError, match=r"inside an accumulation window.*estimated_stepping_batches"):
        fit(shards, tmp_path, ckpt=tmp_path / "a.ckpt", **common)


@pytest.mark.parametrize("chain", [((4, 1), (2, 2), (1, 4)), ((1, 4), (4, 1), (2, 2)), ((2, 2), (1, 4), (4, 1))])
@pytest.mark.parametrize("stops", [(3, 4), (7, 2), (5, 7), (9, 3)])
def test_other_accumulation_after_a_resume_trains_the_same_global_batches(shards, tmp_path, chain, stops):
    trained, path = [], None
    for number, (batch, accumulate) in enumerate(chain):
        last = number == len(chain) - 1
        target = tmp_path / f"{number}.ckpt"
        callbacks = [] if last else [SaveAt(target, stops[number] * accumulate)]
        stage = fit(shards, tmp_path, batch=batch, accumulate=accumulate, callbacks=callbacks, ckpt=path)
        trained += [n for batch_ids in ids(stage) for n in batch_ids]
        path = target
    assert trained == [n for batch_ids in planned() for n in batch_ids]
    assert stage.steps == 2 * PER_EPOCH


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("max_steps", [-1, 11])
@pytest.mark.parametrize("every", [1, 3, PER_EPOCH])
def test_every_checkpoint_that_lightning_saves_goes_on_exactly(shards, tmp_path, accumulate, max_steps, every):
    common = {"batch": 4 // accumulate, "accumulate": accumulate, "max_steps": max_steps}
    saver = ModelCheckpoint(
        tmp_path / "c", filename="{step}", save_top_k=-1, every_n_train_steps=every, save_on_train_epoch_end=False
    )
    whole = fit(shards, tmp_path, callbacks=[saver], **common)
    saved = sorted((tmp_path / "c").glob("*.ckpt"), key=lambda p: int(p.stem.split("=")[1]))
    assert len(saved) == whole.steps // every
    for path in saved[::3] if every == 1 else saved:
        step = int(path.stem.split("=")[1])
        rest = fit(shards, tmp_path, ckpt=path, **common)
        assert rest.log_of == whole.log_of[step * accumulate :], path.name
        assert torch.equal(rest.weight, whole.weight)


@pytest.mark.parametrize("where", ["epoch end", "validation"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_checkpoints_at_epoch_ends_and_after_validation_go_on_exactly(shards, tmp_path, where, accumulate):
    common = {"batch": 4 // accumulate, "accumulate": accumulate, "data": {"val_shards": [str(shards)]}}
    if where == "validation":
        common["val_check_interval"] = 3 * accumulate
        saver = ModelCheckpoint(tmp_path / "c", filename="{step}", save_top_k=-1, save_on_train_epoch_end=False)
    else:
        saver = ModelCheckpoint(tmp_path / "c", filename="{step}", save_top_k=-1, save_on_train_epoch_end=True)
    whole = fit(shards, tmp_path, callbacks=[saver], **common)
    saved = sorted((tmp_path / "c").glob("*.ckpt"))
    assert len(saved) >= 2
    for path in saved:
        step = int(path.stem.split("=")[1])
        rest = fit(shards, tmp_path, ckpt=path, **common)
        assert rest.log_of == whole.log_of[step * accumulate :], path.name
        assert torch.equal(rest.weight, whole.weight)


def test_workers_change_nothing_and_may_come_at_a_resume(shards, tmp_path):
    fit(shards, tmp_path, callbacks=[SaveAt(tmp_path / "a.ckpt", PER_EPOCH - 2)])
    with_worker = fit(shards, tmp_path, ckpt=tmp_path / "a.ckpt", workers=1)
    assert ids(with_worker) == planned()[PER_EPOCH - 2 :]


def test_a_run_may_be_lengthened(shards, tmp_path):
    fit(shards, tmp_path, callbacks=[SaveAt(tmp_path / "a.ckpt", 2 * PER_EPOCH)])
    assert ids(fit(shards, tmp_path, ckpt=tmp_path / "a.ckpt", max_epochs=3)) == planned(3)[2 * PER_EPOCH :]


@pytest.mark.parametrize("limit", [3, 0.5])
@pytest.mark.parametrize("stop", [2, 3, 4, 5])
def test_epochs_cut_by_limit_train_batches_resume_exactly(shards, tmp_path, limit, stop):
    whole = fit(shards, tmp_path, limit_train_batches=limit)
    assert ids(whole) == planned()[:3] + planned()[PER_EPOCH : PER_EPOCH + 3]
    fit(shards, tmp_path, limit_train_batches=limit, callbacks=[SaveAt(tmp_path / "a.ckpt", stop)])
    rest = fit(shards, tmp_path, limit_train_batches=limit, ckpt=tmp_path / "a.ckpt")
    assert rest.log_of == whole.log_of[stop:]
    assert torch.equal(rest.weight, whole.weight)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 6}, r"data\.seed is not that of the checkpoint \(now 6, then 5\)"),
        ({"batch": 8}, r"global batch is 8 and was 4; keep data\.batch_size x devices x trainer\.accumulate"),
        ({"accumulate": 2}, "global batch is 8 and was 4"),
        ({"data": {"limit": 20}}, r"number of samples \(data\.limit\) is not that .* \(now 20, then 29\)"),
        (
            {"data": {"group_by_length": True}},
            r"group_by_length are not those of the checkpoint \(now length and frames, then \)",
        ),
        ({"limit_train_batches": 5}, r"an epoch has 5 steps and had 7; keep trainer\.limit_train_batches"),
    ],
)
def test_a_resume_that_would_give_another_order_is_refused(shards, tmp_path, change, reason):
    fit(shards, tmp_path, callbacks=[SaveAt(tmp_path / "a.ckpt", 3)])
    with pytest.raises(ConfigError, match=f"cannot go on: .*{reason}") as caught:
        fit(shards, tmp_path, ckpt=tmp_path / "a.ckpt", **change)
    assert "\n" not in str(caught.value)


def test_an_epoch_by_length_is_the_planned_order_of_words_and_frames_in_the_index(shards, tmp_path):
    words, frames = (ShardSet([shards]).column(name) for name in ("words", "frames"))
    run = fit(shards, tmp_path, data={"group_by_length": True})
    orders = [epoch_order(len(words), 4, seed=SEED, epoch=epoch, lengths=words, frames=frames) for epoch in (0, 1)]
    assert ids(run) == [[str(n) for n in batch] for order in orders for batch in order.reshape(-1, 4)]
    assert ids(run) != planned()


def test_a_resume_with_other_shards_is_refused(shards, copy, tmp_path):
    fit(shards, tmp_path, callbacks=[SaveAt(tmp_path / "a.ckpt", 3)])
    assert ids(fit(copy, tmp_path, ckpt=tmp_path / "a.ckpt")) == planned()[3:]  # a copy elsewhere will do
    (copy / "shard-00000.tar").unlink()
    with pytest.raises(ConfigError, match=r"cannot go on: the shards \(data\.shards\) are others"):
        fit(copy, tmp_path, ckpt=tmp_path / "a.ckpt", data={"damaged_shards": "skip"})


def test_the_checkpoint_holds_tensors_and_json_only(shards, tmp_path):
    fit(shards, tmp_path, callbacks=[SaveAt(tmp_path / "a.ckpt", PER_EPOCH + 2)], batch=2, accumulate=2)
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    (place,) = state
    assert place == {
        "epoch": 0,
        "position": (PER_EPOCH + 2) // 2 * 4,
        "seed": SEED,
        "samples": SAMPLES,
        "index": ShardSet([shards]).digest,
        "grouped_by": "",
        "global_batch": 4,
        "steps_per_epoch": PER_EPOCH,
        "accumulate": 2,
    }


# what a batch is made of


def test_pictures_and_text_keep_batches_of_their_own(shards, tmp_path):
    batches = ids(fit(shards, tmp_path, max_epochs=3, data={"group_by_modality": True}))
    kinds = [{int(n) % 3 == 0 for n in batch} for batch in batches]
    assert sum(len(kind) == 1 for kind in kinds) >= 3 * (PER_EPOCH - 1)
    assert {True} in kinds
    assert {False} in kinds


def test_validation_sees_every_sample_once_in_the_shards_order(shards, tmp_path):
    class Watch(Callback):
        seen: list[str] = []  # noqa: RUF012

        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, *args):
            self.seen += batch.ids

    data = {"val_shards": [str(shards)], "limit": 4}
    fit(shards, tmp_path, callbacks=[Watch()], max_epochs=1, data=data, num_sanity_val_steps=0)
    assert Watch.seen == [str(n) for n in range(SAMPLES)]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_share_every_batch_and_have_the_same_number(shards, world):
    trained, validated = [], []
    for rank in range(world):
        module = ClipDataModule(prepare, [str(shards)], [str(shards)], batch_size=2, seed=SEED)
        module.trainer = SimpleNamespace(
            world_size=world,
            global_rank=rank,
            accumulate_grad_batches=1,
            limit_train_batches=1.0,
            global_step=SAMPLES // (2 * world) + 1,  # one step into the second epoch
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )
        train, val = module.train_dataloader(), module.val_dataloader()
        assert not isinstance(val, DataLoader)  # Lightning would divide it a second time
        trained.append([batch.ids for batch in train])
        validated.append([batch.ids for batch in val])
        assert len(train) == len(trained[-1]) + 1
        assert len(val) == len(validated[-1])
    order = epoch_order(SAMPLES, 2 * world, SEED, 1)[2 * world :]
    assert [n for step in zip(*trained, strict=True) for part in step for n in part] == [str(n) for n in order]
    seen = [n for part in validated for batch in part for n in batch]
    assert sorted(map(int, seen)) == list(range(SAMPLES // world * world))
    assert len({len(part) for part in validated}) == 1


def damage(folder, numbers):
    """Flip a byte in the JSON of these samples."""
    for number in numbers:
        shard = folder / f"shard-{number // 5:05d}.tar"
        members, samples = (np.load(path) for path in index_paths(shard))
        member = members[samples[number % 5]["first"]]
        data = bytearray(shard.read_bytes())
        data[int(member["offset"]) + 3] ^= 0xFF
        shard.write_bytes(data)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_samples_are_replaced_by_the_next_and_reported(copy, tmp_path, workers):
    class Watch(Callback):
        def __init__(self):
            self.skipped = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.skipped += batch.skipped

    damage(copy, [7, 8, 28])
    watch = Watch()
    stage = fit(copy, tmp_path, callbacks=[watch], max_epochs=1, workers=workers)
    replaced = {"7": "9", "8": "9", "28": "0"}
    assert ids(stage) == [[replaced.get(n, n) for n in batch] for batch in planned(1)]
    passed = {"7": ["7", "8"], "8": ["8"], "28": ["28"]}
    assert [skip.key for skip in watch.skipped] == [k for b in planned(1) for n in b for k in passed.get(n, [])]
    assert {skip.reason for skip in watch.skipped} == {"checksum of json differs"}
    assert {os.path.basename(skip.shard) for skip in watch.skipped} <= {"shard-00001.tar", "shard-00005.tar"}


def test_too_many_damaged_samples_in_a_row_end_with_the_first_of_them(shards):
    def refuse(raw, room=None):
        raise KeyError("timestamps")

    source = SampleSource(ShardSet([shards], limit=6), refuse)
    with pytest.raises(
        DataError, match=r"6 samples in a row .*beginning with 2 in .*shard-00000\.tar \(KeyError: "
    ) as e:
        source[2]
    assert isinstance(e.value.__cause__, KeyError)
    assert REPLACEMENT_TRIES == 100


def test_a_setting_that_cannot_work_is_not_taken_for_damage(shards):
    def refuse(raw, room=None):
        raise ConfigError("resize mode")

    with pytest.raises(ConfigError):
        SampleSource(ShardSet([shards]), refuse)[0]


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"batch_size": 0}, r"data\.batch_size must be at least 1, got 0"),
        ({"limit": 0}, r"data\.limit must be at least 1, got 0"),
        ({"num_workers": -1}, r"data\.num_workers must be 0 or more, got -1"),
        ({"seed": -1}, r"data\.seed must be 0 or more, got -1"),
    ],
)
def test_settings_that_cannot_work_are_refused(shards, setting, reason):
    with pytest.raises(ConfigError, match=reason):
        ClipDataModule(prepare, [str(shards)], **setting)


def test_a_batch_larger_than_the_data_is_refused(shards, tmp_path):
    with pytest.raises(ConfigError, match=r"global batch of 30 .* larger than the 29 samples"):
        fit(shards, tmp_path, batch=30)


def test_damaged_shards_are_left_out_on_request_and_named(copy, tmp_path):
    (copy / "shard-00002.tar").unlink()
    with pytest.raises(DataError, match=r"shard-00002\.tar is missing"):
        ClipDataModule(prepare, [str(copy)])
    module = ClipDataModule(prepare, [str(copy)], val_shards=[str(copy)], damaged_shards="skip")
    assert len(module.train_source) == len(module.val_source) == SAMPLES - 5
    assert len(module.damaged) == 2
    assert "shard-00002.tar is missing" in module.damaged[0]


def test_collate_lays_clips_end_to_end():
    def sample(name, frames):
        return Sample(
            name, torch.full((frames, 3, 2, 2), frames, dtype=torch.uint8), torch.tensor([frames]), torch.ones(1)
        )

    skip = Skipped("s.tar", "x", "why")
    batch = collate([(sample("a", 2), []), (sample("b", 0), [skip]), (sample("c", 3), [])])
    assert (batch.ids, batch.frame_counts, batch.skipped, len(batch)) == (["a", "b", "c"], [2, 0, 3], [skip], 3)
    assert [int(clip.sum()) for clip in batch.frames.split(batch.frame_counts)] == [2 * 2 * 12, 0, 3 * 3 * 12]
    moved = batch.to(torch.device("cpu"))
    assert moved.frames.shape == (5, 3, 2, 2)
    with pytest.raises(DataError, match="empty batch"):
        collate([])


def test_the_processor_makes_frames_and_ids_of_a_stored_sample():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from tstar.data.images import encode_image

    words = {w: n for n, w in enumerate(["[UNK]", "<|user|>", "<|assistant|>", "<|end|>", "Q", "A"])}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(["<|user|>", "<|assistant|>", "<|end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
    turns = [{"from": "human", "value": "Q <image>"}, {"from": "gpt", "value": "A"}]
    frames = tuple(encode_image(np.full((4, 6, 3), grey, np.uint8), "jpeg", 95) for grey in (10, 200))
    sample = Processor(tokenizer, get_template("miniature"), 5)(RawSample({"id": "x", "conversations": turns}, frames))
    assert sample.frames.shape == (2, 3, 5, 5)
    assert sample.frames.dtype == torch.uint8
    np.testing.assert_allclose(sample.frames.float().mean((1, 2, 3)), [10, 200], atol=2)
    assert sample.input_ids.tolist() == [1, -200, 4, 3, 2, 5, 3]
    assert sample.labels.tolist() == [-100] * 5 + [5, 3]
    text = Processor(tokenizer, get_template("miniature"), 5)(RawSample({"id": "x", "conversations": turns}, ()))
    assert text.frames.shape == (0, 3, 5, 5)
    assert -200 not in text.input_ids
    with pytest.raises(DataError, match="frame of x"):
        Processor(tokenizer, get_template("miniature"), 5)(RawSample({"id": "x", "conversations": turns}, (b"no",)))
