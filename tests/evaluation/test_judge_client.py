"""The judge's client against a server that answers well, badly, late and not at all; what it keeps, and what it never tells."""

import email.utils
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest

from tstar.errors import ConfigError, DataError
from tstar.evaluation import JudgeReplies, Report, get_benchmark, score
from tstar.evaluation.judge_client import JudgeError, JudgeSettings, ReplyCache, _Askers, judge_with
from tstar.evaluation.judging import JudgePrompt, read_prompt, read_replies, write_replies
from tstar.evaluation.table import not_answered_lines

from .fixtures import ANNOTATIONS
from .judge_server import JudgeServer, completion

KEY = "sk-a-long-and-secret-key"
BENCHMARK = get_benchmark("chat_temporal")
ROWS = [{"Q": f"q{n}?", "A": f"a{n}", "video_name": f"v{n}"} for n in range(12)]
ITEMS = BENCHMARK.load(ROWS)
SAID = {item.id: f"answer {n}" for n, item in enumerate(ITEMS)}
GOOD = "{'score': 4}"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    for name in ("TSTAR_JUDGE_URL", "TSTAR_JUDGE_KEY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "judge" / "cache.jsonl"


def settings(server, **more):
    url = server.url if isinstance(server, JudgeServer) else server
    return JudgeSettings(**{"url": url, "model": "judge", "wait": 0.001, "timeout": 5.0, "parallel": 2} | more)


def judge(server, cache, said=SAID, progress=None, **more):
    return judge_with(BENCHMARK, ITEMS, said, settings(server, **more), cache, progress)


def only(count):
    return {item.id: SAID[item.id] for item in ITEMS[:count]}


def number_of(body):
    """Which answer a request is about."""
    return int(body["messages"][1]["content"].partition("Model's answer: answer ")[2].split("\n")[0])


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_replies_arrive_at_their_items_and_are_asked_for_once(cache):
    seen = []
    with JudgeServer(lambda body, _: f"{{'score': {number_of(body) % 6}}}") as server:
        replies = judge(server, cache, progress=lambda *at: seen.append(at))
        assert judge(server, cache) == replies
        assert len(server.requests) == len(SAID)
    assert replies == {item.id: [f"{{'score': {n % 6}}}"] for n, item in enumerate(ITEMS)}
    assert (replies.model, replies.unanswered) == ("judge-2026-01-01", {})
    assert replies.dates == rows(cache)[0]["date"][:10]
    assert seen == [(n, 12) for n in range(13)]
    assert judge("http://127.0.0.1:9", cache) == replies  # nobody is there, nobody is asked
    report = BENCHMARK.score(ITEMS, SAID, "strict", replies)
    assert report.aggregate["score"] == 2.5
    assert (report.judge, report.judge_dates) == ("judge-2026-01-01", replies.dates)


def test_a_request_is_a_chat_completion_with_the_protocols_parameters(cache, monkeypatch):
    monkeypatch.setenv("TSTAR_JUDGE_KEY", f" {KEY}\n")
    with JudgeServer(lambda *_: GOOD) as server:
        judge(server, cache, only(1))
        ((method, path, headers),), (body,) = server.requests, server.bodies
        judge(server, cache, only(1), parameters={"max_tokens": None, "seed": 7})  # another request
        judge(f"{server.url}/chat/completions/?v=2", cache, only(1), model="other")
        assert server.bodies[1].keys() == {"model", "messages", "temperature", "seed"}
        assert (server.requests[2][1], server.bodies[2]["model"]) == ("/v1/chat/completions?v=2", "other")
    assert (method, path) == ("POST", "/v1/chat/completions")
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "judge",
        "messages": [dict(m) for m in BENCHMARK.judge_requests(ITEMS, only(1))[0].messages],
        "temperature": 0,
        "max_tokens": 64,
    }


def test_address_and_key_come_from_the_environment_and_the_key_from_a_variable_of_choice(cache, monkeypatch):
    with JudgeServer(lambda *_: GOOD) as server:
        monkeypatch.setenv("TSTAR_JUDGE_URL", server.url)
        monkeypatch.setenv("OTHER_KEY", KEY)
        judge_with(BENCHMARK, ITEMS, only(1), JudgeSettings(model="judge"), cache)
        other = JudgeSettings(model="judge", key_variable="OTHER_KEY")
        judge_with(BENCHMARK, ITEMS, {ITEMS[1].id: "x"}, other, cache)
        assert [headers.get("Authorization") for _, _, headers in server.requests] == [None, f"Bearer {KEY}"]


def test_several_are_asked_at_once(cache):
    both = threading.Barrier(3, timeout=10)  # passes only where three are there together
    with JudgeServer(lambda *_: (both.wait(), GOOD)[1]) as server:
        judge(server, cache, parallel=3)
        assert server.most_at_once == 3


@pytest.mark.parametrize(
    "garbled", ["<html>", "[]", '{"choices": []}', '{"choices": [{"message": {"content": [1]}}]}', ""]
)
def test_what_passes_is_asked_for_again(cache, garbled):
    with JudgeServer(lambda *_: GOOD) as server:
        troubles = [(429, {}, "slow down"), (500, {}, "oh"), (503, {}, ""), server.drop, (200, {}, garbled), GOOD]
        server.behave = lambda _, number: troubles[number]
        assert judge(server, cache, only(1)) == {ITEMS[0].id: [GOOD]}
        assert len(server.requests) == 6
        troubles += [(status, {}, "") for status in (408, 409, 425)] + [GOOD]
        judge(server, cache, {ITEMS[1].id: "x"})
    assert len(rows(cache)) == 2


@pytest.mark.parametrize("trouble", ["hang", "drip"])
def test_a_silent_or_endless_answer_is_given_up(cache, trouble):
    with JudgeServer(lambda *_: GOOD) as server:
        server.behave = lambda _, number: getattr(server, trouble) if number == 0 else GOOD
        start = time.monotonic()
        assert judge(server, cache, only(1), timeout=0.3) == {ITEMS[0].id: [GOOD]}
        assert 0.25 < time.monotonic() - start < 4


def test_an_answer_without_bounds_is_none(cache, monkeypatch):
    monkeypatch.setattr("tstar.evaluation.judge_endpoint.LARGEST_ANSWER", 1 << 16)
    with JudgeServer(lambda _, number: completion("x" * (1 << 17)) if number == 0 else GOOD) as server:
        assert judge(server, cache, only(1)) == {ITEMS[0].id: [GOOD]}


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(cache, form):
    after = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)

    def behave(_, number):
        return (429, {"Retry-After": after}, "") if number == 0 else GOOD

    with JudgeServer(behave) as server:
        start = time.monotonic()
        judge(server, cache, only(1))
        assert 0.9 < time.monotonic() - start < 6


def test_waits_double(cache, monkeypatch):
    waits = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, seconds=None: waits.append(seconds))
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    from tstar.evaluation.judge_endpoint import Endpoint, NoAnswerError

    with JudgeServer(lambda *_: (503, {"Retry-After": "soon"}, "down")) as server:
        request = BENCHMARK.judge_requests(ITEMS, only(1))[0]
        endpoint = Endpoint(settings(server, wait=40.0, retries=5))
        with pytest.raises(NoAnswerError, match=r"^status 503 \(down\)$"):
            endpoint.ask(request, threading.Event())
        assert [seconds for seconds in waits if seconds and seconds >= 40] == [40, 80, 160, 300, 300]
        assert len(server.requests) == 6


def test_an_unreadable_reply_is_asked_for_again_and_all_are_kept(cache):
    said = ["Four.", "{'score': 4.8}", "`{'score': 2}`", GOOD]
    with JudgeServer(lambda _, number: said[number]) as server:
        replies = judge(server, cache, only(1))
        assert replies == {ITEMS[0].id: said[:3]}
        assert judge(server, cache, only(1)) == replies  # three times is often enough
        assert len(server.requests) == 3
        assert judge(server, cache, only(1), attempts=5) == {ITEMS[0].id: said}
        assert judge(server, cache, only(1), attempts=5) == {ITEMS[0].id: said}
        assert len(server.requests) == 4
    assert BENCHMARK.score(ITEMS, only(1), "official", replies).items[0].rating == 4
    assert BENCHMARK.score(ITEMS, only(1), "strict", replies).items[0].rating == 2


def test_a_reply_without_content_is_an_unreadable_one(cache):
    empty = json.dumps({"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]})
    with JudgeServer(lambda *_: (200, {}, empty)) as server:
        assert judge(server, cache, only(1), attempts=2) == {ITEMS[0].id: ["", ""]}
    assert [(row["finish"], row["model"]) for row in rows(cache)] == [("content_filter", "judge (as asked for)")] * 2


def test_one_question_that_breaks_the_server_is_unjudged_and_asked_again_later(cache):
    with JudgeServer(lambda body, _: (500, {}, "cannot") if number_of(body) == 3 else GOOD) as server:
        replies = judge(server, cache, retries=1, parallel=1)
        assert replies.unanswered == {ITEMS[3].id: "status 500 (cannot)"}
        assert len(replies) == 11
        report = BENCHMARK.score(ITEMS, SAID, "official", replies)
        assert report.named("unjudged") == [ITEMS[3].id]
        assert report.aggregate["score"] == 4
        server.behave = lambda *_: GOOD
        assert len(judge(server, cache)) == 12
        assert len(server.requests) == 11 + 2 + 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_questions_that_a_server_refuses_cost_no_others(cache, status):
    refused = range(3, 9)  # more than may fail in a row

    def behave(body, _):
        return (status, {}, "content filter") if number_of(body) in refused else GOOD

    with JudgeServer(behave) as server:
        for asked in (12, 12 + len(refused)):  # and again, when there is nothing else to ask
            replies = judge(server, cache, parallel=1)
            assert replies.unanswered == {ITEMS[n].id: f"status {status} (content filter)" for n in refused}
            assert len(replies) == 12 - len(refused)
            assert len(server.requests) == asked


def test_what_came_beside_an_error_that_ends_the_asking_is_kept(cache, monkeypatch):
    def behave(body, _):
        time.sleep(0.3 * number_of(body))
        return GOOD if number_of(body) else (401, {}, "")

    def next_of_both(askers):
        while askers._results.qsize() < askers.waiting:
            time.sleep(0.01)
        return following(askers)

    following = _Askers.next
    monkeypatch.setattr(_Askers, "next", next_of_both)
    with JudgeServer(behave) as server, pytest.raises(ConfigError, match="status 401"):
        judge(server, cache, only(2))
    assert [row["id"] for row in rows(cache)] == [ITEMS[1].id]


def test_a_server_that_stopped_answering_is_given_up_and_gone_on_with(cache):
    with JudgeServer(lambda _, number: GOOD if number < 5 else (502, {}, "bad gateway")) as server:
        with pytest.raises(JudgeError, match=r"gave no answer to the last 4 questions .*status 502 \(bad gateway\)"):
            judge(server, cache, retries=0, parallel=1)
        assert len(rows(cache)) == 5
        server.behave = lambda *_: GOOD
        asked = len(server.requests)
        judge(server, cache)
        assert len(server.requests) - asked == 7


def test_nobody_there_is_named():
    with pytest.raises(JudgeError, match=r"the judge at http://127\.0\.0\.1:9/v1/chat/completions gave .*refused"):
        judge("http://127.0.0.1:9/v1?key=abc", "never.jsonl", retries=1)
    assert not os.path.exists("never.jsonl")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, r"status 401 .*environment variable TSTAR_JUDGE_KEY \(it is not set, so no key was sent\)"),
        (403, r"status 403 .*environment variable TSTAR_JUDGE_KEY"),
        (404, r"status 404 .*has the server a model 'judge'\?"),
    ],
)
def test_a_refusal_stops_at_once_with_a_remedy(cache, status, said):
    with JudgeServer(lambda *_: (status, {}, "no such\n\tparameter")) as server:
        with pytest.raises(ConfigError, match=rf"the judge at {server.url}/chat/completions answers with {said}"):
            judge(server, cache, parallel=1)
        assert len(server.requests) == 1
    assert not cache.exists()


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_server_that_refuses_all_it_is_asked_stops_with_a_remedy(cache, status):
    said = (
        rf"answered none of 4 questions, lastly with status {status} \(no such parameter\): is the model 'judge' there"
    )
    with JudgeServer(lambda *_: (status, {}, "no such\n\tparameter")) as server:
        with pytest.raises(ConfigError, match=rf"the judge at {server.url}/chat/completions {said}"):
            judge(server, cache, parallel=1)
        assert len(server.requests) == 4
    assert not cache.exists()


def test_a_certificate_that_nobody_vouches_for_stops_at_once(cache, monkeypatch):
    error = urllib.error.URLError(ssl.SSLCertVerificationError("self-signed certificate"))
    tries = []

    def refuse(*_, **__):
        tries.append(1)
        raise error

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
    with pytest.raises(ConfigError, match=r"not trusted \(.*self-signed certificate.*SSL_CERT_FILE"):
        judge("https://localhost/v1", cache, parallel=1)
    assert tries == [1]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed_and_the_key_goes_nowhere(cache, status, monkeypatch):
    monkeypatch.setenv("TSTAR_JUDGE_KEY", KEY)
    with JudgeServer(lambda *_: GOOD) as other:
        where = {"Location": f"{other.url}/chat/completions?token={KEY}"}
        with (
            JudgeServer(lambda *_: (status, where, "")) as server,
            pytest.raises(ConfigError, match=f"moved to {other.url}/chat/completions, which is not followed") as raised,
        ):
            judge(server, cache)
        assert other.requests == []
    assert KEY not in str(raised.value)


def echo_everything(body, number):
    """A server that gives the key back in every way it can."""
    kinds = [
        (500, {"X": KEY}, f"bad key {KEY}"),
        (200, {}, f"{' ' * 190}{KEY}"),
        (200, {}, json.dumps({"choices": KEY})),
        completion(f"no dictionary but {KEY}", model=f"judge {KEY}"),
    ]
    said = kinds[number] if number < 4 else completion(f"{{'score': 4, 'why': '{KEY}'}}", model=f"judge {KEY}")
    return said if isinstance(said, tuple) else (200, {}, said)


def test_the_key_is_in_no_file_message_or_reply(tmp_path, cache, monkeypatch, capfd):
    monkeypatch.setenv("TSTAR_JUDGE_KEY", KEY)
    half = KEY[:12]
    with JudgeServer(echo_everything) as server:
        replies = judge(server, cache, only(1))
        assert replies == {ITEMS[0].id: ["no dictionary but [key]", "{'score': 4, 'why': '[key]'}"]}
        assert replies.model == "judge [key]"
        write_replies(tmp_path / "replies.jsonl", replies)
        (tmp_path / "report.json").write_text(BENCHMARK.score(ITEMS, only(1), "official", replies).to_json())
        for status, body in (
            (401, f"Incorrect API key provided: {KEY}"),
            (500, KEY * 3000),
            (400, "x" * 190 + KEY),
            (302, ""),
        ):
            server.behave = lambda *_, said=(status, {"Location": KEY}, body): said
            with pytest.raises((ConfigError, JudgeError)) as raised:
                judge(server, cache, {ITEMS[1].id: "x"}, retries=0)
            assert half not in str(raised.value)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or half not in path.read_text()
    assert half not in repr(settings("http://localhost"))
    assert half not in "".join(capfd.readouterr())


def test_why_there_is_no_judgement_is_in_the_report(cache):
    with JudgeServer(lambda body, _: (500, {}, "overloaded") if number_of(body) == 1 else GOOD) as server:
        replies = judge(server, cache, only(3), retries=0)
    report = BENCHMARK.score(ITEMS[:3], only(3), "official", replies)
    assert report.reasons == {ITEMS[1].id: "status 500 (overloaded)"}
    assert Report.from_json(report.to_json()) == report
    assert not_answered_lines({"chat_temporal": {"full": report}}) == [
        "chat_temporal: of 3 questions 1 have no judgement"
    ]


def test_a_key_in_the_addresses_query_is_in_no_message_either(cache):
    secret = "aGVsbG8+d29y/bGQ="
    for status in (401, 500):
        behave = [(status, {}, f"no such path: /v1?v=2&key={said}") for said in (secret, quote(secret, safe=""))]
        with JudgeServer(lambda _, number, behave=behave: behave[number]) as server:
            for _ in behave:
                with pytest.raises((ConfigError, JudgeError), match=r"v=2&key=\[key\]") as raised:
                    judge(f"{server.url}?v=2&key={quote(secret, safe='')}", cache, only(1), retries=0)
                assert "aGVsbG8" not in str(raised.value)


def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(cache, monkeypatch):
    for bad in (f"{KEY}\nX: y", f"{KEY}é"):
        monkeypatch.setenv("TSTAR_JUDGE_KEY", bad)
        with pytest.raises(ConfigError, match="TSTAR_JUDGE_KEY holds no key") as raised:
            judge("http://127.0.0.1:9", cache)
        assert KEY[:8] not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "no judge is configured; give its address with --judge-url or in TSTAR_JUDGE_URL"),
        ("localhost:8000", "must be like http://localhost:8000/v1"),
        ("file:///etc/passwd", "must be like http://localhost:8000/v1, got 'file:///etc/passwd'"),
        ("ftp://host/v1", "must be like"),
        ("http://", "must be like"),
        ("http://host:port/v1", "must be like"),
        ("http://host:99999/v1", "must be like"),
        ("http://ho st/v1", "must be like"),
        ("http://host/v 1", "must be like"),
        ("http://host/v1\nX: y", "must be like"),
        ("http://..host/v1", "must be like"),
        ("http://host/ü", "must be like"),
        ("http://[::1/v1", "must be like"),
        (f"http://me:{KEY}@host/v1", "without user and password; a key goes into TSTAR_JUDGE_KEY"),
    ],
)
def test_what_is_no_address_is_refused(cache, url, message):
    with pytest.raises(ConfigError, match=message) as raised:
        judge(url, cache)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"parallel": 0}, "judge.parallel must be at least 1, got 0"),
        ({"attempts": 0}, "judge.attempts must be at least 1"),
        ({"retries": -1}, "judge.retries must be at least 0"),
        ({"timeout": 0}, "judge.timeout must be above 0"),
        ({"wait": float("nan")}, "judge.wait must be at least 0"),
        ({"parameters": "x"}, "judge.parameters must be a mapping"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        JudgeSettings(**wrong)


def test_a_model_has_to_be_named_and_nothing_is_asked_about_nothing(cache):
    with pytest.raises(ConfigError, match="no judge model is named; give --judge-model"):
        judge("http://127.0.0.1:9", cache, model="")
    assert judge("", cache, {ITEMS[0].id: None}, model="") == {}
    assert not cache.exists()


def test_questions_with_the_same_words_share_one_reply(cache):
    twice = [{"Q": "q?", "A": "a", "video_name": name} for name in ("v", "w")]
    items = BENCHMARK.load(twice)
    with JudgeServer(lambda *_: GOOD) as server:
        replies = judge_with(BENCHMARK, items, {"v_0": "x", "w_0": "x"}, settings(server), cache)
        assert replies == {"v_0": [GOOD], "w_0": [GOOD]}
        assert len(server.requests) == 1


def test_another_answer_prompt_or_model_is_another_question(cache, tmp_path):
    (tmp_path / "t.yaml").write_text("user: '{answer} {prediction}'\n")
    with JudgeServer(lambda *_: GOOD) as server:
        for more in ({}, {"model": "other"}, {"parameters": {"seed": 1}}, {"template": tmp_path / "t.yaml"}):
            judge(server, cache, only(1), **more)
        judge(server, cache, {ITEMS[0].id: "something else"})
        assert len(server.requests) == 5


def test_a_judge_that_becomes_another_is_refused(cache):
    with JudgeServer(lambda _, number: (200, {}, completion(GOOD, f"judge-{number // 4}"))) as server:
        with pytest.raises(
            JudgeError, match=r"was judge-0 and now is judge-1; one table has one judge: .*cache\.jsonl"
        ):
            judge(server, cache, parallel=1)
        assert {row["model"] for row in rows(cache)} == {"judge-0"}
        with pytest.raises(JudgeError, match="was judge-0 and now is judge-1"):
            judge(server, cache, parallel=1)
        assert len(judge(server, cache.with_name("new.jsonl"), only(2), parallel=1)) == 2
    with cache.open("a") as file:
        file.write(json.dumps(rows(cache)[0] | {"model": "judge-2"}) + "\n")
    with pytest.raises(DataError, match=r"cache\.jsonl: replies of 2 judges \(judge-0, judge-2\)"):
        judge("http://127.0.0.1:9", cache)


def start_scoring(server, cache, parallel):
    code = f"""
import signal
from tstar.evaluation import get_benchmark
from tstar.evaluation.judge_client import JudgeSettings, judge_with
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
benchmark = get_benchmark("chat_temporal")
items = benchmark.load({ROWS!r})
settings = JudgeSettings(url={server.url!r}, model="judge", parallel={parallel})
judge_with(benchmark, items, {SAID!r}, settings, {str(cache)!r})
"""
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def test_control_c_ends_a_scoring_at_once(cache):
    here = threading.Event()

    with JudgeServer(lambda *_: GOOD) as server:
        server.behave = lambda *_: (here.set(), server.hang)[1]
        process = start_scoring(server, cache, parallel=3)
        assert here.wait(60)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
        assert time.monotonic() - start < 5


def test_a_killed_scoring_asks_nothing_twice(tmp_path, cache):
    """The process is killed by the server while it waits for a reply; a line of its file is torn besides."""
    victim = []

    def behave(body, number):
        if number == 5:
            os.kill(victim[0].pid, signal.SIGKILL)
            victim[0].wait()
        return f"{{'score': {number_of(body) % 6}}}"

    with JudgeServer(behave) as server:
        victim.append(start_scoring(server, cache, parallel=1))
        assert victim[0].wait(60) == -signal.SIGKILL
        assert len(rows(cache)) == 5
        with cache.open("rb+") as file:
            file.truncate(cache.stat().st_size - 20)
        replies = judge(server, cache)
        assert len(server.requests) == 6 + 8  # what is whole in the file, and nothing else, is not asked again
        assert replies == {item.id: [f"{{'score': {n % 6}}}"] for n, item in enumerate(ITEMS)}
        assert judge(server, cache) == replies
        assert len(server.requests) == 14
    book = ReplyCache(cache)
    assert sum(len(book.rows(row["request"])) for row in map(json.loads, cache.read_bytes().splitlines()[-8:])) == 8


def test_a_stopped_scoring_does_not_wait_for_a_server_that_hangs(cache):
    with JudgeServer(lambda *_: GOOD) as server:
        server.behave = lambda body, _: server.hang if number_of(body) < 2 else (401, {}, "no")
        start = time.monotonic()
        with pytest.raises(ConfigError, match="status 401"):
            judge(server, cache, parallel=3, timeout=15.0)
        assert time.monotonic() - start < 5


def test_a_file_of_something_else_is_no_cache(tmp_path):
    path = tmp_path / "responses.jsonl"
    path.write_text('{"id": "v0_0", "response": "x"}\n')
    with pytest.raises(DataError, match=r"responses\.jsonl: line 1 is no reply of a judge; is this another file"):
        judge("http://127.0.0.1:9", path)
    assert path.read_text() == '{"id": "v0_0", "response": "x"}\n'
    with pytest.raises(DataError, match="the judge's cache cannot be read"):
        judge("http://127.0.0.1:9", tmp_path)
    with JudgeServer(lambda *_: GOOD) as server, pytest.raises(DataError, match="the judge's cache cannot be written"):
        judge(server, path / "cache.jsonl")


def test_a_template_replaces_the_prompt_and_leaves_other_braces(cache, tmp_path):
    template = tmp_path / "judge.yaml"
    text = "Q {question}; A {answer}; P {prediction}; like {'score': 4} or {0}, { } and {{}}"
    template.write_text(json.dumps({"system": "You mark {question}.", "user": text}))
    with JudgeServer(lambda *_: GOOD) as server:
        judge(server, cache, {ITEMS[0].id: "{answer} {x}"}, template=template)
        system, user = server.bodies[0]["messages"]
    assert system == {"role": "system", "content": "You mark q0?."}
    assert user["content"] == "Q q0?; A a0; P {answer} {x}; like {'score': 4} or {0}, { } and {{}}"
    assert len(JudgePrompt("", "{prediction}").messages("q", "a", "p")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user: [", "broken YAML at line"),
        ("user: 3", "has the texts 'user' and, if wanted, 'system', and nothing else"),
        ("just text", "has the texts"),
        ("system: x", "has the texts"),
        ("user: '{answer} {prediction}'\nmore: x", "has the texts"),
        ("user: '{question} {answer}'", "'user' must hold {answer} and {prediction}"),
        ("user: '{answer} {prediction} {pred}'", "{pred} is no field"),
        ("user: '{answer} {prediction}'\nsystem: '{reply}'", "{reply} is no field"),
        (None, "no such file; a judge's template"),
    ],
)
def test_bad_templates_are_named(tmp_path, text, message):
    path = tmp_path / "judge.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=f"judge.yaml: .*{message}"):
        read_prompt(path)


def test_a_benchmark_of_many_questions_takes_no_template(tmp_path, cache, monkeypatch):
    (tmp_path / "t.yaml").write_text("user: '{answer} {prediction}'\n")
    benchmark = get_benchmark("tempcompass")
    items = benchmark.load(ANNOTATIONS["tempcompass"])
    request = BENCHMARK.judge_requests(ITEMS, only(1))
    monkeypatch.setattr(benchmark, "judge_requests", lambda *_: request)
    with pytest.raises(
        ConfigError, match=r"tempcompass asks its judge several kinds of questions; leave judge\.template out"
    ):
        judge_with(benchmark, items, {}, settings("http://127.0.0.1:9", template=tmp_path / "t.yaml"), cache)


def test_replies_are_written_and_read_again(tmp_path):
    replies = JudgeReplies({"v0_0": ["?", GOOD], "v1_0": ["{'score': 1}"]}, "judge", "2026-11-28")
    write_replies(tmp_path / "new" / "replies.jsonl", replies)
    again = read_replies(tmp_path / "new" / "replies.jsonl")
    assert (again, again.model, again.dates) == (replies, "judge", "2026-11-28")
    first, second = (BENCHMARK.score(ITEMS, only(2), "official", said).to_json() for said in (replies, again))
    assert first == second


def test_a_file_of_replies_by_hand(tmp_path):
    path = tmp_path / "replies.jsonl"
    lines = [{"id": "v0_0", "reply": None}, {"id": "v1_0", "reply": "{'score': 2}"}, {"id": "v0_0", "reply": GOOD}]
    path.write_text("\n".join(map(json.dumps, lines)))
    replies = read_replies(path)
    assert (replies, replies.model, replies.dates) == ({"v0_0": ["", GOOD], "v1_0": ["{'score': 2}"]}, "", "")
    assert score("chat_temporal", ROWS, only(2), judge_replies=replies).aggregate["score"] == 3
    path.write_text(json.dumps(lines[2]))
    assert read_replies(path) == {"v0_0": [GOOD]}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"id": "a"}], "row 0: field 'reply' is missing"),
        ([{"id": 3, "reply": "x"}], "row 0: field 'id' must be str, got int"),
        ([{"id": "a", "reply": {"score": 4}}], "row 0: field 'reply' must be str or null, got dict"),
        ([{"id": "a", "reply": "x"}, ["b", "x"]], "row 1: must be an object"),
        (
            [{"id": "a", "reply": "x", "model": "m"}, {"id": "b", "reply": "x", "model": "n"}],
            r"replies of 2 judges \(m, n\)",
        ),
        (
            [{"id": "a", "reply": "x", "request": "1"}, {"id": "a", "reply": "x", "request": "2"}],
            "row 1: replies about two different responses to a",
        ),
    ],
)
def test_a_bad_file_of_replies_is_named(tmp_path, lines, message):
    path = tmp_path / "replies.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match=message):
        read_replies(path)


def test_a_cache_of_one_scoring_can_be_replayed(cache):
    with JudgeServer(lambda body, _: f"{{'score': {number_of(body) % 6}}}") as server:
        replies = judge(server, cache)
    again = read_replies(cache)
    assert (again, again.model, again.dates) == (replies, replies.model, replies.dates)


def test_the_page_about_judges_runs(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "judges.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (template,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    Path("temporal_qa.json").write_text(json.dumps(ROWS))
    Path("answers.jsonl").write_text("\n".join(json.dumps({"id": key, "response": said}) for key, said in SAID.items()))
    Path("template.yaml").write_text(template)
    assert "{'pred': 'yes', 'score': 5}" in read_prompt("template.yaml").messages("q", "a", "p")[1]["content"]
    with JudgeServer(lambda *_: GOOD) as server:
        assert code.count("http://localhost:8000/v1") == 1
        exec(compile(code.replace("http://localhost:8000/v1", server.url), "docs/judges.md", "exec"), {})
    assert capsys.readouterr().out == "{'score': 4.0}\n"
    assert len(read_replies("replies.jsonl")) == 12
