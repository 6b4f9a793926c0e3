"""PEFT's adapters on the PyTorch models, against the same adapters on transformers' GPT-2."""

from __future__ import annotations

import pytest
import torch

from gpt2x import pt
from gpt2x.errors import InvalidInputError
from gpt2x.pt.cache import KVCache
from gpt2x.train import train
from support.labelled import classified, tagged, tiny_model, write_jsonl
from support.pt_models import TINY, tiny_config

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = [
    # What PEFT says of its own work: corrections, dropped position ids, inexact inverses.
    pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:Position ids", "ignore:Unmerge"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings", "ignore:.*tied", "ignore:Could not"),
    # Of transformers and of the packages that it imports.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

LORA = {"r": 4, "init_lora_weights": False, "task_type": "CAUSAL_LM"}
PROMPT = {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}
LAYERS = {
    "default": ("LoraConfig", LORA),
    "attention": (
        "LoraConfig",
        {**LORA, "target_modules": ["c_attn"], "fan_in_fan_out": True},
    ),
    "projections": ("LoraConfig", {**LORA, "target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "all-linear": ("LoraConfig", {**LORA, "target_modules": "all-linear"}),
    "modules_to_save": ("LoraConfig", {**LORA, "modules_to_save": ["ln_f"]}),
    "dora": ("LoraConfig", {**LORA, "use_dora": True}),
    "ia3": ("IA3Config", {"init_ia3_weights": False, "task_type": "CAUSAL_LM"}),
}
PROMPTS = {
    "prompt": ("PromptTuningConfig", PROMPT),
    "prefix": ("PrefixTuningConfig", PROMPT),
    "p-tuning": ("PromptEncoderConfig", {**PROMPT, "encoder_hidden_size": 8}),
}
ALL = LAYERS | PROMPTS
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "pad_token_id": 59}
IDS = torch.tensor([[3, 28, 40, 41, 7], [12, 51, 21, 22, 9]])
TEXTS = {"max_new_tokens": 6, "eos_token_id": None}


def pair():
    """Return transformers' model and ours, with the same weights."""
    torch.manual_seed(0)
    config = tiny_config(**NO_DROPOUT)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config.to_dict())).eval()
    ours = pt.GPT2LMHeadModel(config).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def adapted(name):
    """Return both with the same adapter."""
    kind, options = ALL[name]
    both = []
    for model in pair():
        torch.manual_seed(1)
        both.append(peft.get_peft_model(model, getattr(peft, kind)(**options)))
    theirs, ours = both
    state = theirs.state_dict()
    assert list(state) == list(ours.state_dict())
    ours.load_state_dict(state)
    return theirs.eval(), ours.eval()


def continued(model, count=6):
    """Continue IDS greedily without a cache."""
    text = IDS
    for _ in range(count):
        text = torch.cat([text, model(text).logits[:, -1:].argmax(-1)], dim=1)
    return text


@pytest.mark.parametrize("name", ALL)
def test_training_moves_the_same_weights_by_the_same_steps(name):
    theirs, ours = adapted(name)
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, rtol=1e-4, atol=1e-4)
    for model in (theirs, ours):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        model.eval()
    trained = {n: p for n, p in theirs.named_parameters() if p.requires_grad}
    found = {n: p for n, p in ours.named_parameters() if p.requires_grad}
    assert list(found) == list(trained)
    for parameter, expected in zip(found.values(), trained.values(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_generated_texts(name):
    _, ours = adapted(name)
    expected = continued(ours)
    mask = torch.ones_like(IDS)
    for options in ({}, {"use_cache": False}, {"attention_mask": mask}):
        found = ours.generate(input_ids=IDS, do_sample=False, **options, **TEXTS)
        torch.testing.assert_close(found, expected)
    one = ours.generate(input_ids=IDS, num_beams=1, do_sample=True, top_k=1, seed=3, **TEXTS)
    torch.testing.assert_close(one, expected)
    mask[0, :2] = 0
    padded = ours.generate(input_ids=IDS, attention_mask=mask, num_beams=2, **TEXTS)
    alone = ours.generate(input_ids=IDS[:1, 2:], num_beams=2, **TEXTS)
    torch.testing.assert_close(padded[0, 2:], alone[0])


@pytest.mark.parametrize("name", LAYERS)
def test_merged_and_disabled_adapters(name, tmp_path):
    _, ours = adapted(name)
    expected, text = ours(IDS).logits, ours.generate(input_ids=IDS, **TEXTS)
    with ours.disable_adapter():
        torch.testing.assert_close(ours(IDS).logits, pair()[1](IDS).logits)
    ours.merge_adapter()
    torch.testing.assert_close(ours(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.generate(input_ids=IDS, **TEXTS), text)
    ours.unmerge_adapter()
    torch.testing.assert_close(ours(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    plain = ours.merge_and_unload()
    assert type(plain) is pt.GPT2LMHeadModel
    torch.testing.assert_close(plain(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain.generate(IDS, **TEXTS), text)
    plain.save_pretrained(tmp_path)
    loaded = pt.GPT2LMHeadModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(IDS).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_saved_adapters_load_into_both(name, tmp_path):
    _, ours = adapted(name)
    ours.save_pretrained(tmp_path)
    for model in pair():
        loaded = peft.PeftModel.from_pretrained(model, tmp_path).eval()
        torch.testing.assert_close(loaded(IDS).logits, ours(IDS).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["attention", "projections", "modules_to_save"])
def test_adapters_of_the_models_own_are_those_of_peft(name, tmp_path):
    kind, options = ALL[name]
    config, model = getattr(peft, kind)(**options), pair()[1]
    model.add_adapter(config, seed=3)
    expected = model(IDS).logits
    assert (expected - pair()[1](IDS).logits).abs().max() > 0.1
    model.save_pretrained(tmp_path)
    for other in pair():
        loaded = peft.PeftModel.from_pretrained(other, tmp_path).eval()
        torch.testing.assert_close(loaded(IDS).logits, expected, rtol=1e-4, atol=1e-4)
        merged = loaded.merge_and_unload()(IDS).logits
        torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)


def test_prompt_tuning_is_refused_by_the_models_own_adapters(tmp_path):
    _, ours = adapted("prompt")
    ours.save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="peft_type is 'PROMPT_TUNING'"):
        pair()[1].load_adapter(tmp_path)


def test_gradient_checkpointing_reaches_the_adapters():
    _, ours = adapted("attention")
    ours.train()
    ours.gradient_checkpointing_enable()
    ours.enable_input_require_grads()
    ours(input_ids=IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None for p in ours.parameters() if p.requires_grad)


def test_transformers_caches_are_appended_to():
    _, model = pair()
    expected = model(IDS).logits
    cache = transformers.DynamicCache()
    for columns in (slice(0, 2), slice(2, 4), slice(4, 5)):
        out = model(IDS[:, columns], past_key_values=cache, use_cache=True)
        torch.testing.assert_close(out.logits, expected[:, columns], rtol=1e-4, atol=1e-4)
        assert out.past_key_values is cache
        assert cache.get_seq_length() == columns.stop
    model(IDS[:, :1], past_key_values=cache, use_cache=False)
    assert cache.get_seq_length() == 5
    prompt = model(IDS[:, :4]).past_key_values.to_tuple()
    cache = transformers.DynamicCache()
    for number, pair_ in enumerate(prompt):
        cache.update(*pair_, number)
    found = model.generate(IDS, past_key_values=cache, **TEXTS)
    torch.testing.assert_close(found, model.generate(IDS, **TEXTS))


def test_caches_of_an_encoder_are_appended_to():
    torch.manual_seed(0)
    model = pt.GPT2LMHeadModel(tiny_config(add_cross_attention=True)).eval()
    encoder = torch.randn(2, 3, TINY["n_embd"])
    expected = model(IDS, encoder_hidden_states=encoder).logits
    cache = transformers.EncoderDecoderCache(
        transformers.DynamicCache(), transformers.DynamicCache()
    )
    model(IDS[:, :3], past_key_values=cache, encoder_hidden_states=encoder)
    found = model(IDS[:, 3:], past_key_values=cache).logits
    torch.testing.assert_close(found, expected[:, 3:], rtol=1e-4, atol=1e-4)
    assert cache.cross_attention_cache.get_seq_length() == 3
    assert not isinstance(cache, KVCache)


@pytest.mark.parametrize("kind", ["SequenceClassification", "TokenClassification"])
def test_a_labelled_adapter_that_was_trained_is_read_by_peft(kind, tmp_path):
    rows, task = (classified(), "classify") if kind[0] == "S" else (tagged(), "tag")
    path, out = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    model = tiny_model(tmp_path / "model", pad_token_id=0)
    options = {"train_file": path, "model_name_or_path": model, "output_dir": str(out)}
    train(task, backend="pt", lora_r=4, max_steps=2, learning_rate=0.1, **options)
    ours = getattr(pt, f"GPT2For{kind}").from_pretrained(out).eval()
    labels = {"id2label": ours.config.id2label, "label2id": ours.config.label2id}
    theirs = getattr(transformers, f"GPT2For{kind}").from_pretrained(model, **labels)
    theirs = peft.PeftModel.from_pretrained(theirs, out).eval()
    assert theirs.peft_config["default"].task_type == {"S": "SEQ_CLS", "T": "TOKEN_CLS"}[kind[0]]
    torch.testing.assert_close(theirs(IDS).logits, ours(IDS).logits, rtol=1e-4, atol=1e-4)
    # What PEFT saves has no config of the model beside it, but as many labels as its head.
    theirs.save_pretrained(tmp_path / "peft")
    assert not (tmp_path / "peft" / "config.json").exists()
    again = getattr(pt, f"GPT2For{kind}").from_pretrained(tmp_path / "peft").eval()
    assert again.config.num_labels == ours.config.num_labels
    torch.testing.assert_close(again(IDS).logits, ours(IDS).logits)
