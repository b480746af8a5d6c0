"""Questions and annotations of a whole world, planned but not drawn: formats, balance, and what is held out."""

import json
import re
from collections import Counter
from itertools import pairwise, permutations

import pytest

from tstar.data.miniature import COURSES, MLVU_ANSWER_START, SCALES, lessons
from tstar.data.miniature.prompts import pick_count, pick_order, pick_total
from tstar.data.miniature.seeds import item_rng
from tstar.data.miniature.world import _annotation_texts, item_keys, plan

SHAPES = ["circle", "square", "triangle", "star", "heart", "cross"]
COLOURS = ["red", "green", "blue", "yellow", "orange", "purple", "pink", "white"]
TEXTURES = ["plain", "striped", "checkered", "dotted", "wavy", "zigzag", "gridded", "cloudy"]


@pytest.fixture(scope="module")
def files():
    """Every annotation file of the default world, parsed."""
    config = SCALES["default"]
    texts, _ = _annotation_texts(config, {key: plan(config, key) for key in item_keys(config)})
    read_lines = lambda text: [json.loads(line) for line in text.splitlines()]  # noqa: E731
    return {path: (read_lines if path.endswith("jsonl") else json.loads)(text) for path, text in texts.items()}


@pytest.fixture(scope="module")
def vnbench(files):
    return files["benchmarks/mini-vnbench/VNBench-main-4try.json"]


@pytest.fixture(scope="module")
def mlvu(files):
    return {path.split("/")[-1][:-5]: rows for path, rows in files.items() if "mini-mlvu" in path}


@pytest.fixture(scope="module")
def videomme(files):
    return files["benchmarks/mini-videomme/test.jsonl"]


@pytest.fixture(scope="module")
def tempcompass(files):
    choices = files["benchmarks/mini-tempcompass/multi-choice.json"]
    return [(v, dim, record) for v, dims in choices.items() for dim, records in dims.items() for record in records]


def objects(scene):
    """(shape, colour, texture) of everything in a scene, and the colour it takes on."""
    for shot in scene["shots"]:
        for actor in shot["actors"]:
            yield actor["shape"], actor["colour"], shot["texture"]
            if actor["end_colour"]:
                yield actor["shape"], actor["end_colour"], shot["texture"]


def test_training_and_evaluation_share_no_combination_but_every_word(files):
    scenes = files["annotations/scenes.jsonl"]
    seen, backdrops, starts = ({"train": set(), "held": set()} for _ in range(3))
    for scene in scenes:
        side = "train" if scene["split"] == "train" else "held"
        seen[side] |= set(objects(scene))
        backdrops[side] |= {(shot["texture"], shot["palette"]) for shot in scene["shots"]}
        starts[side] |= {needle["start"] % 4 for needle in scene["needles"]}
    assert not seen["train"] & seen["held"]
    assert not backdrops["train"] & backdrops["held"]
    assert starts == {"train": {0, 1}, "held": {2, 3}}
    for side, triples in seen.items():
        for position, words in enumerate((SHAPES, COLOURS, TEXTURES)):
            assert {triple[position] for triple in triples} == set(words), side
    # pairs that a question can mention or ask for are common to both sides
    for first, second in ((0, 1), (0, 2), (1, 2)):
        pairs = {side: {(t[first], t[second]) for t in triples} for side, triples in seen.items()}
        assert pairs["held"] <= pairs["train"]


def words_of(text):
    return set(re.findall(r"[A-Za-z]+|\d+", text))


def test_every_word_of_the_suites_occurs_in_training(files, vnbench, mlvu, videomme, tempcompass):
    trained = set()
    for name in ("align", "image_sft", "video_sft"):
        for record in files[f"annotations/{name}.json"]:
            for turn in record["conversations"]:
                trained |= words_of(turn["value"])
    asked = [r["question"] + " " + " ".join(r["options"]) for r in (*vnbench, *videomme)]
    asked += [r["question"] + " " + " ".join(r["candidates"]) for rows in mlvu.values() for r in rows]
    asked += [record["question"] for *_, record in tempcompass]
    assert set().union(*map(words_of, asked)) <= trained
    written = lessons(COURSES["whole"], 3000, 0, "words")
    text = {word for pieces in written for piece, _ in pieces for word in words_of(piece)}
    assert set().union(*map(words_of, asked)) <= text


def test_vnbench_records(vnbench):
    assert len(vnbench) == 10 * 9 * 4
    types = {f"{a}_{b}" for a in ("ret", "ord", "cnt") for b in ("edit1", "insert1")}
    types |= {"ret_insert2", "ord_insert2", "cnt_edit2"}
    assert Counter(r["type"] for r in vnbench) == dict.fromkeys(types, 40)
    for r in vnbench:
        assert re.fullmatch(rf"\./VNBench/hay\d{{4}}_{r['type']}\.mp4", r["video"])
        assert len(r["options"]) == len(set(r["options"])) == 4
        assert r["options"]["ABCD".index(r["gt_option"])] == r["gt"]
        assert 10 <= r["length"] <= 30
        times = r["needle_time"]
        assert all(b - a > 1 for a, b in pairwise(times))  # a second each, and they never touch
        assert times[0] >= 0
        assert times[-1] + 1 <= r["length"]
        if r["type"] in ("cnt_edit1", "cnt_insert1"):
            assert r["gt"] == str(len(times))
        if r["type"] == "cnt_edit2":
            assert 4 <= int(r["gt"]) <= 16
        if r["type"].startswith("ord"):
            assert len({tuple(sorted(o.split(", "))) for o in r["options"]}) == 1


def test_the_four_tries_are_the_published_rearrangement(vnbench):
    letters = {"A": "AADC", "B": "BCAD", "C": "CDCB", "D": "DBBA"}  # right letters over tries 0-3 by the base answer
    videos = {r["video"] for r in vnbench}
    assert len(videos) == 90
    for video in videos:
        tries = sorted((r for r in vnbench if r["video"] == video), key=lambda r: r["try"])
        assert [r["try"] for r in tries] == [0, 1, 2, 3]
        for position, base in enumerate("ABCD"):
            option = tries[0]["options"][position]
            assert "".join("ABCD"[r["options"].index(option)] for r in tries) == letters[base]


def test_mlvu_records(mlvu):
    kinds = {"1_plotQA": "plotQA", "4_count": "count", "5_order": "order", "6_anomaly_reco": "anomaly_reco"}
    kinds["7_topic_reasoning"] = "topic_reasoning"
    assert set(mlvu) == set(kinds)
    for task, rows in mlvu.items():
        assert len(rows) == 20
        for row in rows:
            assert set(row) == {"video", "duration", "question", "candidates", "answer", "question_type"}
            assert row["question_type"] == kinds[task]
            assert len(set(row["candidates"])) == 4
            assert row["answer"] in row["candidates"]


def test_videomme_records(videomme):
    assert len({row["question_id"] for row in videomme}) == len(videomme) == 108
    span = {"short": (3, 5), "medium": (8, 13), "long": (15, 26)}
    for row in videomme:
        assert row["question_id"].rsplit("-")[0] == row["video_id"]
        assert [option[:3] for option in row["options"]] == ["A. ", "B. ", "C. ", "D. "]
        assert len({option[3:] for option in row["options"]}) == 4
        assert row["answer"] in "ABCD"
        assert row["duration"] in span
        assert {"domain", "sub_category", "url", "videoID", "task_type", "question"} <= set(row)
    assert Counter(row["duration"] for row in videomme) == dict.fromkeys(span, 36)


def test_videomme_durations(files):
    span = {"short": (2.9, 5.1), "medium": (8, 13), "long": (15, 26)}
    scenes = [scene for scene in files["annotations/scenes.jsonl"] if "mini-videomme" in scene["path"]]
    assert len(scenes) == 36
    for scene in scenes:
        low, high = span[scene["path"].split("_")[1]]
        assert low <= scene["frames"] / scene["fps"] <= high


def test_tempcompass_records(files, tempcompass):
    meta = files["benchmarks/mini-tempcompass/meta_info.json"]
    assert {dim for _, dim, _ in tempcompass} == {"action", "direction", "speed", "order", "attribute_change"}
    assert len(tempcompass) == 8 * 18
    for video, dim, record in tempcompass:
        _, *options = record["question"].split("\n")
        assert [option[:3] for option in options] == ["A. ", "B. ", "C. ", "D. "]
        assert len({option[3:] for option in options}) == 4
        assert record["answer"] in options
        assert meta[video]["eval_dim"][dim]["type"]


def test_clips_made_from_one_another_have_conflicting_answers(tempcompass):
    by_question = {}
    for video, _, record in tempcompass:
        by_question.setdefault((video.split("_")[0], record["question"]), {})[video] = record["answer"]
    conflicts = 0
    for (stem, question), answers in by_question.items():
        if f"{stem}_reverse" in answers:
            if "How fast" not in question or "er and" in answers[stem]:
                assert answers[stem] != answers[f"{stem}_reverse"]
                conflicts += 1
        elif f"{stem}_concat_0" in answers:
            assert len(set(answers.values())) == 4
            conflicts += 1
    assert conflicts >= 5 * 8


def share_of_letters(letters):
    counts = Counter(letters)
    return {letter: counts[letter] / len(letters) for letter in "ABCD"}


def test_right_letters_are_balanced(files, vnbench, mlvu, videomme, tempcompass):
    suites = {
        "vnbench": [r["gt_option"] for r in vnbench],
        "mlvu": ["ABCD"[r["candidates"].index(r["answer"])] for rows in mlvu.values() for r in rows],
        "videomme": [r["answer"] for r in videomme],
        "tempcompass": [record["answer"][0] for *_, record in tempcompass],
    }
    for suite, letters in suites.items():
        # mini-vnbench's 90 videos are no multiple of 4
        most = {"vnbench": 0.26, "tempcompass": 0.3}.get(suite, 0.25)
        assert max(share_of_letters(letters).values()) <= most, suite


def right_letters(record):
    """The letters that a conversation's answers give, in order."""
    found = (re.fullmatch(r"([A-D])|Best Option: \(([A-D])\) .+", t["value"]) for t in record["conversations"][1::2])
    return [match[1] or match[2] for match in found if match]


@pytest.mark.parametrize("name", ["video_sft", "image_sft"])
def test_a_trained_letter_tells_nothing_about_another(files, name):
    """Shares, and a chi-square test with 9 degrees of freedom (0.1 %: 27.9) of letters one and two rounds apart."""
    talks = [right_letters(record) for record in files[f"annotations/{name}.json"]]
    letters = [letter for talk in talks for letter in talk]
    assert len(letters) > 2500
    assert all(0.22 < share < 0.28 for share in share_of_letters(letters).values())
    for apart in (1, 2):
        pairs = Counter(pair for talk in talks for pair in zip(talk, talk[apart:], strict=False))
        total = sum(pairs.values())
        assert total > 200
        first, then = (Counter() for _ in range(2))
        for (a, b), number in pairs.items():
            first[a] += number
            then[b] += number
        expected = {(a, b): first[a] * then[b] / total for a in "ABCD" for b in "ABCD"}
        assert sum((pairs[key] - number) ** 2 / number for key, number in expected.items()) < 27.9


def bare(question):
    """A question without its options and the words around them."""
    return re.sub(r"<image>\n|Carefully.*\n|Question: |Select .*\n", "", question).split("\n")[0]


def test_a_video_has_one_conversation_of_four_to_six_questions(files):
    records = files["annotations/video_sft.json"]
    assert [record["video"] for record in records] == [f"videos/{k:06d}.mp4" for k in range(len(records))]
    numbers, ways, described = Counter(), Counter(), 0
    for record in records:
        human, gpt = record["conversations"][::2], record["conversations"][1::2]
        asked = [bare(turn["value"]) for turn in human]
        telling = [
            k for k, text in enumerate(asked) if re.search(r"[Dd]escribe|What happens in the video|caption", text)
        ]
        assert telling in ([], [len(asked) - 1])  # the answers would be read off it if it came before
        described += len(telling)
        if telling:
            assert gpt[-1]["value"].endswith(".")
            asked.pop()
        numbers[len(set(asked))] += 1
        for text in set(asked):
            places = [k for k, other in enumerate(asked) if other == text]
            lettered = ["\n" in human[k]["value"].removeprefix("<image>\n") for k in places]
            assert lettered in ([True], [False], [False, True])  # first openly, then its letter
            assert places in ([places[0]], [places[0], places[0] + 1])
            ways[tuple(lettered)] += 1
    assert set(numbers) <= {2, 3, 4, 5, 6}  # a topic has no more than two
    assert described == len(records)
    assert ways[False,] > 0.5 * sum(ways.values())  # an open answer says more than a letter
    assert min(ways.values()) > 0.08 * sum(ways.values())


def test_training_asks_in_all_four_formats_and_openly(files):
    patterns = {
        "vnbench": r"(<image>\n)?[^\n]+\n(A\. .+)\n(B\. .+)\n(C\. .+)\n(D\. .+)\n"
        r"Answer with the option's letter from the given choices directly\.",
        "mlvu": r"(<image>\n)?(Carefully watch this video [^\n]+\n)?Question: [^\n]+\nOptions:\n"
        r"\(A\) .+\n\(B\) .+\n\(C\) .+\n\(D\) .+\nOnly give the best option\.",
        "videomme": r"(<image>\n)?Select the best answer to the following multiple-choice question based on the video\. "
        r"Respond with only the letter \(A, B, C, or D\) of the correct option\.\n"
        r"[^\n]+\nA\. .+\nB\. .+\nC\. .+\nD\. .+\nThe best answer is:",
        "tempcompass": r"(<image>\n)?[^\n]+\nA\. .+\nB\. .+\nC\. .+\nD\. .+\nPlease directly give the best option:",
        "open": r"(<image>\n)?[^\n]+",
    }
    found = Counter()
    skills = {name: set() for name in patterns}
    for record in files["annotations/video_sft.json"]:
        turns = record["conversations"]
        for human, gpt in zip(turns[::2], turns[1::2], strict=True):
            names = [name for name, pattern in patterns.items() if re.fullmatch(pattern, human["value"])]
            assert len(names) == 1, human["value"]
            found[names[0]] += 1
            question = re.sub(r"<image>\n|Carefully.*\n|Question: |Select .*\n", "", human["value"]).split("\n")[0]
            skills[names[0]].add(" ".join(question.split()[:3]))
            letter = re.fullmatch(r"[A-D]", gpt["value"]) is not None
            assert letter == (names[0] in ("vnbench", "videomme", "tempcompass"))
            assert gpt["value"].startswith(MLVU_ANSWER_START) == (names[0] == "mlvu")
            if names[0] == "mlvu":
                assert gpt["value"].removeprefix("Best Option: ") in human["value"].split("\n")
    assert min(found.values()) > 500
    common = set.intersection(*(asked for name, asked in skills.items() if name != "open"))
    beginnings = (
        "What happens to",
        "Which way does",
        "How fast does",
        "What is the",
        "In what order",
        "How many times",
    )
    assert set(beginnings) <= common & skills["open"]
    assert {"What strange thing", "What is this", "Some cars were", "What kind of", "How many secret"} <= skills["open"]


def test_numbers_cannot_be_guessed_from_their_options():
    for pick in (pick_count, pick_total):
        ranks = Counter()
        for k in range(4000):
            number, options = pick(item_rng("numbers", k))
            assert len(set(options)) == 4
            ranks[sorted(map(int, options)).index(number)] += 1
        assert all(abs(ranks[rank] / 4000 - 0.25) < 0.03 for rank in range(4))


def test_orders_differ_in_more_than_a_swap():
    words = ["pear", "lemon", "peach", "mango"]
    chosen = Counter()
    for k in range(2400):
        order, options = pick_order(item_rng("orders", k), words)
        assert len(set(options)) == 4
        assert ", ".join(order) in options
        for a in options:
            assert sorted(a.split(", ")) == sorted(words)
            for b in options:
                assert a == b or sum(x != y for x, y in zip(a.split(", "), b.split(", "), strict=True)) > 2
        chosen[tuple(order)] += 1
    assert set(chosen) == set(permutations(words))
    assert max(chosen.values()) < 2 * min(chosen.values())


def test_what_a_question_mentions_does_not_give_its_answer_away(files):
    """Chance is 1/4: the best fixed answer to each question text, learnt on the evaluation side itself, is near it."""
    config = SCALES["default"]
    tallies = {}
    for k in range(4000):
        (medium,) = plan(config, ("val_videos", k))
        for question in medium.plot.questions:
            if question.skill in ("direction", "colour") and len(set(question.options)) == 4:
                text = re.sub("|".join(COLOURS), "X", question.text) if question.skill == "direction" else question.text
                tallies.setdefault(text, Counter())[question.answer] += 1
    for text, tally in tallies.items():
        total = sum(tally.values())
        if total > 150:
            chance = 1 / (4 if "way" in text else 8)
            assert max(tally.values()) / total < chance + 0.12, (text, tally)
