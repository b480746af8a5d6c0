"""The frozen encoders, against walks through the open_clip and timm modules that share no code with ours."""

import contextlib
import json
from types import SimpleNamespace

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from tstar.errors import ConfigError, DataError
from tstar.vision import OpenClipTower, VisionConfig

CONVNEXT = {
    "embed_dim": 16,
    "vision_cfg": {
        "timm_model_name": "test_convnext",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 64,
    },
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def frames_of(number, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, 3, size, size), dtype=torch.uint8, generator=generator)


def write_open_clip_folder(folder, model_cfg, preprocess=PREPROCESS):
    """Save a model with random weights as open_clip does; returns its image half."""
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess}))
    model = open_clip.CLIP(**model_cfg).eval()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model.visual


@pytest.fixture(scope="module")
def vit(miniature_parts):
    return VisionConfig(model=str(miniature_parts / "vision")).build()


@pytest.fixture(scope="module")
def convnext(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convnext") / "model"
    return folder, write_open_clip_folder(folder, CONVNEXT)


def test_vit_features_are_the_second_to_last_layers_patch_tokens(vit, miniature_parts):
    frames = frames_of(3, 96)
    visual = open_clip.create_model(f"local-dir:{miniature_parts / 'vision'}").eval().visual
    with torch.no_grad():
        x = (frames / 255 - 0.5) / 0.25  # the miniature's own mean and deviation
        x = visual.conv1(x).flatten(2).transpose(1, 2)  # [B, N, C], rows first
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
        x = visual.ln_pre(x)
        for block in visual.transformer.resblocks[:-1]:
            x = block(x)
        expected = x[:, 1:]
    assert (vit.image_size, vit.grid, vit.d_vision, vit.num_patches) == (96, (6, 6), 128, 36)
    torch.testing.assert_close(vit(frames), expected)
    with torch.no_grad():
        last = visual.transformer.resblocks[-1](x)[:, 1:]
    assert not torch.allclose(vit(frames), last, atol=1e-2)


def test_convnext_features_are_the_last_map_in_raster_order(convnext):
    folder, visual = convnext
    tower = VisionConfig(model=str(folder)).build()
    frames = frames_of(2, 64)
    mean, std = (torch.tensor(PREPROCESS[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        x = visual.trunk.stem((frames / 255 - mean) / std)
        for stage in visual.trunk.stages:
            x = stage(x)  # [B, C, h, w]
    rows, columns = x.shape[2:]
    assert (tower.grid, tower.d_vision) == ((rows, columns), x.shape[1])
    features = tower(frames)
    for row in range(rows):
        for column in range(columns):
            torch.testing.assert_close(features[:, row * columns + column], x[:, :, row, column])


def test_layer_norm_applies_the_heads_norm_to_every_patch(convnext):
    folder, visual = convnext
    frames = frames_of(2, 64)
    raw = VisionConfig(model=str(folder)).build()(frames)
    normed = VisionConfig(model=str(folder), layer_norm=True).build()(frames)
    norm = visual.trunk.head.norm
    centred = raw - raw.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(normed, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(raw, normed, atol=1e-2)


def test_a_timm_transformer_gives_its_second_to_last_layer(tmp_path):
    vision = {**CONVNEXT["vision_cfg"], "timm_model_name": "test_vit", "timm_pool": "token", "image_size": 160}
    visual = write_open_clip_folder(tmp_path / "model", {**CONVNEXT, "vision_cfg": vision})
    tower = VisionConfig(model=str(tmp_path / "model")).build()
    frames = frames_of(1, 160)
    trunk = visual.trunk
    with torch.no_grad():
        x = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(tower.normalise(frames))))
        for block in trunk.blocks[:-1]:
            x = block(x)
    torch.testing.assert_close(tower(frames), x[:, trunk.num_prefix_tokens :])


@pytest.mark.parametrize("slice_size", [1, 2, 5, 64])
def test_slices_give_what_one_go_gives(vit, slice_size):
    frames = frames_of(5, 96)
    # 2e-6 was measured: matrix products of other sizes add up in another order
    torch.testing.assert_close(vit(frames, slice_size), vit.encode(vit.normalise(frames)), atol=1e-5, rtol=1e-5)


def test_the_configs_slice_size_bounds_what_is_encoded_at_once(miniature_parts, monkeypatch):
    tower = VisionConfig(model=str(miniature_parts / "vision"), slice_size=2).build()
    seen = []
    encode = tower.encode
    monkeypatch.setattr(tower, "encode", lambda pixels: seen.append(len(pixels)) or encode(pixels))
    tower(frames_of(5, 96))
    assert seen == [2, 2, 1]


def test_no_frames_give_no_patch_tokens(vit):
    assert vit(frames_of(0, 96)).shape == (0, 36, 128)


def test_it_stays_frozen_and_in_eval_mode(vit):
    vit.train()
    assert not any(module.training for module in vit.modules())
    assert not any(p.requires_grad for p in vit.parameters())
    assert not vit(frames_of(1, 96)).requires_grad


def test_pixels_are_scaled_with_the_models_own_mean_and_deviation(convnext):
    tower = VisionConfig(model=str(convnext[0])).build()
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = torch.tensor([(0 - 0.1) / 0.4, (1 - 0.2) / 0.5, (0.2 - 0.3) / 0.6]).view(1, 3, 1, 1)
    torch.testing.assert_close(tower.normalise(pixels), expected)


def test_the_miniature_encoder_is_the_same_every_time(miniature_parts, make_vision, tmp_path):
    state = torch.get_rng_state()
    for name, seed in (("again", 0), ("other", 1)):
        make_vision(tmp_path / name, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)  # training draws from generators of its own
    again, other = ((tmp_path / n / "open_clip_model.safetensors").read_bytes() for n in ("again", "other"))
    assert again == (miniature_parts / "vision" / "open_clip_model.safetensors").read_bytes() != other


class FakeVisual(torch.nn.Module):
    """Only as much of a tower as construction looks at."""

    image_size = (8, 8)
    transformer = None

    def forward_intermediates(self, pixels, **_):
        return {"image_intermediates": [torch.zeros(len(pixels), 4, 2, 2)]}


@pytest.mark.parametrize(("tag", "quick"), [("openai", True), (None, False)])
def test_openai_weights_get_the_activation_they_were_trained_with(monkeypatch, tmp_path, tag, quick):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"")
    asked = {}

    def create_model(name, **settings):
        asked.update(settings, name=name)
        return SimpleNamespace(visual=FakeVisual())

    monkeypatch.setattr(open_clip, "create_model", create_model)
    config = VisionConfig(model="ViT-L-14-336", pretrained=tag or str(weights))
    with pytest.warns(UserWarning, match="ViT-L-14-336-quickgelu") if tag is None else contextlib.nullcontext():
        OpenClipTower(config)
    assert asked["force_quick_gelu"] is quick
    assert asked["require_pretrained"] is True


def test_the_quick_names_are_models_of_their_own():
    assert "ViT-L-14-336-quickgelu" in open_clip.list_models()


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_weights_come_from_a_file(miniature_parts, tmp_path, ending):
    folder, weights = miniature_parts / "vision", tmp_path / f"weights.{ending}"
    (tmp_path / "of-a-file.json").write_text(
        json.dumps(json.loads((folder / "open_clip_config.json").read_text())["model_cfg"])
    )
    open_clip.add_model_config(tmp_path)
    state = load_file(folder / "open_clip_model.safetensors")
    torch.save(state, weights) if ending == "pt" else save_file(state, weights)
    ours, whole = (
        VisionConfig(model="of-a-file", pretrained=str(weights)).build(),
        VisionConfig(model=str(folder)).build(),
    )
    pixels = torch.randn(2, 3, whole.image_size, whole.image_size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.encode(pixels), whole.encode(pixels), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"model": "ViT-L-14-363", "pretrained": "openai"}, ConfigError, ("unknown vision.model", "ViT-L-14-336")),
        ({"model": "ViT-L-14-336"}, ConfigError, ("vision.pretrained", "openai", "random")),
        ({"model": "ViT-B-32", "pretrained": "no_such_tag"}, DataError, ("ViT-B-32", "no_such_tag")),
        ({"model": "no/such/folder"}, DataError, ("no/such/folder", "open_clip_config.json", "tstar miniature-models")),
        ({"model": "RN50", "pretrained": "random"}, ConfigError, ("RN50", "ModifiedResNet")),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(settings, error, words, one_line):
    with pytest.raises(error) as caught:
        VisionConfig(**settings).build()
    one_line(caught.value, *words)


def test_a_folder_that_is_not_whole_is_refused(tmp_path, miniature_parts, one_line, caplog):
    folder = tmp_path / "vision"
    folder.mkdir()
    with pytest.raises(DataError) as caught:
        VisionConfig(model=str(folder)).build()
    one_line(caught.value, "open_clip_config.json")
    config = (miniature_parts / "vision" / "open_clip_config.json").read_text()
    (folder / "open_clip_config.json").write_text(config)
    with pytest.raises(DataError) as caught:  # never random weights in silence
        VisionConfig(model=str(folder)).build()
    one_line(caught.value, str(folder))
    whole = (miniature_parts / "vision" / "open_clip_model.safetensors").read_bytes()
    (folder / "open_clip_model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(DataError) as caught:
        VisionConfig(model=str(folder)).build()
    one_line(caught.value, str(folder))
    caplog.clear()
    assert VisionConfig(model=str(folder), pretrained="random").build().grid == (6, 6)
    assert not caplog.records  # who asks for random weights is not warned of them


def test_settings_that_do_not_fit_the_model_are_refused(miniature_parts, one_line):
    folder = str(miniature_parts / "vision")
    for settings, word in (
        ({"slice_size": 0}, "vision.slice_size"),
        ({"layer_norm": True}, "vision.layer_norm"),
        ({"pretrained": "openai"}, "vision.pretrained"),
    ):
        with pytest.raises(ConfigError) as caught:
            VisionConfig(model=folder, **settings).build()
        one_line(caught.value, word)


PUBLISHED = [("convnext_large_d_320", 320, (10, 10), 1536), ("ViT-L-14-336", 336, (24, 24), 1024)]


@pytest.mark.parametrize(("model", "size", "grid", "width"), PUBLISHED)
def test_published_encoders_have_their_published_sizes(model, size, grid, width, monkeypatch):
    monkeypatch.setattr(open_clip.factory, "_set_model_device_and_precision", lambda *_: None)
    with torch.device("meta"):  # shapes without 300 million weights or any arithmetic
        tower = VisionConfig(model=model, pretrained="random").build()
    assert (tower.image_size, tower.grid, tower.d_vision) == (size, grid, width)


@pytest.mark.slow  # 200 million random weights
def test_the_published_convnext_has_a_norm_to_switch_on():
    tower = VisionConfig(model="convnext_large_d_320", pretrained="random", layer_norm=True).build()
    assert tower.d_vision == 1536
    assert tower.mean.flatten().tolist() == pytest.approx([0.4815, 0.4578, 0.4082], abs=1e-4)
    features = tower(frames_of(1, 320))
    torch.testing.assert_close(features.mean(-1), torch.zeros(1, 100), atol=1e-4, rtol=0)
