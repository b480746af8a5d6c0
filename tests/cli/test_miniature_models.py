"""`tstar miniature-models` at its tiny scale: whole, kept, refused, made again, and stopped in the middle."""

import functools
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import transformers
from PIL import Image

import tstar.language.miniature
import tstar.vision.miniature
from tstar.cli import miniature_models
from tstar.cli.main import main
from tstar.nn.small_training import Schedule
from tstar.vision import VisionConfig

WEIGHTS = {"vision": "open_clip_model.safetensors", "language": "model.safetensors"}


def digests(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def make(root, *arguments):
    folders = ["--out", str(root / "out"), "--work", str(root / "work")]
    return main(["miniature-models", *folders, "--scale", "tiny", "--workers", "1", *arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Both parts, made once. Not to be written to."""
    root = tmp_path_factory.mktemp("made")
    assert make(root, "--json") == 0
    return root


@pytest.fixture
def copy(made, tmp_path):
    """A root with the made parts, to do harm to."""
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path


@pytest.fixture
def quick_drawing(monkeypatch):
    """Pictures are drawn in this process; ``made`` has them from a worker."""

    def draw_groups(course, number, seed, workers, progress):
        return miniature_models._draw_portion((course, seed, 0, number))

    monkeypatch.setattr(miniature_models, "draw_groups", draw_groups)


@pytest.fixture
def quick_vision(made, monkeypatch):
    """The encoder is not trained again: another file stands for its weights."""

    def make_vision(fresh, work, plan, arguments):
        shutil.copytree(made / "out" / "vision", fresh)
        (fresh / WEIGHTS["vision"]).write_bytes(f"weights of seed {arguments.seed}".encode())
        return {k: v for k, v in json.loads((fresh / "card.json").read_text()).items() if k not in ("made", "versions")}

    monkeypatch.setattr(miniature_models, "make_vision", make_vision)


@pytest.fixture
def nothing_trains(monkeypatch):
    for name in ("make_vision", "make_language"):
        monkeypatch.setattr(miniature_models, name, lambda *_: pytest.fail("nothing was to be trained"))


def test_what_is_made_is_whole_and_small(made):
    found = {str(path.relative_to(made / "out")) for path in (made / "out").rglob("*") if path.is_file()}
    assert found >= {"README.md", *(f"{part}/{name}" for part, name in WEIGHTS.items())}
    assert found >= {
        f"{part}/{name}" for part in WEIGHTS for name in ("card.json", "tokenizer.json", "tokenizer_config.json")
    }
    assert not [name for name in found if "state" in name or name.startswith(".")]
    assert not list((made / "work").iterdir())
    sizes = {part: sum(path.stat().st_size for path in (made / "out" / part).iterdir()) for part in WEIGHTS}
    assert all(1e6 < size < 12e6 for size in sizes.values()), sizes  # they come with the package
    card = json.loads((made / "out" / "vision" / "card.json").read_text())
    assert card["steps"] == sum(steps for *_, steps in card["made"]["galleries"])
    assert set(card["versions"]) >= {"torch", "open_clip_torch"}
    assert card["retrieval"]["pictures"] == 16


def test_open_clip_and_transformers_load_them_by_themselves(made):
    name = f"local-dir:{made / 'out' / 'vision'}"
    model, _, preprocess = open_clip.create_model_and_transforms(name, weights_only=True)
    tokenizer = open_clip.get_tokenizer(name)
    ids = tokenizer(["a red star", "a large blue circle at top left"])
    assert ids.shape == (2, model.context_length)
    assert (ids != 0).sum(1).tolist() == [5, 9]  # words and the two marks
    assert (ids == 1).sum() == 0  # every word is known
    with torch.no_grad():
        texts = model.eval().encode_text(ids, normalize=True)
    assert not torch.allclose(texts[0], texts[1], atol=1e-4)
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    own = VisionConfig(model=str(made / "out" / "vision")).build()
    pixels = preprocess(Image.fromarray(picture))
    torch.testing.assert_close(own.normalise(torch.from_numpy(picture).permute(2, 0, 1)[None])[0], pixels)
    language = transformers.AutoModelForCausalLM.from_pretrained(made / "out" / "language")
    words = transformers.AutoTokenizer.from_pretrained(made / "out" / "language")
    assert language.config.vocab_size == len(words)
    assert words.decode(words("a red star").input_ids) == "a red star"


def test_a_second_call_keeps_what_is_there(made, capsys, nothing_trains):
    before = digests(made / "out")
    assert make(made, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["vision"] == json.loads((made / "out" / "vision" / "card.json").read_text())
    assert told["language"] == json.loads((made / "out" / "language" / "card.json").read_text())
    assert digests(made / "out") == before


def refused(capsys, root, *arguments):
    before = digests(root / "out")
    capsys.readouterr()
    assert make(root, *arguments) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("tstar: error: ")
    assert len(told.splitlines()) == 1
    assert digests(root / "out") == before
    return told


def test_parts_made_otherwise_are_refused_before_anything_is_trained(copy, capsys, nothing_trains):
    assert "--overwrite" in refused(capsys, copy, "--seed", "1")
    shutil.rmtree(copy / "out" / "vision")
    assert "language part made otherwise" in refused(capsys, copy, "--seed", "1")


def test_a_damaged_record_is_named(copy, capsys, nothing_trains):
    card = copy / "out" / "language" / "card.json"
    for text in (card.read_text()[:50], "[]", "{}"):
        card.write_text(text)
        assert f"{card} cannot be read" in refused(capsys, copy)


def test_a_folder_with_something_else_is_never_emptied(copy, capsys, nothing_trains):
    (copy / "out" / "vision" / "card.json").unlink()
    (copy / "out" / "vision" / "thesis.txt").write_text("mine")
    for more in ([], ["--overwrite"]):
        assert "holds files but no card.json" in refused(capsys, copy, *more)


def test_overwrite_makes_one_part_again_and_leaves_the_other(copy, made, quick_vision, monkeypatch):
    (copy / "out" / "vision" / "left over").write_text("x")
    monkeypatch.setattr(miniature_models, "make_language", lambda *_: pytest.fail("not asked for"))
    assert make(copy, "--overwrite", "--part", "vision", "--seed", "1") == 0
    now, before = digests(copy / "out"), digests(made / "out")
    assert "vision/left over" not in now
    assert (copy / "out" / "vision" / WEIGHTS["vision"]).read_bytes() == b"weights of seed 1"
    assert {k: v for k, v in now.items() if k.startswith("language")} == {
        k: v for k, v in before.items() if k.startswith("language")
    }
    assert "- vision: seed 1," in (copy / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("part", "module", "name", "stop", "left"),
    [
        ("vision", tstar.vision.miniature, "normalise", 3, 1),
        ("language", tstar.language.miniature, "answer_loss", 3, 2),
        ("language", tstar.language.miniature, "answer_loss", 4, 1),  # three steps, and one of further reading
    ],
)
def test_a_stopped_training_goes_on_and_ends_the_same(
    part, module, name, stop, left, made, tmp_path, quick_drawing, monkeypatch, capsys
):
    for place in (tstar.vision.miniature, tstar.language.miniature):
        monkeypatch.setattr(place, "Schedule", functools.partial(Schedule, checkpoint_every=1))
    whole, calls = getattr(module, name), []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(module, name, stopping)
    assert make(tmp_path, "--part", part) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "work" / part / "state.pt").is_file()
    assert make(tmp_path, "--part", part, "--seed", "1") == 2
    assert "other settings" in capsys.readouterr().err
    calls.clear()
    calls += [1] * 10
    assert make(tmp_path, "--part", part) == 0
    assert len(calls) == 10 + left
    assert not list((tmp_path / "work").iterdir())
    assert not (tmp_path / "out" / "README.md").exists()  # the page needs both
    file = Path("out") / part / WEIGHTS[part]
    assert (tmp_path / file).read_bytes() == (made / file).read_bytes()
    ours, theirs = (json.loads((root / "out" / part / "card.json").read_text()) for root in (tmp_path, made))
    assert {k: v for k, v in ours.items() if k != "seconds"} == {k: v for k, v in theirs.items() if k != "seconds"}


def test_a_copy_that_is_cut_short_does_not_look_finished(copy, quick_vision, monkeypatch):
    shutil.rmtree(copy / "out" / "vision")
    whole = shutil.copytree

    def cut(source, target, **settings):
        if "work" not in Path(source).parts:
            return whole(source, target, **settings)
        Path(target).mkdir(parents=True)
        shutil.copy(Path(source) / "card.json", target)
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copytree", cut)
    assert make(copy, "--part", "vision") == 130
    assert not (copy / "out" / "vision").exists()
    monkeypatch.setattr(shutil, "copytree", whole)
    shutil.rmtree(copy / "work" / "vision" / "finished")
    assert make(copy, "--part", "vision") == 0
    assert sorted(path.name for path in (copy / "out").iterdir()) == ["README.md", "language", "vision"]
    assert (copy / "out" / "vision" / WEIGHTS["vision"]).is_file()


def test_the_page_prints_what_the_records_say(made):
    cards = {part: json.loads((made / "out" / part / "card.json").read_text()) for part in WEIGHTS}
    page = (made / "out" / "README.md").read_text()
    assert f"{100 * cards['vision']['retrieval']['twins']:.1f} %" in page
    assert all(f", {name} | {100 * value:.1f} % |" in page for name, value in cards["vision"]["probes"].items())
    assert f"| open questions | {100 * cards['language']['exam']['open']:.1f} % |" in page
