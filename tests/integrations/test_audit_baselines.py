"""``tstar audit baselines``: a checkpoint with and without what it sees, by the code of ``tstar validate``."""

import json

import pytest

from tstar.cli.main import main

SUITE = "mini-tempcompass"


def test_blind_and_single_frame_are_asked_beside_all_frames(checkpoint, tmp_path, capsys):
    command = ["audit", "baselines", "--ckpt", str(checkpoint), "--benchmarks", SUITE, "--limit", "8"]
    assert main([*command, "--out", str(tmp_path), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [label for label, _ in table["rows"]] == ["chance", "blind (question only)", "single frame", "model"]
    stored = {path.stem for path in (tmp_path / "predictions" / SUITE).iterdir()}
    assert stored == {"full", "single_frame", "blind"}
    rows = [json.loads(line) for line in (tmp_path / "predictions" / SUITE / "blind.jsonl").read_text().splitlines()]
    assert {row["visual_tokens"] for row in rows} == {0}
    rows = [
        json.loads(line) for line in (tmp_path / "predictions" / SUITE / "single_frame.jsonl").read_text().splitlines()
    ]
    assert {row["frame_count"] for row in rows} == {1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "0"], "--limit must be at least 1, got 0"),
        (["--benchmarks", "mini-mlvo"], "has no suite 'mini-mlvo'; did you mean 'mini-mlvu'"),
        (["--evaluation.fsp", "2"], "evaluation.fsp"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(checkpoint, tmp_path, capsys, words, message):
    assert main(["audit", "baselines", "--ckpt", str(checkpoint), "--out", str(tmp_path), *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


def test_a_checkpoint_is_needed(capsys):
    assert main(["audit", "baselines", "--ckpt", "nowhere"]) == 2
    assert "no such checkpoint: nowhere" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["audit"])
    assert "audit" in capsys.readouterr().err
