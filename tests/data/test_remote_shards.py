"""Sets at URLs: the same samples in the same order as from a folder, fetched once, checked, and no more kept than allowed."""

import shutil

import fsspec
import pytest
import torch

from tstar.cli.main import main
from tstar.data.annotations import Record
from tstar.data.batch import Sample
from tstar.data.datamodule import ClipDataModule
from tstar.data.remote_shards import ShardCache, UnreachableError
from tstar.data.shard_plan import plan_shards
from tstar.data.shard_set import ShardSet
from tstar.data.sharding import ShardWork, upload_shards, write_shards
from tstar.data.sharding_settings import ShardSettings
from tstar.errors import ConfigError, DataError

TURNS = ({"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"})
URL = "memory://bucket/set"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    records = [Record(str(n), "text", "", TURNS) for n in range(23)]
    write_shards(plan_shards(records, root, root / "set", ShardSettings(samples_per_shard=5)), ShardWork(workers=1))
    return root / "set"


@pytest.fixture
def remote(local):
    memory = fsspec.filesystem("memory")
    if memory.exists("/bucket"):
        memory.rm("/bucket", recursive=True)
    upload_shards(local, URL)
    return memory


def prepare(raw, features=None, room=None):
    return Sample(raw.meta["id"], torch.zeros(0, 3, 2, 2), torch.tensor([int(raw.meta["id"])]), torch.ones(1))


def everything(shards):
    return [shards.read(n) for n in range(len(shards))]


def test_the_samples_are_those_of_the_folder(local, remote, tmp_path):
    cache = ShardCache(tmp_path)
    shards = ShardSet([URL], cache=cache)
    assert not list(tmp_path.glob("*/*.tar"))  # until they are read
    assert everything(shards) == everything(ShardSet([local]))
    assert shards.digest == ShardSet([local]).digest
    assert len(list(tmp_path.glob("*/*.tar"))) == 5
    remote.rm("/bucket/set/shard-00000.tar")
    again = ShardSet([URL], cache=cache)
    assert again.read(0) == shards.read(0)  # fetched once


def test_a_set_mixes_with_local_ones(local, remote, tmp_path):
    shards = ShardSet([URL, local], cache=ShardCache(tmp_path))
    assert everything(shards)[:23] == everything(shards)[23:]


def test_a_damaged_tar_is_named_and_not_kept(remote, tmp_path):
    data = bytearray(remote.cat_file("/bucket/set/shard-00001.tar"))
    data[700] ^= 1
    remote.pipe_file("/bucket/set/shard-00001.tar", bytes(data))
    shards = ShardSet([URL], cache=ShardCache(tmp_path))
    shards.read(0)
    with pytest.raises(UnreachableError, match=r"shard-00001\.tar is not what its manifest says"):
        shards.read(5)
    assert [p.name for p in tmp_path.glob("*/*.tar")] == ["shard-00000.tar"]


def test_a_tar_that_cannot_be_had_ends_the_run_and_is_no_damaged_sample(remote, tmp_path):
    module = ClipDataModule(prepare, [URL], cache_dir=str(tmp_path))
    remote.rm("/bucket/set/shard-00001.tar")
    assert module.train_source[0][0].id == "0"
    with pytest.raises(UnreachableError, match=r"no such file: memory://bucket/set/shard-00001\.tar"):
        module.train_source[5]


def test_tars_of_other_sets_make_room(local, remote, tmp_path):
    size = sum(p.stat().st_size for p in local.glob("*.tar"))
    upload_shards(local, "memory://bucket/other")
    cache = ShardCache(tmp_path, max_bytes=size + 100)
    for url in (URL, "memory://bucket/other", URL):
        assert everything(ShardSet([url], cache=cache)) == everything(ShardSet([local]))
        assert sum(p.stat().st_size for p in tmp_path.glob("*/*.tar")) <= size + 100


def test_a_limit_that_the_sets_do_not_fit_into_is_refused(local, remote, tmp_path):
    size = sum(p.stat().st_size for p in local.glob("*.tar"))
    with pytest.raises(ConfigError, match=r"data\.cache_gb is .* so all must fit"):
        ShardSet([URL], cache=ShardCache(tmp_path, max_bytes=size - 1))


def test_a_set_that_was_made_anew_is_fetched_anew(local, remote, tmp_path):
    cache = ShardCache(tmp_path / "cache")
    everything(ShardSet([URL], cache=cache))
    records = [Record(f"new{n}", "text", "", TURNS) for n in range(23)]
    plan = plan_shards(records, tmp_path, tmp_path / "set", ShardSettings(samples_per_shard=5))
    write_shards(plan, ShardWork(workers=1))
    upload_shards(tmp_path / "set", URL)  # over the old one: its tars have the same sizes
    assert [raw.meta["id"] for raw in everything(ShardSet([URL], cache=cache))] == [r.id for r in records]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_read_from_a_url(local, tmp_path, workers):
    from tstar.data.loaders import LoaderSettings, PlannedLoader

    where = f"file://{local}"
    module = ClipDataModule(prepare, [where], batch_size=4, cache_dir=str(tmp_path), num_workers=workers)
    batches = [[3, 22, 9], [0, 4, 17]]
    loader = PlannedLoader(module.train_source, batches, LoaderSettings(workers, False))
    assert [batch.ids for batch in loader] == [[str(n) for n in batch] for batch in batches]


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("memory://bucket/none", DataError, r"no such file: memory://bucket/none/shards\.json"),
        ("nothing://bucket/set", ConfigError, "cannot open nothing://bucket/set/shards.json"),
    ],
)
def test_places_that_are_none_are_named(tmp_path, url, error, message):
    with pytest.raises(error, match=message):
        ShardSet([url], cache=ShardCache(tmp_path))


def test_without_a_place_to_keep_tars_urls_are_refused():
    with pytest.raises(DataError, match="must be a local folder"):
        ShardSet([URL])
    with pytest.raises(ConfigError, match="cache_gb must be above 0"):
        ClipDataModule(prepare, ["x"], cache_gb=-1)


def test_what_is_there_already_is_not_copied_again(local, remote, monkeypatch):
    copied = []
    original = type(remote).put_file

    def put_file(self, mine, theirs, **more):
        copied.append(theirs)
        return original(self, mine, theirs, **more)

    monkeypatch.setattr(type(remote), "put_file", put_file)
    upload_shards(local, URL)
    assert not [name for name in copied if name.endswith(".tar")]
    assert copied[-1].endswith("shards.json")


def test_the_command_writes_to_a_url(tmp_path, monkeypatch, capsys, local):
    import json

    monkeypatch.chdir(tmp_path)
    rows = [{"id": str(n), "conversations": list(TURNS)} for n in range(23)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    command = ["shard", "a.json", "--out", "memory://bucket/made", "--samples-per-shard", "5", "--workers", "1"]
    assert main(command) == 0
    assert "copied to memory://bucket/made" in capsys.readouterr().out
    made = ShardSet(["memory://bucket/made"], cache=ShardCache(tmp_path / "cache"))
    assert made.digest == ShardSet([local]).digest
    assert main([*command, "--part", "1/2"]) == 2
    assert "--part cannot write to the URL" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "data_shards")
