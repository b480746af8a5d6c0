"""Encoder, compressor and language model together."""

import pytest
import torch

from tstar.compressors import build_compressor, list_compressors
from tstar.language import LanguageConfig, VideoLMM, splice
from tstar.vision import VisionConfig

VISUAL, IGNORE = -200, -100


def build(parts, compressor="mambamia", **options):
    torch.manual_seed(0)
    encoder = VisionConfig(model=str(parts / "vision")).build()
    language = LanguageConfig(path=str(parts / "language"), template="miniature").build()
    mixer = build_compressor(
        compressor,
        d_vision=encoder.d_vision,
        d_language=language.d_language,
        grid=encoder.grid,
        preset="tiny",
        **options,
    )
    return VideoLMM(encoder, mixer, language, max_length=512)


@pytest.fixture
def lmm(miniature_parts):
    return build(miniature_parts)


def frames_of(number):
    return torch.randint(0, 256, (number, 3, 96, 96), dtype=torch.uint8)


def ids_of(lmm, text, visual):
    ids = lmm.language.tokenizer(text).input_ids
    return torch.tensor([VISUAL, *ids] if visual else ids)


def test_the_parts_follow_one_another(lmm):
    lmm.eval()
    frames, counts = frames_of(4), [3, 0, 1]
    ids = [ids_of(lmm, "What? A star.", n > 0) for n in counts]
    labels = [torch.where(i == VISUAL, IGNORE, i) for i in ids]
    with torch.no_grad():
        tokens = lmm.compressor(lmm.encoder(frames), counts)
        expected = lmm.language.loss_sum(splice(lmm.language.embed, ids, tokens, labels))
        losses = lmm(frames, counts, ids, labels)
    assert [len(t) for t in tokens] == [lmm.compressor.num_tokens(n) for n in counts]
    torch.testing.assert_close(tuple(losses), tuple(expected))


def test_features_may_take_the_place_of_frames(lmm):
    lmm.eval()
    frames = frames_of(4)
    for given in (lmm.encoder(frames), lmm.encoder(frames).double()):
        for tokens, expected in zip(lmm.visual_tokens(given, [3, 1]), lmm.visual_tokens(frames, [3, 1]), strict=True):
            torch.testing.assert_close(tokens, expected, rtol=0, atol=0)
    assert [len(t) for t in lmm.visual_tokens(torch.zeros(0, 36, 128), [0, 0])] == [0, 0]


def test_max_length_cuts_after_splicing(lmm):
    lmm.eval()
    ids = [ids_of(lmm, "What? A star.", True)]
    labels = [torch.where(ids[0] == VISUAL, IGNORE, ids[0])]
    lmm.max_length = lmm.compressor.num_tokens(1) + 3
    with torch.no_grad():
        assert lmm(frames_of(1), [1], ids, labels).tokens == 3
        lmm.max_length = 2  # within the visual tokens: nothing is left to learn
        losses = lmm(frames_of(1), [1], ids, labels)
        assert (losses.total, losses.weight, losses.tokens) == (0, 0, 0)
        assert losses.mean == 0


@pytest.mark.parametrize("compressor", list_compressors())
def test_a_batch_of_text_gives_every_trained_tensor_a_gradient(miniature_parts, compressor):
    lmm = build(miniature_parts, compressor).train()
    lmm.encoder.requires_grad_(False)
    ids = [ids_of(lmm, "What? A star.", False), ids_of(lmm, "Two?", False)]
    loss = lmm(frames_of(0), [0, 0], ids, ids).mean
    loss.backward()
    assert [n for n, p in lmm.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not any(p.grad.any() for p in lmm.compressor.parameters())  # it takes part, and is not moved
    lmm.eval()
    with torch.no_grad():
        alone = lmm(frames_of(0), [0, 0], ids, ids).mean
    torch.testing.assert_close(loss.detach(), alone)


def test_a_loss_does_not_depend_on_batch_mates(lmm):
    lmm.eval()
    frames = frames_of(6)
    ids = [ids_of(lmm, "What is it? A star.", True), ids_of(lmm, "Describe all of it: a circle, then a star.", True)]
    labels = [torch.where(i == VISUAL, IGNORE, i) for i in ids]
    with torch.no_grad():
        both = lmm(frames, [2, 4], ids, labels)
        parts = lmm(frames[:2], [2], ids[:1], labels[:1]), lmm(frames[2:], [4], ids[1:], labels[1:])
    assert both.tokens == sum(part.tokens for part in parts)
    torch.testing.assert_close(both.weight, sum(part.weight for part in parts))
    torch.testing.assert_close(both.total, sum(part.total for part in parts), atol=1e-5, rtol=1e-5)


def test_answers_in_a_batch_are_those_asked_alone(lmm):
    lmm.eval()
    prompts = [
        ids_of(lmm, t, v) for t, v in (("What?", True), ("A longer question, without video.", False), ("x", True))
    ]
    visual = lmm.visual_tokens(frames_of(5), [4, 0, 1])
    together = lmm.generate(prompts, visual, max_new_tokens=6)
    alone = [lmm.generate([p], [v], max_new_tokens=6)[0] for p, v in zip(prompts, visual, strict=True)]
    assert together == alone


def test_options_are_as_likely_as_their_tokens_one_by_one(lmm):
    lmm.eval()
    torch.manual_seed(0)
    visual = torch.randn(5, lmm.language.d_language)
    prompt = torch.tensor([7, -200, 9, 4])
    options = [torch.tensor([3]), torch.tensor([5, 6, 2]), torch.tensor([3, 8])]
    found = lmm.option_likelihoods(prompt, visual, options)
    for option, likelihood in zip(options, found, strict=True):
        text = lmm.language.embed(torch.cat([prompt[:1], prompt[2:], option]))
        logits = lmm.language.model(inputs_embeds=torch.cat([text[:1], visual, text[1:]])[None]).logits[0]
        start = len(logits) - len(option) - 1
        expected = sum(logits[start + n].log_softmax(-1)[token] for n, token in enumerate(option.tolist()))
        torch.testing.assert_close(likelihood, expected)
    assert torch.equal(lmm.option_likelihoods(prompt, visual, options[:1]), found[:1]) or torch.allclose(
        lmm.option_likelihoods(prompt, visual, options[:1]), found[:1]
    )
    for wrong in ([], [torch.tensor([], dtype=torch.long)]):
        with pytest.raises(ValueError, match="at least one token"):
            lmm.option_likelihoods(prompt, visual, wrong)
