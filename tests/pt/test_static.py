"""`generate` with a cache of a fixed size, compiled or not."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from gpt2x.errors import InvalidInputError
from gpt2x.generation import CompileConfig, GenerationConfig
from gpt2x.pt import static
from support.pt_models import assert_as_close_as, random_ids, tiny_model

EAGER = CompileConfig(fullgraph=True, backend="eager")
COMPILED = {"compile": True, "compile_config": EAGER}
STATIC = {"cache_implementation": "static"}


@pytest.fixture
def counter():
    return CompileCounter()


def small(**fields):
    return tiny_model(n_layer=1, **{"eos_token_id": None, **fields})


def test_prompts_in_every_form():
    model = small(add_cross_attention=True)
    ids, encoded = random_ids(2, 6), torch.randn(2, 4, 24)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    embeds = model.get_input_embeddings()(ids).detach()
    forms = (
        {"inputs": ids, "attention_mask": mask, "token_type_ids": random_ids(2, 6)},
        {"inputs": ids, "position_ids": torch.arange(3, 9)[None]},
        {"inputs": ids, "encoder_hidden_states": encoded, "num_beams": 2, **COMPILED},
        {"inputs_embeds": embeds, "attention_mask": mask},
        {"inputs": ids, "past_key_values": model.prefill(ids[:, :4])},
        {"inputs": ids, "use_cache": False},
    )
    for form in forms:
        expected = model.generate(**form, max_new_tokens=6, disable_compile=True)
        found = model.generate(**form, max_new_tokens=6, **STATIC)
        assert torch.equal(found, expected), [*form]


def test_the_text_may_fill_every_position_and_one_more():
    model = small()
    ids, limit = random_ids(2, 4), model.config.n_positions
    for options in ({}, {"prompt_lookup_num_tokens": 3}, {"num_beams": 2}):
        expected = model.generate(ids, max_length=limit + 1, **options)
        found = model.generate(ids, max_length=limit + 1, **options, **STATIC)
        assert torch.equal(found, expected)


def test_half_precision():
    model, ids = small().to(torch.bfloat16), random_ids(2, 5)
    options = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_logits": True}
    expected = model.generate(ids, **options)
    found = model.generate(ids, **options, **COMPILED)
    assert found.logits[0].dtype == torch.float32
    assert found.past_key_values.keys[0].dtype == torch.bfloat16
    assert_as_close_as(torch.bfloat16, found.logits[1], expected.logits[1])


def test_the_cache_that_is_returned_belongs_to_the_caller():
    model, ids = small(), random_ids(1, 4)
    first = model.generate(ids, max_new_tokens=4, return_dict_in_generate=True, **STATIC)
    kept = first.past_key_values.fork()
    assert kept.length == 7
    model.generate(random_ids(1, 5), max_new_tokens=4, **STATIC)
    assert torch.equal(first.past_key_values[0][0], kept[0][0])
    more = model.generate(
        first.sequences, past_key_values=first.past_key_values, max_new_tokens=4, **STATIC
    )
    assert torch.equal(more, model.generate(ids, max_new_tokens=8))


def test_buffers_are_used_again_and_begin_empty():
    model = small()
    model.generate(random_ids(1, 4), max_new_tokens=4, **STATIC)
    (kept,) = static.steps_of(model, None)._kept
    for buffer in kept.keys + kept.values:
        buffer.fill_(torch.nan)
    ids = random_ids(1, 3)
    expected = model.generate(ids, max_new_tokens=4)
    assert torch.equal(model.generate(ids, max_new_tokens=4, **STATIC), expected)
    (again,) = static.steps_of(model, None)._kept
    assert again.keys[0] is kept.keys[0]
    assert again.user() is None
    # Two contexts have a cache each, and another number of rows takes the place of both.
    model.generate(ids, max_new_tokens=4, guidance_scale=1.5, **STATIC)
    assert len(static.steps_of(model, None)._kept) == 2
    model.generate(random_ids(2, 3), max_new_tokens=4, **STATIC)
    (other,) = static.steps_of(model, None)._kept
    assert other.keys[0].size(0) == 2


def test_streams_that_take_turns_do_not_share_buffers():
    from gpt2x.generation.generate import steps

    model, options = small(), {"max_new_tokens": 5, **STATIC}
    prompts = [random_ids(1, 4), random_ids(1, 4)]
    expected = [model.generate(ids, max_new_tokens=5)[0, 4:].tolist() for ids in prompts]
    streams = [steps(model.generation_host(), kwargs={"inputs": ids, **options}) for ids in prompts]
    found = zip(*streams, strict=True)
    assert [[int(token) for token in row] for row in zip(*found, strict=True)] == expected


def test_weights_may_change():
    model, ids = small(), random_ids(1, 4)
    first = model.generate(ids, max_new_tokens=8, **COMPILED)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    assert not torch.equal(first, model.generate(ids, max_new_tokens=8))
    for change in (lambda: None, lambda: model.load_state_dict(small().state_dict(), assign=True)):
        change()
        expected = model.generate(ids, max_new_tokens=8)
        assert torch.equal(model.generate(ids, max_new_tokens=8, **COMPILED), expected)


def test_a_model_is_copied_pickled_and_forgotten_as_before():
    model, ids = small(), random_ids(1, 4)
    expected = model.generate(ids, max_new_tokens=4, **COMPILED)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.generate(ids, max_new_tokens=4, **STATIC), expected)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    ("options", "compiles"),
    [
        ({"compile": True}, True),
        ({"compile": True, "disable_compile": True}, False),
        ({"compile": True, "disable_compile": True, **STATIC}, False),
        ({"compile": False, **STATIC}, False),
        (STATIC, False),  # on a CPU, as in transformers
        ({}, False),
        # What is returned of every step has the sizes of the text.
        ({"compile": True, "return_dict_in_generate": True, "output_attentions": True}, False),
    ],
)
def test_what_compiles(options, compiles, counter):
    model, ids = small(), random_ids(1, 4)
    config = CompileConfig(backend=counter)
    found = model.generate(ids, max_new_tokens=4, compile_config=config, **options)
    assert counter.frame_count == int(compiles)
    expected = model.generate(ids, max_new_tokens=4)
    assert torch.equal(getattr(found, "sequences", found), expected)


def test_the_flag_of_transformers_compiles_on_a_cpu_too(counter):
    config = CompileConfig(backend=counter)
    config._compile_all_devices = True
    settings = GenerationConfig(compile_config=config, max_new_tokens=4, **STATIC)
    model, ids = small(), random_ids(1, 4)
    for _ in range(2):
        model.generate(ids, settings)
    assert counter.frame_count == 1
    settings.compile_config.fullgraph = True
    model.generate(ids, settings)
    assert counter.frame_count == 2  # for another config


def test_parts_of_a_batch_share_one_compilation(counter):
    model, ids = small(), random_ids(5, 4)
    options = {"max_new_tokens": 4, "do_sample": True, "seed": 2}
    compiled = {"compile": True, "compile_config": CompileConfig(backend=counter)}
    found = model.generate(ids, batch_size=2, **options, **compiled)
    assert counter.frame_count == 1
    assert torch.equal(found, model.generate(ids, **options))


def test_compile_is_a_flag():
    with pytest.raises(InvalidInputError, match="compile must be True, False or None; got 'yes'"):
        small().generate(random_ids(1, 4), compile="yes")


def test_a_forward_that_users_compile_is_compiled_once_for_all_steps(counter):
    model, ids = small(), random_ids(1, 4)
    expected = model.generate(ids, max_new_tokens=8)
    model.forward = torch.compile(model.forward, backend=counter, fullgraph=True, dynamic=False)
    assert torch.equal(model.generate(ids, max_new_tokens=8, **STATIC), expected)
    assert counter.frame_count == 2  # the prompt, and one step
    assert torch.equal(model.generate(ids, max_new_tokens=5, **STATIC), expected[:, :9])
    assert counter.frame_count == 2


def test_a_backend_that_makes_graphs_without_writes_in_place():
    """As inductor is given them, which takes too long here: it compiles C++."""
    model, ids = small(), random_ids(2, 4)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    options = {"attention_mask": mask, "max_new_tokens": 10}
    expected = model.generate(ids, **options)
    config = CompileConfig(fullgraph=True, backend="aot_eager")
    found = model.generate(ids, compile=True, compile_config=config, **options)
    assert torch.equal(found, expected)
