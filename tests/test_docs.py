"""Every Python block of the pages in docs/ runs, one after another, and the pages name what there is."""

import inspect
import re
from pathlib import Path

import pytest

from tstar import ops
from tstar.cli.arguments_training import add_fit
from tstar.cli.parser import Parser
from tstar.cli.recipe import RunConfig
from tstar.cli.yaml_files import load_yaml, parse_value
from tstar.compressors import compressor_options, list_compressors
from tstar.data.datamodule import ClipDataModule
from tstar.evaluation.settings import EvaluationConfig
from tstar.ops.backends import BACKENDS, numba_missing
from tstar.ops.scan_cuda import INSTALL
from tstar.stages.optimizers import OptimizerConfig

REPOSITORY = Path(__file__).parents[1]
OPERATORS, COMPRESSORS, RECIPES = (
    (REPOSITORY / "docs" / f"{name}.md").read_text() for name in ("operators", "compressors", "recipes")
)
IN_WORDS = {"shards", "seed", "max_new_tokens", "workers"}
"""Settings whose default the page tells in words."""


def run_blocks(page, text):
    """Run the page's blocks; how many there are."""
    names: dict[str, object] = {}
    blocks = [(m.start(), m.group(1)) for m in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S)]
    for start, block in blocks:
        line = text.count("\n", 0, start) + 1
        exec(compile("\n" * line + block, page, "exec"), names)  # an error shows the page's own line
    return len(blocks)


@pytest.mark.skipif(numba_missing() is not None, reason=str(numba_missing()))
def test_the_blocks_about_operators_run(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    assert run_blocks("docs/operators.md", OPERATORS) > 5
    printed = capsys.readouterr().out.splitlines()
    assert "its input is float64" in printed[-2]
    assert float(printed[-1]) < 1e-14  # the port of the page


def test_the_blocks_about_compressors_run(capsys):
    assert run_blocks("docs/compressors.md", COMPRESSORS) == 5
    kept = int(re.findall(r"^(\d+) of 10 frames$", capsys.readouterr().out, re.MULTILINE)[0])
    assert 5 <= kept < 8


def test_operators_backends_and_install_lines_are_named():
    for name in ops.__all__:
        assert f"`{name}`" in OPERATORS or f"{name}(" in OPERATORS, name
    for name in BACKENDS:
        assert f'`"{name}"`' in OPERATORS or f"`{name}`" in OPERATORS, name
    assert INSTALL.split(": ")[1] in OPERATORS


def test_compressors_and_their_presets_are_named():
    for name in list_compressors():
        assert f"`{name}`" in COMPRESSORS, name
        assert compressor_options(name)


def rows_after(page, lead):
    """Cells of each row of the first table after ``lead``."""
    table = page.split(lead)[1].split("\n|", 1)[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def names_in(cell):
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize(
    ("lead", "kind", "elsewhere"),
    [
        ("\n`model.init_args.optimizer` is", OptimizerConfig, set()),
        ("\n`data`:", ClipDataModule, {"processor"}),
        ("\n`run`:", RunConfig, set()),
        ("\n## Evaluation", EvaluationConfig, {"benchmarks"}),
    ],
)
def test_every_setting_stands_in_its_table_with_its_default(lead, kind, elsewhere):
    defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items() if name not in elsewhere}
    named = []
    for first, default, _ in rows_after(RECIPES, lead):
        names = names_in(first)
        named += names
        if names[0] in IN_WORDS:
            continue
        told = default.replace("`", "")
        values = [told] * len(names) if len(names) == 1 or ", " not in told else told.split(", ")
        for name, value in zip(names, values, strict=True):
            known = defaults[name]
            assert parse_value(value) == (list(known) if isinstance(known, tuple) else known), name
    assert sorted(named) == sorted(defaults)


def test_every_option_of_fit_is_named():
    commands = Parser().add_subparsers()
    add_fit(commands)
    named = {name.split()[0] for cells in rows_after(RECIPES, "`tstar fit` takes:") for name in names_in(cells[0])}
    assert named == set(commands.choices["fit"]._option_string_actions) - {"-h", "--help"}


def test_the_sets_of_published_runs_are_those_of_the_recipes():
    paper = load_yaml(REPOSITORY / "configs" / "scale" / "paper.yaml")[0]["per_stage"]
    tables = {path.stem: load_yaml(path)[0] for path in (REPOSITORY / "configs" / "ablations").glob("*.yaml")}
    smaller = {"table1", "table7", "table_a", "figure3"}  # of the last column
    assert smaller < set(tables)
    columns = {stage: cells[1:] for cells in rows_after(RECIPES, "These sets of") for stage in names_in(cells[0])}
    assert columns.keys() == paper.keys()
    for table, content in tables.items():
        over = content.get("common", {}).get("paper", {}).get("per_stage", {})
        for stage, (published, small) in columns.items():
            told = [f"data_shards/{name}" for name in names_in(small if table in smaller else published)]
            if table != "figure3" or stage == "unified_sft":  # it has one protocol
                assert {**paper, **over}[stage]["data"]["shards"] == told, (table, stage)
