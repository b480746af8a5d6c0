"""What the miniature language model reads: every answer follows from the words before it, read here by other rules."""

import random
import re
from collections import Counter

import pytest

from tstar.data.miniature import COURSES, exam, lessons
from tstar.data.miniature.lessons import told_plot

COLOURS = "red|green|blue|yellow|orange|purple|pink|white"
SHAPES = ["circle", "square", "triangle", "star", "heart", "cross"]
TEXTURES = ["plain", "striped", "checkered", "dotted", "wavy", "zigzag", "gridded", "cloudy"]
LOOK = re.compile(rf"\b({COLOURS}) ({'|'.join(SHAPES)})(?:e?s)?\b")
FORMATS = {
    "vnbench": r"([^\n]+)\n(A\. .+)\n(B\. .+)\n(C\. .+)\n(D\. .+)\n"
    r"Answer with the option's letter from the given choices directly\.",
    "mlvu": r"(?:Carefully watch this video [^\n]+\n)?Question: ([^\n]+)\nOptions:\n"
    r"(\(A\) .+)\n(\(B\) .+)\n(\(C\) .+)\n(\(D\) .+)\nOnly give the best option\.",
    "videomme": r"Select the best answer [^\n]+ of the correct option\.\n"
    r"([^\n]+)\n(A\. .+)\n(B\. .+)\n(C\. .+)\n(D\. .+)\nThe best answer is:",
    "tempcompass": r"([^\n]+)\n(A\. .+)\n(B\. .+)\n(C\. .+)\n(D\. .+)\nPlease directly give the best option:",
}
LISTED = re.compile(r"^(?:\(([A-D])\)|([A-D])\.) (.+)$", re.MULTILINE)


def rounds(pieces):
    """Questions and answers of a lesson, from its text alone; a caption or a bare list comes back as None."""
    text = "".join(piece for piece, _ in pieces)
    if not text.startswith("<|user|>"):
        return None
    found = re.findall(r"<\|user\|>\n(.*?)<\|end\|>\n<\|assistant\|>\n(.*?)<\|end\|>\n", text, re.DOTALL)
    assert "".join(f"<|user|>\n{q}<|end|>\n<|assistant|>\n{a}<|end|>\n" for q, a in found) == text
    return found


def split_scene(text):
    """The scene in words, and the first question."""
    scene, question = text.split("\n", 1)
    assert scene.endswith(".")
    return scene, question


def unlettered(question, answer):
    """(what is asked, what is answered) of any question: a letter stands for its option. Also the format's name."""
    for name, pattern in FORMATS.items():
        match = re.fullmatch(pattern, question)
        if match:
            asked, *lines = match.groups()
            options = {line.strip("(")[0]: line[4 if name == "mlvu" else 3 :] for line in lines}
            assert list(options) == list("ABCD")
            assert len(set(options.values())) == 4
            if name == "mlvu":
                letter, word = re.fullmatch(r"Best Option: \(([A-D])\) (.+)", answer).groups()
                assert options[letter] == word
            else:
                letter = answer
            return asked, options[letter], name
    assert "\n" not in question, question
    return question, answer, "open"


def one(pattern, text):
    """The only thing that a pattern finds, however often."""
    found = set(re.findall(pattern, text))
    assert len(found) == 1, (pattern, text)
    return found.pop()


def singular(word):
    return "cross" if word == "crosses" else word.removesuffix("s") if word.removesuffix("s") in SHAPES else word


def shapes_in(text):
    return [singular(word) for word in re.findall(r"\w+", text) if singular(word) in SHAPES]


def answer_from(scene, question):
    """What a reader of the scene answers."""
    words, _, needles = scene.partition(" in the video, ")
    needles = needles or (words if "picture of" in words or "secret word" in words or "pasted" in words else "")
    say = lambda pattern: re.fullmatch(pattern, question)  # noqa: E731
    backgrounds = re.findall(r"on a (\w+) background", words)
    scenes = re.split(r", then (?=a |an |\w+ on a )", words.rstrip("."))
    if m := say(r"What shape appears on the (\w+) background\?"):
        return one(rf"({'|'.join(SHAPES)}) moves \w+ on a {m[1]} background", words)
    if m := say(r"Which way does the (.+) move\?"):
        return one(rf"{m[1]} moves (left|right|up|down)", words)
    if m := say(r"What is the background of the (first|last) scene like\?"):
        return backgrounds[0 if m[1] == "first" else -1]
    if m := say(r"What is the background like when the (\w+)(?: shape)? appears\?"):
        return one(r"on a (\w+) background", next(part for part in scenes if m[1] in part.split()))
    if say(r"What is the background like\?"):
        return one(r"on a (\w+) background", words)
    if m := say(r"Which shape appears (first|last)\?"):
        return shapes_in(words)[0 if m[1] == "first" else -1]
    if m := say(r"Which shape appears right after the (\w+)\?"):
        return shapes_in(words)[shapes_in(words).index(m[1]) + 1]
    if say(r"In what order do the shapes appear\?"):
        return ", ".join(shapes_in(words))
    if m := say(r"What colour is the (\w+)\?"):
        return one(rf"({COLOURS}) {m[1]}", words)
    if m := say(r"What shape is (\w+)\?"):
        return one(rf"\b{m[1]} ({'|'.join(SHAPES)})", words)
    if m := say(r"How fast does the (.+) move\?"):
        found = one(
            rf"{m[1]} (stands still|moves \w+ (?:slowly|fast\b(?!er)|faster and faster|slower and slower))", words
        )
        return "it stands still" if found == "stands still" else found.split(" ", 2)[2]
    if say(r"What (?:happens to|does) the .+\?"):
        return re.search(r" and (it [^,]+)\.$", words)[1]
    if m := say(r"How many times does the (.+) appear\?"):
        return str(len(re.findall(rf"\b{m[1]} appears", words)))
    if say(r"What strange thing happens in the video\?"):
        return re.search(r", and then (.+)\.$", words)[1]
    if say(r"What is this video mainly about\?"):
        ((plural, times),) = Counter(re.findall(r"(\w+) on a", words)).most_common(1)
        assert times == 3
        return plural
    if m := say(r"Where is the (.+)\?"):
        return one(rf"{m[1]} (?:in|on|at) the ([a-z]+(?: left| right)?)", words)
    if m := say(r"Is the (.+) small or large\?"):
        return one(rf"(small|large) {m[1]}", words)
    pictures = re.findall(r"a picture of (?:an? )?([A-Za-z ]+?)(?= appears|\.|, then)", needles)
    if say(
        r"What is the name of the landmark in the picture\?|What (?:kind of fruit )?appears in this (?:image|video)\?"
    ):
        (word,) = pictures
        return word
    if say(r"What kind of fruit appears in this video\?"):
        return one(r"a picture of (?:an? )?(\w+)", needles)
    secrets = re.findall(r"the secret word (\w+) is shown", needles)
    if say(r"What is the secret word\?"):
        (word,) = secrets
        return word
    if say(r"What is the order of the secret words that appeared in the video\?"):
        return ", ".join(secrets)
    if say(r"What is the order of (?:fruits|images) appearing in the video\?"):
        return ", ".join(pictures)
    if say(r"How many secret words appeared in the video\?"):
        return str(len(secrets))
    if say(r"How many \w+ appeared in the video\?"):
        assert len(set(pictures)) == 1
        return str(len(pictures))
    if say(
        r"Some (\w+) were inserted into 4 small sections of the video\. How many \1 appeared in the video in total\?"
    ):
        return str(sum(map(int, re.findall(r"(\d+) \w+ are pasted", needles))))
    if m := say(r"How many (\w+) are there\?"):
        if "pasted" in needles:
            return one(r"(\d+) \w+ are pasted", needles)
        return one(rf"(\d) (?:{COLOURS}) {singular(m[1])}(?:e?s)?\b", words)
    raise AssertionError(f"a question that nobody knows: {question}")


def triples(scene):
    """(shape, colour, texture) of everything a scene in words holds."""
    found = set()
    for part in re.split(r"(?<=background), then |\. ", scene):
        textures = re.findall(r"on a (\w+) background", part)
        if textures:
            (texture,) = set(textures)
            found |= {(shape, colour, texture) for colour, shape in LOOK.findall(part)}
            for shape, before, after in re.findall(rf"({'|'.join(SHAPES)}) .* turns from (\w+) to (\w+)", part):
                found |= {(shape, before, texture), (shape, after, texture)}
    return found


def held_out(shape, colour, texture):
    """A quarter of all combinations, from the definition: the sum of the three places in their lists is a multiple of 4."""
    return (SHAPES.index(shape) + COLOURS.split("|").index(colour) + TEXTURES.index(texture)) % 4 == 0


@pytest.fixture(scope="module")
def read():
    """A thousand or more lessons of every course."""
    return {name: lessons(course, 1500, 0, "read", name) for name, course in COURSES.items()}


def frames_of(pieces):
    """Lessons about a film told frame by frame: (phrases, rounds); the rest gives None. A caption has at most two sentences."""
    found = rounds(pieces)
    if not found or found[0][0].split("\n")[0].count(". ") < 2 or not found[0][0].split("\n")[0].endswith("."):
        return None
    scene, first = split_scene(found[0][0])
    return scene.rstrip(".").split(". "), [(first, found[0][1]), *found[1:]]


def told(pieces):
    """Lessons about a scene: (scene, rounds); the rest gives None."""
    found = rounds(pieces) if frames_of(pieces) is None else None
    if not found or not found[0][0].split("\n")[0].endswith("."):
        return None
    if re.match(r"The answer is .+\. Which option is it\?|Carefully watch|Select the best", found[0][0]):
        return None
    scene, first = split_scene(found[0][0])
    return scene, [(first, found[0][1]), *found[1:]]


def test_every_answer_about_a_scene_follows_from_its_words(read):
    asked, formats, letters = Counter(), Counter(), Counter()
    for pieces in (pieces for found in read.values() for pieces in found):
        if (lesson := told(pieces)) is None:
            continue
        scene, turns = lesson
        for question, answer in turns:
            text, word, style = unlettered(question, answer)
            assert answer_from(scene, text) == word, (scene, text, word)
            asked[" ".join(text.split()[:2])] += 1
            formats[style] += 1
            letters.update(answer.removeprefix("Best Option: (")[0] if style != "open" else "")
    assert len(asked) >= 15
    assert set(formats) == {*FORMATS, "open"}
    assert min(formats.values()) > 200
    total = sum(letters.values())
    assert total > 1500
    assert all(0.22 < letters[letter] / total < 0.28 for letter in "ABCD")


def test_the_reader_here_would_notice_wrong_answers(read):
    """Other answers from the same list of options are never what the words say."""
    checked = 0
    for pieces in read["whole"]:
        if (lesson := told(pieces)) is None:
            continue
        scene, turns = lesson
        for question, answer in turns:
            text, word, style = unlettered(question, answer)
            if style in ("vnbench", "videomme", "tempcompass"):
                for other in set("ABCD") - {answer}:
                    assert answer_from(scene, text) != unlettered(question, other)[1] != word
                    checked += 1
    assert checked > 1000


def test_binding_asks_for_the_letter_of_a_word_that_is_given(read):
    """The list of options, wherever it stands, says which letter the word has."""
    seen, sizes = Counter(), Counter()
    for pieces in (pieces for found in read.values() for pieces in found):
        found = rounds(pieces)
        if found is None or told(pieces) is not None or frames_of(pieces) is not None:
            continue
        options = {a or b: word for a, b, word in LISTED.findall(found[0][0])}
        assert list(options) == list("ABCD"[: len(options)])
        assert len(set(options.values())) == len(options) >= 2
        sizes[len(options)] += 1
        for question, answer in found:
            bare = re.sub(r"^(?:Question: )", "", question, flags=re.MULTILINE)
            (named,) = {
                m[1]
                for line in bare.splitlines()
                if (
                    m := re.fullmatch(
                        r"(?:Which option says |The answer is |And |)(.+?)(?:\?|\. Which option is it\?)", line
                    )
                )
                and m[1] in options.values()
            }
            letter = re.fullmatch(r"Best Option: \(([A-D])\) (.+)|([A-D])", answer)
            assert options[letter[1] or letter[3]] == named == (letter[2] or named)
            seen[letter[1] or letter[3]] += 1
    assert sum(seen.values()) > 2000
    assert set(sizes) <= {2, 3, 4}
    assert seen["A"] >= seen["B"] * 0.8
    assert min(seen.values()) > 200


def test_bare_lists_bind_too(read):
    """Lessons without roles: a list, then words with the letter that is learnt."""
    checked = 0
    for pieces in read["letters"]:  # the only course that has them
        if rounds(pieces) is not None:
            continue
        text = "".join(piece for piece, _ in pieces)
        options = dict(re.findall(r"^([A-D])\. (.+)$", text, re.MULTILINE))
        asked = re.findall(r"^ (.+)\?\n([A-D])$", text, re.MULTILINE)
        assert [piece for piece, learnt in pieces if learnt] == [letter for _, letter in asked]
        assert len(asked) >= 4
        assert all(options[letter] == word for word, letter in asked)
        checked += 1
    assert checked > 200


def test_answers_and_captions_are_learnt_and_nothing_else(read):
    captions = 0
    for name in read:
        for pieces in read[name]:
            learnt = [piece for piece, yes in pieces if yes]
            found = rounds(pieces)
            if found is not None:
                assert learnt == [f"{answer}<|end|>" for _, answer in found]
            elif len(pieces) == 2:
                assert pieces[0] == ("", False)
                assert re.fullmatch(r"[^\n]+\.\n", learnt[0])
                captions += 1
    assert captions > 100


def test_training_lessons_hold_no_held_out_combination_and_exams_only_such(read):
    trained = set()
    for pieces in (pieces for found in read.values() for pieces in found):
        text = "".join(piece for piece, _ in pieces)
        lesson, film = told(pieces), frames_of(pieces)
        trained |= triples(". ".join(film[0]) if film else lesson[0] if lesson else text)
    examined = set()
    for kind in ("letter", "open"):
        for k in range(600):
            turns, _ = exam(kind, k, 0, "exam")
            examined |= triples(turns[0]["value"].split("\n")[0])
    assert not any(held_out(*triple) for triple in trained)
    assert all(held_out(*triple) for triple in examined)
    assert len(trained) == 288  # all there are
    assert len(examined) == 96


def test_exams_ask_what_can_be_read(read):
    skills = {}
    for kind in ("letter", "open", "binding"):
        for k in range(300):
            turns, skill = exam(kind, k, 0, "exam")
            (question, answer) = (turn["value"] for turn in turns)
            skills.setdefault(kind, set()).add(skill)
            if kind == "binding":
                text, word, style = unlettered(question, answer)
                assert word in text
            else:
                scene, question = split_scene(question)
                text, word, style = unlettered(question, answer)
                assert answer_from(scene, text) == word
            assert (style == "open") == (kind == "open")
    assert skills["binding"] == {"binding"}
    assert min(len(skills["letter"]), len(skills["open"])) > 10
    assert exam("letter", 7, 0, "exam") == exam("letter", 7, 0, "exam") != exam("letter", 7, 1, "exam")


def test_no_exam_question_occurs_in_training(read):
    """Scene, question and answer together; the options are left out, so that a shuffled list does not hide a repetition."""
    instances = lambda scene, turns: {(scene, *unlettered(*turn)[:2]) for turn in turns}  # noqa: E731
    trained = set()
    for pieces in (pieces for found in read.values() for pieces in found):
        if (lesson := told(pieces)) is not None:
            trained |= instances(*lesson)
    asked = Counter()
    for kind in ("letter", "open"):
        for k in range(600):
            (question, answer) = (turn["value"] for turn in exam(kind, k, 0, "exam")[0])
            scene, question = split_scene(question)
            (instance,) = instances(scene, [(question, answer)])
            # a single picture of a fruit has no colour, shape or background: nothing of it can be held out
            kind_of = "picture" if scene.startswith("a picture of") else "scene"
            asked[kind_of, instance in trained] += 1
    assert asked["scene", False] > 900
    assert asked["scene", True] == 0


def test_courses_keep_to_their_settings(read):
    for name, course in COURSES.items():
        longest, many = 0, set()
        for pieces in read[name]:
            lesson = told(pieces)
            if lesson:
                longest = max(longest, len(lesson[0]))
                many.add(sum(unlettered(*turn)[2] == "open" for turn in lesson[1]))
            elif len(pieces) == 2:
                longest = max(longest, len(pieces[1][0].strip()))
        assert longest <= max(course.longest_caption, 250), name  # look-ups need several objects
        if course.binding < 1 and course.longest_caption < 1000:
            assert longest > 0.85 * course.longest_caption
        styles = Counter(
            style
            for pieces in read[name]
            if told(pieces)
            for style in {unlettered(*turn)[2] for turn in told(pieces)[1]} - {"open"}
        )
        for style, share in zip(("vnbench", "mlvu", "videomme", "tempcompass"), course.styles, strict=True):
            assert bool(styles[style]) == (share > 0 and course.binding + course.lookups < 1), (name, style)


def test_a_lesson_depends_on_name_and_number_alone():
    for course in COURSES.values():
        first = lessons(course, 30, 3, "x")
        assert lessons(course, 10, 3, "x") == first[:10]
        assert lessons(course, 10, 4, "x") != first[:10]
        assert lessons(course, 10, 3, "y") != first[:10]


def test_told_plots_count_as_often_as_they_are_told_to():
    plots = [told_plot(random.Random(k), "train", 1000, counting=1.0) for k in range(40)]
    assert {plot.questions[0].skill for plot in plots} == {"count", "cnt_edit1", "cnt_edit2", "cnt_insert1"}
    shares = [
        sum(
            told_plot(random.Random(k), "train", 1000, counting=share).questions[0].skill.startswith(("count", "cnt"))
            for k in range(400)
        )
        for share in (0.0, 0.3)
    ]
    assert abs(shares[1] - (120 + 0.7 * shares[0])) < 40  # four deviations of 400 draws
