"""Every Python block of docs/operators.md runs, one after another, and the page names what there is."""

import re
from pathlib import Path

import pytest

from tstar import ops
from tstar.ops.backends import BACKENDS, numba_missing
from tstar.ops.scan_cuda import INSTALL

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "docs" / "operators.md").read_text()
BLOCKS = [(m.start(), m.group(1)) for m in re.finditer(r"^```python\n(.*?)^```", TEXT, re.M | re.S)]


@pytest.mark.skipif(numba_missing() is not None, reason=str(numba_missing()))
def test_the_blocks_run(monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    names: dict[str, object] = {}
    for start, block in BLOCKS:
        line = TEXT.count("\n", 0, start) + 1
        exec(compile("\n" * line + block, "docs/operators.md", "exec"), names)  # an error shows the page's own line
    printed = capsys.readouterr().out.splitlines()
    assert len(BLOCKS) > 5
    assert "its input is float64" in printed[-2]
    assert float(printed[-1]) < 1e-14  # the port of the page


def test_operators_backends_and_install_lines_are_named():
    for name in ops.__all__:
        assert f"`{name}`" in TEXT or f"{name}(" in TEXT, name
    for name in BACKENDS:
        assert f'`"{name}"`' in TEXT or f"`{name}`" in TEXT, name
    assert INSTALL.split(": ")[1] in TEXT
