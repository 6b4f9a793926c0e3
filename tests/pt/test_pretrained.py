"""Loading, saving, initialising, resizing and counting."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from gpt2x import pt
from gpt2x.config import GPT2Config
from gpt2x.errors import CheckpointError, InvalidInputError, WeightsError
from gpt2x.unavailable import MODEL
from support.pt_models import random_ids, tiny_config, tiny_model

HEADS = [
    pt.GPT2LMHeadModel,
    pt.GPT2DoubleHeadsModel,
    pt.GPT2ForSequenceClassification,
    pt.GPT2ForTokenClassification,
    pt.GPT2ForQuestionAnswering,
]


def assert_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)


# --- loading and saving ---


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("kind", [pt.GPT2Model, *HEADS])
def test_round_trip(kind: Any, safe: bool, tmp_path: Path):
    model = tiny_model(kind, n_inner=40)
    model.save_pretrained(tmp_path, safe_serialization=safe)
    loaded, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert_same_weights(loaded, model)
    assert not any(info.values())
    assert not loaded.training
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [kind.__name__]
    assert config["dtype"] == "float32"
    assert (tmp_path / "generation_config.json").exists() == kind.can_generate()


class OwnModel(pt.GPT2PreTrainedModel):
    """A class as users write them: a layer and a buffer around the body."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = pt.GPT2Model(config)
        self.value = torch.nn.Linear(config.n_embd, 1)
        self.register_buffer("scale", torch.tensor(2.0))
        self.post_init()

    def forward(self, **inputs: Any) -> torch.Tensor:
        return self.scale * self.value(self.transformer(**inputs).last_hidden_state)


class OwnHead(pt.GPT2PreTrainedModel):
    """A head that bears a name of GPT-2's, in a class that is none of GPT-2's."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = pt.GPT2Model(config)
        self.lm_head = torch.nn.Linear(config.n_embd, 7, bias=False)
        self.post_init()


class OwnLanguageModel(pt.GPT2LMHeadModel):
    """The same around a model with a head."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.value = torch.nn.Linear(config.n_embd, 1)
        self.post_init()


@pytest.mark.parametrize("kind", [OwnModel, OwnLanguageModel])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_classes_of_a_users_own_load(kind: Any, dtype: str, tmp_path: Path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    own, info = kind.from_pretrained(tmp_path, dtype=dtype, output_loading_info=True)
    assert not any(info["missing_keys"])
    assert_same_weights(own.transformer, model.transformer.to(own.dtype))
    assert own.value.weight.std() > 0  # as the constructor leaves it
    out = own(input_ids=random_ids(2, 5))
    out = out if isinstance(out, torch.Tensor) else own.value(out.logits[..., :24])
    assert out.dtype == getattr(torch, dtype)
    out.sum().backward()
    fresh = kind(model.config).to(own.dtype)
    fresh.load_state_dict(own.state_dict())
    assert_same_weights(fresh, own)


def test_a_head_of_a_users_own_may_bear_any_name(tmp_path: Path):
    tiny_model(pt.GPT2Model).save_pretrained(tmp_path)
    own = OwnHead.from_pretrained(tmp_path, tie_word_embeddings=False)
    assert not any(parameter.is_meta for parameter in own.parameters())
    assert own.lm_head.weight.shape == (7, 24)
    own.save_pretrained(tmp_path / "own")
    assert_same_weights(OwnHead.from_pretrained(tmp_path / "own"), own)


@pytest.mark.parametrize("kind", [OwnModel, OwnLanguageModel])
@pytest.mark.parametrize("options", [{}, {"safe_serialization": False}, {"max_shard_size": "8KB"}])
def test_classes_of_a_users_own_come_back(kind: Any, options: dict[str, Any], tmp_path: Path):
    own = tiny_model(kind)
    if kind is OwnModel:
        own.scale.fill_(3)
    own.save_pretrained(tmp_path, **options)
    loaded, info = kind.from_pretrained(tmp_path, output_loading_info=True, strict=True)
    assert not any(info.values())
    assert_same_weights(loaded, own)
    again = kind.from_pretrained(None, config=own.config, state_dict=own.state_dict())
    assert_same_weights(again, own)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [kind.__name__]
    # A class that has no place for them says so.
    with pytest.warns(UserWarning, match=r"not used by GPT2Model: .*value\.weight"):
        body = pt.GPT2Model.from_pretrained(tmp_path)
    assert_same_weights(body, own.transformer)


def test_files_of_a_class_of_a_users_own_have_the_names_of_its_state_dict(tmp_path: Path):
    own = OwnModel(tiny_config())
    own.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(own.state_dict())


@pytest.mark.parametrize("tied", [True, False])
def test_output_layer_round_trips_tied_and_untied(tied: bool, tmp_path: Path):
    model = tiny_model(tie_word_embeddings=tied)
    assert (model.lm_head.weight is model.transformer.wte.weight) == tied
    for name, options in (
        ("whole", {}),
        ("bin", {"safe_serialization": False}),
        ("shards", {"max_shard_size": "8KB"}),
        ("variant", {"variant": "half"}),
    ):
        model.save_pretrained(tmp_path / name, **options)
        variant = options.get("variant")
        loaded = pt.GPT2LMHeadModel.from_pretrained(tmp_path / name, variant=variant)
        assert (loaded.lm_head.weight is loaded.transformer.wte.weight) == tied
        assert_same_weights(loaded, model)


@pytest.mark.parametrize("kind", HEADS)
def test_body_and_heads_load_from_each_other(kind: Any, tmp_path: Path):
    body, model = tiny_model(pt.GPT2Model), tiny_model(kind)
    body.save_pretrained(tmp_path / "body")
    if kind is pt.GPT2LMHeadModel:  # its only weight is the body's
        loaded, info = kind.from_pretrained(tmp_path / "body", output_loading_info=True)
        assert info["missing_keys"] == []
    else:
        with pytest.warns(UserWarning, match="newly initialised"):
            loaded, info = kind.from_pretrained(tmp_path / "body", output_loading_info=True)
        new = {name for name in dict(model.named_parameters()) if not name.startswith("trans")}
        assert set(info["missing_keys"]) == new - {"lm_head.weight"}
        for name in info["missing_keys"]:
            parameter = loaded.get_parameter(name)
            assert not parameter.is_meta
            assert bool(parameter.any()) == name.endswith("weight")
    assert_same_weights(loaded.transformer, body)

    model.save_pretrained(tmp_path / "head")
    if kind is pt.GPT2LMHeadModel:
        loaded_body = pt.GPT2Model.from_pretrained(tmp_path / "head")
    else:
        with pytest.warns(UserWarning, match="were not used by GPT2Model"):
            loaded_body = pt.GPT2Model.from_pretrained(tmp_path / "head")
    assert_same_weights(loaded_body, model.transformer)


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(saved: torch.dtype, tmp_path: Path):
    model = tiny_model().to(saved)
    model.save_pretrained(tmp_path)
    name = str(saved).removeprefix("torch.")
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == name
    load = pt.GPT2LMHeadModel.from_pretrained
    assert load(tmp_path).dtype == torch.float32
    auto = load(tmp_path, dtype="auto")
    assert auto.dtype == saved
    assert_same_weights(auto, model)
    for dtype in (torch.bfloat16, "bfloat16"):
        loaded = load(tmp_path, torch_dtype=dtype)
        assert loaded.dtype == torch.bfloat16
        assert loaded.config.dtype == "bfloat16"
        assert_same_weights(loaded, copy.deepcopy(model).to(torch.bfloat16))


def test_options(tmp_path: Path):
    tiny_model().save_pretrained(tmp_path)
    model = pt.GPT2LMHeadModel.from_pretrained(
        tmp_path, attn_implementation="eager", output_attentions=True, resid_pdrop=0.0
    )
    assert model.config._attn_implementation == "eager"
    assert model(random_ids(1, 3)).attentions is not None
    assert model.transformer.h[0].mlp.dropout.p == 0.0
    assert model.config.name_or_path == str(tmp_path)
    with pytest.raises(InvalidInputError, match="Did you mean 'attn_implementation'"):
        pt.GPT2LMHeadModel.from_pretrained(tmp_path, atn_implementation="eager")
    with pytest.raises(InvalidInputError, match="Did you mean 'variant'"):
        tiny_model().save_pretrained(tmp_path, varient="x")


def test_loading_a_state_dict():
    model = tiny_model()
    state = model.state_dict()
    load = pt.GPT2LMHeadModel.from_pretrained
    loaded = load(None, config=model.config, state_dict=state, attn_implementation="eager")
    assert_same_weights(loaded, model)
    with torch.no_grad():  # the model has memory of its own
        loaded.transformer.wpe.weight.zero_()
    assert model.transformer.wpe.weight.any()
    with pytest.raises(InvalidInputError, match="needs config="):
        load(None, state_dict=state)
    with pytest.raises(InvalidInputError, match="name or folder"):
        load(None, config=model.config)


def test_what_does_not_fit_is_refused(tmp_path: Path):
    tiny_model().save_pretrained(tmp_path)
    load = pt.GPT2LMHeadModel.from_pretrained
    with pytest.raises(WeightsError, match=r"wpe.weight is \(32, 24\), the model's \(16, 24\)"):
        load(tmp_path, n_positions=16)
    with pytest.warns(UserWarning, match="newly initialised"):
        model, info = load(
            tmp_path, n_positions=16, ignore_mismatched_sizes=True, output_loading_info=True
        )
    assert info["mismatched_keys"] == [("transformer.wpe.weight", (32, 24), (16, 24))]
    assert model(random_ids(1, 16)).logits.isfinite().all()
    with pytest.raises(WeightsError, match=r"h\.2\.attn\.c_attn\.weight"):
        load(tmp_path, n_layer=3)
    with pytest.raises(CheckpointError):
        load(tmp_path / "nowhere", local_files_only=True)


def test_a_processes_other_than_the_main_write_nothing(tmp_path: Path):
    tiny_model().save_pretrained(tmp_path / "folder", is_main_process=False)
    assert not (tmp_path / "folder").exists()


def test_peak_memory_of_loading(tmp_path: Path):
    """At most 1.1 times the model (132 MB in the proportions of GPT-2), besides the libraries."""
    config = GPT2Config(n_embd=448, n_layer=12, n_head=8, vocab_size=8000)
    model = pt.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path)
    script = textwrap.dedent(
        """
        import pathlib, re, sys
        from gpt2x.pt import GPT2LMHeadModel
        from gpt2x.config import GPT2Config

        def status(name):
            text = pathlib.Path("/proc/self/status").read_text()
            return int(re.search(name + r":\\s+(\\d+) kB", text)[1]) * 1024

        small = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=8))
        small.save_pretrained(sys.argv[2])
        GPT2LMHeadModel.from_pretrained(sys.argv[2])  # so that all libraries are loaded
        before = status("VmRSS")
        model = GPT2LMHeadModel.from_pretrained(sys.argv[1])
        print((status("VmHWM") - before) / model.get_memory_footprint())
        """
    )
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's account of a process's memory")
    # glibc keeps freed arrays for itself, more of them the more it has seen (a tenth of the model
    # here); with a fixed threshold what is freed goes back, and what is left is the loader's.
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), str(tmp_path / "small")],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**17)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert 0.9 < float(result.stdout) <= 1.1


def test_pickle_and_deepcopy_keep_the_tie(tmp_path: Path):
    model = tiny_model()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.lm_head.weight is other.transformer.wte.weight
        assert_same_weights(other, model)


def test_state_dict_has_transformers_keys():
    keys = list(pt.GPT2LMHeadModel(tiny_config(n_layer=1, add_cross_attention=True)).state_dict())
    assert keys == [
        "transformer.wte.weight",
        "transformer.wpe.weight",
        "transformer.h.0.ln_1.weight",
        "transformer.h.0.ln_1.bias",
        "transformer.h.0.attn.c_attn.weight",
        "transformer.h.0.attn.c_attn.bias",
        "transformer.h.0.attn.c_proj.weight",
        "transformer.h.0.attn.c_proj.bias",
        "transformer.h.0.ln_2.weight",
        "transformer.h.0.ln_2.bias",
        "transformer.h.0.crossattention.c_attn.weight",
        "transformer.h.0.crossattention.c_attn.bias",
        "transformer.h.0.crossattention.q_attn.weight",
        "transformer.h.0.crossattention.q_attn.bias",
        "transformer.h.0.crossattention.c_proj.weight",
        "transformer.h.0.crossattention.c_proj.bias",
        "transformer.h.0.ln_cross_attn.weight",
        "transformer.h.0.ln_cross_attn.bias",
        "transformer.h.0.mlp.c_fc.weight",
        "transformer.h.0.mlp.c_fc.bias",
        "transformer.h.0.mlp.c_proj.weight",
        "transformer.h.0.mlp.c_proj.bias",
        "transformer.ln_f.weight",
        "transformer.ln_f.bias",
        "lm_head.weight",
    ]
    assert not list(pt.GPT2Model(tiny_config()).buffers())


def test_pruned_heads_are_restored_and_add_nothing(tmp_path: Path):
    model = tiny_model()
    pruned = {0: [1], 1: [0, 2]}
    state = model.state_dict()
    for layer, heads in pruned.items():
        kept = torch.tensor([head not in heads for head in range(3)]).repeat_interleave(8)
        name = f"transformer.h.{layer}.attn"
        state[f"{name}.c_attn.weight"] = state[f"{name}.c_attn.weight"][:, kept.repeat(3)]
        state[f"{name}.c_attn.bias"] = state[f"{name}.c_attn.bias"][kept.repeat(3)]
        state[f"{name}.c_proj.weight"] = state[f"{name}.c_proj.weight"][kept]
    config = tiny_config(pruned_heads=pruned)
    config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    ids = random_ids(2, 7)
    expected = model(ids, head_mask=torch.tensor([[1, 0, 1], [0, 1, 0]])).logits
    for loaded in (
        pt.GPT2LMHeadModel.from_pretrained(tmp_path),
        pt.GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=state),
        # Heads that are there all the same are silenced.
        pt.GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=model.state_dict()),
    ):
        assert loaded.config.pruned_heads == {}
        torch.testing.assert_close(loaded(ids).logits, expected)
        loaded(ids, labels=ids).loss.backward()
        gradient = loaded.transformer.h[0].attn.c_attn.weight.grad
        assert not gradient[:, 8:16].any()
        assert gradient[:, :8].any()
    state["transformer.h.0.attn.c_attn.bias"] = torch.zeros(40)
    with pytest.raises(WeightsError, match=r"h.0.attn.c_attn.bias is \(40,\)"):
        pt.GPT2LMHeadModel.from_pretrained(None, config=config, state_dict=state)


def test_a_model_is_built_from_a_config():
    with pytest.raises(InvalidInputError, match="use from_pretrained"):
        pt.GPT2Model("gpt2")
    config = tiny_config()
    config.n_head = 5
    with pytest.raises(InvalidInputError, match="divisible"):
        pt.GPT2Model(config)
    with pytest.raises(InvalidInputError, match="from_pretrained restores them"):
        pt.GPT2Model(tiny_config(pruned_heads={0: [1]}))
    model = pt.GPT2Model._from_config(tiny_config(), dtype="bfloat16", attn_implementation="eager")
    assert model.dtype == torch.bfloat16
    assert model.device == torch.device("cpu")
    assert model.config._attn_implementation == "eager"


# --- initialisation ---


def test_initialisation_is_that_of_the_paper():
    config = GPT2Config(vocab_size=400, n_positions=200, n_embd=128, n_layer=8, n_head=4)
    model = pt.GPT2LMHeadModel(config)
    for name, parameter in model.state_dict().items():
        if ".ln_" in name:
            assert (parameter == float(name.endswith("weight"))).all()
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            std = 0.02 / math.sqrt(16) if name.endswith("c_proj.weight") else 0.02
            assert abs(float(parameter.std()) / std - 1) < 0.05, name
            assert abs(float(parameter.mean())) < 0.05 * std, name
    torch.manual_seed(1)
    first = pt.GPT2LMHeadModel(config)
    torch.manual_seed(1)
    assert_same_weights(first, pt.GPT2LMHeadModel(config))
    heads = pt.GPT2ForTokenClassification(config)
    assert abs(float(heads.classifier.weight.detach().std()) / 0.02 - 1) < 0.2
    assert not heads.classifier.bias.any()


def test_a_class_of_ones_own():
    class WithValue(pt.GPT2PreTrainedModel):
        def __init__(self, config: GPT2Config) -> None:
            super().__init__(config)
            self.transformer = pt.GPT2Model(config)
            self.value = torch.nn.Linear(config.n_embd, 1)
            self.post_init()

    model = WithValue(tiny_config())
    assert not model.value.bias.any()
    assert model.base_model is model.transformer
    assert model.get_input_embeddings() is model.transformer.wte


# --- embeddings ---


@pytest.mark.parametrize("tied", [True, False])
def test_resizing_the_vocabulary(tied: bool, tmp_path: Path):
    model = tiny_model(tie_word_embeddings=tied)
    ids = random_ids(2, 5)
    before, old = model(ids).logits, model.transformer.wte.weight.detach().clone()
    output = model.lm_head.weight.detach().clone()
    embedding = model.resize_token_embeddings(64)
    assert embedding is model.get_input_embeddings()
    assert embedding.weight.shape == (64, 24)
    assert model.config.vocab_size == embedding.num_embeddings == model.lm_head.out_features == 64
    assert (model.lm_head.weight is embedding.weight) == tied
    for row in embedding.weight[61:]:
        torch.testing.assert_close(row, old.mean(0))
    for row in model.lm_head.weight[61:]:
        torch.testing.assert_close(row, output.mean(0))
    after = model(torch.cat([ids, torch.full((2, 1), 63)], dim=1), labels=None).logits
    torch.testing.assert_close(after[:, :5, :61], before, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert_same_weights(pt.GPT2LMHeadModel.from_pretrained(tmp_path), model)
    model.resize_token_embeddings(50)
    torch.testing.assert_close(model.transformer.wte.weight, old[:50])
    assert model(torch.zeros(1, 1, dtype=torch.long)).logits.shape == (1, 1, 50)


def test_resizing_options():
    model = tiny_model()
    assert model.resize_token_embeddings().num_embeddings == 61
    assert model.resize_token_embeddings(pad_to_multiple_of=8).num_embeddings == 64
    assert model.resize_token_embeddings(65, pad_to_multiple_of=16).num_embeddings == 80
    model.config.initializer_range = 0.5
    drawn = model.resize_token_embeddings(400, mean_resizing=False).weight.detach()[80:]
    assert abs(float(drawn.std()) / 0.5 - 1) < 0.1
    assert model.to(torch.bfloat16).resize_token_embeddings(401).weight.dtype == torch.bfloat16
    wrong = ({"new_num_tokens": 0}, {"pad_to_multiple_of": 0}, {"pad_to_multiple_of": 1.3})
    for options in wrong:
        with pytest.raises(InvalidInputError, match="at least 1"):
            model.resize_token_embeddings(**options)


def test_replacing_embeddings():
    model = tiny_model()
    new = torch.nn.Embedding(61, 24)
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is new
    assert model.get_output_embeddings().weight is new.weight
    layer = torch.nn.Linear(24, 61, bias=False)
    model.set_output_embeddings(layer)
    assert model.get_output_embeddings() is layer
    assert pt.GPT2Model(tiny_config()).get_output_embeddings() is None


def test_counting_parameters():
    model = tiny_model()
    embeddings = 61 * 24 + 32 * 24
    body = 2 * (24 * 72 + 72 + 24 * 24 + 24 + 24 * 96 + 96 + 96 * 24 + 24 + 4 * 24) + 2 * 24
    assert model.num_parameters() == embeddings + body
    assert model.num_parameters(exclude_embeddings=True) == body
    model.transformer.wpe.weight.requires_grad_(False)
    assert model.num_parameters(only_trainable=True) == embeddings + body - 32 * 24
    assert model.get_memory_footprint() == 4 * (embeddings + body)
    assert tiny_model(tie_word_embeddings=False).num_parameters() == embeddings + body + 61 * 24


def test_generation_options_of_an_old_config_are_used(tmp_path: Path):
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sample": True, "top_k": 7}))
    model = pt.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert model.generation_config.do_sample is True
    assert model.generation_config.top_k == 7
    assert model.generation_config.eos_token_id == 60
    model.save_pretrained(tmp_path / "again")
    stored = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert stored["top_k"] == 7


@pytest.mark.parametrize("device_map", ["meta", torch.device("meta"), {"": "meta"}])
def test_a_device_map_names_one_device(device_map: Any, tmp_path: Path):
    tiny_model().save_pretrained(tmp_path)
    model = pt.GPT2LMHeadModel.from_pretrained(tmp_path, device_map=device_map)
    assert model.device == torch.device("meta")
    assert model.lm_head.weight is model.transformer.wte.weight
    chosen = pt.GPT2LMHeadModel.from_pretrained(tmp_path, device_map="auto")
    assert chosen.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    for bad in ({"transformer": "cpu", "lm_head": "meta"}, {}, "gpu", ["cpu"]):
        with pytest.raises(InvalidInputError, match="it must name one device"):
            pt.GPT2LMHeadModel.from_pretrained(tmp_path, device_map=bad)


# --- what transformers' classes have besides ---


def test_what_is_not_here_says_what_to_do_instead():
    model = tiny_model()
    for name in MODEL:
        assert not hasattr(model, name)
        assert name not in dir(model)
    with pytest.raises(AttributeError, match=r"no 'prune_heads', .* silence heads with head_mask"):
        model.prune_heads({0: [1]})
    with pytest.raises(AttributeError, match="no attribute 'prun_heads'"):
        model.prun_heads({0: [1]})


def test_operations_are_estimated_as_by_transformers():
    model = tiny_model()
    batch = {"input_ids": random_ids(3, 5), "labels": random_ids(3, 5)}
    assert model.estimate_tokens(batch) == 15
    body = model.num_parameters(exclude_embeddings=True)
    assert model.floating_point_ops(batch) == 6 * 15 * body
    whole = model.num_parameters()
    assert model.floating_point_ops(batch, exclude_embeddings=False) == 6 * 15 * whole
    assert model.floating_point_ops({"inputs_embeds": None}) == 0
    assert model(**model.dummy_inputs).logits.shape == (3, 5, model.vocab_size)
    assert model.warnings_issued == {}


def test_models_name_their_framework_and_vocabulary():
    model = tiny_model()
    assert (model.framework, model.vocab_size) == ("pt", model.config.vocab_size)
    model.resize_token_embeddings(7)
    assert (model.vocab_size, model.transformer.vocab_size) == (7, 7)

    class Own(pt.GPT2LMHeadModel):
        def __init__(self, config):
            super().__init__(config)
            self.vocab_size = 3  # as classes for transformers do

    assert Own(model.config).vocab_size == 3


def test_gradients_pass_frozen_embeddings_where_they_are_asked_to():
    model = tiny_model()
    model.get_input_embeddings().requires_grad_(False)
    model.transformer.wpe.requires_grad_(False)

    def inputs_of_the_blocks() -> torch.Tensor:
        return model(random_ids(1, 4), output_hidden_states=True).hidden_states[0]

    assert not inputs_of_the_blocks().requires_grad
    model.enable_input_require_grads()
    assert pickle.loads(pickle.dumps(model)) is not None
    assert inputs_of_the_blocks().requires_grad
    model.disable_input_require_grads()
    assert not inputs_of_the_blocks().requires_grad


def test_a_training_script_of_accelerate_saves(tmp_path: Path):
    model = tiny_model()
    model.save_pretrained(tmp_path / "other", is_main_process=False, save_function=torch.save)
    assert not (tmp_path / "other").exists()
    model.save_pretrained(tmp_path, is_main_process=True, save_function=torch.save)
    loaded = pt.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert_same_weights(loaded, model)
    assert loaded.name_or_path == str(tmp_path)
