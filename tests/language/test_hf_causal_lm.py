"""Losses and greedy answers of Hugging Face models, against the models' own loss and plain loops without a cache."""

import json
import shutil

import pytest
import torch
import transformers

from tstar.errors import ConfigError, DataError
from tstar.language import HFCausalLM, LanguageConfig, splice

IGNORE, VISUAL = -100, -200
SMALL = {"hidden_size": 32, "num_hidden_layers": 2}
ATTENTION = {**SMALL, "intermediate_size": 48, "num_attention_heads": 4, "max_position_embeddings": 256}
ARCHITECTURES = {
    "gpt_neox": transformers.GPTNeoXConfig(**ATTENTION, rotary_pct=0.25),
    "phi3": transformers.Phi3Config(**ATTENTION, num_key_value_heads=4, pad_token_id=0),
    "qwen2": transformers.Qwen2Config(**ATTENTION, num_key_value_heads=2, tie_word_embeddings=True),
    "mamba": transformers.MambaConfig(**SMALL, state_size=8),
    "mamba2": transformers.Mamba2Config(**SMALL, state_size=8, head_dim=16, num_heads=4, n_groups=1, chunk_size=16),
}


@pytest.fixture(scope="module", params=[*ARCHITECTURES, "llama"])
def model(request, miniature_parts, tmp_path_factory):
    """A random model of every published family, saved and loaded as the published ones are; and the miniature."""
    source = miniature_parts / "language"
    if request.param == "llama":
        return LanguageConfig(path=str(source), template="miniature").build().eval()
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(folder)
    config = ARCHITECTURES[request.param]
    config.vocab_size = len(tokenizer)
    torch.manual_seed(3)
    random = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # a plain initialisation makes all tokens nearly equally likely: too easy to get right
        for parameter in random.parameters():
            if parameter.ndim > 1 and parameter.shape[-1] > 8:
                parameter.mul_(4)
    random.save_pretrained(folder)
    return LanguageConfig(path=str(folder), template="miniature").build().eval()


def ids_of(model, *texts):
    return [torch.tensor(model.tokenizer(text).input_ids) for text in texts]


def no_visual(model, number):
    return [torch.zeros(0, model.d_language)] * number


def full_logits_loss(model, vectors, targets):
    """Sum of the cross-entropies of one sample and their number, from all logits of an unpadded run."""
    logits = model.model(inputs_embeds=vectors[None]).logits[0].double()
    total, count = 0.0, 0
    for position, target in enumerate(targets[1:].tolist()):
        if target != IGNORE:
            total += torch.logsumexp(logits[position], 0) - logits[position, target]
            count += 1
    return total, count


def test_text_only_loss_is_the_models_own(model):
    ids = ids_of(model, "What does the video show? A red star.")[0]
    labels = ids.clone()
    labels[:6] = IGNORE
    with torch.no_grad():
        losses = model.loss_sum(splice(model.embed, [ids], no_visual(model, 1), [labels]))
        theirs = model.model(input_ids=ids[None], labels=labels[None]).loss
    assert losses.tokens == int((labels[1:] != IGNORE).sum())
    torch.testing.assert_close(losses.mean, theirs)


def test_loss_with_visual_tokens_is_the_mean_over_all_supervised_tokens(model):
    first, second = ids_of(model, "Question? A blue circle.", "Describe: a green square moves left, then stops.")
    ids = [torch.cat([torch.tensor([VISUAL]), first]), torch.cat([second[:3], torch.tensor([VISUAL]), second[3:]])]
    labels = [torch.where(i == VISUAL, IGNORE, i) for i in ids]
    labels[0][:4] = IGNORE
    visual = [torch.randn(5, model.d_language), torch.randn(2, model.d_language)]
    with torch.no_grad():
        vectors = [
            torch.cat([visual[0], model.embed(first)]),
            torch.cat([model.embed(second[:3]), visual[1], model.embed(second[3:])]),
        ]
        targets = [
            torch.cat([torch.full((5,), IGNORE), labels[0][1:]]),
            torch.cat([second[:3], torch.full((2,), IGNORE), second[3:]]),
        ]
        sums = [full_logits_loss(model, v, t) for v, t in zip(vectors, targets, strict=True)]
        losses = model.loss_sum(splice(model.embed, ids, visual, labels))
    assert losses.tokens == sum(n for _, n in sums)
    # 2e-6 was measured with Mamba-2, whose chunks fall elsewhere in a padded batch
    torch.testing.assert_close(losses.mean.double(), sum(s for s, _ in sums) / losses.tokens, atol=1e-5, rtol=1e-5)


def test_a_model_in_half_precision_learns_and_answers_without_autocast(model):
    """Its losses are those of its own logits, and those in fp32 but for rounding."""
    half = LanguageConfig(path=model.config.path, template="miniature", dtype="bfloat16").build()
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    ids = ids_of(model, "What does the video show? A red star.")[0]
    labels = ids.clone()
    labels[:6] = IGNORE
    losses = half.loss_sum(splice(half.embed, [ids], no_visual(half, 1), [labels]))
    losses.mean.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in half.parameters())
    with torch.no_grad():
        theirs = half.eval().model(input_ids=ids[None], labels=labels[None]).loss
        exact = model.loss_sum(splice(model.embed, [ids], no_visual(model, 1), [labels])).mean
        (likelihood,) = half.log_likelihoods(splice(half.embed, [ids], no_visual(half, 1), [labels])).tolist()
    torch.testing.assert_close(losses.mean, theirs.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses.mean, exact, atol=0, rtol=0.05)
    assert likelihood == pytest.approx(-losses.total.item(), rel=1e-3)
    batch = splice(half.embed, [ids], no_visual(half, 1), pad="left")
    assert len(half.generate(batch, max_new_tokens=2)) == 1


@pytest.mark.parametrize("reduction", ["token", "square", "answer"])
def test_answers_weigh_as_the_reduction_says(miniature_language, reduction):
    config = LanguageConfig(path=miniature_language.config.path, template="miniature", loss_reduction=reduction)
    model = config.build().eval()
    rows = ids_of(model, "red? yes, green? a long answer. blue? no", "What is it? A star on stripes and nothing else.")
    labels = [torch.full_like(ids, IGNORE) for ids in rows]
    answers = [(0, 2, 4), (0, 6, 9), (0, len(rows[0]) - 1, len(rows[0])), (1, 0, 1), (1, 5, len(rows[1]))]
    for row, first, last in answers:
        labels[row][first:last] = rows[row][first:last]
    answers.remove((1, 0, 1))  # nothing comes before the first token
    total = weight = 0.0
    with torch.no_grad():
        logits = [model.model(input_ids=ids[None]).logits[0].double() for ids in rows]
        for row, first, last in answers:
            counts = {"token": last - first, "square": (last - first) ** 0.5, "answer": 1}[reduction]
            losses = [-torch.log_softmax(logits[row][k - 1], 0)[rows[row][k]].item() for k in range(first, last)]
            total += counts * sum(losses) / len(losses)
            weight += counts
        learnt = model.loss_sum(splice(model.embed, rows, no_visual(model, 2), labels))
    assert learnt.tokens == sum(last - first for _, first, last in answers)
    assert learnt.mean.item() == pytest.approx(total / weight, rel=1e-5)


def test_a_samples_loss_does_not_depend_on_the_padding(model):
    short, long = ids_of(
        model, "A red star.", "A red star and a blue circle meet on a striped background; then all stops."
    )
    ignored = torch.full_like(long, IGNORE)
    with torch.no_grad():
        alone = model.loss_sum(splice(model.embed, [short], no_visual(model, 1), [short])).mean
        padded = model.loss_sum(splice(model.embed, [short, long], no_visual(model, 2), [short, ignored])).mean
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)


def test_a_batch_padded_on_the_left_cannot_be_learnt(model):
    ids = ids_of(model, "A red star.", "A blue circle stops and a red star falls.")
    with pytest.raises(ValueError, match="padded on the right"):
        model.loss_sum(splice(model.embed, ids, no_visual(model, 2), ids, pad="left"))


def test_nothing_supervised_gives_a_loss_of_zero_that_still_reaches_every_weight(model):
    ids = ids_of(model, "No answer here.")[0]
    losses = model.loss_sum(splice(model.embed, [ids], no_visual(model, 1), [torch.full_like(ids, IGNORE)]))
    assert (losses.mean.item(), losses.tokens) == (0.0, 0)
    losses.mean.backward()
    absent = [n for n, p in model.model.named_parameters() if p.grad is None]
    model.zero_grad()
    assert absent == []


def greedy(model, vectors, steps):
    """Argmax after argmax, the whole sequence anew each time; ids up to the end token."""
    found = []
    with torch.no_grad():
        for _ in range(steps):
            token = model.model(inputs_embeds=vectors[None], use_cache=False).logits[0, -1].argmax()
            if int(token) == model.tokenizer.eos_token_id:
                break
            found.append(int(token))
            vectors = torch.cat([vectors, model.embed(token[None])])
    return found


def test_batched_answers_are_those_of_a_plain_loop(model):
    texts = ("A red", "Which of the objects is larger, the star or the circle? Answer:", "then")
    ids = [torch.cat([torch.tensor([VISUAL]), i]) for i in ids_of(model, *texts)]
    visual = [torch.randn(n, model.d_language) for n in (7, 1, 3)]
    answers = model.generate(splice(model.embed, ids, visual, pad="left"), max_new_tokens=8)
    for own, tokens, answer in zip(ids, visual, answers, strict=True):
        expected = greedy(model, torch.cat([tokens, model.embed(own[1:])]), 8)
        assert answer == model.tokenizer.decode(expected, skip_special_tokens=True)
        alone = model.generate(splice(model.embed, [own], [tokens], pad="left"), max_new_tokens=8)
        assert alone == [answer]
    assert len(set(answers)) > 1


def force_next(model, sequence):
    """Make the model say these ids one after the other whatever it is given; the number of steps it was asked is kept."""
    head = model.model.get_output_embeddings()
    asked = []

    def hook(module, inputs, output):
        forced = torch.full_like(output, -1e9)
        forced[..., sequence[min(len(asked), len(sequence) - 1)]] = 0
        asked.append(None)
        return forced

    return head.register_forward_hook(hook), asked


@pytest.mark.parametrize(("stop", "steps"), [((), 6), (("<|assistant|>",), 3), (("never seen",), 6)])
def test_a_stop_token_ends_an_answer(miniature_language, stop, steps):
    model = miniature_language
    words = [model.tokenizer(t).input_ids[0] for t in (" red", " star")]
    mark = model.tokenizer.convert_tokens_to_ids("<|assistant|>")
    handle, asked = force_next(model, [*words, mark, *words, words[0]])
    prompt = splice(model.embed, ids_of(model, "what?"), no_visual(model, 1), pad="left")
    (answer,) = model.generate(prompt, max_new_tokens=6, stop=stop)
    handle.remove()
    assert len(asked) == steps
    assert answer.startswith(model.tokenizer.decode(words))
    assert (answer == model.tokenizer.decode(words)) is (steps == 3)


def test_a_stop_text_of_several_tokens_is_cut_off(miniature_language):
    model = miniature_language
    text = model.tokenizer("A star</s> and").input_ids
    handle, _ = force_next(model, text)
    prompt = splice(model.embed, ids_of(model, "what?"), no_visual(model, 1), pad="left")
    answers = model.generate(prompt, max_new_tokens=len(text), stop=("</s>",))
    handle.remove()
    assert answers == ["A star"]


def test_the_checkpoints_own_generation_settings_do_not_change_greedy(tmp_path, miniature_parts):
    folder = tmp_path / "penalised"
    shutil.copytree(miniature_parts / "language", folder)
    # as Qwen2's instruct models are published, but for the size of the penalty
    settings = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "repetition_penalty": 50.0, "eos_token_id": [4, 9]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    model = LanguageConfig(path=str(folder), template="miniature").build().eval()
    batch = splice(model.embed, ids_of(model, "A red star"), no_visual(model, 1), pad="left")
    favourite, second = model.tokenizer(" red").input_ids[0], model.tokenizer(" star").input_ids[0]

    def prefer(module, inputs, output):
        logits = torch.zeros_like(output)
        logits[..., favourite], logits[..., second] = 3.0, 2.0
        return logits

    handle = model.model.get_output_embeddings().register_forward_hook(prefer)
    assert model.generate(batch, max_new_tokens=4) == [model.tokenizer.decode([favourite] * 4)]
    handle.remove()
    handle, asked = force_next(model, [20, 9, 21])
    model.generate(batch, max_new_tokens=6)
    handle.remove()
    assert len(asked) == 2  # its own end tokens still end


def test_gradient_checkpointing_changes_memory_only(miniature_parts):
    losses = {}
    for on in (False, True):
        settings = {"path": str(miniature_parts / "language"), "template": "miniature", "gradient_checkpointing": on}
        model = HFCausalLM(LanguageConfig(**settings)).train()
        ids = ids_of(model, "A red star moves.")[0]
        loss = model.loss_sum(splice(model.embed, [ids], no_visual(model, 1), [ids])).mean
        loss.backward()
        losses[on] = (loss.detach(), model.embed(ids[:1]).detach(), model.model.get_input_embeddings().weight.grad)
    assert model.model.is_gradient_checkpointing
    torch.testing.assert_close(losses[True], losses[False])


def test_weights_take_the_type_asked_for(miniature_parts):
    model = LanguageConfig(path=str(miniature_parts / "language"), template="miniature", dtype="bfloat16").build()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


class TestLoading:
    @pytest.fixture
    def folder(self, tmp_path, miniature_parts):
        return shutil.copytree(miniature_parts / "language", tmp_path / "language")

    def refused(self, folder, one_line, *words, error=DataError):
        with pytest.raises(error) as caught:
            LanguageConfig(path=str(folder), template="miniature").build()
        one_line(caught.value, str(folder), *words)

    def test_a_folder_that_is_not_there(self, tmp_path, one_line):
        self.refused(tmp_path / "nothing", one_line, "tstar miniature-models")

    def test_an_empty_folder(self, tmp_path, one_line):
        self.refused(tmp_path, one_line)

    def test_truncated_weights(self, folder, one_line):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        self.refused(folder, one_line)

    def test_weights_that_lack_tensors(self, folder, one_line):
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        self.refused(folder, one_line, "1 tensors are missing", "model.layers.1.mlp.up_proj.weight")

    def test_weights_of_another_shape(self, folder, one_line):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))
        self.refused(folder, one_line)

    def test_logits_that_the_loss_would_get_wrong(self, tmp_path, folder, one_line):
        config = transformers.GraniteConfig(**ATTENTION, num_key_value_heads=4, vocab_size=64, logits_scaling=8.0)
        transformers.GraniteForCausalLM(config).save_pretrained(folder)
        self.refused(folder, one_line, "logits_scaling", error=ConfigError)

    def test_weights_in_the_older_pytorch_file(self, folder, one_line):
        """As Vicuna is published."""
        from safetensors.torch import load_file

        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        self.refused(folder, one_line, "language.pickled_weights: true takes weights in PyTorch's own format")
        assert LanguageConfig(path=str(folder), template="miniature", pickled_weights=True).build().d_language == 160
