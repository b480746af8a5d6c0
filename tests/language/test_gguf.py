"""GGUF files: a Llama written by the format's own package comes back as transformers' model."""

import json

import numpy as np
import pytest
import torch
import transformers

from tstar.cli.main import main
from tstar.language import LanguageConfig

gguf = pytest.importorskip("gguf")
HEADS, LAYERS = 4, 2
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture
def llama_file(tmp_path, byte_level):
    """The file, and the model whose weights are in it."""
    config = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=LAYERS, intermediate_size=48, num_attention_heads=HEADS, vocab_size=len(byte_level)
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(32)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(48)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(byte_level))
    words = byte_level.convert_ids_to_tokens(range(len(byte_level)))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    merges = json.loads(byte_level.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_eos_token_id(byte_level.eos_token_id)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy().astype(np.float32)
        if "q_proj" in name or "k_proj" in name:  # llama.cpp keeps the two halves of a rotation side by side
            values = values.reshape(HEADS, 2, 4, 32).swapaxes(1, 2).reshape(32, 32)
        there = NAMES.get(name)
        if there is None:
            layer, part = name.removeprefix("model.layers.").split(".", 1)
            there = f"blk.{layer}.{NAMES[part.removesuffix('.weight')]}.weight"
        writer.add_tensor(there, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "small.gguf", model


def test_a_file_becomes_a_folder_that_recipes_can_name(llama_file, tmp_path, byte_level, capsys):
    file, theirs = llama_file
    out = tmp_path / "models" / "small"
    assert main(["import", str(file), "--out", str(out), "--dtype", "float32"]) == 0
    assert "M parameters as float32" in capsys.readouterr().out
    ours = LanguageConfig(path=str(out), template="smollm2").build().eval()
    ids = torch.tensor(byte_level("How many? Three.").input_ids)
    assert ours.tokenizer("How many? Three.").input_ids == ids.tolist()
    with torch.no_grad():
        torch.testing.assert_close(ours.model(ids[None]).logits, theirs(ids[None]).logits, rtol=1e-4, atol=1e-5)
    assert sorted(path.suffix for path in out.glob("*.safetensors")) == [".safetensors"]
    assert main(["import", str(file), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"no such format", b"GGUF" + bytes(200)])
def test_what_is_no_such_file_is_named_and_leaves_nothing(tmp_path, content, capsys):
    if content is not None:
        (tmp_path / "a.gguf").write_bytes(content)
    assert main(["import", str(tmp_path / "a.gguf"), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "a.gguf" in line
    assert not (tmp_path / "out").exists()
