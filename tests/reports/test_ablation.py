"""The page, the CSV and the data of a measured table, from runs whose accuracies are chosen."""

import csv
import itertools
import json
import random
import tarfile
from dataclasses import replace

import pytest

from tstar.evaluation import get_benchmark
from tstar.evaluation.contrasts import in_mean_cells
from tstar.evaluation.seeds import combined
from tstar.reports import records
from tstar.reports.ablation import Row, Table, results_of, write_ablation_report
from tstar.reports.ablation_plots import accuracy_by_tokens
from tstar.reports.runs import Evaluated, Run, StageRecord

SUITE = "mini-videomme"
NAMED = {"duration": "short", "domain": "d", "sub_category": "s", "task_type": "t", "question": "which", "answer": "A"}
ROWS = [
    {
        "video_id": f"{k:03d}",
        "videoID": f"v{k}",
        "question_id": f"{k:03d}-1",
        "options": ["A. a", "B. b", "C. c", "D. d"],
        **NAMED,
    }
    for k in range(100)
]


def report(right, seed=0):
    """So many of a hundred questions answered rightly."""
    suite = get_benchmark(SUITE)
    items = suite.load(ROWS)
    hits = set(random.Random(seed).sample(range(100), right))
    return suite.score(items, {i.id: "A" if k in hits else "B" for k, i in enumerate(items)})


def run_of(folder, name, right, *, blind=25, others=(), seed="0"):
    path = folder / "models" / f"{name}-{seed}"
    path.mkdir(parents=True)
    full = {} if right is None else {"full": report(right, int(seed))}
    modes = full | ({} if blind is None else {"blind": report(blind, 7)})
    return Run(
        path=path,
        recipe="r",
        seed=seed,
        config={"evaluation": {"benchmarks": {SUITE: "x"}}},
        stages=[StageRecord("s", {"seconds": 60.0, "steps": 1, "parameters_trained": 210_000}, [], [])],
        own=Evaluated(2, {SUITE: modes}, {"seconds": 30.0}),
        other_frames=[Evaluated(count, {SUITE: {"full": report(r)}}, {}) for count, r in others],
        card={"peak_memory_mib": 512},
        events=[{"event": "start"}],
    )


def row_of(runs, name="a", frames=2, paper=8, published=None, **more):
    fields = {"label": name.upper(), "category": "c", "text": "", "tokens": 9, "paper_tokens": 90, "seeds": list(runs)}
    fields |= {"published": published or {}, "runs": runs, **more}
    return Row(model=name, frames=frames, paper_frames=paper, **fields)


def table(rows, **more):
    return Table(title="T", scale=more.pop("scale", "miniature"), suites=[SUITE], rows=rows, **more)


def page_of(made, tmp_path):
    write_ablation_report(made, tmp_path, tmp_path / "out", "tstar ablate x")
    return (tmp_path / "out" / "README.md").read_text()


def lines_of(tmp_path):
    with (tmp_path / "out" / "table.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_published_values_stand_beside_the_measured_ones(tmp_path):
    published = {"videomme": 48.0, "lvbench": 36.5, "average": 40.0}
    runs = {"0": run_of(tmp_path, "a", 60)}
    page = page_of(table([row_of(runs, published=published)], average_of=["videomme"], note="n o t e"), tmp_path)
    assert "| category | model | trained | frames | tokens | mini-videomme | paper | mean | paper |" in page
    assert "| c | A | 0.21M | 2 (paper 8) | 9 (90) | 60.0 [" in page
    assert "n o t e" in page
    alone = page[page.index("nothing measured stands beside it") :].splitlines()[2:5]
    assert alone[0] == "| model@frames | lvbench |"
    assert alone[2].startswith("| a@8 | 36.5 |")
    lines = {line["column"]: line for line in lines_of(tmp_path)}
    assert list(lines) == ["mini-videomme", "mean", "lvbench"]
    assert [lines[name]["published"] for name in lines] == ["48.0", "40.0", "36.5"]
    assert lines["mini-videomme"]["value"] == "60.00"
    assert lines["lvbench"]["value"] == ""
    assert lines["mean"]["parameters_trained"] == "210000"


def test_an_average_over_other_suites_is_not_put_beside_the_mean(tmp_path):
    published = {"videomme": 48.0, "average": 40.0}
    runs = {"0": run_of(tmp_path, "a", 60)}
    page = page_of(table([row_of(runs, published=published)], average_of=["videomme", "lvbench"]), tmp_path)
    assert "| mini-videomme | paper | mean |\n" in page
    assert "| model@frames | average (of videomme, lvbench) |" in page
    assert {line["column"]: line["published"] for line in lines_of(tmp_path)}["mean"] == ""


def test_several_seeds_have_one_interval_and_their_deviation(tmp_path):
    runs = {seed: run_of(tmp_path, "a", right, seed=seed) for seed, right in (("0", 60), ("1", 70), ("2", 50))}
    results = results_of(table([row_of(runs)]), tmp_path, "")
    own = results["rows"][0]["summary"][SUITE]
    cells = [in_mean_cells(run.own.reports[SUITE]["full"]) for run in runs.values()]
    assert own["interval"] == combined({SUITE: cells}).interval
    assert own["sd"] == pytest.approx(0.1)
    page_of(table([row_of(runs)]), tmp_path)
    line = lines_of(tmp_path)[0]
    assert line["sd"] == "10.00"
    assert float(line["low"]) == pytest.approx(100 * own["interval"][0], abs=0.01)
    assert line["seeds"] == "3"


def test_chance_and_blind_are_shown_and_a_row_that_is_not_above_them_tells_nothing(tmp_path):
    rows = [
        row_of({"0": run_of(tmp_path, "good", 90)}, "good"),
        row_of({"0": run_of(tmp_path, "weak", 28)}, "weak"),
        row_of({"0": run_of(tmp_path, "unasked", 26, blind=None)}, "unasked"),
        row_of({}, "absent", seeds=["0"]),
    ]
    said = [("s", ["good@8 > weak@8"]), ("t", ["good@8 > absent@8"]), ("u", ["unasked@8 ~ good@8"])]
    made = table(rows, orderings=said)
    results = results_of(made, tmp_path, "")
    assert results["chance"]["mean"] == 0.25
    assert results["blind"]["mean"]["mean"] == 0.25
    assert [row["above_blind"] for row in results["rows"]] == [True, False, False, None]
    verdicts = [ordering["verdict"] for ordering in results["orderings"]]
    assert verdicts == ["cannot be told, a side is not above blind", "not measured", verdicts[0]]
    assert results["paragraph"].startswith("Not surely better than the same model without the video")
    assert "weak@8, unasked@8" in results["paragraph"].split(".")[0]
    page = page_of(made, tmp_path)
    assert "|  | chance |  |  |  | 25.0 | 25.0 |" in page
    assert "|  | without the video (blind), 2 runs |  |  |  | 25.0 (25.0 to 25.0) |" in page
    assert "**not surely above blind: weak@8, unasked@8**" in page
    assert "not measured: absent@8" in page


def test_of_several_seeds_each_is_also_judged_alone(tmp_path):
    rights = {"good": (90, 80), "torn": (90, 28), "weak": (26, 28)}
    rows = [
        row_of({str(seed): run_of(tmp_path, name, own, seed=str(seed)) for seed, own in enumerate(right)}, name)
        for name, right in rights.items()
    ]
    assert [row["seeds_above_blind"] for row in results_of(table(rows), tmp_path, "")["rows"]] == [
        ["0", "1"],
        ["0"],
        [],
    ]
    told = "interval over videos: 1 of 3 rows are above blind with every seed; with some: torn@8 (1 of 2); with none: weak@8\n"
    assert told in page_of(table(rows), tmp_path)
    assert "each seed alone" not in page_of(table([row_of({"0": run_of(tmp_path, "one", 60)})]), tmp_path)


def test_a_row_is_held_against_itself_without_the_video_seed_by_seed(tmp_path):
    """Seeds that differ by 60 points, each 10 above itself without the video: seeds apart would hide that."""
    runs = {
        str(seed): run_of(tmp_path, "a", right, blind=right - 10, seed=str(seed))
        for seed, right in enumerate((30, 60, 90))
    }
    (row,) = results_of(table([row_of(runs)]), tmp_path, "")["rows"]
    assert row["over_blind"]["difference"] == pytest.approx(0.1)
    assert row["above_blind"]


def test_comparisons_say_where_a_seed_is_missing(tmp_path):
    runs = {
        name: {str(s): run_of(tmp_path, name, right, seed=str(s)) for s in range(count)}
        for name, right, count in (("a", 90, 2), ("b", 60, 1))
    }
    rows = [row_of(own, name) for name, own in runs.items()]
    page = page_of(table(rows, orderings=[("s", ["a@8 > b@8", "a@8 ~ a@8"])]), tmp_path)
    assert "; 2 and 1 seeds |" in page
    assert page.count(" seeds |") == 1


def test_one_model_under_two_names_says_so_and_is_not_compared_with_itself(tmp_path):
    runs = {"0": run_of(tmp_path, "a", 60)}
    rows = [row_of(runs), row_of(runs, "b", same_as="a")]
    made = table(rows, orderings=[("alike", ["a@8 ~ b@8"])])
    assert results_of(made, tmp_path, "")["orderings"][0]["verdict"] == "not measured"
    page = page_of(made, tmp_path)
    assert "| c | B; at this scale the same model as `a` |" in page
    assert "1 runs" in page


def test_what_computes_the_same_is_a_yardstick(tmp_path):
    rows = [row_of({"0": run_of(tmp_path, name, right)}, name) for name, right in (("a", 60), ("b", 57))]
    page = page_of(table(rows, equal=("a@8", "b@8"), orderings=[("s", ["a@8 ~ b@8"])]), tmp_path)
    assert "a@8 and b@8 compute the same function. They are +3.0 [" in page


@pytest.mark.parametrize(
    ("scale", "suites", "title"),
    [
        ("miniature", [SUITE], "T (miniature scale)"),
        ("smollm2", [SUITE], "T (miniature scale, smollm2)"),
        ("miniature", ["videomme"], "T (miniature scale)"),
        ("paper_7b", ["videomme"], "T (paper_7b)"),
    ],
)
def test_miniature_is_what_runs_on_generated_suites(tmp_path, scale, suites, title):
    made = replace(table([], scale=scale), suites=suites)
    results = results_of(made, tmp_path, "")
    assert results["title"] == title
    assert (results["generated_suites"], results["tiny_models"]) == (suites == [SUITE], scale == "miniature")
    text = page_of(made, tmp_path)
    assert ("all models are tiny" in text.lower()) == (scale == "miniature")
    assert ("all suites are generated" in text.lower()) == (suites == [SUITE])


def test_times_are_of_all_starts(tmp_path):
    runs = {"0": run_of(tmp_path, "a", 60), "1": run_of(tmp_path, "a", 60, seed="1")}
    runs["1"] = replace(runs["1"], events=[{"event": "start"}] * 2)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "a-0.json").write_text(json.dumps({"fit": 600.0, "3 frames": 120.0}))
    page = page_of(table([row_of(runs)]), tmp_path)
    assert "| a-0 | 10.0 min | 2.0 min | 0.5 GiB | 1 |" in page
    assert "| a-1 | – | – | 0.5 GiB | 2 |" in page  # gone on with by hand: its records are of the last start
    assert "2 runs, 12 minutes of wall time" in page


def test_names_of_crowded_points_cover_no_other(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []

    def save(figure, path, **options):
        drawn.append(figure)
        path.touch()

    monkeypatch.setattr(Figure, "savefig", save)
    rows = [
        {
            "name": f"a_model_of_a_long_name_{k}@8",
            "model": f"a_model_of_a_long_name_{k}",
            "category": f"c{k % 3}",
            "same_as": None,
            "tokens": tokens,
            "seeds": {"0": {}},
            "summary": {"mean": {"mean": 0.3 + 0.0001 * (k % 5)}},
        }
        for k, tokens in enumerate([30] * 8 + [36] * 8 + [100] * 2)
    ]
    assert accuracy_by_tokens({"title": "T", "rows": rows, "chance": {}, "blind": {}}, tmp_path / "a.png")
    (figure,) = drawn
    figure.canvas.draw()
    (axis,) = figure.axes
    boxes = [text.get_window_extent() for text in axis.texts]
    assert len(boxes) == len(rows)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    low, high = axis.get_window_extent().intervaly
    assert all(low <= box.y0 and box.y1 <= high for box in boxes)


def test_plots_are_drawn_and_stale_ones_deleted(tmp_path):
    runs = {"0": run_of(tmp_path, "a", 60, others=[(4, 66)])}
    rows = [row_of(runs), row_of(runs, frames=4, paper=16, tokens=18)]
    made = table(rows)
    page = page_of(made, tmp_path)
    assert "![accuracy_tokens.png]" in page
    assert (tmp_path / "out" / "accuracy_frames.png").stat().st_size > 5000
    page_of(table(rows[:1]), tmp_path)
    assert not (tmp_path / "out" / "accuracy_frames.png").exists()
    grid = [replace(row, grid=(k, 1)) for k, row in enumerate(rows)]
    assert "![accuracy_grid.png]" in page_of(table(grid, grid=["k", "r"]), tmp_path)


def test_two_reports_into_one_folder_at_the_same_time_are_both_whole(tmp_path, monkeypatch):
    """As of two calls that have shared the models of a table, and end together."""
    from matplotlib.figure import Figure

    made = table([row_of({"0": run_of(tmp_path, "a", 60)})])
    (tmp_path / "models" / "a-0" / "config.yaml").write_text("{}")
    add, save, begun = records._add, Figure.savefig, []

    def other_call(kind):
        if kind not in begun:  # in the middle of the first one's archive, or picture, all of a second report
            begun.append(kind)
            write_ablation_report(made, tmp_path, tmp_path / "out", "")

    def adding(*args):
        add(*args)
        other_call("archive")

    def saving(figure, path, **options):
        save(figure, path, **options)
        other_call("picture")

    monkeypatch.setattr(records, "_add", adding)
    monkeypatch.setattr(Figure, "savefig", saving)
    results = write_ablation_report(made, tmp_path, tmp_path / "out", "")
    assert begun == ["picture", "archive"]
    names = [*results["plots"], "README.md", "table.csv", "results.json", records.RECORDS]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    with tarfile.open(tmp_path / "out" / records.RECORDS) as archive:
        assert archive.getnames() == ["a-0/config.yaml"]


def test_a_picture_that_cannot_be_drawn_leaves_the_earlier_one(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def full(figure, path, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    made = table([row_of({"0": run_of(tmp_path, "a", 60)})])
    page_of(made, tmp_path)
    before = (tmp_path / "out" / "accuracy_tokens.png").read_bytes()
    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="disk full"):
        page_of(made, tmp_path)
    assert (tmp_path / "out" / "accuracy_tokens.png").read_bytes() == before
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_only_runs_of_the_table_that_are_not_finished_are_shown_as_failed(tmp_path):
    runs = {"0": run_of(tmp_path, "a", 60, others=[(4, 66)]), "1": run_of(tmp_path, "a", 60, seed="1")}
    rows = [row_of(runs), row_of(runs, frames=4, paper=16), row_of({}, "b"), row_of(runs, "c", same_as="a")]
    (tmp_path / "failed").mkdir()
    for name in ("a-0", "a-1", "b-2", "c-0", "other-0", "b"):
        (tmp_path / "failed" / f"{name}.json").write_text(json.dumps({"reason": f"r {name}"}))
    # seed 1 lacks the second row's frames; c is trained as a
    assert results_of(table(rows), tmp_path, "")["failed"] == {"a-1": "r a-1", "b-2": "r b-2"}
    (tmp_path / "failed" / "b-2.json").write_text("{")
    assert "cannot be read" in results_of(table(rows), tmp_path, "")["failed"]["b-2"]
