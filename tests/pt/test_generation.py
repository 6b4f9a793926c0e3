"""`generate` in PyTorch: golden texts, prompts and caches in every form, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpt2x import pt
from gpt2x.errors import InvalidInputError
from gpt2x.generation import (
    GenerateBeamDecoderOnlyOutput,
    GenerateDecoderOnlyOutput,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
)
from gpt2x.pt.cache import KVCache
from support.contract.streaming import StreamingContract
from support.golden_data import case_names, load_case
from support.pt_models import BACKEND, golden_model, random_ids, tensors, tiny_model
from support.recorder import Recorder

GROUPS = (
    "plain/greedy",
    "untied/greedy",
    "plain/processors",
    "plain/beams",
    "untied/beams",
    "plain/beam_endings",
    "plain/watermark",
    "plain/synthid",
    "plain/group_beams",
    "plain/constrained_beams",
    "plain/guidance",
)
MODES = {
    "greedy": {},
    "sample": {"do_sample": True, "seed": 5, "top_k": 20, "top_p": 0.95},
    "sample_all": {"do_sample": True, "seed": 5, "top_k": 0, "temperature": 0.8},
    "beam": {"num_beams": 3},
    "beam_sample": {"num_beams": 2, "do_sample": True, "seed": 5, "top_p": 0.9},
    "group_beam": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "constrained_beam": {"num_beams": 3, "force_words_ids": [[7, 8], [[9, 5], [9, 6, 4]]]},
}


@pytest.mark.parametrize("name", [name for group in GROUPS for name in case_names(group)])
def test_texts_match_transformers(name):
    case = load_case(name)
    model = golden_model(case, attn_implementation="eager")
    output = model.generate(
        **tensors(case.inputs),
        **case.settings["generate"],
        return_dict_in_generate=True,
        output_scores=True,
        output_logits="logits" in case.outputs,
    )
    for field, expected in case.outputs.items():
        if field.startswith("transition_scores"):
            found = model.compute_transition_scores(
                output.sequences,
                output.scores,
                output.get("beam_indices"),
                normalize_logits=field.endswith("normalized"),
            )
        else:
            found = output[field]
        found = torch.stack(found) if isinstance(found, tuple) else found
        if found.is_floating_point():
            # transformers' own scores lie up to 2.4e-5 from those computed in float64, ours 1.6e-5.
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=4e-5)
        else:
            np.testing.assert_array_equal(found.numpy(), expected, err_msg=field)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_row_in_a_padded_batch_is_what_it_is_alone(mode, implementation):
    model = tiny_model(attn_implementation=implementation)
    ids, mask = random_ids(3, 6), torch.ones(3, 6, dtype=torch.int64)
    mask[0, :3], mask[1, :5] = 0, 0
    options = {"max_new_tokens": 8, **MODES[mode]}
    together = model.generate(ids, attention_mask=mask, **options)
    for row in range(3):
        if options.get("do_sample"):
            beams = options.get("num_beams", 1)
            options["seed"] = [(5, row * beams + beam) for beam in range(beams)]
        alone = model.generate(ids[row : row + 1, mask[row].bool()], **options)
        length = alone.size(1) - int(mask[row].sum())
        assert together[row, 6 : 6 + length].tolist() == alone[0, -length:].tolist()


@pytest.mark.parametrize("mode", MODES)
def test_padding_on_the_right_is_moved_to_the_left(mode):
    model, ids = tiny_model(), random_ids(2, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    columns = torch.tensor([[0, 1, 2, 3, 4, 5], [3, 4, 5, 0, 1, 2]])
    types = random_ids(2, 6)
    options = {**MODES[mode], "max_new_tokens": 6, "no_repeat_ngram_size": 3}
    right, left = (
        model.generate(
            ids.gather(1, order),
            attention_mask=mask.gather(1, order),
            token_type_ids=types.gather(1, order),
            **options,
        )
        for order in (torch.arange(6).expand(2, 6), columns)
    )
    assert right.tolist() == left.tolist()
    assert torch.equal(right[:, :6], ids.gather(1, columns))


@pytest.mark.parametrize("mode", MODES)
def test_without_cache_the_texts_are_the_same(mode):
    model = tiny_model()
    ids, mask = random_ids(2, 5), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    options = {"attention_mask": mask, "max_new_tokens": 7, **MODES[mode]}
    cached = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, use_cache=False, **options), cached)


def test_a_text_may_fill_every_position_and_one_more():
    model = tiny_model()
    limit = model.config.n_positions
    ids = random_ids(1, 3)
    full = model.generate(ids, max_length=limit + 1, eos_token_id=None)
    assert full.shape == (1, limit + 1)
    with torch.no_grad():
        expected = model(full[:, :-1]).logits[:, 2:].argmax(-1)
    assert torch.equal(full[:, 3:], expected)
    with pytest.raises(InvalidInputError, match="at most 33"):
        model.generate(ids, max_length=limit + 2)
    with pytest.raises(InvalidInputError, match="has 33 tokens"):
        model.generate(random_ids(1, limit + 1))


@pytest.mark.parametrize("form", [tuple, KVCache])
def test_a_cache_goes_on_where_it_ends(form):
    model = tiny_model()
    ids = random_ids(2, 9)
    with torch.no_grad():
        past = model(ids[:, :6], use_cache=True).past_key_values
    past = past.to_tuple() if form is tuple else past
    expected = model.generate(ids, max_new_tokens=5)
    assert torch.equal(model.generate(ids, past_key_values=past, max_new_tokens=5), expected)


def test_the_cache_that_generate_returns_can_be_continued():
    model = tiny_model(eos_token_id=None)
    ids = random_ids(1, 4)
    first = model.generate(ids, max_new_tokens=4, return_dict_in_generate=True)
    assert first.past_key_values.length == 7  # the last token has not been run
    second = model.generate(
        first.sequences, past_key_values=first.past_key_values, max_new_tokens=4
    )
    assert torch.equal(second, model.generate(ids, max_new_tokens=8))
    with pytest.raises(InvalidInputError, match="past_key_values hold"):
        model.generate(ids, past_key_values=first.past_key_values, max_new_tokens=2)


@pytest.mark.parametrize("mode", ["greedy", "sample", "beam"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_embeddings_can_be_the_prompt(mode, use_cache):
    model = tiny_model()
    ids = random_ids(2, 5)
    embeds = model.get_input_embeddings()(ids).detach()
    options = {"max_new_tokens": 6, "use_cache": use_cache, **MODES[mode]}
    expected = model.generate(ids, **options)
    new_only = model.generate(inputs_embeds=embeds, **options)
    assert torch.equal(new_only, expected[:, 5:])
    assert torch.equal(model.generate(ids, inputs_embeds=embeds, **options), expected)
    total = model.generate(inputs_embeds=embeds, max_length=8, eos_token_id=None)
    assert total.shape == (2, 3)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    expected = model.generate(ids, attention_mask=mask, **options)
    new_only = model.generate(inputs_embeds=embeds, attention_mask=mask, **options)
    assert torch.equal(new_only, expected[:, 5:])
    both = model.generate(ids, inputs_embeds=embeds, attention_mask=mask, **options)
    assert torch.equal(both, expected)


def test_token_types_positions_and_masks_grow_with_the_text():
    model = tiny_model(eos_token_id=None)
    ids, types = random_ids(2, 4), random_ids(2, 4)
    positions = torch.tensor([[2, 3, 4, 5], [0, 1, 2, 3]])
    text = model.generate(
        ids, token_type_ids=types, position_ids=positions, max_new_tokens=3, num_beams=1
    )
    later = torch.arange(1, 3)
    with torch.no_grad():
        logits = model(
            text[:, :-1],
            token_type_ids=torch.cat([types, types[:, -1:].expand(-1, 2)], dim=1),
            position_ids=torch.cat([positions, positions[:, -1:] + later], dim=1),
        ).logits
    assert torch.equal(text[:, 4:], logits[:, 3:].argmax(-1))


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"use_cache": False}])
def test_cross_attention_follows_each_row(options):
    model = tiny_model(add_cross_attention=True)
    ids, encoded = random_ids(2, 3), torch.randn(2, 5, 24)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    options = {"max_new_tokens": 6, **options}
    together = model.generate(
        ids, encoder_hidden_states=encoded, encoder_attention_mask=mask, **options
    )
    for row in range(2):
        alone = model.generate(
            ids[row : row + 1],
            encoder_hidden_states=encoded[row : row + 1, : int(mask[row].sum())],
            **options,
        )
        assert together[row, : alone.size(1)].tolist() == alone[0].tolist()


@pytest.mark.parametrize(
    ("options", "rows"), [({}, 2), ({"num_beams": 3}, 6), ({"use_cache": False}, 2)]
)
def test_attentions_and_hidden_states_come_with_every_step(options, rows):
    model = tiny_model(eos_token_id=None)
    output = model.generate(
        random_ids(2, 4),
        max_new_tokens=3,
        return_dict_in_generate=True,
        output_attentions=True,
        output_hidden_states=True,
        output_scores=True,
        **options,
    )
    is_beam = "num_beams" in options
    kind = GenerateBeamDecoderOnlyOutput if is_beam else GenerateDecoderOnlyOutput
    assert type(output) is kind
    assert len(output.attentions) == len(output.hidden_states) == len(output.scores) == 3
    cached = options.get("use_cache", True)
    for step in range(3):
        queries = 4 if step == 0 else 1 if cached else 4 + step
        shape = (rows, 3, queries, 4 + step)
        assert [layer.shape for layer in output.attentions[step]] == [shape] * 2
        assert [layer.shape for layer in output.hidden_states[step]] == [(rows, queries, 24)] * 3
    assert (output.past_key_values is not None) == cached
    assert "past_key_values" not in output if not cached else output.past_key_values.length == 6


def test_double_heads_generate_too():
    model = tiny_model(pt.GPT2DoubleHeadsModel)
    alone = tiny_model()
    alone.load_state_dict(model.state_dict(), strict=False)
    ids = random_ids(2, 4)
    assert torch.equal(model.generate(ids, num_beams=2), alone.generate(ids, num_beams=2))


def test_seeds_and_the_global_generator():
    model = tiny_model()
    ids = random_ids(4, 3)

    def sample(**options):
        return model.generate(ids, do_sample=True, max_new_tokens=8, **options)

    assert torch.equal(sample(seed=1), sample(seed=1))
    assert not torch.equal(sample(seed=1), sample(seed=2))
    torch.manual_seed(0)
    first = sample()
    second = sample()
    torch.manual_seed(0)
    assert torch.equal(sample(), first)
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    model.generate(ids)
    sample(seed=3)
    assert torch.equal(torch.get_rng_state(), state)  # only unseeded sampling draws from it


def test_users_processors_and_criteria_are_called_as_in_transformers():
    model = tiny_model(eos_token_id=None)
    calls = []

    class OnlySeven(LogitsProcessor):
        def __call__(self, input_ids, scores):
            calls.append((tuple(input_ids.shape), input_ids.dtype, scores.dtype))
            scores = torch.full_like(scores, -torch.inf)
            scores[:, 7] = 0
            return scores

    class AtSix(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((input_ids.shape[0],), input_ids.shape[1] >= 6)

    ids = random_ids(2, 4)
    text = model.generate(
        ids,
        logits_processor=LogitsProcessorList([OnlySeven()]),
        stopping_criteria=StoppingCriteriaList([AtSix()]),
    )
    assert text[:, 4:].tolist() == [[7, 7], [7, 7]]
    assert calls == [((2, 4), torch.int64, torch.float32), ((2, 5), torch.int64, torch.float32)]


def test_prefixes_can_be_constrained():
    model = tiny_model(eos_token_id=None)
    ids = random_ids(2, 3)
    text = model.generate(
        ids,
        prefix_allowed_tokens_fn=lambda prompt, tokens: [10 + prompt, int(tokens[-1])],
        max_new_tokens=4,
        num_beams=2,
    )
    for row in range(2):
        assert set(text[row, 3:].tolist()) <= {10 + row, int(ids[row, -1])}


def test_tokens_are_streamed_as_they_are_chosen():
    model = tiny_model(eos_token_id=None)
    log = []
    run = model.forward

    def counting(*args, **kwargs):
        log.append("step")
        return run(*args, **kwargs)

    model.forward = counting
    model.forward.__signature__ = __import__("inspect").signature(run)
    ids = random_ids(1, 3)
    text = model.generate(ids, max_new_tokens=4, streamer=lambda tokens: log.append(tokens[0]))
    new = text[0, 3:].tolist()
    assert log == ["step", new[0], "step", new[1], "step", new[2], "step", new[3]]


class TestStreaming(StreamingContract):
    backend = BACKEND


def test_a_streamer_gets_tensors_on_the_cpu():
    streamer = Recorder()
    text = tiny_model(eos_token_id=None).generate(
        random_ids(1, 3), max_new_tokens=2, streamer=streamer
    )
    assert [value.shape for value in streamer.values] == [(1, 3), (1,), (1,)]
    for value in streamer.values:
        assert isinstance(value, torch.Tensor)
        assert (value.dtype, value.device.type) == (torch.int64, "cpu")
    assert np.concatenate([np.ravel(v) for v in streamer.values]).tolist() == text[0].tolist()


def test_a_text_streamer_prints(capsys):
    class Tokenizer:
        def decode(self, ids, **options):
            return "".join(f"{token} " for token in ids)

    model = tiny_model(eos_token_id=None)
    ids = random_ids(1, 3)
    text = model.generate(ids, max_new_tokens=4, streamer=TextStreamer(Tokenizer()))
    assert capsys.readouterr().out.split() == [str(token) for token in text[0].tolist()]
    with pytest.raises(InvalidInputError, match="Beam search cannot be streamed"):
        model.generate(ids, num_beams=2, streamer=TextStreamer(Tokenizer()))


def test_an_empty_prompt_starts_from_bos():
    model = tiny_model()
    text = model.generate(max_new_tokens=3)
    assert text[0, 0] == 60
    assert torch.equal(model.generate(torch.empty(1, 0, dtype=torch.int64), max_new_tokens=3), text)


def test_padding_is_recognised_without_a_mask():
    model = tiny_model()
    ids = torch.tensor([[59, 59, 3, 4], [5, 6, 7, 8]])
    options = {"pad_token_id": 59, "max_new_tokens": 5}
    expected = model.generate(ids, attention_mask=(ids != 59).long(), **options)
    assert torch.equal(model.generate(ids, **options), expected)
    # A mask decides alone: a pad id that it calls text is text.
    as_text = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(as_text[:, 4:], model.generate(ids, max_new_tokens=5)[:, 4:])


def test_options_of_the_model_the_config_and_the_call_are_merged():
    model = tiny_model(eos_token_id=None)
    model.generation_config.max_new_tokens = 3
    ids = random_ids(1, 4)
    assert model.generate(ids).shape == (1, 7)
    assert model.generate(ids, generation_config=GenerationConfig(max_new_tokens=2)).shape == (1, 6)
    config = GenerationConfig(max_length=20)
    assert model.generate(ids, generation_config=config, max_new_tokens=None).shape == (1, 20)
    assert model.generation_config.max_new_tokens == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", MODES)
def test_half_precision(dtype, mode):
    model = tiny_model().to(dtype)
    text = model.generate(
        random_ids(2, 4),
        attention_mask=torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
        max_new_tokens=6,
        output_scores=True,
        return_dict_in_generate=True,
        **MODES[mode],
    )
    assert text.scores[0].dtype == torch.float32
    assert text.sequences.dtype == torch.int64
    assert not text.scores[0].isnan().any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 0.5}, "'temprature'. Did you mean 'temperature'"),
        ({"attention_masks": 1}, "Did you mean 'attention_mask'"),
        ({"start_positions": 1}, "unknown argument 'start_positions'"),
        ({"input_ids": torch.tensor([[1]])}, "as inputs or as input_ids, not as both"),
        ({"attention_mask": torch.ones(2, 3)}, r"attention_mask has shape \[2, 3\]"),
        ({"attention_mask": torch.ones(1, 1, 4, 4)}, "attention_mask has shape"),
        ({"attention_mask": torch.zeros(1, 4)}, "all of prompt 0 as padding"),
        ({"assistant_model": object()}, "language-model head"),
        ({"num_beams": 2, "num_beam_groups": 2}, "diversity_penalty is 0"),
        ({"max_length": 4}, "no room for a new one"),
        ({"do_sample": True, "seed": -1}, "seed"),
        ({"do_sample": True, "temperature": 0.0}, "`temperature` must be a number above 0"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_model_runs(options, message):
    model = tiny_model()
    model.transformer.forward = None  # would fail if it were called
    with pytest.raises(InvalidInputError, match=message):
        model.generate(torch.tensor([[1, 2, 3, 4]]), **options)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (torch.tensor([1, 2]), "of shape"),
        ([[1, 2]], "must be a tensor"),
        (torch.tensor([[1, 61]]), "input_ids holds 61"),
        (torch.tensor([[1, -1]]), "input_ids holds -1"),
        (torch.tensor([[1.0, 2.0]]), "must be integers"),
    ],
)
def test_prompts_that_are_no_token_ids_are_refused(prompt, message):
    with pytest.raises(InvalidInputError, match=message):
        tiny_model().generate(prompt)


@pytest.mark.parametrize("given", [{"logits_to_keep": 1}, {"eos_token_id": -1, "pad_token_id": -1}])
def test_labels_logits_to_keep_and_negative_special_tokens_change_nothing(given):
    model, ids = tiny_model(eos_token_id=None), random_ids(3, 5)
    expected = model.generate(ids, max_new_tokens=3)
    assert torch.equal(model.generate(ids, max_new_tokens=3, labels=ids, **given), expected)
