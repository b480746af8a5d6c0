"""Small worlds and models that several rooms' tests share; each is built once a session."""

from pathlib import Path

import pytest
import torch

from tstar.data.conversations import get_template
from tstar.data.miniature import plain_captions, text_documents
from tstar.errors import TstarError
from tstar.language import HFCausalLM, LanguageConfig
from tstar.language.miniature import build_miniature_language
from tstar.vision.miniature import build_miniature_encoder

torch.set_num_threads(1)  # with tensors this small, threads wait for one another more than they work


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> Path:
    """The miniature world at its tiny scale: videos, shards, suites and the two frozen parts. Not to be written to."""
    from tstar.cli.main import main

    out = tmp_path_factory.mktemp("world") / "tiny"
    assert main(["miniature", "--out", str(out), "--scale", "tiny"]) == 0
    return out


@pytest.fixture(scope="session")
def language_documents() -> list:
    """Documents of the miniature language model's training, few of them."""
    count = 40
    chat, plain = get_template("miniature"), get_template("plain")
    captions = [
        ({"from": "human", "value": ""}, {"from": "gpt", "value": text}) for text in plain_captions(count // 4, 0)
    ]
    return [chat.pieces(turns) for turns in text_documents(count, 0)] + [plain.pieces(turns) for turns in captions]


@pytest.fixture(scope="session")
def miniature_parts(tmp_path_factory, language_documents) -> Path:
    """A folder with ``vision`` and ``language``, the miniature's frozen parts, hardly trained. Not to be written to."""
    out = tmp_path_factory.mktemp("parts")
    build_miniature_encoder(out / "vision", seed=0)
    build_miniature_language(out / "language", language_documents, steps=2, batch_size=8, seed=0)
    return out


@pytest.fixture(scope="session")
def miniature_language(miniature_parts) -> HFCausalLM:
    """The miniature language model in eval mode; tests leave its weights alone."""
    return LanguageConfig(path=str(miniature_parts / "language"), template="miniature").build().eval()


@pytest.fixture
def one_line():
    """Check that an error is one line for a user that holds all given words."""

    def check(error: TstarError, *words: str) -> None:
        text = str(error)
        assert "\n" not in text
        assert len(text) < 700
        for word in words:
            assert word in text, text

    return check


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)
