"""Weights files: what one stage hands to the next, and what is refused."""

import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tstar.data.files import file_digest
from tstar.errors import ConfigError, DataError
from tstar.stages import Align, ImageSFT, VideoSFT
from tstar.stages.weights import export_weights, import_part


@pytest.fixture(scope="module")
def exported(make_stage, tmp_path_factory):
    """A VideoSFT stage with weights unlike any fresh one's, and the file it left."""
    stage = make_stage(VideoSFT)
    with torch.no_grad():
        for parameter in stage.lmm.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("weights") / "new" / "weights.safetensors"
    digest = export_weights(stage.lmm, path, stage.descriptions)
    return stage, path, digest


def test_the_file_holds_what_was_trained_and_its_digest_is_returned(exported):
    stage, path, digest = exported
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest() == file_digest(path)
    tensors = load_file(path)
    wanted = {n: p for n, p in stage.lmm.named_parameters() if not n.startswith("encoder")}
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], p) for name, p in wanted.items())
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing temporary is left


def test_the_same_weights_give_the_same_bytes(exported, tmp_path):
    stage, _, digest = exported
    for number in range(5):
        assert export_weights(stage.lmm, tmp_path / f"{number}.safetensors", stage.descriptions) == digest


def test_both_parts_start_a_later_stage_bit_for_bit(exported, make_stage, snapshot):
    stage, path, _ = exported
    later = make_stage(VideoSFT, seed=1, init_from={"compressor": str(path), "language": str(path)})
    ours, theirs = snapshot(stage.lmm), snapshot(later.lmm)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    language = later.lmm.language.model
    assert language.get_output_embeddings().weight is language.get_input_embeddings().weight


def test_one_part_alone_leaves_the_other_as_it_was(exported, make_stage, snapshot):
    _, path, _ = exported
    fresh = snapshot(make_stage(Align).lmm)
    later = snapshot(make_stage(Align, init_from={"language": str(path)}).lmm)
    differ = {name.split(".")[0] for name in fresh if not torch.equal(fresh[name], later[name])}
    assert differ == {"language"}


def test_how_a_compressor_is_computed_does_not_matter(exported, make_stage):
    _, path, _ = exported
    spec = {"name": "mambamia", "preset": "tiny", "gradient_checkpointing": True, "segment_frames": 6}
    spec |= {"query_interval": 6, "temporal_stride": 3, "d_state": 8}  # what they are when left out
    stage = make_stage(VideoSFT, compressor=spec, init_from={"compressor": str(path)})
    stored = load_file(path)
    own = {f"compressor.{name}": p for name, p in stage.lmm.compressor.named_parameters()}
    assert all(torch.equal(own[name], stored[name]) for name in own)


@pytest.mark.parametrize("name", ["kmeans", "token_merging", "avg_pool", "pool3d"])
def test_a_projector_trained_without_compression_fits_those_that_have_nothing_else(name, make_stage, tmp_path):
    trained = make_stage(Align, compressor={"name": "none", "preset": "tiny"})
    path = tmp_path / "weights.safetensors"
    export_weights(trained.lmm, path, trained.descriptions)
    stage = make_stage(Align, seed=1, compressor={"name": name, "preset": "tiny"}, init_from={"compressor": str(path)})
    ours, theirs = stage.lmm.compressor.state_dict(), trained.lmm.compressor.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_how_frames_are_chosen_is_no_part_of_the_weights(make_stage, tmp_path):
    trained = make_stage(Align, compressor={"name": "mambamia_taa", "preset": "tiny"})
    path = tmp_path / "weights.safetensors"
    export_weights(trained.lmm, path, trained.descriptions)
    for chosen in ({"select_threshold": 0.2, "select_above": 0}, {"select": "budget"}, {"segment_frames": 3}):
        spec = {"name": "mambamia_taa", "preset": "tiny", **chosen}
        stage = make_stage(Align, seed=1, compressor=spec, init_from={"compressor": str(path)})
        ours, theirs = stage.lmm.compressor.state_dict(), trained.lmm.compressor.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_pooled_queries_belong_to_the_stride_they_are_means_over(make_stage, tmp_path, one_line):
    spec = {"name": "mambamia_taa", "preset": "tiny", "queries": "pooled", "select": "budget"}
    trained = make_stage(Align, compressor=spec)
    path = tmp_path / "weights.safetensors"
    export_weights(trained.lmm, path, trained.descriptions)
    with pytest.raises(ConfigError) as caught:
        make_stage(Align, compressor=spec | {"select": "threshold"}, init_from={"compressor": str(path)})
    one_line(caught.value, "temporal_stride 3 there, 1 here")


def test_head_dim_is_nothing_to_mamba1(make_stage, tmp_path):
    spec = {"name": "bimamba", "preset": "tiny"}
    trained = make_stage(Align, compressor=spec)
    path = tmp_path / "weights.safetensors"
    export_weights(trained.lmm, path, trained.descriptions)
    stage = make_stage(Align, seed=1, compressor=spec | {"head_dim": 32}, init_from={"compressor": str(path)})
    ours, theirs = stage.lmm.compressor.state_dict(), trained.lmm.compressor.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_setting_that_the_file_does_not_know_is_named(make_stage, tmp_path, one_line):
    trained = make_stage(Align)
    path = tmp_path / "weights.safetensors"
    older = {k: v for k, v in trained.descriptions["compressor"].items() if k != "keep"}
    export_weights(trained.lmm, path, trained.descriptions | {"compressor": older})
    with pytest.raises(ConfigError) as caught:
        make_stage(Align, init_from={"compressor": str(path)})
    one_line(caught.value, "keep not known there, first here")


@pytest.mark.parametrize(
    ("spec", "difference"),
    [
        ({"name": "bimamba"}, "name mambamia there, bimamba here"),
        ({"name": "mambamia", "num_layers": 1}, "num_layers 2 there, 1 here"),
        ({"name": "mambamia", "query_interval": 12}, "query_interval 6 there, 12 here"),
        ({"name": "mambamia", "temporal_stride": 2}, "temporal_stride 3 there, 2 here"),
    ],
)
def test_another_compressor_is_refused(exported, make_stage, spec, difference, one_line):
    _, path, _ = exported
    with pytest.raises(ConfigError) as caught:
        make_stage(VideoSFT, compressor={"preset": "tiny", **spec}, init_from={"compressor": str(path)})
    one_line(caught.value, "init_from.compressor", str(path), "another compressor", difference)


def test_a_part_that_was_not_trained_is_not_there(make_stage, tmp_path, one_line):
    align = make_stage(Align)
    path = tmp_path / "weights.safetensors"
    export_weights(align.lmm, path, align.descriptions)
    with pytest.raises(ConfigError) as caught:
        make_stage(VideoSFT, init_from={"language": str(path)})
    one_line(caught.value, "init_from.language", str(path), "no trained language")


def test_another_language_model_is_refused(exported, make_stage, miniature_parts, tmp_path, one_line):
    import shutil

    import transformers

    _, path, _ = exported
    models = tmp_path / "models"
    shutil.copytree(miniature_parts / "vision", models / "vision")
    shutil.copytree(miniature_parts / "language", models / "language")
    config = transformers.AutoConfig.from_pretrained(models / "language")
    config.num_hidden_layers = 1
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(models / "language")
    with pytest.raises(ConfigError) as caught:
        make_stage(ImageSFT, models=models, init_from={"language": str(path)})
    one_line(caught.value, "init_from.language", str(path), "do not fit")


def damage(path, how):
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "header":
        path.write_bytes(b"\xff" * 8 + data[8:])
    else:
        path.write_bytes(b"not weights at all, but some text instead")


@pytest.mark.parametrize("how", ["cut", "empty", "header", "text"])
def test_a_damaged_file_is_named(exported, tmp_path, how, one_line):
    stage, path, _ = exported
    copy = tmp_path / "weights.safetensors"
    copy.write_bytes(path.read_bytes())
    damage(copy, how)
    with pytest.raises(DataError) as caught:
        import_part(stage.lmm, "compressor", copy, stage.descriptions["compressor"])
    one_line(caught.value, str(copy))


def test_a_missing_file_and_a_foreign_one_are_named(exported, tmp_path, one_line):
    stage, _, _ = exported
    description = stage.descriptions["compressor"]
    with pytest.raises(DataError) as caught:
        import_part(stage.lmm, "compressor", tmp_path / "none.safetensors", description)
    one_line(caught.value, "none.safetensors", "init_from.compressor")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"compressor.x": torch.zeros(1)}, foreign)
    with pytest.raises(DataError) as caught:
        import_part(stage.lmm, "compressor", foreign, description)
    one_line(caught.value, str(foreign), "not a tstar weights file")


def test_nothing_is_changed_where_something_does_not_fit(exported, tmp_path, snapshot):
    stage, path, _ = exported
    before = snapshot(stage.lmm)
    tensors = load_file(path)
    tensors["compressor.query"] = torch.zeros(3)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert [json.loads(text) for text in metadata.values()] == [json.loads(json.dumps(stage.descriptions))]
    broken = tmp_path / "broken.safetensors"
    save_file(tensors, broken, metadata=metadata)
    with pytest.raises(ConfigError):
        import_part(stage.lmm, "compressor", broken, stage.descriptions["compressor"])
    after = snapshot(stage.lmm)
    assert all(torch.equal(before[name], after[name]) for name in before)
