"""The report of finished runs, from hand-made run folders whose numbers can be counted."""

import json
import math
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from tstar.cli.main import main
from tstar.cli.validate import record_evaluation
from tstar.data.decoding import read_video
from tstar.data.frame_sampling import FrameSampling
from tstar.errors import ConfigError
from tstar.evaluation import get_benchmark, score
from tstar.evaluation.prediction_store import MODES
from tstar.evaluation.seeds import combined, summary
from tstar.evaluation.settings import EvaluationConfig
from tstar.reports.curves import smoothed
from tstar.reports.examples import chosen
from tstar.reports.records import unpack_records
from tstar.reports.runs import group_runs, read_run
from tstar.reports.seed_numbers import recipe_numbers

SUITES = ("mini-tempcompass", "mini-videomme")  # both count plain questions: so many right of so many
RIGHT = {"full": 5, "shuffled": 4, "single_frame": 3, "blind": 2}


class Maker:
    """Makes run folders on the suites of a world; ``right`` questions of each suite are answered rightly, the first ones."""

    def __init__(self, world, root):
        self.folders = {name: world / "benchmarks" / name for name in SUITES}
        self.items = {name: get_benchmark(name).load(folder) for name, folder in self.folders.items()}
        self.root = root

    def report(self, suite, right):
        other = {"A": "B", "B": "C", "C": "D", "D": "A"}
        items = self.items[suite]
        answers = {i.id: i.answer if n < right else other[i.answer] for n, i in enumerate(items)}
        return get_benchmark(suite).score(items, answers)

    def run(
        self,
        name,
        seed=0,
        right=RIGHT,
        frames=None,
        suites=SUITES,
        lr=0.001,
        command="tstar fit --config stages/own.yaml",
    ):
        path = self.root / "runs" / name
        one = {"seed_everything": seed, "data": {"seed": seed}, "model": {"lr": lr}}
        stages = dict.fromkeys(("align", "video_sft"), one)
        benchmarks = {suite: str(self.folders[suite]) for suite in suites}
        evaluation = {"benchmarks": benchmarks, "fps": 2, "max_frames": 4, "decoder": "pyav"}
        (path / "eval").mkdir(parents=True)
        (path / "config.yaml").write_text(yaml.safe_dump({"name": name, "evaluation": evaluation, "stages": stages}))
        for number, stage in enumerate(stages, 1):
            own = path / f"{number}-{stage}"
            own.mkdir()
            done = {"seconds": 60.0 * number, "steps": 4, "parameters_trained": 10, "seed": seed}
            (own / "done.json").write_text(json.dumps(done))
            (own / "metrics.csv").write_text("step,train/loss,val/loss\n0,2.0,\n1,1.5,\n2,nan,\n3,1.0,0.9\n")
        card = {"packages": {"torch": "2.9"}, "python": "3.11", "machine": "x, 2 cores", "peak_memory_mib": 1024}
        (path / "run_card.json").write_text(json.dumps(card))
        start = {"event": "start", "command": f"/some/bin/{command} --seed_everything {seed}"}
        (path / "events.jsonl").write_text(json.dumps(start) + "\n")
        self.evaluation(path / "eval", right, suites)
        for count, good in (frames or {}).items():
            self.evaluation(path / "eval" / f"max_frames={count}-baselines=False", {"full": good}, suites)
        return path

    def evaluation(self, folder, right, suites=SUITES, model="abc"):
        folder.mkdir(exist_ok=True)
        for suite in suites:
            for mode, number in right.items():
                (folder / f"{suite}.{mode}.json").write_text(self.report(suite, number).to_json())
        record = {"model": model, "seconds": 30.0, "peak_memory_mib": 2048.0, "command": "tstar validate --ckpt x"}
        (folder / "evaluation.json").write_text(json.dumps(record))


@pytest.fixture
def maker(tiny_world, tmp_path):
    return Maker(tiny_world, tmp_path)


def report(*runs, out, more=()):
    assert main(["report", *map(str, runs), "--out", str(out), *more]) == 0
    return json.loads((out / "results.json").read_text()), (out / "README.md").read_text()


def test_seeds_are_one_group_with_their_numbers_mean_and_spread(maker, tmp_path):
    runs = [maker.run("a", 0), maker.run("b", 1, RIGHT | {"full": 7}, frames={8: 8, 2: 6})]
    results, text = report(*runs, out=tmp_path / "page")
    assert list(results["recipes"]) == ["own"]
    own = results["recipes"]["own"]
    sizes = {suite: len(items) for suite, items in maker.items.items()}
    for suite, n in sizes.items():
        full = own["modes"]["full"]
        assert {seed: values[suite]["value"] for seed, values in full["seeds"].items()} == {"0": 5 / n, "1": 7 / n}
        low, high = full["seeds"]["0"][suite]["interval"]
        assert low < 5 / n < high
        found = full["summary"][suite]
        assert (found["min"], found["max"], found["n"]) == (5 / n, 7 / n, 2)
        assert found["mean"] == pytest.approx(6 / n)
        assert found["sd"] == pytest.approx(2 / n / math.sqrt(2))  # two values: distance over the root of two
        gains = own["differences"]["blind"]["seeds"]
        assert {seed: gains[seed][suite]["difference"] for seed in gains} == pytest.approx({"0": 3 / n, "1": 5 / n})
    a, b = sizes.values()
    assert own["modes"]["full"]["seeds"]["0"]["mean"]["value"] == pytest.approx((5 / a + 5 / b) / 2)
    assert own["differences"]["shuffled"]["summary"]["mean"]["mean"] == pytest.approx((2 / a + 2 / b) / 2)
    assert own["differences"]["single_frame"]["summary"]["mean"]["mean"] == pytest.approx((3 / a + 3 / b) / 2)
    assert own["chance"] == pytest.approx(dict.fromkeys((*SUITES, "mean"), 0.25))
    assert [(e["seed"], e["max_frames"]) for e in own["frames"]] == [("1", 2), ("1", 8)]
    assert own["frames"][1]["changes"]["mean"]["difference"] == pytest.approx((1 / a + 1 / b) / 2)
    assert results["missing"] == []
    assert text.startswith("# Results of own (miniature scale)\n")
    benchmark = get_benchmark(SUITES[0])
    reports = [maker.report(SUITES[0], right) for right in (5, 7)]
    both = combined({SUITES[0]: [benchmark.cells(report.items)[benchmark.in_mean] for report in reports]}).interval
    assert own["modes"]["full"]["summary"][SUITES[0]]["interval"] == list(both)
    spread = f"{600 / a:.1f} ± {200 / a / math.sqrt(2):.1f} ({500 / a:.1f} to {700 / a:.1f})"
    spread += f" [{100 * both[0]:.1f}, {100 * both[1]:.1f}]"
    assert f"| **model, 2 seeds** | {spread} |" in text
    assert own["modes"]["full"]["summary"]["mean"]["interval"][0] < (6 / a + 6 / b) / 2
    assert f"| 8 frames, seed 1 | {800 / a:.1f} ({100 / a:+.1f} [" in text
    assert "| own, seed 0 | align 1.0 min; video_sft 2.0 min | 3.0 min | 30 s | 3.5 min | 2.0 GiB | 1 |" in text
    assert "Python 3.11, torch 2.9; x, 2 cores." in text
    assert "\ntstar fit --config stages/own.yaml --seed_everything 1\n" in text
    assert {path.name for path in (tmp_path / "page").glob("*.png")} == {
        "losses_own.png",
        *(f"examples_{suite.replace('-', '_')}.png" for suite in SUITES),
    }


def test_categories_are_averaged_over_seeds(maker, tmp_path):
    runs = [maker.run("a", 0), maker.run("b", 1, RIGHT | {"full": 7})]
    results, text = report(*runs, out=tmp_path / "page")
    entries = {(e["suite"], e["label"]): e for e in results["recipes"]["own"]["categories"]}
    for duration in ("short", "medium", "long"):
        items = maker.items["mini-videomme"]
        places = [n for n, item in enumerate(items) if item.categories["duration"] == duration]
        entry = entries["mini-videomme", duration]
        assert entry["n"] == len(places)
        expected = [sum(n < right for n in places) / len(places) for right in (5, 7)]
        assert entry["values"]["full"]["mean"] == pytest.approx(sum(expected) / 2)
        assert entry["values"]["chance"]["mean"] == pytest.approx(0.25)
    assert "| n | model | shuffled frames | single frame | blind (question only) | chance |" in text


def test_what_is_missing_is_listed_and_the_rest_is_there(maker, tmp_path):
    run = maker.run("a", frames={8: 6})
    for name in ("run_card.json", "1-align/done.json", "2-video_sft/metrics.csv", "eval/evaluation.json"):
        (run / name).unlink()
    (run / "eval" / "mini-videomme.shuffled.json").unlink()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["evaluation"]["benchmarks"]["mini-videomme"] = "gone/mini-videomme"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    results, text = report(run, out=tmp_path / "page", more=["--title", "Own words"])
    told = " ".join(results["missing"])
    for words in ("run_card.json", "1-align/done.json", "2-video_sft/metrics.csv", "eval/evaluation.json"):
        assert words in told
    assert "no report of shuffled frames for mini-videomme" in told
    assert "examples of mini-videomme: mini-videomme is not in gone/mini-videomme" in told
    assert len(results["missing"]) == 6
    assert all(line in text for line in results["missing"])
    own = results["recipes"]["own"]
    assert "mean" not in own["modes"]["shuffled"]["seeds"]["0"]
    assert "mean" not in own["differences"]["shuffled"]["seeds"]["0"]
    assert "mean" in own["modes"]["blind"]["seeds"]["0"]
    assert "| own, seed 0 | align –; video_sft 2.0 min | – | – | – | – | 1 |" in text
    assert text.startswith("# Own words (miniature scale)\n")
    assert list(results["examples"]["sheets"]) == ["mini-tempcompass"]


def test_suites_that_wait_for_a_judge_and_pictures_are_not_taken_for_what_is_lacking(maker, tmp_path):
    run = maker.run("a")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["evaluation"]["benchmarks"] |= {"activitynetqa": "x", "ai2d": "y"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    row = {"question_id": "v_0", "video_name": "x", "question": "what?", "answer": "red", "type": 4}
    picture = {"question": "q", "options": ["x", "y"], "answer": "1", "image": "0.png"}
    for mode in MODES:
        (run / "eval" / f"activitynetqa.{mode}.json").write_text(
            score("activitynetqa", [row], {"v_0": "red"}).to_json()
        )
    for mode in ("full", "blind"):
        (run / "eval" / f"ai2d.{mode}.json").write_text(score("ai2d", [picture], {"0": "B"}).to_json())
    found = read_run(run)
    assert sorted(found.suites) == sorted([*SUITES, "ai2d"])
    (line,) = found.missing
    assert "activitynetqa: 1 answers wait for a judge: tstar score activitynetqa" in line
    own = recipe_numbers([found])
    n, m = (len(items) for items in maker.items.values())
    means = {mode: numbers["seeds"]["0"]["mean"]["value"] for mode, numbers in own["modes"].items()}
    assert means["full"] == pytest.approx((5 / n + 5 / m + 1) / 3)
    assert means["shuffled"] == pytest.approx((4 / n + 4 / m) / 2)
    assert own["differences"]["shuffled"]["seeds"]["0"]["mean"]["difference"] == pytest.approx((1 / n + 1 / m) / 2)
    for suite in (*SUITES, "ai2d"):
        for path in (run / "eval").glob(f"{suite}.*"):
            path.unlink()
    with pytest.raises(ConfigError, match="nothing is measured yet; activitynetqa: 1 answers wait for a judge"):
        read_run(run)


def test_a_run_without_a_recorded_start_is_read(maker):
    run = maker.run("a")
    (run / "events.jsonl").write_text(json.dumps({"event": "end"}) + "\n")
    assert read_run(run).recipe == "a"


def test_frames_of_another_checkpoint_are_left_out(maker, tmp_path):
    run = maker.run("a", frames={8: 6})
    maker.evaluation(run / "eval" / "max_frames=8-baselines=False", {"full": 6}, model="def")
    results, _ = report(run, out=tmp_path / "page")
    assert results["recipes"]["own"]["frames"] == []
    assert "another checkpoint" in results["missing"][0]


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(maker):
    runs = [maker.run("a", 0), maker.run("b", 1), maker.run("c", 2, lr=0.1)]
    runs.append(maker.run("d", 0, lr=0.2, command="tstar fit --config=stages/own.yaml --config x/avg_pool.yaml"))
    groups = group_runs([read_run(path) for path in runs])
    names = {label: [run.path.name for run in group] for label, group in groups.items()}
    assert names == {"own (a, b)": ["a", "b"], "own (c)": ["c"], "own + avg_pool": ["d"]}


def test_the_records_beside_a_report_make_it_again(maker, tmp_path):
    runs = [maker.run("a", 0), maker.run("b", 1, frames={8: 7})]
    (runs[0] / "1-align" / "checkpoints").mkdir()
    (runs[0] / "1-align" / "checkpoints" / "manifest.json").write_text("{}")
    (runs[0] / "1-align" / "weights.safetensors").write_bytes(bytes(100))
    first, text = report(*runs, out=tmp_path / "page")
    unpack_records(tmp_path / "page" / "records.tar.xz", tmp_path / "unpacked")
    assert not list((tmp_path / "unpacked").rglob("*.safetensors"))
    assert not list((tmp_path / "unpacked").rglob("checkpoints"))
    again, _ = report(tmp_path / "unpacked" / "a", tmp_path / "unpacked" / "b", out=tmp_path / "again")
    assert again["recipes"]["own"]["modes"] == first["recipes"]["own"]["modes"]
    assert again["recipes"]["own"]["frames"] == first["recipes"]["own"]["frames"]
    assert "[records.tar.xz](records.tar.xz)" in text
    one, other = ((tmp_path / page / "records.tar.xz").read_bytes() for page in ("page", "again"))
    assert one == other


def test_json_is_all_that_is_printed(maker, tmp_path, capsys):
    results, _ = report(maker.run("a"), out=tmp_path / "page", more=["--json"])
    assert json.loads(capsys.readouterr().out) == results


def no_run(maker):
    (maker.root / "empty").mkdir()
    return [maker.root / "empty"]


def other_suites(maker):
    return [maker.run("a"), maker.run("b", 1, suites=SUITES[:1])]


def same_seed(maker):
    return [maker.run("a"), maker.run("b")]


def other_questions(maker):
    first = maker.run("a")
    maker.items["mini-videomme"] = maker.items["mini-videomme"][3:]
    return [first, maker.run("b", 1)]


def damaged(maker):
    run = maker.run("a")
    (run / "eval" / "mini-videomme.full.json").write_text("{}")
    return [run]


def swapped(maker):
    run = maker.run("a")
    shutil.copy(run / "eval" / "mini-tempcompass.full.json", run / "eval" / "mini-videomme.full.json")
    return [run]


def broken_config(maker):
    run = maker.run("a")
    (run / "config.yaml").write_text("stages: [")
    return [run]


def nothing_asked(maker):
    return [maker.run("a", suites=())]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (no_run, ("empty is no run's folder", "config.yaml is missing")),
        (other_suites, ("was evaluated on mini-tempcompass, but", "the same suites")),
        (same_seed, ("are the same recipe with the same seed",)),
        (other_questions, ("answered other questions of mini-videomme",)),
        (damaged, ("mini-videomme.full.json: not a report",)),
        (swapped, ("is a report of mini-tempcompass, not of mini-videomme",)),
        (broken_config, ("config.yaml: cannot be read",)),
        (nothing_asked, ("has no suites (evaluation.benchmarks)",)),
    ],
)
def test_runs_that_cannot_be_reported_are_one_line_and_status_2(maker, tmp_path, capsys, make, words):
    assert main(["report", *map(str, make(maker)), "--out", str(tmp_path / "page")]) == 2
    told = capsys.readouterr().err.strip()
    assert len(told.splitlines()) == 1
    assert all(word in told for word in words), told
    assert not (tmp_path / "page").exists()


def test_without_matplotlib_the_way_out_is_named(maker, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert main(["report", str(maker.run("a")), "--out", str(tmp_path / "page")]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_examples_are_drawn_by_their_hash_and_no_video_comes_twice(maker):
    found = maker.report("mini-tempcompass", 9)
    shown = chosen(found, 2)
    assert [bool(item.correct) for item in shown] == [True, True, False, False]
    assert len({item.cluster for item in shown}) == 4
    turned = type(found)(**{**vars(found), "items": found.items[::-1]})
    assert chosen(turned, 2) == shown
    assert len(chosen(maker.report("mini-tempcompass", 0), 2)) == 2  # nothing is right


def test_a_sheet_shows_the_sampled_frames(maker, tmp_path):
    run = maker.run("a")
    report(run, out=tmp_path / "page")
    first = chosen(maker.report("mini-videomme", 5), 3)[0]
    media = next(item.media for item in maker.items["mini-videomme"] if item.id == first.id)
    frames = read_video(maker.folders["mini-videomme"] / media, FrameSampling(fps=2, max_frames=4), "pyav").frames
    sheet = np.asarray(Image.open(tmp_path / "page" / "examples_mini_videomme.png").convert("RGB")).astype(int)
    for column, frame in enumerate(frames):
        left = 26 + column * 102
        tile = sheet[80:176, left : left + 96]
        assert np.abs(tile - frame).mean() < 8  # a palette of 256 colours for the whole sheet


def test_smoothing_is_a_moving_average():
    values = np.random.default_rng(0).normal(size=11)
    expected = [values[max(0, k - 1) : k + 2].mean() for k in range(11)]
    np.testing.assert_allclose(smoothed(values, 3), expected)
    np.testing.assert_allclose(smoothed(values, 1), values)


def test_the_spread_of_one_seed_is_unknown():
    assert summary([0.5]) == {"n": 1, "mean": 0.5, "sd": None, "min": 0.5, "max": 0.5}


def test_the_first_record_of_an_evaluation_stays_until_something_else_is_measured(tmp_path):
    path, config = tmp_path / "evaluation.json", EvaluationConfig(max_frames=4)
    record_evaluation(path, "abc", config, 12.34)
    record_evaluation(path, "abc", config, 0.1)  # all answers were stored already
    assert json.loads(path.read_text())["seconds"] == 12.3
    record_evaluation(path, "def", config, 5.0)
    found = json.loads(path.read_text())
    assert (found["model"], found["seconds"], found["settings"]["max_frames"]) == ("def", 5.0, 4)
    assert found["resumed"] is False
    record_evaluation(path, "ghi", config, None)
    found = json.loads(path.read_text())
    assert (found["model"], found["seconds"], found["resumed"]) == ("ghi", None, True)


def test_every_mode_has_its_place_in_the_hand_made_runs():
    assert tuple(RIGHT) == MODES
