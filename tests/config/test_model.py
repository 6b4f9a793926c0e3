"""GPT2Config: fields, aliases, checks, and the JSON of transformers."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2x.config.model import PRESETS, GPT2Config
from gpt2x.config.model_fields import ACTIVATIONS, ATTRIBUTE_MAP, GENERATION_DEFAULTS
from gpt2x.errors import CheckpointError, InvalidInputError
from support.golden_data import GOLDEN

# The file of the hub's gpt2, from the time of n_ctx and task_specific_params.
HUB_GPT2 = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}


def test_defaults_are_those_of_transformers():
    config = GPT2Config()
    expected = {
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "summary_activation": None,
        "summary_proj_to_labels": True,
        "summary_first_dropout": 0.1,
        "scale_attn_weights": True,
        "use_cache": True,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "pad_token_id": None,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
        "output_attentions": False,
        "output_hidden_states": False,
        "return_dict": True,
        "torchscript": False,
        "use_return_dict": True,
        "dtype": None,
        "pruned_heads": {},
        "num_labels": 2,
        "id2label": {0: "LABEL_0", 1: "LABEL_1"},
        "label2id": {"LABEL_0": 0, "LABEL_1": 1},
        "problem_type": None,
        "is_decoder": False,
        "chunk_size_feed_forward": 0,
        "max_length": 20,
        "top_k": 50,
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.model_type == "gpt2"
    assert config.keys_to_ignore_at_inference == ["past_key_values"]


def test_positional_arguments_follow_transformers_order():
    config = GPT2Config(100, 32, 48, 2, 4, 96, "relu", 0.2, 0.3, 0.4)
    assert (config.vocab_size, config.n_positions, config.n_embd) == (100, 32, 48)
    assert (config.n_layer, config.n_head, config.n_inner) == (2, 4, 96)
    assert (config.activation_function, config.resid_pdrop) == ("relu", 0.2)
    assert (config.embd_pdrop, config.attn_pdrop) == (0.3, 0.4)


@pytest.mark.parametrize(("alias", "name"), ATTRIBUTE_MAP.items())
def test_second_names(alias: str, name: str):
    config = GPT2Config(**{alias: 24, **({"n_embd": 48} if name != "n_embd" else {})})
    assert getattr(config, name) == getattr(config, alias) == 24
    setattr(config, alias, 12)
    assert getattr(config, name) == 12
    stored = json.loads(config.to_json_string())
    assert stored[name] == 12
    assert alias not in stored
    assert getattr(GPT2Config.from_dict({"n_embd": 48}, **{alias: 24}), name) == 24
    # An override wins over the file, whichever of the two names either uses.
    assert getattr(GPT2Config.from_dict({alias: 24}, **{name: 12}), name) == 12
    assert getattr(GPT2Config.from_dict({name: 24}, **{alias: 12}), name) == 12


def test_labels():
    assert GPT2Config(num_labels=3).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    config = GPT2Config(id2label={"0": "no", "1": "yes", "2": "maybe"})
    assert config.num_labels == 3
    assert config.label2id == {"no": 0, "yes": 1, "maybe": 2}
    config.num_labels = 3
    assert config.id2label[1] == "yes"  # the number stays, and so do the names
    config.num_labels = 1
    assert config.id2label == {0: "LABEL_0"}
    assert config.label2id == {"LABEL_0": 0}
    file = GPT2Config(id2label={0: "a", 1: "b", 2: "c"}).to_dict()
    assert GPT2Config.from_dict(file, num_labels=4).num_labels == 4
    assert GPT2Config.from_dict(file, id2label={0: "x"}).label2id == {"x": 0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_embd": 10, "n_head": 3}, r"n_embd \(10\) must be divisible by n_head \(3\)"),
        ({"activation_function": "gelu_nwe"}, "Did you mean 'gelu_new'"),
        ({"summary_activation": "tanhh"}, "Did you mean 'tanh'"),
        ({"summary_type": "middle"}, "'cls_index'"),
        ({"problem_type": "clasification"}, "allowed are 'regression'"),
        ({"vocab_size": 0}, "vocab_size must be an integer of at least 1; got 0"),
        ({"n_layer": 2.5}, "n_layer must be an integer of at least 1; got 2.5"),
        ({"n_layer": True}, "n_layer must be an integer"),
        ({"n_positions": "1024"}, "n_positions must be an integer"),
        ({"resid_pdrop": 1.5}, "resid_pdrop must be a number from 0 to 1; got 1.5"),
        ({"attn_pdrop": float("nan")}, "attn_pdrop must be a number from 0 to 1; got nan"),
        ({"layer_norm_epsilon": None}, "layer_norm_epsilon must be a number"),
        ({"use_cache": 1}, "use_cache must be True or False; got 1"),
        ({"eos_token_id": "50256"}, "eos_token_id must be an integer"),
        ({"dtype": "float23"}, "Did you mean 'float32'"),
        ({"id2label": ["a", "b"]}, "id2label must be a dictionary"),
        ({"label2id": ["a", "b"]}, "label2id must be a dictionary"),
        ({"num_labels": 0}, "num_labels must be an integer of at least 1"),
        ({"num_labels": 3, "id2label": {0: "a"}}, "num_labels is 3, but id2label holds 1"),
        ({"pruned_heads": {12: [0]}}, "pruned_heads names layer 12"),
        ({"pruned_heads": [1]}, "pruned_heads must map"),
    ],
)
def test_bad_values_are_refused(fields: dict[str, Any], message: str):
    with pytest.raises(InvalidInputError, match=message):
        GPT2Config(**fields)


def test_values_are_checked_when_set_and_together_by_validate():
    config = GPT2Config()
    with pytest.raises(InvalidInputError, match="n_layer must be"):
        config.n_layer = 0
    config.n_head = 7  # n_embd may follow
    with pytest.raises(InvalidInputError, match="divisible"):
        config.validate()
    config.n_embd = 70
    config.validate()
    with pytest.raises(InvalidInputError, match="divisible"):
        config.update({"n_head": 3})


def test_unknown_keys_are_kept():
    config = GPT2Config(my_key={"a": [1, 2]}, classifier_dropout=0.3)
    assert config.my_key == {"a": [1, 2]}
    assert config.classifier_dropout == 0.3
    assert GPT2Config.from_dict(json.loads(config.to_json_string())) == config
    with pytest.raises(AttributeError, match="Did you mean 'n_layer'"):
        _ = config.n_layr
    assert not hasattr(config, "hidden_dropout")


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "torch.bfloat16", np.dtype(ml_dtypes.bfloat16), ml_dtypes.bfloat16]
)
def test_dtype_is_kept_by_name(dtype: Any):
    assert GPT2Config(dtype=dtype).dtype == "bfloat16"
    config = GPT2Config(torch_dtype=dtype)
    assert config.dtype == config.torch_dtype == "bfloat16"
    assert json.loads(config.to_json_string())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "n_embd=24,n_head=2,resid_pdrop=0.2,scale_attn_weights=false,summary_type=mean",
            {"n_embd": 24, "resid_pdrop": 0.2, "scale_attn_weights": False, "summary_type": "mean"},
        ),
        ("use_cache=no, n_inner=7", {"use_cache": False, "n_inner": 7}),
        ("summary_activation=tanh,resid_pdrop=0", {"summary_activation": "tanh"}),
        ("hidden_size=36,classifier_dropout=0.4", {"n_embd": 36, "classifier_dropout": 0.4}),
    ],
)
def test_update_from_string(text: str, expected: dict[str, Any]):
    config = GPT2Config()
    config.update_from_string(text)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n_embdd=24", "Did you mean 'n_embd'"),
        ("n_embd", "not of the form field=value"),
        ("n_embd=wide", "n_embd must be of type int; got 'wide'"),
        ("use_cache=perhaps", "use_cache must be true or false"),
        ("n_inner=many", "n_inner must be an integer"),
        ("n_embd=25", "divisible"),
    ],
)
def test_update_from_string_refuses(text: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        GPT2Config().update_from_string(text)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("distilgpt2", 81_912_576),
    ],
)
def test_presets_have_the_published_sizes(name: str, parameters: int):
    from gpt2x.weights.table import parameter_shapes

    shapes = parameter_shapes(GPT2Config.preset(name))
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters


def test_presets_take_overrides():
    assert GPT2Config.preset("gpt2-xl", n_layer=2).n_layer == 2
    assert set(PRESETS) == {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"}
    with pytest.raises(InvalidInputError, match="Did you mean 'gpt2-medium'"):
        GPT2Config.preset("gpt2-medum")


# --- files ---


def test_reads_the_hub_file_and_writes_it_back():
    config = GPT2Config.from_dict(HUB_GPT2)
    assert config.n_ctx == 1024
    assert config.task_specific_params["text-generation"]["max_length"] == 50
    stored = json.loads(config.to_json_string())
    assert HUB_GPT2.items() <= stored.items()


def test_reads_the_oldest_files():
    """Transformers 2 wrote n_ctx and num_labels; from n_ctx alone the positions follow."""
    old = {"n_ctx": 512, "num_labels": 1, "output_past": True, "predict_special_tokens": True}
    config = GPT2Config.from_dict(old)
    assert (config.n_positions, config.num_labels, config.output_past) == (512, 1, True)
    assert GPT2Config.from_dict({"n_ctx": 512, "n_positions": 256}).n_positions == 256
    assert GPT2Config(n_ctx=512).n_positions == 512


def test_writes_n_ctx_for_the_converters_that_ask_for_it():
    config = GPT2Config(n_positions=96)
    assert json.loads(config.to_json_string())["n_ctx"] == 96
    assert GPT2Config.from_dict(config.to_dict()) == config


def test_generation_options_of_old_files_are_kept_apart():
    config = GPT2Config.from_dict({**HUB_GPT2, "do_sample": True, "top_k": 5, "max_length": 20})
    assert config.generation_parameters() == {"do_sample": True, "top_k": 5}
    assert GPT2Config().generation_parameters() == {}
    stored = json.loads(config.to_json_string())
    assert not (set(GENERATION_DEFAULTS) - {"do_sample", "top_k"}) & set(stored)


def test_another_model_type_is_refused():
    with pytest.raises(InvalidInputError, match="model_type is 'llama'"):
        GPT2Config.from_dict({"model_type": "llama"})


def test_save_and_load(tmp_path: Path):
    config = GPT2Config(
        n_embd=48,
        n_head=4,
        n_layer=3,
        eos_token_id=[1, 2],
        id2label={0: "a", 1: "b", 2: "c"},
        pruned_heads={1: [0, 2]},
        dtype="float16",
        attn_implementation="eager",
        my_key=3,
    )
    config.save_pretrained(tmp_path / "new" / "folder")
    path = tmp_path / "new" / "folder" / "config.json"
    assert [file.name for file in path.parent.iterdir()] == ["config.json"]
    for loaded in (
        GPT2Config.from_pretrained(path.parent),
        GPT2Config.from_pretrained(str(path)),
        GPT2Config.from_json_file(path),
        GPT2Config.from_pretrained(tmp_path, subfolder="new/folder"),
    ):
        assert loaded == config
    assert "attn_implementation" not in path.read_text()
    config.to_json_file(path, use_diff=False)
    assert GPT2Config.from_json_file(path) == config
    assert json.loads(path.read_text())["max_length"] == 20


def test_from_pretrained_overrides(tmp_path: Path):
    GPT2Config(n_layer=3).save_pretrained(tmp_path)
    config = GPT2Config.from_pretrained(
        tmp_path,
        num_hidden_layers=5,
        output_attentions=True,
        attn_implementation="eager",
        classifier_dropout=0.5,
    )
    assert (config.n_layer, config.output_attentions, config.classifier_dropout) == (5, True, 0.5)
    assert config._attn_implementation == "eager"
    assert config.name_or_path == str(tmp_path)
    config, unused = GPT2Config.from_pretrained(
        tmp_path, n_layer=2, n_layr=4, return_unused_kwargs=True
    )
    assert (config.n_layer, unused) == (2, {"n_layr": 4})
    with pytest.raises(InvalidInputError, match=r"'n_layr'. Did you mean 'n_layer'"):
        GPT2Config.from_pretrained(tmp_path, n_layr=4)


@pytest.mark.parametrize("content", ["{", "[1, 2]", "\xff", ""])
def test_unreadable_files_are_refused(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        GPT2Config.from_pretrained(tmp_path)


def test_a_folder_without_config_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError):
        GPT2Config.from_pretrained(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="is a file"):
        GPT2Config().save_pretrained(tmp_path / "file")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path):
    config = GPT2Config()
    config.save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_text()
    config.my_key = object()
    with pytest.raises(TypeError):
        config.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == before
    assert len(list(tmp_path.iterdir())) == 1


# --- against transformers (tests/golden/configs) ---

CONFIGS = GOLDEN / "configs"
SAVED = [
    (release, path.parent.name)
    for release in ("transformers_4", "transformers_5")
    for path in sorted((CONFIGS / release).glob("*/to_dict.json"))
    if not path.parent.name.startswith("generation")
]


@pytest.mark.parametrize(("release", "name"), SAVED)
def test_holds_what_transformers_holds(release: str, name: str):
    folder = CONFIGS / release / name
    config = GPT2Config.from_json_file(folder / "config.json")
    ours = json.loads(json.dumps(config.to_dict()))
    theirs = json.loads((folder / "to_dict.json").read_text())
    assert {key: ours.get(key, "absent") for key in theirs} == theirs
    assert GPT2Config.from_dict(theirs) == config


@pytest.mark.parametrize("name", [name for release, name in SAVED if release == "transformers_4"])
def test_writes_what_transformers_4_writes(name: str):
    folder = CONFIGS / "transformers_4" / name
    written = GPT2Config.from_pretrained(folder).to_json_string()
    theirs = json.loads((folder / "config.json").read_text())
    assert json.loads(written) == {**theirs, "n_ctx": theirs["n_positions"]}


@pytest.mark.parametrize("name", ["gpt2", "half_precision", "release_2"])
def test_reads_the_hubs_files_as_transformers_does(name: str):
    ours = GPT2Config.from_json_file(CONFIGS / "hub" / f"{name}.json")
    ours = json.loads(json.dumps(ours.to_dict()))
    theirs = json.loads((CONFIGS / "transformers_4" / "read" / f"{name}.json").read_text())
    for values in (ours, theirs):  # the file's release here, the writer's in transformers
        values.pop("transformers_version", None)
    assert {key: ours.get(key, "absent") for key in theirs} == theirs


# --- as a value ---


def test_copies_and_equality():
    config = GPT2Config(num_labels=5, my_key=[1])
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert other == config
        other.my_key.append(2)
        assert other != config
    assert GPT2Config(name_or_path="here") == GPT2Config()
    assert GPT2Config(n_layer=2) != GPT2Config()
    assert GPT2Config() != "GPT2Config"
    assert '"n_layer": 12' in repr(config)
    assert "n_layer" in list(config)


@given(
    fields=st.fixed_dictionaries(
        {},
        optional={
            "vocab_size": st.integers(1, 10**6),
            "n_inner": st.none() | st.integers(1, 4096),
            "activation_function": st.sampled_from(ACTIVATIONS),
            "attn_pdrop": st.floats(0, 1),
            "layer_norm_epsilon": st.floats(0, 1) | st.just(1),
            "eos_token_id": st.none() | st.integers(-1, 99) | st.lists(st.integers(0, 99)),
            "num_labels": st.integers(1, 9),
            "tie_word_embeddings": st.booleans(),
            "task_specific_params": st.none() | st.dictionaries(st.text(), st.integers()),
            "temperature": st.floats(0.1, 2),
        },
    )
)
def test_json_round_trip(fields: dict[str, Any]):
    config = GPT2Config(**fields)
    for use_diff in (True, False):
        stored = json.loads(config.to_json_string(use_diff=use_diff))
        assert GPT2Config.from_dict(stored) == config


def test_needs_no_framework():
    code = (
        "import sys; from gpt2x.config.model import GPT2Config; GPT2Config(dtype='float16');"
        "print({'torch', 'tensorflow', 'jax'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stderr
