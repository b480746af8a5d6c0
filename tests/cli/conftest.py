"""What the tests of the command share."""

import json
from pathlib import Path

import pytest

from tstar.reports import profile
from tstar.reports.profile_case import measure
from tstar.reports.profile_cases import Case

ROOT = Path(__file__).parents[2]


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


@pytest.fixture
def one_suite(workplace):
    """Settings that have one suite asked; a mapping alone would be laid over the recipe's."""
    (workplace / "no_suites.yaml").write_text("evaluation: {benchmarks: {}}\n")
    suite = "data_shards/miniature/benchmarks/mini-mlvu"
    return ["--config", "no_suites.yaml", "--evaluation.benchmarks.mini-mlvu", suite]


@pytest.fixture
def profiled(monkeypatch):
    """Cases that ``tstar profile`` measures, in this process."""
    found = []

    def here(program, name, settings, environment, time_limit):
        case = Case.from_json(json.loads(json.dumps(settings)))
        found.append(case)
        return json.loads(json.dumps(measure(case)))

    monkeypatch.setattr(profile, "run_child", here)
    return found
