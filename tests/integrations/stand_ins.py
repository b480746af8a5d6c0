"""The parts of lmms-eval and VLMEvalKit that tstar meets, as far as their interfaces are documented, for tests without them.

Names, signatures and order of arguments are those of lmms-eval 0.7.3 and of VLMEvalKit's main branch; nothing here evaluates.
"""

import abc
import sys
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any


def install(monkeypatch, modules: dict[str, dict[str, Any]]) -> None:
    """Put modules of these names with these contents where imports find them, until the test is over."""
    made: dict[str, ModuleType] = {}
    paths = [module.split(".") for module in modules]
    for name in sorted({".".join(path[: n + 1]) for path in paths for n in range(len(path))}):
        made[name] = ModuleType(name)
        made[name].__path__ = []
        monkeypatch.setitem(sys.modules, name, made[name])
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(made[parent], last, made[name])
    for name, contents in modules.items():
        vars(made[name]).update(contents)
    for name in ("lmms_eval_chat", "vlmeval_model"):  # their base classes are the installed ones
        monkeypatch.delitem(sys.modules, f"tstar.integrations.{name}", raising=False)


class lmms(abc.ABC):  # noqa: N801 - the harness's name
    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.cache_hook = SimpleNamespace(add_partial=lambda *_: None)
        self.task_dict: dict[str, Any] = {}

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None):
        pairs = (pair.split("=", 1) for pair in arg_string.split(",") if pair)
        more = {key: value for key, value in (additional_config or {}).items() if value is not None}
        return cls(**{key: _value(text) for key, text in pairs}, **more)

    @property
    def rank(self):
        return self._rank

    @property
    def world_size(self):
        return self._world_size

    def clean(self) -> None:
        self.cleaned = True


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.isnumeric():
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


@dataclass
class TokenCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass
class GenerationResult:
    text: str
    token_counts: TokenCounts | None = None


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


def get_model_class(manifest: ModelManifest) -> type:
    """What the registry does with a manifest's path."""
    module, name = manifest.chat_class_path.rsplit(".", 1)
    found = getattr(import_module(module), name)
    assert issubclass(found, sys.modules["lmms_eval.api.model"].lmms)
    assert found.is_simple is False
    return found


class ChatMessages:
    """Dictionaries as objects, as pydantic makes them; unknown keys of contents are refused there, absent ones None."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        optional = {"video": ("start_time", "end_time")}
        self.messages = [
            SimpleNamespace(
                role=message["role"],
                content=[
                    SimpleNamespace(**dict.fromkeys(optional.get(part["type"], ())), **part)
                    if part["type"] not in optional
                    else SimpleNamespace(**(dict.fromkeys(optional[part["type"]]) | part))
                    for part in message["content"]
                ],
            )
            for message in messages
        ]


LMMS_EVAL = {
    "lmms_eval.api.model": {"lmms": lmms},
    "lmms_eval.api.instance": {"GenerationResult": GenerationResult, "TokenCounts": TokenCounts},
    "lmms_eval.protocol": {"ChatMessages": ChatMessages},
    "lmms_eval.models.registry_v2": {"ModelManifest": ModelManifest},
}


class BaseModel:
    INTERLEAVE = False
    allowed_types = ["text", "image"]  # noqa: RUF012 - as the kit has it

    def use_custom_prompt(self, dataset):
        return False

    def generate(self, message, dataset=None):
        for part in message:
            assert part["type"] in self.allowed_types, part["type"]
        return self.generate_inner(message, dataset)


def look_as_the_runner_does(model: Any, nframe: float, fps: float) -> None:
    """What the kit's runner sets before every question of a video data set."""
    if getattr(model, "nframe", None) is not None and getattr(model, "nframe", 0) > 0:
        if nframe > 0:
            if model.nframe != nframe:
                model.nframe = nframe
        elif getattr(model, "fps", 0) == 0:
            raise ValueError("fps is not suitable")
        else:
            model.nframe = None
    if getattr(model, "fps", None) is not None and getattr(model, "fps", 0) > 0:
        if fps > 0:
            if model.fps != fps:
                model.fps = fps
        elif getattr(model, "nframe", 0) == 0:
            raise ValueError("nframe is not suitable")
        else:
            model.fps = None


def vlmeval_modules() -> dict[str, dict[str, Any]]:
    """A kit without any model."""
    return {
        "vlmeval.config": {"supported_VLM": {}},
        "vlmeval.vlm": {},
        "vlmeval.vlm.base": {"BaseModel": BaseModel},
        "vlmeval.api": {},
    }
