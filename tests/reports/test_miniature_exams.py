"""The exams of the miniature's frozen parts, on models whose answers are known beforehand."""

import re

import pytest
import torch

from tstar.data.conversations import get_template, tokenize_conversation, tokenize_prompt
from tstar.data.miniature.captioned import captioned_group
from tstar.data.miniature.seeds import item_rng
from tstar.data.miniature.training import ask
from tstar.language import LanguageConfig
from tstar.language.miniature import MiniatureLanguage, Reading, train_miniature_language
from tstar.language.splice import splice
from tstar.nn.small_training import Schedule
from tstar.reports import miniature_exams
from tstar.reports.miniature_card import model_card
from tstar.reports.miniature_exams import _exact, caption_retrieval, linear_probes, text_exam

ANSWERS = {
    "one": "red star",
    "two": "red",  # the beginning of another answer: where it ends counts
    "three": "red star at the top left",
    "four": "B",
    "five": "Best Option: (C) two hearts",
    "six": "7, 12",
}


@pytest.fixture(scope="module")
def parrot(tmp_path_factory):
    """A folder with a tiny language model that knows ``ANSWERS`` by heart."""
    folder = tmp_path_factory.mktemp("parrot") / "language"
    documents = [get_template("miniature").pieces(ask(q, a)) for q, a in ANSWERS.items()]
    sizes = MiniatureLanguage(width=32, layers=2, heads=2, vocabulary=320)
    schedule = Schedule(steps=120, lr=1e-2)
    history = train_miniature_language(folder, [Reading(documents, 120, 6)], sizes=sizes, schedule=schedule)
    assert history.recent(1) < 0.1
    return folder


def test_exact_is_what_greedy_generation_writes(parrot):
    """Against generation itself, one row at a time, without padding and with a cache."""
    language = LanguageConfig(path=str(parrot), template="miniature").build().eval()
    template = get_template("miniature")
    pairs = [(q, a) for q in (*ANSWERS, "seven") for a in (*ANSWERS.values(), "red star at")]
    verdicts = _exact(
        language.model, [tokenize_conversation(ask(q, a), False, template, language.tokenizer) for q, a in pairs]
    )
    written = {}
    for question in {q for q, _ in pairs}:
        prompt = tokenize_prompt(question, False, template, language.tokenizer)
        batch = splice(language.embed, [prompt], [torch.empty(0, 32)], pad="left")
        (written[question],) = language.generate(batch, max_new_tokens=30, stop=("<|end|>",))
    assert verdicts == [written[q] == a for q, a in pairs]
    assert [verdicts[pairs.index((q, a))] for q, a in ANSWERS.items()] == [True] * 6
    assert sum(verdicts) <= 7


def test_the_text_exam_counts_by_kind_and_skill(parrot, monkeypatch):
    """Right where the number is even; open questions only half of those."""

    def exam(kind, index, *name):
        question, answer = list(ANSWERS.items())[index % 6]
        right = index % (4 if kind == "open" else 2) == 0
        return ask(question, answer if right else "green"), f"skill{index % 2}"

    monkeypatch.setattr(miniature_exams, "exam", exam)
    found = text_exam(parrot, 120, 0)
    assert (found["letter"], found["open"], found["binding"], found["questions"]) == (0.5, 0.25, 0.5, 120)
    assert found["skills"] == {
        **{f"{kind}, skill0": [60, 60] for kind in ("letter", "binding")},
        **{f"{kind}, skill1": [0, 60] for kind in ("letter", "open", "binding")},
        "open, skill0": [30, 60],
    }


class Towers:
    """In place of a model: pictures are numbered in the order of the groups, captions are told apart by their text."""

    def __init__(self, captions, nearest):
        self.captions, self.nearest = captions, nearest
        self.known = sorted(set(captions))

    def build(self):
        return self

    def eval(self):
        return self

    def normalise(self, pixels):
        return pixels

    def tokenizer(self, captions):
        return torch.tensor([self.known.index(caption) for caption in captions])

    def encode_text(self, ids, normalize):
        return torch.eye(len(self.known))[ids]

    def encode_image(self, numbers, normalize):
        return torch.eye(len(self.known))[
            [self.known.index(self.captions[self.nearest[int(n)]]) for n in numbers.flatten()]
        ]


@pytest.mark.parametrize("shift", [0, 1, 4])
def test_retrieval_of_rigged_towers(shift, monkeypatch, tmp_path):
    """A picture is nearest to its own caption, to the next one of its group, or to one of the next group."""
    groups, seed = 30, 5
    captions = [
        caption for k in range(groups) for _, caption in captioned_group(item_rng(seed, "exam", "captions", k), "eval")
    ]
    number = len(captions)
    nearest = [n // 4 * 4 + (n + 1) % 4 if shift == 1 else (n + shift) % number for n in range(number)]
    towers = Towers(captions, nearest)
    numbered = torch.arange(number).reshape(-1, 1, 1, 1).numpy()
    monkeypatch.setattr(miniature_exams, "draw", lambda films: (numbered, [caption for _, caption in films]))
    monkeypatch.setattr(miniature_exams, "VisionConfig", lambda **_: towers)
    monkeypatch.setattr("open_clip.create_model", lambda *_, **__: towers)
    monkeypatch.setattr("open_clip.get_tokenizer", lambda *_: towers.tokenizer)
    found = caption_retrieval(tmp_path, groups, seed)
    hits = [captions[nearest[n]] == captions[n] for n in range(number)]
    assert found["pictures"] == 120
    assert found["all"] == pytest.approx(sum(hits) / number)
    if shift == 0:
        assert found == {"twins": 1.0, "all": 1.0, "pictures": 120}
    if shift == 1:
        assert found["twins"] == found["all"] < 0.2  # equal captions within a group are right for each other
    if shift == 4:
        assert found["all"] < 0.05


class Knowing:
    """An encoder that sees the films themselves: one-hot labels by rules of its own, or noise."""

    def __init__(self, noise):
        self.noise, self.films, self.seen = noise, [], 0

    def build(self):
        return self

    def watch(self, film):
        self.films.append(film)
        return torch.zeros(1, 2, 2, 3, dtype=torch.uint8).numpy()

    def __call__(self, frames):
        films = self.films[self.seen : self.seen + len(frames)]
        self.seen += len(frames)
        assert len(films) == len(frames)
        if self.noise:
            return torch.randn(len(films), 3, 8, generator=torch.Generator().manual_seed(self.seen))
        return torch.stack([self.features(film) for film in films]).unflatten(1, (4, -1))  # [n, N, D]

    def features(self, film):
        (shot,) = film.shots
        (actor,) = shot.actors
        x = torch.zeros(4, 10)
        x[0, ["red", "green", "blue", "yellow", "orange", "purple", "pink", "white"].index(actor.colour)] = 1
        x[1, ["circle", "square", "triangle", "star", "heart", "cross"].index(actor.shape)] = 1
        x[1, 9] = actor.radius > 10
        x[2, 3 * (actor.y // 32) + actor.x // 32] = 1
        textures = ["plain", "striped", "checkered", "dotted", "wavy", "zigzag", "gridded", "cloudy"]
        x[3, textures.index(shot.texture)] = 1
        return x.flatten()


@pytest.mark.parametrize("noise", [False, True])
def test_probes_find_what_is_there_and_nothing_else(noise, monkeypatch, tmp_path):
    encoder = Knowing(noise)
    monkeypatch.setattr(miniature_exams, "VisionConfig", lambda **_: encoder)
    monkeypatch.setattr(miniature_exams, "render", encoder.watch)
    found = linear_probes(tmp_path, 600, 500, seed=0)
    assert len(encoder.films) == 1100
    if not noise:
        assert found == dict.fromkeys(("colour", "shape", "size", "place", "background"), 1.0)
        return
    chance = {"colour": 1 / 8, "shape": 1 / 6, "place": 1 / 9, "background": 1 / 8}
    for name, share in chance.items():  # 500 pictures: four standard deviations
        assert found[name] == pytest.approx(share, abs=4 * (share * (1 - share) / 500) ** 0.5 + 0.02)
    assert 0.4 < found["size"] < 0.7  # five of eight sizes are large


def test_the_model_card_prints_what_the_records_say():
    made = {
        "made": {"seed": 7},
        "machine": "z80, 3 cores",
        "versions": {"torch": "9.8.7"},
        "seconds": 3720,
        "steps": 4321,
    }
    vision = {
        **made,
        "galleries": [["shapes", 1234, 1111], ["whole", 5678, 3210]],
        "batch": 48,
        "loss": 1.2345,
        "retrieval": {"twins": 0.789, "all": 0.4561, "pictures": 512},
        "probes": {"colour": 0.912, "place": 0.8765},
    }
    language = {
        **made,
        "readings": [["short", 60000, 3000, 32], ["whole", 40000, 1500, 64]],
        "loss": 0.0987,
        "exam": {
            "questions": 1000,
            "letter": 0.937,
            "open": 0.9512,
            "binding": 0.999,
            "skills": {"letter, colour": [93, 99], "binding, binding": [999, 1000], "open, order": [5, 7]},
        },
    }
    page = model_card({"vision": vision, "language": language})
    for text in ("78.9 %", "all 512 | 45.6 %", "colour | 91.2 %", "place | 87.6 %", "62 min", "1.2345"):
        assert text in page, text
    for text in ("93.7 %", "95.1 %", "99.9 %", "0.0987", "60,000", "40,000", "3,000", "letter, colour | 93/99", "5/7"):
        assert text in page, text
    assert "binding, binding" not in page
    assert page.count("seed 7, z80, 3 cores; torch 9.8.7.") == 2
    assert not re.search(r"\{|\}|None", page)
