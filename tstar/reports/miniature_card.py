"""The model card of the miniature's frozen parts, from the records that their making left."""

from collections.abc import Mapping
from typing import Any

_HEAD = """# The miniature's frozen parts

Two small models that know something before they meet, so that the miniature recipes do what the real ones do: teach a
model that can read to see. Both were trained on generated data alone, from a fixed seed, by `make miniature-models`; that
command writes this page from what it measured, all but the section on what was tried. Neither has seen an evaluation
scene: a quarter of all combinations of shape, colour and background is set aside (`tstar/data/miniature/words.py`).
"""


_TRIED = """## What was tried

For the letters, with 4 layers of width 160 and batches of 32 to 64 (shares of exact answers on held-out scenes; four
options, chance 25 %):

- Weights drawn with the usual deviation of 0.02, scenes and binding (which option says ...?) mixed from the start:
  after 3,000 steps open questions 99.5 %, letters 25 %, binding 24 %. A loss on all tokens instead of the answers
  alone: the same after 1,000 steps.
- Binding alone, two to four options, without roles: at chance after 300 steps with that deviation; with
  1/sqrt(width), 91 % after 350.
- That model put straight into the mixture: binding back at chance within 400 steps. The mixture from the start with
  the larger deviation: letters 18 %, binding 22 % after 1,000 steps.
- Binding alone in chat form: leaves chance at step 400, 82 % after 900. Half of it without roles: solved by step 800.
  Such a course comes early now; the others keep a share of it.
- All three courses under one cosine, 4,000 steps: letters 72.6 %, open questions 73.5 %, the same on scenes like those of
  training: the last course ran at a seventh of the peak rate and less. With the peak rate for 60 % of 5,500 steps: letters
  83.5 %, open 84.4 %, orders 98 %, but which of several objects has a property (*look-ups*) still 60 %, no more than one of
  the objects at random.
- Look-ups among other questions, in single steps of 16 to 64 lessons and rates of 5e-4 to 2e-3, Muon or Adam, either
  deviation: 50 to 70 % after 800 to 1,600 steps. With many questions about one scene the loss falls, because one answer can be
  read off another, and single questions stay at 62 %.
- Look-ups alone, two questions a scene, batches of 64, rate 1e-3: 57 % after 400 steps. With biases in the attention, set so
  that the first heads begin by looking one to four tokens back: 87 % after 400 steps, 97 % after 700. Letters, taught
  after that in a mixture of both, leave chance within 350 steps, and look-ups stay at 95 %.
- The whole training from there, 5,600 steps: letters 93.5 %, open 95.1 %. What was missing: which object belongs to which
  background, words five and six tokens apart; on told stories of two to six scenes at chance (one in two to six), with one
  head that began five tokens back as well. With five and six in the first layer, one to four in the second, and one such
  question in every look-up lesson about a story: after 600 steps the object of a background 65 of 65, the background of an
  object 43 of 56.
- 6,200 steps of that: letters 94.8 %, open 97.2 %; letters of counts 46 of 76. 1,000 steps more from half of the peak rate,
  with more to count: letters 96.0 %, open 98.0 %, letters of counts 53 of 76, which object belongs to which background as
  before (62 of 73). The 6,200 steps multiplied matrices in fp32 and took 49 minutes on one core of a busy machine; the last
  1,000 did it in bfloat16, as all do now where the processor can, and took 12 minutes on one core of another.
- In place of that one training of 7,600 steps, with more films that count and more questions about counts all along: open
  99.6 %, but letters 91.2 %, backgrounds 22 of 58, directions 43 of 63.

For the encoder (does a picture prefer its own caption to one that differs in one detail; chance 50 %):

- Captions that tell everything, with learnt positions: after 1,600 steps of 64 to 128, colours 100 %, sizes 90 %,
  shapes 60 to 67 %, places 50 %.
- Captions that leave things out, and groups that differ in what they tell: shapes 60 to 68 % after 900 steps, places
  50 %.
- Single objects and their shapes first, with fixed sine positions: shapes 76 %, places 78 % after 600 steps.
- The same for 4,200 steps: twins 90.4 %, of all 512 captions 45.9 %; linear probes of colour 80 %, shape 79 %, size 92 %,
  place 95 %, background 38 %. What the other captions of a batch do not ask for is not kept.
- A captioning decoder beside it from the start, without the first course: after 800 steps it names 80 % of colours and
  25 % of shapes (chance 17 %). The first course is still needed.
"""


def model_card(cards: Mapping[str, Mapping[str, Any]]) -> str:
    """The page; ``cards`` holds the records of "vision" and "language"."""
    return "\n".join([_HEAD, *_vision(cards["vision"]), *_language(cards["language"]), _TRIED, *_made(cards)])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _vision(card: Mapping[str, Any]) -> list[str]:
    retrieval, probes = card["retrieval"], card["probes"]
    galleries = "; ".join(f"{steps:,} steps on {4 * n:,} pictures ({name})" for name, n, steps in card["galleries"])
    rows = [f"| linear probe on the patch tokens, {name} | {_percent(value)} |" for name, value in probes.items()]
    return [
        "## vision/",
        "",
        "An open_clip image-text model: a vision transformer (96 px, patches of 16 pixels, 6 x 6 patch tokens) and a text "
        "transformer, trained with open_clip's contrastive loss and, as CoCa (arXiv:2205.01917), the captioning loss of a small "
        "decoder, which is not kept. Batches consist of groups of four pictures that differ in one detail, captions leave "
        "details out at random, and single objects of different shapes come first.",
        "",
        f"{galleries}; batches of {card['batch']}; {card['seconds'] / 60:.0f} min, "
        f"loss of the last 100 steps {card['loss']}.",
        "",
        "| held-out scenes | |",
        "|---|---|",
        f"| picture finds its caption among the four of its group | {_percent(retrieval['twins'])} |",
        f"| picture finds its caption among all {retrieval['pictures']} | {_percent(retrieval['all'])} |",
        *rows,
        "",
    ]


def _language(card: Mapping[str, Any]) -> list[str]:
    found = card["exam"]
    readings = "; ".join(
        f"{count:,} lessons of the {course} course, {steps:,} steps of {size}"
        for course, count, steps, size in card["readings"]
    )
    skills = [
        f"| {name} | {right}/{asked} |"
        for name, (right, asked) in found["skills"].items()
        if not name.startswith("bind")
    ]
    return [
        "## language/",
        "",
        "A Llama-architecture causal language model with its own byte-level tokenizer and chat template, trained on text: scenes "
        "told in words, captions, films told frame by frame (storyboards), open questions, and lettered questions in the four "
        "suites' formats. The first lessons ask nothing but which of several things goes with which (look-ups). Attention has "
        "biases, set before training so that the heads of the first two layers begin by looking one to six tokens back.",
        "",
        f"{readings}; {card['seconds'] / 60:.0f} min, answer loss of the last 100 steps {card['loss']} nats a token.",
        "",
        f"| {found['questions']:,} questions each, about held-out scenes, exact answers | |",
        "|---|---|",
        f"| lettered multiple choice (chance 25 %) | {_percent(found['letter'])} |",
        f"| open questions | {_percent(found['open'])} |",
        f"| letter of a word that is given | {_percent(found['binding'])} |",
        "",
        "<details><summary>by skill</summary>",
        "",
        "| kind, skill | right |",
        "|---|---|",
        *skills,
        "",
        "</details>",
        "",
    ]


def _made(cards: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["## How they were made", ""]
    for part, card in cards.items():
        versions = ", ".join(f"{name} {number}" for name, number in card["versions"].items())
        lines.append(f"- {part}: seed {card['made']['seed']}, {card['machine']}; {versions}.")
    return [*lines, ""]
