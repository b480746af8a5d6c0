"""One server that speaks OpenAI's chat completions, asked by HTTP until it answers or has been asked often enough.

The key is read from an environment variable and goes into one header of requests to the configured address, nowhere else:
no redirect is followed, and it is cut out of whatever the server sends back. So is what the address's query holds.
"""

import email.utils
import http.client
import json
import math
import os
import random
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus, urlsplit, urlunsplit

from tstar.errors import ConfigError, TstarError
from tstar.evaluation.judging import JudgeRequest

URL_VARIABLE, KEY_VARIABLE = "TSTAR_JUDGE_URL", "TSTAR_JUDGE_KEY"
PATH = "/chat/completions"
LONGEST_WAIT = 300.0
"""Seconds; a server that says to come back later than this is asked again after them."""
LARGEST_ANSWER = 4 << 20
"""Bytes; more is no completion."""
SHORTEST_SECRET = 8
"""Characters; a shorter key (servers at home take any) is no secret to be cut out of texts."""
LONGEST_QUOTE = 200
"""Characters of a server's words in a message."""
PASSING = (408, 409, 425, 429)
"""Statuses below 500 of what may go well another time: too slow, in conflict, too early, too many."""
OF_ONE_QUESTION = (400, 413, 422)
"""Statuses by which a server may refuse this question and no other, as too long or not to its taste."""


class NoAnswerError(TstarError):
    """The server gave no completion, however often it was asked; the text says what it gave instead.

    Args:
        text: what it gave.
        remedy: what to do if it refuses all questions so; "" where it refused nothing.
    """

    def __init__(self, text: str, remedy: str = "") -> None:
        super().__init__(text)
        self.remedy = remedy


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Which judge is asked, and how persistently. Nothing is asked unless an address is given."""

    url: str = ""
    """Address of an OpenAI-compatible server, as ``http://localhost:8000/v1``; "" takes that in ``TSTAR_JUDGE_URL``."""
    model: str = ""
    """Name of the model that is asked for."""
    key_variable: str = KEY_VARIABLE
    """Environment variable that holds the server's key; where it is not set, none is sent."""
    template: str | Path | None = None
    """YAML file with the judge's prompt; None asks in tstar's own words."""
    parameters: Mapping[str, Any] = dataclass_field(default_factory=dict)
    """Sampling parameters that replace or join the benchmark's own; null takes one away."""
    parallel: int = 4
    """Requests at once."""
    attempts: int = 3
    """Times that a question is asked until a reply can be read."""
    retries: int = 5
    """Times that a request is sent again after 408, 409, 425, 429, 5xx, a broken connection or a garbled answer."""
    wait: float = 1.0
    """Seconds before the first of these, doubled with each; the server's Retry-After wins."""
    timeout: float = 60.0
    """Seconds that a connection may be silent, and that one answer may take to arrive."""

    def __post_init__(self) -> None:
        for name, least in (("parallel", 1), ("attempts", 1), ("retries", 0), ("wait", 0), ("timeout", 0)):
            value = getattr(self, name)
            if not least <= value < math.inf or (name == "timeout" and not value):
                limit = "above 0" if name == "timeout" else f"at least {least}"
                raise ConfigError(f"judge.{name} must be {limit}, got {value}")
        if not isinstance(self.parameters, Mapping):
            raise ConfigError(f"judge.parameters must be a mapping from name to value, got {self.parameters!r}")

    def parameters_of(self, request: JudgeRequest) -> dict[str, Any]:
        """What is sent beside model and messages."""
        joined = {**request.parameters, **self.parameters}
        return {name: value for name, value in joined.items() if value is not None}


@dataclass(frozen=True)
class Answer:
    """A completion: its text, the model that the server says wrote it, and why that stopped."""

    reply: str
    model: str
    finish: str


class Endpoint:
    """The configured server.

    Raises:
        ConfigError: no address is configured, or an address or key that cannot be one.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        self._url = _address(settings.url or os.environ.get(URL_VARIABLE, ""))
        self.name = urlunsplit((*urlsplit(self._url)[:3], "", ""))
        """The address for messages: without its query, which may hold a key."""
        self._key = os.environ.get(settings.key_variable, "").strip()
        if not self._key.isascii() or not self._key.isprintable():
            raise ConfigError(
                f"the environment variable {settings.key_variable} holds no key: it has characters that no header can"
            )
        values = [part.partition("=")[2] for part in urlsplit(self._url).query.split("&")]
        secrets = {self._key, *values, *map(unquote_plus, values)}
        self._secrets = sorted((s for s in secrets if len(s) >= SHORTEST_SECRET), key=len, reverse=True)
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, request: JudgeRequest, stop: threading.Event) -> Answer:
        """One completion, asked for again after whatever may pass.

        Args:
            request: what is asked.
            stop: ends the waiting between attempts once it is set.

        Raises:
            NoAnswerError: nothing usable came, or the server refuses this question.
            ConfigError: the server refuses whatever it is asked.
        """
        body = {"model": self.settings.model, "messages": request.messages, **self.settings.parameters_of(request)}
        data = json.dumps(body).encode()
        for attempt in range(self.settings.retries + 1):
            wait = self.settings.wait * 2**attempt * random.uniform(0.75, 1.0)  # not all at the same moment again
            try:
                return self._completion(self._post(data))
            except urllib.error.HTTPError as error:
                with error:
                    trouble = f"status {error.code}{self._said(error)}"
                    if error.code in OF_ONE_QUESTION:
                        raise NoAnswerError(trouble, self._remedy(error)) from None
                    if error.code < 500 and error.code not in PASSING:
                        raise ConfigError(
                            f"the judge at {self.name} answers with {trouble}: {self._remedy(error)}"
                        ) from None
                    wait = _retry_after(error.headers.get("Retry-After") or "") or wait
            except ssl.SSLCertVerificationError as error:
                raise self._distrust(error) from None
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                reason = getattr(error, "reason", error)
                if isinstance(reason, ssl.SSLCertVerificationError):
                    raise self._distrust(reason) from None
                trouble = self._line(str(reason)) or type(reason).__name__
            if attempt < self.settings.retries and stop.wait(min(wait, LONGEST_WAIT)):
                break
        raise NoAnswerError(trouble)

    def _post(self, data: bytes) -> bytes:
        request = urllib.request.Request(self._url, data, {"Content-Type": "application/json", "User-Agent": "tstar"})
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        end = time.monotonic() + self.settings.timeout
        with self._opener.open(request, timeout=self.settings.timeout) as response:
            found = bytearray()
            while block := response.read1(1 << 16):
                found += block
                if len(found) > LARGEST_ANSWER:
                    raise ValueError(f"an answer of more than {LARGEST_ANSWER >> 20} MiB")
                if time.monotonic() > end:
                    raise TimeoutError(f"an answer that took more than {self.settings.timeout:g} s")
        return bytes(found)

    def _completion(self, data: bytes) -> Answer:
        """ValueError unless ``data`` is a chat completion."""
        try:
            content = json.loads(data)
            choice = content["choices"][0]
            reply, finish, model = choice["message"]["content"], choice.get("finish_reason"), content.get("model")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ValueError(f"no chat completion but {self._line(data)!r}") from None
        if not isinstance(reply, (str, type(None))):
            raise ValueError(f"no chat completion: its content is {type(reply).__name__}, not text")
        named = model if isinstance(model, str) and model.strip() else f"{self.settings.model} (as asked for)"
        return Answer(self._clean(reply or ""), self._clean(named), self._clean(str(finish or "")))

    def _remedy(self, error: urllib.error.HTTPError) -> str:
        variable = self.settings.key_variable
        if error.code < 400:
            target = self._line((error.headers.get("Location") or "").partition("?")[0]) or "another address"
            return f"it has moved to {target}, which is not followed; give that address if it is the judge's"
        if error.code in (401, 403):
            sent = "the key there is refused" if self._key else "it is not set, so no key was sent"
            return f"put the server's key into the environment variable {variable} ({sent})"
        if error.code == 404:
            return f"is the address right (it ends in {PATH}), and has the server a model {self.settings.model!r}?"
        return f"is the model {self.settings.model!r} there, and does it take these parameters (null takes one away)?"

    def _distrust(self, error: ssl.SSLCertVerificationError) -> ConfigError:
        return ConfigError(
            f"the judge at {self.name} has a certificate that is not trusted ({self._line(str(error))}); "
            "name its authority in the environment variable SSL_CERT_FILE"
        )

    def _said(self, error: urllib.error.HTTPError) -> str:
        """The start of an error's body, in brackets; "" if there is none."""
        try:
            said = self._line(error.read(1 << 16))
        except (OSError, http.client.HTTPException):
            said = ""
        return f" ({said})" if said else ""

    def _line(self, text: str | bytes) -> str:
        """The start of ``text`` as one line of printable characters, for messages."""
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        start = self._clean(text)[:LONGEST_QUOTE]  # cut last: half a key would stay
        return " ".join("".join(c if c.isprintable() else " " for c in start).split())

    def _clean(self, text: str) -> str:
        """``text`` without the key, and without the values of the address's query, of which one may be a key."""
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error like another: what it leads to has no right to the key, nor to the questions."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _address(url: str) -> str:
    """The full address that requests go to; ConfigError if ``url`` is none."""
    url = url.strip()
    if not url:
        raise ConfigError(f"no judge is configured; give its address with --judge-url or in {URL_VARIABLE}")
    wrong = "must be like http://localhost:8000/v1"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:
        raise ConfigError(f"the judge's address {wrong}") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"the judge's address {wrong}, without user and password; a key goes into {KEY_VARIABLE}")
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError(f"the judge's address {wrong}, got {urlunsplit((*parts[:3], '', ''))!r}")
    path = parts.path.rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path if path.endswith(PATH) else path + PATH, parts.query, ""))


def _retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 if it says nothing of the kind."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else 0.0
