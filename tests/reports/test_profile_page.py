"""The page, tables and plots of a profile."""

import csv
import json

import pytest
from PIL import Image

from tstar.reports.profile_cases import ANSWER, LABELS, PARTS
from tstar.reports.profile_report import headline, results_of, significant, write_profile

from .profile_results import HERE, MIB, case, measured, model


@pytest.fixture
def results():
    cases = [case(frames, label, "paper") for frames in (8, 16) for label in ("pooling", "MambaMia")]
    cases += [case(8, "MambaMia", videos=("a.mp4",), parts=tuple(PARTS))]
    ended = {"status": "out of memory", "reason": "64 GiB", "log": "a long one"}
    found = [
        measured("total", "without_encoding", seconds=0.2),
        measured("total", "without_encoding", seconds=1234.0, calls=1),
        ended,
        measured("total", "without_encoding", seconds=0.8, positions=5000),
        measured(*PARTS, "total", seconds=0.1, distinct_frames=5),
    ]
    alone = model(
        compressor={"name": "mambamia", "preset": "paper"}, language={"path": "phi", "template": "phi3"}, random=True
    )
    wide = [case(8, "MambaMia", model=alone, parts=("compress",))]
    groups = {"small": ("All of it", cases), "wide": ("At the paper's width", wide)}
    return results_of("Figure", "tstar profile x", HERE, groups, {"small": found, "wide": [measured("compress")]})


def test_every_table_says_whose_weights_and_which_scale(results, tmp_path):
    written = write_profile(results, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    tables = [block for block in page.split("\n\n") if block.startswith("**")]
    whole = "(miniature, compressor with random weights, encoder and language model pretrained, fp32, a processor, 1 thread)"
    assert [whole in table for table in tables] == [True, True, True, False]
    assert "(random weights, fp32, a processor, 1 thread)" in tables[3]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page.splitlines()
        if line.startswith("| ") and "---" not in line
    ]
    pooling, ended, slow = [row for row in rows if len(row) == 9][1:4]
    assert pooling == ["pooling", "8", "18", "0.24 [0.22, 0.26]", "0.24", "0.24 [0.22, 0.26]", "4.0", "200", "5"]
    assert slow == ["MambaMia", "8", "18", "1,234", "1,234", "1,234", "4.0", "200", "1"]
    assert ended == ["pooling", "16", "out of memory", *["–"] * 6]
    parts = next(row for row in rows if len(row) == 14 and row[0])
    assert parts == ["MambaMia", "8", "18", *["0.12"] * 6, "0.72", "0.12 [0.11, 0.13]", "4.0", "200", "5"]
    assert "| MambaMia | 8 | 18 | 0.6 [0.55, 0.65] | 4.0 | 200 | 5 |" in page
    assert "positions beyond the 2,048 that" in page
    assert "of 8 as few as 5 differ" in page
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert "a long one" not in page


@pytest.mark.parametrize("parts", [("compress",), ANSWER])
def test_what_more_frames_cost_is_said_of_what_is_drawn(parts, tmp_path):
    cases = [case(frames, "MambaMia", parts=parts) for frames in (64, 8, 16)] + [case(8, "pooling", parts=parts)]
    cases += [case(frames, label, "paper") for frames in (8, 16) for label in ("MambaMia", "pooling")]
    whole = parts[0] if len(parts) == 1 else "total"
    found = [measured(*parts, whole, seconds=seconds) for seconds in (3.2, 0.1, 0.2, 9.0)]
    for result, total in zip(found, (51, 17, 34, 5), strict=True):
        result["memory"] = result["memory"] | {"total": total}
    found += [{"status": "failed", "reason": "x"}] * 4
    results = results_of("Figure", "tstar profile x", HERE, {"g": ("All of it", cases)}, {"g": found})
    written = write_profile(results, tmp_path)
    assert tmp_path / "g_cost.png" in written  # no number by the paper's protocol: parts are drawn
    page = (tmp_path / "README.md").read_text()
    rows = [line for line in page.splitlines() if " to " in line and line.startswith("|")]
    assert rows == ["| MambaMia | 8 to 64 | 8 | 32 | 3 | 2.00 from 16 to 64 |"]
    assert f"Seconds: {LABELS[whole]}; power 1" in page


def test_peaks_that_are_not_exact_stand_over_tables_and_plots(results, tmp_path):
    for row in results["groups"][1]["rows"]:
        row["memory"] = row["memory"] | {"peaks_reset": False}
    assert [headline(group, results).endswith(", memory not exact") for group in results["groups"]] == [False, True]
    write_profile(results, tmp_path)
    small, wide = (tmp_path / "README.md").read_text().split("## ")[1:]
    assert "- **memory is not exact**: this system does not set back its record" in wide
    assert "not exact" not in small


def test_numbers_go_into_a_table_for_machines(results, tmp_path):
    write_profile(results, tmp_path)
    with (tmp_path / "results.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 2 + 2 + 1 + 2 + 7 + 1
    decode = next(row for row in rows if row["part"] == "decode")
    assert float(decode["median_s"]) == pytest.approx(0.12)
    assert int(decode["needed_bytes"]) == 200 * MIB
    (ended,) = [row for row in rows if row["status"] == "out of memory"]
    assert (ended["label"], ended["frames"], ended["median_s"]) == ("pooling", "16", "")


def test_plots_are_drawn_where_there_are_numbers(results, tmp_path):
    names = {path.name for path in write_profile(results, tmp_path)}
    assert {"small_cost.png", "small_parts.png", "wide_cost.png"} < names
    assert "wide_parts.png" not in names  # one part has no shares
    for name in names:
        if name.endswith(".png"):
            with Image.open(tmp_path / name) as image:
                assert min(image.size) > 300
    for row in results["groups"][1]["rows"]:
        row["status"] = "failed"
    other = tmp_path / "other"
    assert not any(path.name.startswith("wide") for path in write_profile(results, other))
    assert "| MambaMia | 8 | failed |" in (other / "README.md").read_text()


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (0.01234, "0.0123"), (1.2e-4, "0.000120")]
)
def test_seconds_have_three_digits(value, text):
    assert significant(value) == text
