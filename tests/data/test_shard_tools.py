"""Sharding over machines, what to expect of it, quarantine, and checking and looking at what came of it."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tstar.cli.main import main
from tstar.data.annotations import Record
from tstar.data.quarantine import read_quarantine
from tstar.data.shard_estimate import estimate_shards
from tstar.data.shard_index import index_paths
from tstar.data.shard_inspection import contact_sheet, describe_shards, verify_shards
from tstar.data.shard_plan import plan_shards
from tstar.data.shard_set import ShardSet
from tstar.data.sharding import ShardWork, write_shards
from tstar.data.sharding_settings import ShardSettings
from tstar.errors import ConfigError, DataError

SETTINGS = ShardSettings(samples_per_shard=4)
TURNS = ({"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "Noise, twice."})
RECORDS = [Record(f"r{n}", "image", f"{n % 7}.png", TURNS) for n in range(26)] + [Record("t", "text", "", TURNS)]


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    root = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    for n in range(7):
        Image.fromarray(rng.integers(0, 255, (20 + n, 30, 3), dtype=np.uint8)).save(root / f"{n}.png")
    return root


def make(records, media, out, part=(1, 1), workers=1, **more):
    return write_shards(plan_shards(records, media, out, SETTINGS, **more), ShardWork(workers=workers, part=part))


@pytest.fixture(scope="module")
def whole(media, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    make(RECORDS, media, out)
    return out


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_together_are_the_whole_and_the_last_one_completes_it(whole, media, tmp_path, order):
    summaries = [make(RECORDS, media, tmp_path / "out", (part, 3)) for part in order]
    assert [s.missing for s in summaries] == [7 - len(range(0, 7, 3)), 7 - 5, 0] if order[0] == 1 else [5, 2, 0]
    assert not any((s.missing == 0) for s in summaries[:-1])
    assert content(tmp_path / "out") == content(whole)
    assert len(ShardSet([tmp_path / "out"])) == 27


def test_before_the_last_part_the_set_cannot_be_used(media, tmp_path):
    make(RECORDS, media, tmp_path, (2, 3))
    with pytest.raises(DataError, match="no shards in"):
        ShardSet([tmp_path])


def test_parts_made_apart_are_completed_where_they_are_brought_together(whole, media, tmp_path):
    for part in (1, 2):
        make(RECORDS, media, tmp_path / str(part), (part, 2))
    together = shutil.copytree(tmp_path / "1", tmp_path / "all")
    shutil.copytree(tmp_path / "2", together, dirs_exist_ok=True)
    summary = make(RECORDS, media, together)
    assert (summary.kept, summary.missing) == (7, 0)
    assert content(together) == content(whole)


@pytest.mark.parametrize("part", [(0, 2), (3, 2), (-1, 1), (1, 0)])
def test_parts_that_are_none_are_refused(part):
    with pytest.raises(ConfigError, match="part must be i/n"):
        ShardWork(part=part)


def test_the_estimate_is_near_what_comes_out(media, tmp_path):
    records = [Record(f"r{n}", "image", f"{n % 7}.png", TURNS) for n in range(400)]
    plan = plan_shards(records, media, tmp_path / "out", ShardSettings(samples_per_shard=100))
    estimate = estimate_shards(plan)
    summary = write_shards(plan, ShardWork(workers=1))
    assert estimate.records == 400
    assert (estimate.tried, estimate.unusable) == (16, 0)
    assert abs(estimate.bytes / summary.bytes - 1) < 0.1
    assert estimate.free > 0
    assert not list(tmp_path.glob("out/*.tmp"))


def test_media_that_were_missing_or_failed_for_a_while_are_tried_again_and_in_no_list(media, tmp_path, monkeypatch):
    from tstar.data import stored_media

    records = [*RECORDS, Record("late", "image", "late.png", TURNS)]
    original = stored_media.read_image

    def failing(path):
        if path.name == "3.png":
            raise OSError(5, "Input/output error")
        return original(path)

    monkeypatch.setattr(stored_media, "read_image", failing)
    first = make(records, media, tmp_path)
    assert {s["kind"] for s in first.skipped} == {"passing", "missing"}
    assert (tmp_path / "quarantine.jsonl").read_text() == ""
    monkeypatch.undo()
    again = make(records, media, tmp_path)
    assert [s["id"] for s in again.skipped] == ["late"]
    assert again.samples == 27


def test_more_unusable_media_than_allowed_are_an_error_and_the_work_is_kept(media, tmp_path):
    records = [*RECORDS, *(Record(f"g{n}", "image", f"gone{n}.png", TURNS) for n in range(3))]
    plan = plan_shards(records, media, tmp_path, SETTINGS)
    with pytest.raises(DataError, match=r"3 of 30 records could not be used.*gone0\.png.*--max-bad-fraction"):
        write_shards(plan, ShardWork(workers=1, max_bad_fraction=0.05))
    assert not (tmp_path / "shards.json").exists()
    assert write_shards(plan, ShardWork(workers=1, max_bad_fraction=0.1)).kept == 8


def test_a_killed_command_leaves_no_process_behind(media, tmp_path):
    rows = [{"id": str(n), "image": f"{n % 7}.png", "conversations": list(TURNS)} for n in range(3000)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    command = [sys.executable, "-m", "tstar.cli.main", "shard", str(tmp_path / "a.json"), "--media-root", str(media)]
    command += ["--out", str(tmp_path / "out"), "--samples-per-shard", "20", "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*.tar")) and time.monotonic() < deadline:
        time.sleep(0.05)
    mine = children(process.pid)
    assert len(mine) >= 2
    process.kill()
    process.wait()
    while any(map(alive, mine)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in mine if alive(pid)]


def children(pid):
    """Process numbers of all descendants."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found += [int(path.parent.name), *children(int(path.parent.name))]
    return found


def alive(pid):
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_media_in_quarantine_are_left_out_unread(media, tmp_path):
    (media / "bad.png").write_bytes(b"no picture")
    records = [*RECORDS, Record("b1", "image", "bad.png", TURNS), Record("b2", "image", "bad.png", TURNS)]
    first = make(records, media, tmp_path / "one")
    assert [s["id"] for s in first.skipped] == ["b1", "b2"]
    found = read_quarantine(tmp_path / "one" / "quarantine.jsonl")
    assert list(found) == ["bad.png"]
    assert json.loads((tmp_path / "one" / "quarantine.jsonl").read_text())["records"] == 2
    (media / "bad.png").unlink()  # it would be another reason if it were looked for
    second = make(records, media, tmp_path / "two", quarantine=found)
    assert [s["reason"] for s in second.skipped] == [f"in quarantine: {found['bad.png']}"] * 2
    assert read_quarantine(tmp_path / "two" / "quarantine.jsonl") == found


def test_a_list_that_is_no_quarantine_is_named(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"file": 1}\n')
    with pytest.raises(DataError, match=r"q\.jsonl line 0 must be"):
        read_quarantine(tmp_path / "q.jsonl")
    with pytest.raises(DataError, match="no such quarantine list"):
        read_quarantine(tmp_path / "none")


def test_a_whole_set_has_no_problems(whole):
    for decode in (False, True):
        found = verify_shards(whole, decode=decode)
        assert (found.shards, found.samples, found.problems) == (7, 27, ())
    assert found.bytes == sum(p.stat().st_size for p in whole.glob("*.tar"))


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def test_every_kind_of_damage_is_named(copy):
    members, samples = (np.load(path) for path in index_paths(copy / "shard-00001.tar"))
    flip(copy / "shard-00001.tar", int(members[samples[2]["first"]]["offset"]) + 30)
    (copy / "shard-00003.tar").unlink()
    flip(index_paths(copy / "shard-00004.tar")[0], 200)
    index_paths(copy / "shard-00005.tar")[1].unlink()
    problems = verify_shards(copy).problems
    assert [p for p in problems if "shard-00001" in p] == [
        "shard-00001.tar is not what was written (sha256 differs)",
        "shard-00001.tar: r6: checksum of 0000.jpg differs",
    ]
    assert "shard-00003.tar is missing" in problems
    assert any("index of shard-00004" in p for p in problems)
    assert any("shard-00005" in p and "missing or damaged" in p for p in problems)
    assert not [p for p in problems if any(f"shard-0000{n}" in p for n in (0, 2, 6))]


def test_the_same_command_mends_what_a_check_found(copy, whole, media):
    flip(copy / "shard-00002.tar", 600)
    assert verify_shards(copy).problems
    make(RECORDS, media, copy)
    assert verify_shards(copy).problems == ()
    assert content(copy) == content(whole)


def test_a_description_counts_what_is_there(whole):
    facts = describe_shards(whole)
    assert (facts["samples"], facts["shards"]) == (27, 7)
    assert facts["modalities"]["text"]["samples"] == 1
    assert facts["modalities"]["image"] == {
        "samples": 26,
        "frames": 26,
        "frames_each": {"least": 1.0, "median": 1.0, "most": 1.0},
    }
    assert facts["words_each"]["median"] == 6  # <image>, what, is, it; noise, twice
    assert facts["settings"]["samples_per_shard"] == 4


def test_a_contact_sheet_shows_the_pictures(whole, tmp_path):
    contact_sheet(whole, tmp_path / "new" / "sheet.png", rows=5)
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape[0] % 5 == 0
    rows = np.split(pixels, 5)
    assert all(row[30:45, 2:28].std() > 30 for row in rows[:4])  # noise where the picture is
    assert all((row[:28] < 128).any() for row in rows)  # and text above
    assert (rows[0][30:, 200:] == 255).all()


def test_a_set_with_damage_can_still_be_looked_at(copy, tmp_path):
    members, samples = (np.load(path) for path in index_paths(copy / "shard-00000.tar"))
    flip(copy / "shard-00000.tar", int(members[samples[0]["first"]]["offset"]) + 3)
    contact_sheet(copy, tmp_path / "sheet.png", rows=3)
    assert (tmp_path / "sheet.png").stat().st_size > 500


def test_the_command_does_all_of_it(media, tmp_path, capsys):
    rows = [{"id": r.id, "image": r.media, "conversations": list(r.conversations)} for r in RECORDS[:20]]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "c.yaml").write_text(
        f"source: {tmp_path / 'a.json'}\nmedia_root: {media}\nout: {tmp_path / 'out'}\nsamples_per_shard: 6\ntime_limit: 0\n"
    )
    command = ["shard", "--config", str(tmp_path / "c.yaml"), "--workers", "1"]
    assert main([*command, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "plain: 20 of 20 records are used" in told
    assert "expected: 4 shards" in told
    assert not (tmp_path / "out").exists()
    assert main([*command, "--part", "1/2"]) == 0
    assert "2 shards are for other parts" in capsys.readouterr().out
    assert main([*command, "--part", "2/2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 20
    assert json.loads((tmp_path / "out" / "records.json").read_text())["rows"] == 20
    assert main(["shard", "--out", str(tmp_path / "out"), "--inspect"]) == 0
    told = capsys.readouterr().out
    assert "20 samples in 4 shards" in told
    assert "set plain: 20 rows read, left out: none" in told
    assert (tmp_path / "out" / "contact_sheet.png").is_file()
    assert main(["shard", "--out", str(tmp_path / "out"), "--verify", "--decode"]) == 0
    assert "every byte is what was written" in capsys.readouterr().out
    flip(tmp_path / "out" / "shard-00001.tar", 700)
    assert main(["shard", "--out", str(tmp_path / "out"), "--verify"]) == 1
    assert "shard-00001.tar is not what was written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sauce: a.json", "c.yaml:1: unknown setting 'sauce'; did you mean 'source'"),
        ("out: o\nfps: fast", "c.yaml:2: fps must be float, got 'fast'"),
        ("quality: 1.5", "c.yaml:1: quality must be int, got 1.5"),
        ("source: [1]", "c.yaml:1: source must be a path or a list of paths"),
        ("source: a.json", "--out is missing"),
        ("out: o", "no annotation files are given"),
    ],
)
def test_a_wrong_config_is_named_by_line(tmp_path, capsys, text, message):
    (tmp_path / "c.yaml").write_text(text)
    assert main(["shard", "--config", str(tmp_path / "c.yaml")]) == 2
    assert message in capsys.readouterr().err


def test_every_config_of_a_public_set_can_be_read(capsys):
    from tstar.data.public_sets import SETS

    configs = sorted(Path("configs/data").glob("*.yaml"))
    assert {c.stem for c in configs} == set(SETS) - {"plain"}
    for config in configs:
        assert main(["shard", "--config", str(config)]) == 2
        told = capsys.readouterr().err
        assert "media/" in told  # the files are not here, and that is all that is wrong
        assert ("no such annotation file" in told) or ("reads the folder of LLaVA-Video-178K" in told)
