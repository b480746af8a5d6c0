"""Every Python block of the pages in docs/ runs, one after another, and the pages name what there is."""

import re
from pathlib import Path

import pytest

from tstar import ops
from tstar.compressors import compressor_options, list_compressors
from tstar.ops.backends import BACKENDS, numba_missing
from tstar.ops.scan_cuda import INSTALL

REPOSITORY = Path(__file__).parents[1]
OPERATORS, COMPRESSORS = ((REPOSITORY / "docs" / f"{name}.md").read_text() for name in ("operators", "compressors"))


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
