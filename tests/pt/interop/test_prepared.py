"""`prepare_inputs_for_generation`, and `generate` of models that override it."""

from __future__ import annotations

import pytest
import torch

from gpt2x import pt
from gpt2x.errors import InvalidInputError
from gpt2x.pt.cache import KVCache
from support.pt_models import random_ids, tiny_model

IDS = torch.tensor([[33, 28, 40, 41], [12, 51, 21, 22]])
MASK = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
MODES = {
    "greedy": {},
    "sample": {"do_sample": True, "seed": 5, "num_return_sequences": 2},
    "beam": {"num_beams": 3, "num_return_sequences": 2},
    "no cache": {"use_cache": False},
}


@pytest.fixture(scope="module")
def model():
    return tiny_model(pt.GPT2LMHeadModel)


@pytest.fixture(scope="module")
def past(model):
    return model(IDS[:, :3], attention_mask=MASK[:, :3]).past_key_values.to_tuple()


def as_lists(inputs):
    return {n: v.tolist() if isinstance(v, torch.Tensor) else v for n, v in inputs.items()}


def test_the_inputs_of_a_prompt_are_those_of_transformers(model):
    # Recorded with transformers 4.57.6.
    inputs = model.prepare_inputs_for_generation(
        IDS[:, :3],
        attention_mask=MASK[:, :3],
        token_type_ids=torch.ones_like(IDS[:, :3]),
        cache_position=torch.arange(3),
        use_cache=True,
        logits_to_keep=1,
        labels=IDS,
    )
    assert as_lists(inputs) == {
        "cache_position": [0, 1, 2],
        "input_ids": [[33, 28, 40], [12, 51, 21]],
        "inputs_embeds": None,
        "position_ids": [[1, 0, 1], [0, 1, 2]],
        "token_type_ids": [[1, 1, 1], [1, 1, 1]],
        "attention_mask": [[0, 1, 1], [1, 1, 1]],
        "use_cache": True,
        "logits_to_keep": 1,
    }
    inputs = model.prepare_inputs_for_generation(IDS)
    assert as_lists(inputs) == {
        "cache_position": None,
        "input_ids": IDS.tolist(),
        "inputs_embeds": None,
    }


@pytest.mark.parametrize("positions", [torch.tensor([3]), None])
@pytest.mark.parametrize("form", ["tuple", "cache"])
def test_the_inputs_of_a_step_are_those_of_transformers(model, past, positions, form):
    cache = past if form == "tuple" else KVCache.from_tuple(past)
    inputs = model.prepare_inputs_for_generation(
        IDS,
        past_key_values=cache,
        attention_mask=MASK,
        token_type_ids=torch.ones_like(IDS),
        cache_position=positions,
    )
    assert inputs.pop("past_key_values") is cache
    assert as_lists(inputs) == {
        "cache_position": [3],
        "input_ids": [[41], [22]],
        "inputs_embeds": None,
        "position_ids": [[2], [3]],
        "token_type_ids": [[1], [1]],
        "attention_mask": MASK.tolist(),
    }
    # What comes back can be run.
    out = model(**inputs, past_key_values=cache)
    expected = model(IDS, attention_mask=MASK, token_type_ids=None).logits[:, -1:]
    assert out.logits.shape == expected.shape


def test_embeddings_stand_for_the_prompt_alone(model, past):
    embeds, none = model.transformer.wte(IDS[:, :3]), IDS[:, :0]
    inputs = model.prepare_inputs_for_generation(
        none, inputs_embeds=embeds, cache_position=torch.arange(3)
    )
    assert inputs["input_ids"] is None
    assert inputs["inputs_embeds"] is embeds
    inputs = model.prepare_inputs_for_generation(
        IDS[:, 3:], past_key_values=past, inputs_embeds=embeds, cache_position=torch.tensor([3])
    )
    assert inputs["input_ids"].tolist() == IDS[:, 3:].tolist()
    assert inputs["inputs_embeds"] is None


class Modern(pt.GPT2LMHeadModel):
    """As an override is written for transformers 4.57."""

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        self.seen.append((input_ids, past_key_values, kwargs))
        return super().prepare_inputs_for_generation(
            input_ids, past_key_values=past_key_values, **kwargs
        )


class Old(pt.GPT2LMHeadModel):
    """As transformers' own was written until 4.40, for tuples."""

    def prepare_inputs_for_generation(
        self, input_ids, past_key_values=None, inputs_embeds=None, **kwargs
    ):
        self.seen.append((input_ids, past_key_values, kwargs))
        token_type_ids = kwargs.get("token_type_ids")
        if past_key_values:
            length = min(past_key_values[0][0].shape[2], input_ids.shape[1] - 1)
            input_ids = input_ids[:, length:]
            if token_type_ids is not None:
                token_type_ids = token_type_ids[:, -input_ids.shape[1] :]
        attention_mask, position_ids = kwargs.get("attention_mask"), kwargs.get("position_ids")
        if attention_mask is not None and position_ids is None:
            position_ids = attention_mask.long().cumsum(-1) - 1
            position_ids.masked_fill_(attention_mask == 0, 1)
            if past_key_values:
                position_ids = position_ids[:, -input_ids.shape[1] :]
        inputs = {"input_ids": input_ids}
        if inputs_embeds is not None and past_key_values is None:
            inputs = {"inputs_embeds": inputs_embeds}
        return inputs | {
            "past_key_values": past_key_values,
            "use_cache": kwargs.get("use_cache"),
            "position_ids": position_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }


def own(kind, model):
    made = kind(model.config).eval()
    made.load_state_dict(model.state_dict())
    made.seen = []
    return made


@pytest.mark.parametrize("kind", [Modern, Old])
@pytest.mark.parametrize("mode", MODES)
def test_an_override_prepares_every_step(model, kind, mode):
    options = {"attention_mask": MASK, "max_new_tokens": 5, "eos_token_id": None, **MODES[mode]}
    made = own(kind, model)
    found = made.generate(IDS, token_type_ids=torch.ones_like(IDS), **options)
    expected = model.generate(IDS, token_type_ids=torch.ones_like(IDS), **options)
    torch.testing.assert_close(found, expected)
    rows = 2 * max(options.get("num_beams", 1), options.get("num_return_sequences", 1))
    assert [tuple(text.shape) for text, _, _ in made.seen] == [(rows, 4 + n) for n in range(5)]
    for step, (_, past, kwargs) in enumerate(made.seen):
        assert kwargs["attention_mask"].shape == kwargs["token_type_ids"].shape == (rows, 4 + step)
        assert kwargs["use_cache"] is (mode != "no cache")
        assert kwargs["logits_to_keep"] == 1
        if mode == "no cache" or step == 0:
            assert past is None
            assert kwargs["cache_position"].tolist() == list(range(4 + step))
        else:
            assert isinstance(past, KVCache)
            assert kwargs["cache_position"].tolist() == [3 + step]


@pytest.mark.parametrize("kind", [Modern, Old])
def test_an_override_gets_embeddings_at_the_first_step(model, kind):
    embeds = model.transformer.wte(IDS).detach()
    for prompt in ({"inputs_embeds": embeds}, {"inputs_embeds": embeds, "input_ids": IDS}):
        options = {"max_new_tokens": 4, "eos_token_id": None, **prompt}
        found = own(kind, model).generate(**options)
        torch.testing.assert_close(found, model.generate(**options))
    one = embeds[:, :1]
    found = own(kind, model).generate(inputs_embeds=one, max_new_tokens=4, eos_token_id=None)
    expected = model.generate(inputs_embeds=one, max_new_tokens=4, eos_token_id=None)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mode", ["greedy", "beam", "sample"])
def test_an_override_goes_on_from_a_past(model, mode):
    options = {"attention_mask": MASK, "max_new_tokens": 4, "eos_token_id": None, **MODES[mode]}
    expected = model.generate(IDS, **options)
    made = own(Modern, model)
    for form in (lambda cache: cache, KVCache.to_tuple):
        cache = form(model(IDS[:, :3], attention_mask=MASK[:, :3]).past_key_values)
        found = made.generate(IDS, past_key_values=cache, **options)
        torch.testing.assert_close(found, expected)
    assert made.seen[0][2]["cache_position"].tolist() == [3]


def test_a_method_set_on_the_model_prepares_and_may_be_taken_back(model):
    made = own(pt.GPT2LMHeadModel, model)
    ours, calls = made.prepare_inputs_for_generation, []

    def prepare(*args, **kwargs):
        calls.append(args)
        return ours(*args, **kwargs)

    options = {"max_new_tokens": 3, "eos_token_id": None}
    made.prepare_inputs_for_generation = prepare
    expected = model.generate(IDS, **options)
    torch.testing.assert_close(made.generate(IDS, **options), expected)
    assert len(calls) == 3
    made.prepare_inputs_for_generation = ours
    torch.testing.assert_close(made.generate(IDS, **options), expected)
    assert len(calls) == 3


def test_an_override_decides_what_is_run(model):
    class Blind(pt.GPT2LMHeadModel):
        def prepare_inputs_for_generation(self, input_ids, seen_tokens=1, **kwargs):
            return {"input_ids": input_ids[:, -seen_tokens:]}

    made = own(Blind, model)
    found = made.generate(IDS, seen_tokens=2, max_new_tokens=3, eos_token_id=None)
    text = IDS
    for _ in range(3):
        text = torch.cat([text, model(text[:, -2:]).logits[:, -1:].argmax(-1)], dim=1)
    torch.testing.assert_close(found, text)
    with pytest.raises(InvalidInputError, match="one token at a time"):
        made.generate(IDS, seen_tokens=2, prompt_lookup_num_tokens=2)
    with pytest.raises(InvalidInputError, match="seen_token'"):
        made.generate(IDS, seen_token=2)
    with pytest.raises(InvalidInputError, match="seen_tokens"):
        model.generate(IDS, seen_tokens=2)


def test_an_override_may_keep_arguments_of_its_own(model):
    class Counting(pt.GPT2LMHeadModel):
        def _update_model_kwargs_for_generation(self, outputs, model_kwargs, **kwargs):
            updated = super()._update_model_kwargs_for_generation(outputs, model_kwargs, **kwargs)
            self.seen.append(outputs.logits.shape)
            return updated

    made = own(Counting, model)
    options = {"max_new_tokens": 3, "eos_token_id": None}
    torch.testing.assert_close(made.generate(IDS, **options), model.generate(IDS, **options))
    assert made.seen == [(2, 1, 61)] * 3


def test_attentions_and_hidden_states_of_an_override(model):
    options = {
        "max_new_tokens": 3,
        "eos_token_id": None,
        "return_dict_in_generate": True,
        "output_attentions": True,
        "output_hidden_states": True,
    }
    found, expected = own(Modern, model).generate(IDS, **options), model.generate(IDS, **options)
    for field in ("attentions", "hidden_states"):
        for step, wanted in zip(found[field], expected[field], strict=True):
            torch.testing.assert_close(step, wanted)
    assert found.past_key_values.length == expected.past_key_values.length


@pytest.mark.parametrize("field", ["attentions", "hidden_states"])
def test_an_override_that_drops_the_options_of_outputs_does_not_decide_on_them(model, field):
    # `Old` passes neither on. transformers 4.57 asks the model for both in any case.
    options = {"max_new_tokens": 3, "eos_token_id": None, "return_dict_in_generate": True}
    options[f"output_{field}"] = True
    found, expected = own(Old, model).generate(IDS, **options), model.generate(IDS, **options)
    assert len(found[field]) == 3
    for step, wanted in zip(found[field], expected[field], strict=True):
        torch.testing.assert_close(step, wanted)


def test_a_past_is_reordered_by_transformers_name(model, past):
    rows = torch.tensor([1, 1, 0])
    for (key, value), (found, _) in zip(past, model._reorder_cache(past, rows), strict=True):
        torch.testing.assert_close(found, key[rows])
        assert value.size(0) == 2
    cache = pt.GPT2LMHeadModel._reorder_cache(KVCache.from_tuple(past), rows)
    torch.testing.assert_close(cache[0][0], past[0][0][rows])


def test_two_heads_prepare_too():
    made = tiny_model(pt.GPT2DoubleHeadsModel)
    calls, ours = [], made.prepare_inputs_for_generation
    options = {"max_new_tokens": 3, "eos_token_id": None}
    ids = random_ids(2, 4)
    expected = made.generate(ids, **options)
    made.prepare_inputs_for_generation = lambda *a, **k: calls.append(k) or ours(*a, **k)
    torch.testing.assert_close(made.generate(ids, **options), expected)
    assert [call.get("logits_to_keep") for call in calls] == [None] * 3
