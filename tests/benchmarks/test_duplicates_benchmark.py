"""The duplicates benchmark on a tiny world: it finds some copies and prints what it counted."""

import importlib
import json

import pytest


@pytest.mark.slow
def test_copies_are_made_and_counted(folder, tiny_world, capsys, monkeypatch, tmp_path):
    module = importlib.import_module("duplicates")
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    assert module.main(["--world", str(tiny_world), "--videos", "3", "--seed", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert list(result["missed"]) == list(module.COPIES)
    assert result["missed"]["encoded anew, crf 20"] < 1
    assert all(0 <= share <= 1 for share in result["missed"].values())
    assert result["pairs_compared"] == result["clips"] * result["videos"] > 0
    assert module.main(["--world", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
