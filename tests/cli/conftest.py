"""What the tests of the command share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Commands:
    """Starts commands quickly, one at a time, by forks of a process that has imported everything."""

    def __init__(self):
        program = Path(__file__).with_name("commands_in_forks.py")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.server = subprocess.Popen([sys.executable, str(program)], env=environment, **pipes)
        assert self.server.stdout.readline() == "ready\n"

    def start(self, *argv, log):
        """Process number of a new command in this folder, which leads a session; what it says is added to the log."""
        line = {"argv": argv, "cwd": str(Path.cwd()), "log": str(log)}
        self.server.stdin.write(f"{json.dumps(line)}\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def ended(self):
        """Exit status of the command, when it has one."""
        return int(self.server.stdout.readline())


@pytest.fixture(scope="session")
def commands():
    started = Commands()
    yield started
    started.server.stdin.close()
    started.server.wait()


@pytest.fixture
def workplace(tmp_path, tiny_world, miniature_parts, monkeypatch):
    """A folder in which the committed recipes find their files: a tiny world and hardly trained parts."""
    (tmp_path / "data_shards" / "miniature").mkdir(parents=True)
    for path in tiny_world.iterdir():  # one by one: features are written beside them
        (tmp_path / "data_shards" / "miniature" / path.name).symlink_to(path)
    (tmp_path / "tstar" / "pretrained").mkdir(parents=True)
    (tmp_path / "tstar" / "pretrained" / "miniature").symlink_to(miniature_parts)
    for name in ("stages", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
