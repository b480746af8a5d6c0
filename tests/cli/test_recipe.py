"""Recipes: what wins over what, and what every wrong key is told."""

import pytest

from tstar.cli.recipe import read_recipe
from tstar.compressors import shared_options
from tstar.errors import ConfigError

BASE = """
name: small
model: {init_args: {compressor: {name: mambamia, preset: miniature, query_interval: 6}, optimizer: {lr: 0.1}}}
data: {batch_size: 4}
per_stage:
  align: {data: {batch_size: 16, shards: [a]}}
  elsewhere: {data: {batch_size: 99}}
stages:
  align: {model: {class_path: Align}}
  video_sft: {model: {class_path: VideoSFT}, data: {shards: [v]}}
"""


@pytest.fixture
def files(tmp_path):
    def write(**texts):
        paths = []
        for name, text in texts.items():
            paths.append(tmp_path / f"{name}.yaml")
            paths[-1].write_text(text)
        return paths

    return write


def test_stages_inherit_common_settings_and_per_stage_adds_no_stage(files):
    recipe = read_recipe(files(base=BASE), [])
    assert recipe.name == "small"
    assert list(recipe.stages) == ["align", "video_sft"]
    assert recipe.stages["align"]["data"] == {"batch_size": 16, "shards": ["a"]}
    assert recipe.stages["video_sft"]["data"] == {"batch_size": 4, "shards": ["v"]}
    assert recipe.stages["align"]["model"]["init_args"]["optimizer"] == {"lr": 0.1}


def test_later_files_and_then_the_command_line_win_as_a_whole(files):
    paths = files(base=BASE, over="data: {batch_size: 7}\nstages: {align: {data: {limit: 3}}}\n")
    recipe = read_recipe(paths, [("stages.video_sft.data.batch_size", "1"), ("trainer.max_epochs", "5")])
    assert recipe.stages["align"]["data"] == {"batch_size": 7, "shards": ["a"], "limit": 3}
    assert recipe.stages["video_sft"]["data"]["batch_size"] == 1
    assert all(stage["trainer"] == {"max_epochs": 5} for stage in recipe.stages.values())


def test_a_name_given_by_hand_wins_and_without_any_it_is_the_files(files):
    assert read_recipe(files(base=BASE), [], "mine").name == "mine"
    assert read_recipe(files(nameless=BASE.replace("name: small", "")), []).name == "nameless"


def test_plus_appends_to_a_list_and_its_absence_replaces_it(files):
    over = "stages: {video_sft: {data: {shards+: [w]}}, align: {data: {shards: [x]}}}\n"
    recipe = read_recipe(files(base=BASE, over=over), [])
    assert recipe.stages["video_sft"]["data"]["shards"] == ["v", "w"]
    assert recipe.stages["align"]["data"]["shards"] == ["x"]
    with pytest.raises(ConfigError, match="appends to a list"):
        read_recipe(files(base=BASE, over="data: {batch_size+: [1]}\n"), [])


def test_included_files_lie_under_the_file_that_includes_them(files):
    paths = files(under="data: {batch_size: 1, limit: 2}\n", base="include: [under.yaml]\n" + BASE)
    assert read_recipe(paths[1:], []).stages["video_sft"]["data"] == {"batch_size": 4, "limit": 2, "shards": ["v"]}
    with pytest.raises(ConfigError, match="includes itself"):
        read_recipe(files(loop="include: [loop.yaml]\n"), [])


def test_another_compressor_drops_the_settings_of_the_one_before_and_says_so(files):
    recipe = read_recipe(files(base=BASE), [("model.init_args.compressor.name", "avg_pool")])
    assert recipe.stages["align"]["model"]["init_args"]["compressor"] == {"name": "avg_pool", "preset": "miniature"}
    (warning,) = recipe.warnings
    assert "avg_pool" in warning
    assert "query_interval" in warning


def test_options_that_both_compressors_share_stay(files):
    own = (
        "model: {init_args: {compressor: {gradient_checkpointing: true, segment_frames: 3, gpa_residual: write_back}}}"
    )
    recipe = read_recipe(files(base=BASE, own=own), [("model.init_args.compressor.name", "gpt_neox")])
    kept = {"query_interval": 6, "gradient_checkpointing": True, "segment_frames": 3}
    for stage in recipe.stages.values():
        assert stage["model"]["init_args"]["compressor"] == {"name": "gpt_neox", "preset": "miniature", **kept}
    (warning,) = recipe.warnings
    assert "gpa_residual" in warning
    assert "query_interval" not in warning


@pytest.mark.parametrize(
    ("one", "other", "shared", "foreign"),
    [
        ("mambamia", "bi_gpt_neox", {"query_interval", "num_layers", "gradient_checkpointing"}, {"ssm", "num_heads"}),
        ("mamba", "mambamia", {"ssm", "d_state", "temporal_stride"}, {"gpa_residual"}),
        ("bimamba", "bimba", {"query_interval"}, {"queries"}),  # whose default is another
        ("avg_pool", "c_abstractor", {"segment_frames"}, {"kernel"}),  # each has a kernel of its own
        ("resampler2d", "resampler3d", {"num_layers"}, {"num_queries"}),
    ],
)
def test_an_option_is_shared_where_it_means_the_same(one, other, shared, foreign):
    for pair in ((one, other), (other, one)):
        found = shared_options(*pair)
        assert shared <= found
        assert not foreign & found
    assert shared_options(one, "unknown") == set()


LANGUAGE = """
model:
  init_args:
    language:
      path: one
      template: smollm2
      dtype: bfloat16
      pickled_weights: true
      tokenizer: t
      lora: {rank: 2}
"""


def test_another_language_model_drops_what_was_said_of_the_one_before_and_says_so(files):
    over = "model: {init_args: {language: {path: two, template: phi3, dtype: float16}}}"
    recipe = read_recipe(files(base=BASE, own=LANGUAGE + "      loss_reduction: square\n", over=over), [])
    for stage in recipe.stages.values():
        assert stage["model"]["init_args"]["language"] == {
            "path": "two",
            "template": "phi3",
            "dtype": "float16",
            "loss_reduction": "square",
        }
    (warning,) = recipe.warnings
    assert "model.init_args.language: with two the settings tokenizer, pickled_weights, lora" in warning


def test_a_language_model_in_another_place_is_the_same(files):
    recipe = read_recipe(files(base=BASE, own=LANGUAGE), [("model.init_args.language.path", "moved")])
    language = recipe.stages["align"]["model"]["init_args"]["language"]
    assert language["path"] == "moved"
    assert language["lora"] == {"rank": 2}
    assert language["pickled_weights"]
    assert not recipe.warnings


def test_another_stage_class_drops_what_it_does_not_take_and_says_so(files, monkeypatch, tmp_path):
    (tmp_path / "narrow_stage.py").write_text(
        "from tstar.stages import Stage\n"
        "class Narrow(Stage):\n"
        "    def __init__(self, vision, language, compressor):\n"
        "        super().__init__(vision, language, compressor)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = read_recipe(files(base=BASE), [("stages.align.model.class_path", "narrow_stage.Narrow")])
    assert "optimizer" not in recipe.stages["align"]["model"]["init_args"]
    assert any("Narrow does not take optimizer" in warning for warning in recipe.warnings)


WRONG_KEYS = {
    "trainr: {max_epochs: 1}": r"over\.yaml:1: unknown section 'trainr'; did you mean 'trainer'",
    "trainer: {max_epoch: 1}": r"over\.yaml:1: unknown key 'trainer\.max_epoch'; did you mean 'max_epochs'",
    "data:\n  batchsize: 1": r"over\.yaml:2: unknown key 'data\.batchsize'; did you mean 'batch_size'",
    "model: {init_arg: {}}": r"unknown key 'model\.init_arg'; did you mean 'init_args'",
    "model: {init_args: {compresor: {}}}": r"unknown key 'model\.init_args\.compresor'; did you mean 'compressor'",
    "model: {init_args: {optimizer: {beta: 1}}}": r"unknown key 'model\.init_args\.optimizer\.beta'; did you mean 'betas'",
    "model: {init_args: {language: {tempate: x}}}": r"'model\.init_args\.language\.tempate'; did you mean 'template'",
    "run: {checkpoint_every: 1}": r"unknown key 'run\.checkpoint_every'; did you mean 'checkpoint_every_n_steps'",
    "evaluation: {benchmark: {}}": r"unknown key 'evaluation\.benchmark'; did you mean 'benchmarks'",
    "stages: {align: {trainr: {}}}": r"unknown section 'trainr' of a stage; did you mean 'trainer'",
    "stages: {align: {model: {class_path: Aling}}}": r"unknown stage 'Aling'; did you mean 'Align'",
    "data: {processor: x}": r"data\.processor comes from the model and cannot be set",
}


@pytest.mark.parametrize(("text", "message"), WRONG_KEYS.items(), ids=[k[:40] for k in WRONG_KEYS])
def test_every_wrong_key_is_told_its_place_and_the_nearest_right_one(files, text, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(files(base=BASE, over=text + "\n"), [])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (("trainer.max_epoch", "1"), "command line: unknown key 'trainer.max_epoch'; did you mean 'max_epochs'"),
        (("stages.aling.data.limit", "1"), "no stage 'aling'; did you mean 'align'"),
        (("modle.x", "1"), "unknown option --modle.x; did you mean 'model'"),
        (("data.processor", "1"), "data.processor comes from the model"),
    ],
)
def test_wrong_settings_on_the_command_line_are_told_likewise(files, setting, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(files(base=BASE), [setting])


def test_files_without_a_stage_say_what_to_start_from(files):
    with pytest.raises(ConfigError, match=r"no stages in .*piece\.yaml; start from a recipe"):
        read_recipe(files(piece="data: {batch_size: 1}\n"), [])
