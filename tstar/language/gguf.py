"""Language models in GGUF files, as llama.cpp reads them, into folders that everything here reads: safetensors and a tokenizer."""

import os
import shutil
from pathlib import Path

import torch

from tstar.errors import ConfigError, DataError

DTYPES = ("float32", "bfloat16", "float16")


def import_gguf(file: Path, out: Path, dtype: str = "bfloat16") -> int:
    """Write a GGUF file's model into a folder in Hugging Face layout; quantised weights become the plain numbers they stand for.

    Args:
        file: the GGUF file.
        out: the new folder; it appears whole or not at all.
        dtype: number format of the weights, one of :data:`DTYPES`.

    Returns:
        How many parameters the model has.

    Raises:
        ConfigError: ``out`` is there, or a package is missing.
        DataError: the file is missing or cannot be read.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, got '{dtype}'")
    if not file.is_file():
        raise DataError(f"no such file: {file}")
    if out.exists():
        raise ConfigError(f"{out} is there already; delete it or choose another folder")
    try:
        import accelerate  # noqa: F401 - transformers wants it for this
        import gguf  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"GGUF files need the package {error.name}: pip install 'tstar[gguf]'") from error
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.utils.logging.disable_progress_bar()
    # newer versions keep the weights packed unless they are told not to
    plain = (
        {"quantization_config": kind(dequantize=True)} if (kind := getattr(transformers, "GgufConfig", None)) else {}
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True, dtype=getattr(torch, dtype), **plain
        )
    except Exception as error:  # bytes that are no such file make the readers raise many types
        raise DataError(f"cannot read {file} ({type(error).__name__}: {' '.join(str(error).split())[:200]})") from error
    temporary = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sum(p.numel() for p in model.parameters())
