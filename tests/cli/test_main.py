"""The command's surface: help, exit statuses, one clear line for every mistake."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tstar.cli.main import main
from tstar.cli.parser import typed_command

ROOT = Path(__file__).parents[2]

COMMANDS = [
    *("fit", "validate", "shard", "miniature", "miniature-models", "score", "compare", "report", "export", "audit"),
    *("ablate", "plan", "profile", "import", "doctor"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: tstar {command}" in capsys.readouterr().out


def test_help_does_not_pay_for_torch():
    code = (
        "import sys; from tstar.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'lightning', 'transformers', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_output_that_nobody_reads_any_more_ends_a_command_without_a_word(tiny_world):
    """As behind ``| head``."""
    shards = str(tiny_world / "shards" / "align")
    command = [sys.executable, "-m", "tstar.cli.main", "shard", "--verify", "--out", shards]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_another_pipe_that_breaks_is_a_bug_and_shows(monkeypatch, capsys):
    def broken(*_):
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr("tstar.cli.main._dispatch", broken)
    with pytest.raises(BrokenPipeError, match="of a worker"):
        main(["doctor"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fti"], "unknown command 'fti'; did you mean 'fit'"),
        (["shard", "x.json", "--part", "2"], "--part: must be like 2/4, got '2'"),
        (["shard", "x.json", "--out", "o", "--qality", "3"], "unknown argument --qality"),
        (["miniature", "--scale", "huge"], "--scale"),
        (["miniature-models", "--scale", "huge"], "--scale"),
        (["validate"], "--ckpt"),
        ([], ""),
    ],
)
def test_a_mistyped_command_line_is_one_line_and_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) <= 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fit", "--config", "nowhere.yaml"], "no such config file: nowhere.yaml"),
        (["fit", "--config", "nowhere.yaml", "word"], "unexpected argument 'word'"),
        (["fit", "--config", "nowhere.yaml", "--data.limit"], "--data.limit has no value"),
        (["validate", "--ckpt", "nowhere.ckpt"], "no such checkpoint: nowhere.ckpt"),
        (["validate", "--ckpt", "."], "no finished stage in ."),
        (["shard", "x.json"], "--out is missing"),
        (["shard", "nowhere.json", "--out", "o"], "no such annotation file: nowhere.json"),
        (["shard", "nowhere.json", "--out", "o", "--quality", "0"], "quality must be 1 to 100, got 0"),
        (["score", "vnbnch", "--annotations", "a", "--responses", "r"], "did you mean 'vnbench'"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert told.startswith("tstar: error: ")
    assert message in told
    assert len(told.splitlines()) == 1


def test_a_bug_shows_its_traceback(monkeypatch):
    import tstar.cli.shard

    monkeypatch.setattr(tstar.cli.shard, "get_set", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["shard", "x.json", "--out", "o"])


def test_shard_leaves_out_what_cannot_be_read_and_lists_it(tmp_path, capsys, tiny_world):
    records = json.loads((tiny_world / "annotations" / "video_sft.json").read_text())[:3]
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    (tmp_path / "whole.mp4").write_bytes((tiny_world / records[2]["video"]).read_bytes())
    records[0]["video"], records[1]["video"], records[2]["video"] = "broken.mp4", "gone.mp4", "whole.mp4"
    source = tmp_path / "mine.json"
    source.write_text(json.dumps(records))
    command = ["shard", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "2 of 3 records could not be used, more than max_bad_fraction 0.01; the first:" in told
    command += ["--max-bad-fraction", "0.7"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "1 of 3 records in 1 shards (1 were there already)" in told
    assert f"no such video: {tmp_path / 'gone.mp4'}" in told
    assert "broken.mp4" in told
    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["samples"], summary["kept"], len(summary["skipped"])) == (1, 1, 2)


def test_score_needs_no_model(tmp_path, capsys, tiny_world):
    suite = tiny_world / "benchmarks" / "mini-tempcompass"
    answers = tmp_path / "answers.jsonl"
    rows = [
        {"id": f"multi-choice:{video}:{aspect}:{n}", "response": question["answer"]}
        for video, aspects in json.loads((suite / "multi-choice.json").read_text()).items()
        for aspect, questions in aspects.items()
        for n, question in enumerate(questions)
    ]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", "mini-tempcompass", "--annotations", str(suite), "--responses", str(answers), "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)["reports"]
    assert {report["aggregate"]["multi-choice/avg"] for report in reports.values()} == {1.0}


def test_a_report_names_the_command_that_makes_it_anew(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/tstar", "profile", "--report-only", "--out", "a b"])
    assert typed_command() == "tstar profile --report-only --out 'a b'"
    assert typed_command(without="--report-only") == "tstar profile --out 'a b'"
