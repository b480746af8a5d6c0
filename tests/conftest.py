"""Small worlds, models and quickly started processes that several rooms' tests share; each is built once a session."""

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tstar.data.miniature import COURSES, lessons
from tstar.data.miniature.captioned import GROUP, captioned_group, draw
from tstar.data.miniature.seeds import item_rng
from tstar.errors import TstarError
from tstar.language import HFCausalLM, LanguageConfig
from tstar.language.miniature import Reading, train_miniature_language
from tstar.vision.miniature import Gallery, train_miniature_encoder

END_MARKS = ["</s>", "<|endoftext|>", "<|end|>", "<|im_end|>"]
MARKS = ["<pad>", "<s>", "<|user|>", "<|assistant|>", "<|system|>", "<|im_start|>", *END_MARKS]
WRITING = [
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "USER: What is this? ASSISTANT: A dog runs, then it sleeps.",
    "user\nHow many?\nassistant\nThree. Yes! Grün, 犬.",
]

torch.set_num_threads(1)  # with tensors this small, threads wait for one another more than they work


class Forks:
    """Runs functions of files in processes of their own, forks of one that has imported everything; see ``fork_server.py``."""

    def __init__(self):
        server = [sys.executable, str(Path(__file__).with_name("fork_server.py"))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        # without a buffer, what can be read is in the pipe
        self.server = subprocess.Popen(
            server, bufsize=0, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.running = []

    def start(self, program: Path, function: str, settings: dict, outputs: list[Path], limit: float = 150) -> list[int]:
        """Numbers of new processes that call the function, as many as there are files for what each says."""
        self.end()  # what a test that failed did not wait for
        names = [str(path) for path in outputs]
        asked = {"program": str(program), "function": function, "settings": settings, "outputs": names, "limit": limit}
        self.server.stdin.write(f"{json.dumps(asked)}\n".encode())
        answer = json.loads(self.server.stdout.readline())
        assert isinstance(answer, list), answer
        self.running = answer
        return answer

    def over(self) -> bool:
        """Whether all have ended."""
        return bool(select.select([self.server.stdout], [], [], 0)[0])

    def kill(self) -> None:
        """End those that still run."""
        if not self.over():
            for process in self.running:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def end(self) -> None:
        """Kill what runs and wait until it has ended."""
        if self.running:
            self.kill()
            self.statuses()

    def statuses(self) -> list[int]:
        """Exit statuses of the processes, when all have ended."""
        ended = json.loads(self.server.stdout.readline())
        self.running = []
        return ended


@pytest.fixture(scope="session")
def forks():
    started = Forks()
    yield started
    started.end()
    started.server.stdin.close()
    started.server.wait()


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> Path:
    """The miniature world at its tiny scale: videos, shards, and suites. Not to be written to."""
    from tstar.cli.main import main

    out = tmp_path_factory.mktemp("world") / "tiny"
    assert main(["miniature", "--out", str(out), "--scale", "tiny"]) == 0
    return out


@pytest.fixture(scope="session")
def language_documents() -> list:
    """Documents of the miniature language model's training, few of them."""
    return lessons(COURSES["short"], 40, 0, "tests")


@pytest.fixture(scope="session")
def captioned_pictures() -> tuple:
    """Pictures and captions of the miniature encoder's training, eight groups of them."""
    return draw([pair for k in range(8) for pair in captioned_group(item_rng(0, "tests", k), "train")])


@pytest.fixture(scope="session")
def make_vision(captioned_pictures):
    """A function that trains the miniature's encoder for a few steps into a folder; returns what the training leaves."""

    def make(out: Path, steps: int = 3, **settings):
        settings = {"groups_per_step": 4, "seed": 0, **settings}
        return train_miniature_encoder(out, [Gallery(*captioned_pictures, steps)], group=GROUP, **settings)

    return make


@pytest.fixture(scope="session")
def make_language(language_documents):
    """A function that trains the miniature's language model for a few steps into a folder; returns what the training leaves."""

    def make(out: Path, steps: int = 2, **settings):
        return train_miniature_language(out, [Reading(language_documents, steps, 8)], **{"seed": 0, **settings})

    return make


@pytest.fixture(scope="session")
def miniature_parts(tmp_path_factory, make_vision, make_language) -> Path:
    """A folder with ``vision`` and ``language``, the miniature's frozen parts, hardly trained. Not to be written to."""
    out = tmp_path_factory.mktemp("parts")
    make_vision(out / "vision")
    make_language(out / "language")
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


@pytest.fixture(scope="session")
def byte_level():
    """As GPT-NeoX, Qwen and the miniature: bytes, the space belongs to the word, no BOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=MARKS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(WRITING, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|end|>")


@pytest.fixture(scope="session")
def llama():
    """As Vicuna's: a space is put before every text and written as a letter, and BOS comes first."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    alphabet = sorted(set("".join(WRITING)) | {"▁"})
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", *MARKS, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(WRITING, trainer)
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
