"""Replies of a judge: every reader against replies by hand, and nothing that one writes can run, exhaust or crash it."""

import subprocess
import sys
import warnings

import pytest

from tstar.evaluation.judge_readings import (
    LONGEST,
    Reading,
    read_first_braces,
    read_official,
    read_score_or_zero,
    read_strictly,
)

GOOD = "{'pred': 'yes', 'score': 4}"


@pytest.mark.parametrize(
    ("reply", "official", "harness", "strict"),
    [
        (GOOD, (4, "yes"), (4, "yes"), (4, "yes")),
        ('{"pred": "no", "score": 0}', (0, "no"), (0, "no"), (0, "no")),
        (f" \t{GOOD}\n", (4, "yes"), (4, "yes"), (4, "yes")),
        (f"\n{GOOD}", (4, "yes"), (4, "yes"), (4, "yes")),
        # marks
        ("{'pred': 'yes', 'score': 4.8}", (4, "yes"), (4, "yes"), None),
        ("{'pred': 'yes', 'score': 4.0}", (4, "yes"), (4, "yes"), (4, "yes")),
        ("{'pred': 'yes', 'score': '4'}", (4, "yes"), (4, "yes"), (4, "yes")),
        ("{'pred': 'yes', 'score': ' 4 '}", (4, "yes"), (4, "yes"), (4, "yes")),
        ("{'pred': 'yes', 'score': '4.8'}", None, None, None),
        ("{'pred': 'yes', 'score': '٤'}", (4, "yes"), (4, "yes"), None),
        ("{'pred': 'yes', 'score': True}", (1, "yes"), (1, "yes"), None),
        ("{'pred': 'no', 'score': False}", (0, "no"), (0, "no"), None),
        ("{'pred': 'no', 'score': -0.9}", (0, "no"), (0, "no"), None),
        ("{'pred': 'no', 'score': -2}", (-2, "no"), (-2, "no"), None),
        ("{'pred': 'yes', 'score': 11}", (11, "yes"), (11, "yes"), None),
        ("{'pred': 'yes', 'score': None}", None, None, None),
        ("{'pred': 'yes', 'score': [4]}", None, None, None),
        ("{'pred': 'yes', 'score': 4+0j}", None, None, None),
        ("{'pred': 'yes', 'score': 1e999}", None, None, None),
        ("{'pred': 'yes', 'score': 1e999-1e999}", None, None, None),
        ("{'pred': 'yes', 'score': 1" + "0" * 400 + "}", None, None, None),
        ("{'pred': 'yes'}", None, None, None),
        # verdicts
        ("{'pred': 'Yes', 'score': 4}", (4, "yes"), (4, "yes"), (4, "yes")),
        ("{'pred': ' NO ', 'score': 1}", (1, "no"), (1, "no"), (1, "no")),
        ("{'pred': 'no, or yes', 'score': 1}", (1, "yes"), (1, "yes"), None),
        ("{'pred': 'unknown', 'score': 1}", (1, "no"), (1, "no"), None),
        ("{'pred': 'maybe', 'score': 3}", (3, ""), (3, ""), None),
        ("{'pred': '', 'score': 3}", (3, ""), (3, ""), None),
        ("{'pred': True, 'score': 4}", None, None, None),
        ("{'score': 4}", None, None, None),
        ("{'pred': 'yes', 'score': 4, 'pred': 'no'}", (4, "no"), (4, "no"), (4, "no")),
        (
            "{'pred': 'yes', 'score': 4, 'why': {1, 2}}",
            None,
            None,
            (4, "yes"),
        ),  # a set has no JSON, and braces of its own
        ("{'pred': 'yes', 'score': 4, 'why': (1, 2)}", (4, "yes"), (4, "yes"), (4, "yes")),
        # what stands around
        (f"```python\n{GOOD}\n```", None, (4, "yes"), (4, "yes")),
        (f"Sure: {GOOD}.", None, (4, "yes"), (4, "yes")),
        (f"<think>{{'pred': 'no'</think>{GOOD}</s>", None, None, (4, "yes")),
        (f"{GOOD} or {{'pred': 'no', 'score': 1}}", None, (4, "yes"), None),
        (f"{GOOD} }}", None, (4, "yes"), None),
        (f"[{GOOD}]", None, (4, "yes"), (4, "yes")),
        (f"({GOOD})", (4, "yes"), (4, "yes"), (4, "yes")),
        (f"{GOOD}  # sure", (4, "yes"), (4, "yes"), (4, "yes")),
        # no dictionaries
        ("{''pred': 'yes', 'score': 4.8}", None, None, None),
        ("{'pred': yes, 'score': 4}", None, None, None),
        ("dict(pred='yes', score=4)", None, None, None),
        ("{'pred': 'yes', 'score': 4", None, (4, "yes"), None),
        ("{'pred': 'yes', 'score': int('4')}", None, None, None),
        ("{'pred', 'score'}", None, None, None),
        ("{[]: 1, 'pred': 'yes', 'score': 4}", None, None, None),
        ("{}", None, None, None),
        ("4", None, None, None),
        ("yes", None, None, None),
        ("", None, None, None),
        ("}{", None, None, None),
        ("\0", None, None, None),
        ("\ud800{'pred': 'yes', 'score': 4}", None, (4, "yes"), (4, "yes")),
        ("{'pred': 'yes\ud800', 'score': 4}", None, None, None),
    ],
)
def test_yes_or_no_and_a_mark(reply, official, harness, strict):
    def wanted(pair):
        return None if pair is None else Reading(*pair)

    assert read_official(reply, verdict=True) == wanted(official)
    assert read_first_braces(reply) == wanted(harness)
    assert read_strictly(reply, verdict=True) == wanted(strict)


@pytest.mark.parametrize(
    ("reply", "official", "harness", "strict"),
    [
        ("{'score': 3}", 3, 3, 3),
        ("{'score': 4.8}", 4, 4, None),
        ("{'score': 3, 'pred': 7}", 3, 3, 3),
        ("\n {'score': 3} \n", None, 3, 3),  # indented, which a line of Python is not
        ("{}", None, 0, None),
        ("{'Score': 3}", None, 0, None),
        ("{'score': {3}}", None, None, None),
        ("{'score': 3, 'why': {3}}", None, 3, 3),
        ("{''score': 4.8}", None, None, None),
        ("3", None, None, None),
        ("```{'score': 3}```", None, None, 3),
        ("{'score': 6}", 6, 6, None),
        ("", None, None, None),
    ],
)
def test_a_mark_alone(reply, official, harness, strict):
    def wanted(mark):
        return None if mark is None else Reading(mark)

    assert read_official(reply, verdict=False) == wanted(official)
    assert read_score_or_zero(reply) == wanted(harness)
    assert read_strictly(reply, verdict=False) == wanted(strict)


NASTY = """
from tstar.evaluation.judge_readings import LONGEST as n, read_first_braces, read_official, read_score_or_zero, read_strictly

texts = ["-" * (n - 1) + "1", "not " * (n // 4 - 1) + "1", "a" + ".b" * (n // 2 - 1), "1 if 1 else " * (n // 12 - 1) + "1"]
texts += ["lambda:" * (n // 7 - 1) + "1", "1**" * (n // 3 - 1) + "1", "1+" * (n // 2 - 1) + "1", "9" * n, "\\\\\\n" * (n // 2)]
texts += [bracket * count for bracket in ("[", "(", "{", "{1:", "{1,", "f(", "x[") for count in (99, 150, n // 3, 300_000)]
texts += ["(" * 99 + ")" * 99, "[" * 99 + "]" * 99, "'" * n, '"' * 1_000_000, "9" * 1_000_000, "1," * (n // 2)]
texts += ["{'pred': 'yes', 'score': " + text[: n - 30] + "}" for text in list(texts)]
for text in texts:
    for reply in (text, "{" + text + "}"):
        for read in (read_official, read_strictly):
            assert read(reply, verdict=True) is None, reply[:50]
        assert read_first_braces(reply) is None and read_score_or_zero(reply) is None, reply[:50]
print(len(texts))
"""


def test_no_reply_exhausts_memory_or_stack():
    """In a process of its own, which a crash would end, with 1 GiB of addresses beyond what it has."""
    limit = "import resource, numpy; used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
    limit += "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)\n"
    start = "import tstar.evaluation\n"
    done = subprocess.run([sys.executable, "-c", start + limit + NASTY], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 50


def test_a_long_reply_is_read_where_its_dictionary_is_short():
    chatter = "x" * (3 * LONGEST)
    assert read_strictly(f"{chatter}{GOOD}", verdict=True) == Reading(4, "yes")
    assert read_first_braces(f"{chatter}{GOOD}") == Reading(4, "yes")
    assert read_official(GOOD + " " * LONGEST, verdict=True) is None


def test_nothing_is_run_and_nothing_is_said(tmp_path, capfd):
    victim = tmp_path / "file"
    for text in (f"open({str(victim)!r}, 'w')", f"__import__('pathlib').Path({str(victim)!r}).touch()"):
        for reply in (text, f"{{'pred': 'yes', 'score': {text}}}", f"{{'pred': f'{{{text}}}', 'score': 4}}"):
            assert read_official(reply, verdict=True) is None
            assert read_strictly(reply, verdict=True) is None
            assert read_first_braces(reply) is None
    assert not victim.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_official("{'pred': 'yes\\d', 'score': 4}", verdict=True) == Reading(4, "yes")
    assert capfd.readouterr() == ("", "")
