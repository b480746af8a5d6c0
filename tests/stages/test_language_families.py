"""Every family of the published language models, random and small, goes the whole way: align, tune, stop, go on, answer."""

import pytest
import torch
import transformers

from tstar.data.conversations import tokenize_prompt
from tstar.errors import ConfigError
from tstar.language.lora import LoraSettings
from tstar.stages import Align, VideoSFT
from tstar.stages.callbacks import resume_checkpoints
from tstar.stages.weights import export_weights

SMALL = {"hidden_size": 32, "num_hidden_layers": 2}
ATTENTION = {**SMALL, "intermediate_size": 48, "num_attention_heads": 4, "max_position_embeddings": 1024}
FAMILIES = {  # architecture, tokenizer's kind, template
    "phi3": (transformers.Phi3Config(**ATTENTION, num_key_value_heads=4, pad_token_id=0), "llama", "phi3"),
    "vicuna": (transformers.LlamaConfig(**ATTENTION), "llama", "vicuna_v1"),
    "qwen2": (transformers.Qwen2Config(**ATTENTION, num_key_value_heads=2), "byte_level", "qwen2"),
    "qwen2.5": (
        transformers.Qwen2Config(**ATTENTION, num_key_value_heads=2, tie_word_embeddings=True),
        "byte_level",
        "qwen2_5_llava_next",
    ),
    "pythia": (transformers.GPTNeoXConfig(**ATTENTION, rotary_pct=0.25), "byte_level", "pythia"),
    "mamba": (transformers.MambaConfig(**SMALL, state_size=4), "byte_level", "pythia"),
    "mamba2": (
        transformers.Mamba2Config(**SMALL, state_size=8, head_dim=16, num_heads=4, n_groups=1, chunk_size=32),
        "byte_level",
        "pythia",
    ),
}
STEPS = 4


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A folder with a random model of the family, and the settings that name it."""
    config, kind, template = FAMILIES[request.param]
    tokenizer = request.getfixturevalue(kind)
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer.save_pretrained(folder)
    config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return {"path": str(folder), "template": template}


def test_a_family_goes_the_whole_way(family, make_stage, train, tmp_path, tiny_world):
    aligned = make_stage(Align, language=family, lr=1e-2)
    losses = train(aligned, max_steps=STEPS, batch_size=2).losses.values
    assert len(losses) == STEPS
    assert all(0 < loss < 20 for loss in losses)
    before = {n: p.clone() for n, p in aligned.lmm.language.named_parameters()}
    weights = tmp_path / "weights.safetensors"
    export_weights(aligned.lmm, weights, aligned.descriptions)

    def tuned():
        return make_stage(VideoSFT, language=family, lr=1e-3, init_from={"compressor": str(weights)})

    def tune(stage, **more):
        return train(stage, "video_sft", batch_size=2, limit=STEPS * 2, **more).losses

    whole, folder = tuned(), tmp_path / "checkpoints"
    straight = tune(whole, callbacks=[resume_checkpoints(folder, 2)])
    assert len(straight.values) == STEPS
    rest = tune(stage := tuned(), ckpt=str(folder / "step=2.ckpt"))
    assert rest.samples == straight.samples[2:]
    assert rest.values == straight.values[2:]
    assert all(torch.equal(t, stage.lmm.state_dict()[n]) for n, t in whole.lmm.state_dict().items())
    changed = [n for n, p in whole.lmm.language.named_parameters() if not torch.equal(p, before[n])]
    assert len(changed) == len(before)  # all of it learns

    answers = []
    visual = whole.lmm.eval().visual_tokens(torch.zeros(5, 3, 96, 96, dtype=torch.uint8), [3, 2])
    for text in ("What is it?", "How many shapes are there, and which is larger?"):
        prompt = tokenize_prompt(text, True, whole.template, whole.lmm.language.tokenizer)
        answers.append((prompt, whole.generate([prompt], visual[:1], max_new_tokens=4)))
    together = whole.generate([p for p, _ in answers], [visual[0]] * 2, max_new_tokens=4)
    assert together == [one for _, (one,) in answers]
    likelihoods = whole.lmm.option_likelihoods(answers[0][0], visual[0], [torch.tensor([3]), torch.tensor([4, 5])])
    assert bool((likelihoods < 0).all())


@pytest.mark.parametrize("family", ["pythia", "qwen2", "mamba"], indirect=True)
def test_adapters_learn_and_the_model_stays(family, make_stage, train, tmp_path, snapshot):
    language = {**family, "lora": LoraSettings(rank=4, dropout=0.0)}
    stage = make_stage(VideoSFT, language=language, lr=1e-2)
    plain = make_stage(VideoSFT, language=family, lr=1e-2)
    frames = torch.randint(0, 256, (3, 3, 96, 96), dtype=torch.uint8)
    batch = (frames, [3], [torch.tensor([5, -200, 6, 7])], [torch.tensor([-100, -100, 6, 7])])
    with torch.no_grad():
        plain.lmm.compressor.load_state_dict(stage.lmm.compressor.state_dict())
        assert stage.lmm.eval()(*batch)[0] == plain.lmm.eval()(*batch)[0]  # adapters begin as nothing
    stage.train()
    before = snapshot(stage.lmm.language)
    train(stage, "video_sft", batch_size=2, limit=4)
    after = stage.lmm.language.state_dict()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == {n for n in before if ".lora_" in n}
    weights = tmp_path / "weights.safetensors"
    export_weights(stage.lmm, weights, stage.descriptions)
    again = make_stage(VideoSFT, language=language, init_from={"language": str(weights), "compressor": str(weights)})
    assert all(torch.equal(t, after[n]) for n, t in again.lmm.language.state_dict().items())
    with pytest.raises(ConfigError, match=r"init_from\.language: .* lora .*not known here"):
        make_stage(VideoSFT, language=family, init_from={"language": str(weights)})


def test_settings_of_adapters_are_checked(make_stage):
    for wrong, reason in (({"rank": 0}, "rank"), ({"alpha": 0.0}, "alpha"), ({"dropout": 1.0}, "dropout")):
        with pytest.raises(ConfigError, match=rf"language\.lora\.{reason} must be"):
            LoraSettings(**wrong)
    with pytest.raises(ConfigError, match=r"no linear layer that may have one is called qproj; there are .*q_proj"):
        make_stage(Align, language={"lora": LoraSettings(targets=("qproj",))})
