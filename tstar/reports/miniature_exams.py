"""What the miniature's frozen parts know before they meet: exams on held-out scenes, and the model card that tells them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tstar.data.conversations import get_template, tokenize_conversation
from tstar.data.miniature import exam
from tstar.data.miniature.captioned import GROUP, captioned_group, draw, draw_scene, random_scene
from tstar.data.miniature.render import render
from tstar.data.miniature.seeds import item_rng
from tstar.data.miniature.storyboard import place_word
from tstar.data.miniature.words import COLOURS, PLACES, SHAPES, TEXTURES, Side
from tstar.language import LanguageConfig
from tstar.language.splice import IGNORE
from tstar.vision import VisionConfig

PROBES = {"colour": list(COLOURS), "shape": list(SHAPES), "size": ["small", "large"], "place": list(PLACES)}
PROBES["background"] = list(TEXTURES)


def caption_retrieval(folder: Path, groups: int, seed: int) -> dict[str, float]:
    """How well pictures of held-out scenes find their captions, without any training on them.

    A picture counts as right if the caption it is nearest to says the same as its own, word for word.

    Returns:
        ``twins``: among the captions of its group, which differ in one detail; ``all``: among all ``4 * groups``.
    """
    import open_clip

    films = [pair for k in range(groups) for pair in captioned_group(item_rng(seed, "exam", "captions", k), "eval")]
    pictures, captions = draw(films)
    model = open_clip.create_model(f"local-dir:{folder.resolve()}", weights_only=True).eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder.resolve()}")
    encoder = VisionConfig(model=str(folder)).build()
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    with torch.no_grad():
        images = torch.cat([model.encode_image(encoder.normalise(p), normalize=True) for p in pixels.split(128)])
        texts = torch.cat([model.encode_text(t, normalize=True) for t in tokenizer(captions).split(128)])
    likeness = images @ texts.T  # [n, n]
    number = len(captions)
    right_of_all = [captions[int(k)] == own for k, own in zip(likeness.argmax(1), captions, strict=True)]
    right_of_twins = 0
    for n, own in enumerate(captions):
        first = n // GROUP * GROUP
        right_of_twins += captions[first + int(likeness[n, first : first + GROUP].argmax())] == own
    return {"twins": right_of_twins / number, "all": sum(right_of_all) / number, "pictures": number}


def linear_probes(folder: Path, train: int, test: int, seed: int) -> dict[str, float]:
    """Accuracy of ridge classifiers on the patch tokens of one picture, trained on training scenes, tested on held-out ones.

    The scenes hold one object; what is told apart are its colour, shape, size and place (3 x 3) and the background.
    """
    encoder = VisionConfig(model=str(folder)).build()
    features, labels = _probe_set(encoder, train, "train", seed)
    unseen, truth = _probe_set(encoder, test, "eval", seed)
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    ones = lambda x: F.pad((x - mean) / deviation, (0, 1), value=1.0).double()  # noqa: E731
    x, y = ones(features), ones(unseen)
    gram = x.T @ x + 0.1 * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    targets = [F.one_hot(labels[:, k], len(words)).double() for k, words in enumerate(PROBES.values())]
    # solved for all probes together: the matrix is what takes long
    weights = torch.cholesky_solve(x.T @ torch.cat(targets, 1), torch.linalg.cholesky(gram))
    guesses = (y @ weights).split([len(words) for words in PROBES.values()], dim=1)
    return {
        name: (guess.argmax(1) == truth[:, k]).double().mean().item()
        for k, (name, guess) in enumerate(zip(PROBES, guesses, strict=True))
    }


def _probe_set(encoder: Any, number: int, side: Side, seed: int) -> tuple[Tensor, Tensor]:
    """Patch tokens of a picture end to end [n, N * D], and which word of each probe is right [n, probes]."""
    pictures: list[np.ndarray] = []
    labels: list[list[int]] = []
    index = 0
    while len(pictures) < number:
        scene = random_scene(item_rng(seed, "exam", "probe", side, index), side)
        index += 1
        if len(scene.things) != 1:
            continue
        (thing,) = scene.things
        words = (thing.colour, thing.shape, thing.size, place_word(thing.x, thing.y), scene.texture)
        labels.append([known.index(word) for word, known in zip(words, PROBES.values(), strict=True)])
        pictures.append(render(draw_scene(scene, side))[0])
    return encoder(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)).flatten(1), torch.tensor(labels)


def text_exam(
    folder: Path, number: int, seed: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Share of questions about held-out scenes in words that the language model answers exactly, greedily.

    Returns:
        ``letter``, ``open`` and ``binding``, and ``skills``: right and asked of each skill of each kind.
    """
    language = LanguageConfig(path=str(folder), template="miniature").build().eval()
    template = get_template("miniature")
    scores: dict[str, Any] = {"questions": number}
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for count, kind in enumerate(("letter", "open", "binding")):
        exams = [exam(kind, index, seed, "exam") for index in range(number)]
        rows = [tokenize_conversation(turns, False, template, language.tokenizer) for turns, _ in exams]
        verdicts = [v for k in range(0, number, 50) for v in _exact(language.model, rows[k : k + 50])]
        for (_, skill), verdict in zip(exams, verdicts, strict=True):
            asked[f"{kind}, {skill}"] += 1
            right[f"{kind}, {skill}"] += verdict
        scores[kind] = sum(verdicts) / number
        if progress:
            progress(count + 1, 3)
    return {**scores, "skills": {name: [right[name], asked[name]] for name in sorted(asked)}}


def _exact(model: Any, rows: list[tuple[Tensor, Tensor]]) -> list[bool]:
    """Whether every labelled token is the likeliest where it stands: then and only then greedy decoding writes the answer."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.stack([F.pad(ids, (0, longest - len(ids))) for ids, _ in rows])
    labels = torch.stack([F.pad(own, (0, longest - len(own)), value=IGNORE) for _, own in rows])[:, 1:]
    with torch.no_grad():
        likeliest = model(input_ids=ids).logits.argmax(-1)[:, :-1]
    return ((likeliest == labels) | (labels == IGNORE)).all(1).tolist()
