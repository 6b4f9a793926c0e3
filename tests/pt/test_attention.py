"""Attention implementations, masks and flags."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from gpt2x import pt
from gpt2x.errors import InvalidInputError
from gpt2x.pt import attention
from support.contract.attention import AttentionContract
from support.positions import MASK, POSITIONS
from support.pt_models import BACKEND, random_ids, tiny_config, tiny_model

FLAGS = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")
PADDED = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])


def both(model: Any, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of eager and of fused attention."""
    logits = []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        logits.append(model(**inputs).logits)
    return logits[0], logits[1]


@pytest.mark.parametrize("values", list(itertools.product([False, True], repeat=3)))
def test_implementations_agree_under_every_flag(values: tuple[bool, ...]):
    """Padding is compared too: a row that attends to nothing real is the same in both."""
    model = tiny_model(**dict(zip(FLAGS, values, strict=True)))
    ids = random_ids(3, 6)
    for mask in (None, PADDED):
        eager, fused = both(model, input_ids=ids, attention_mask=mask)
        torch.testing.assert_close(eager, fused, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("flag", FLAGS[:2])
def test_flags_change_the_result(flag: str):
    """In either implementation; transformers' fused attention ignores them."""
    ids = random_ids(2, 6)
    plain = tiny_model()
    other = tiny_model(**{flag: not getattr(plain.config, flag)})
    other.load_state_dict(plain.state_dict())
    for a, b in zip(both(plain, input_ids=ids), both(other, input_ids=ids), strict=True):
        assert (a - b).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_fully_masked_rows_are_finite(dtype: torch.dtype, implementation: str):
    model = tiny_model().to(dtype)
    model.set_attn_implementation(implementation)
    nothing = torch.zeros(2, 6, dtype=torch.long)
    infinite = torch.full((2, 1, 6, 6), float("-inf"))
    for mask in (nothing, infinite, infinite.to(dtype), torch.zeros(2, 1, 6, 6, dtype=bool)):
        assert model(random_ids(2, 6), attention_mask=mask).logits.isfinite().all()


def test_implementations_agree_on_gradients_through_padding():
    """Labels on padding in front of a text, which a fused kernel could get wrong."""
    model = tiny_model(embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
    ids, gradients = random_ids(3, 6), []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        model(ids, attention_mask=PADDED, labels=ids).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_padding_never_sees_the_future(implementation: str):
    model = tiny_model()
    model.set_attn_implementation(implementation)
    ids = random_ids(1, 6)
    changed = ids.clone()
    changed[0, 4:] = (ids[0, 4:] + 1) % 60
    mask = PADDED[:1]
    a, b = (model(x, attention_mask=mask).logits for x in (ids, changed))
    torch.testing.assert_close(a[:, :4], b[:, :4], rtol=0, atol=0)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_gives_what_it_gives_alone(implementation: str, side: str):
    """With nothing but the mask: positions follow from it, in prefill and in decoding."""
    model = tiny_model()
    model.set_attn_implementation(implementation)
    texts = [random_ids(1, n) for n in (2, 5, 6)]
    padded, mask = torch.full((3, 6), 7), torch.zeros(3, 6, dtype=torch.long)
    for row, text in enumerate(texts):
        place = slice(6 - text.size(1), 6) if side == "left" else slice(0, text.size(1))
        padded[row, place], mask[row, place] = text[0], 1
    batch = model(padded, attention_mask=mask)
    next_ids = random_ids(3, 1)
    longer = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], dim=1)
    after = model(next_ids, attention_mask=longer, past_key_values=batch.past_key_values)
    for row, text in enumerate(texts):
        alone = model(text)
        real = batch.logits[row][mask[row] == 1]
        torch.testing.assert_close(real, alone.logits[0], rtol=1e-5, atol=1e-5)
        step = model(next_ids[row : row + 1], past_key_values=alone.past_key_values)
        torch.testing.assert_close(after.logits[row], step.logits[0], rtol=1e-5, atol=1e-5)


def test_positions_follow_from_the_mask():
    """Also where a cache holds the first columns, whose mask is that of the whole."""
    model = tiny_model()
    ids, mask, positions = random_ids(6, 6), torch.tensor(MASK), torch.tensor(POSITIONS)
    expected = model(ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(model(ids, attention_mask=mask).logits, expected)
    past = model(ids[:, :3], attention_mask=mask[:, :3], position_ids=positions[:, :3])
    rest = model(ids[:, 3:], attention_mask=mask, past_key_values=past.past_key_values).logits
    torch.testing.assert_close(rest, expected[:, 3:], rtol=1e-5, atol=1e-5)


def test_masks_of_rank_4():
    model = tiny_model()
    ids = random_ids(3, 6)
    positions = (PADDED.cumsum(-1) - 1).clamp(min=0)
    expected = model(ids, attention_mask=PADDED).logits
    allowed = torch.ones(6, 6, dtype=bool).tril() & PADDED.bool()[:, None, None, :]
    additive = torch.zeros(3, 1, 6, 6).masked_fill(~allowed, float("-inf"))
    for mask in (allowed, additive, allowed.expand(3, 3, 6, 6), PADDED.bool()[:, None, None]):
        for logits in both(model, input_ids=ids, attention_mask=mask, position_ids=positions):
            for row in range(3):
                real = PADDED[row] == 1
                torch.testing.assert_close(
                    logits[row, real], expected[row, real], rtol=1e-5, atol=1e-5
                )
    # A mask with a row for every query replaces the causal order.
    bidirectional = torch.ones(1, 1, 6, 6, dtype=bool)
    eager, fused = both(model, input_ids=ids, attention_mask=bidirectional)
    torch.testing.assert_close(eager, fused, rtol=1e-5, atol=1e-5)
    assert (eager[:, 0] - model(ids).logits[:, 0]).abs().max() > 1e-3


def test_packed_texts_do_not_see_each_other():
    model = tiny_model()
    first, second = random_ids(1, 3), random_ids(1, 4)
    packed = torch.cat([first, second], dim=1)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        logits = model(packed, position_ids=positions, use_cache=False).logits
        torch.testing.assert_close(logits[:, :3], model(first).logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits[:, 3:], model(second).logits, rtol=1e-5, atol=1e-5)
        # A mask, even one that hides nothing, says that it is one text.
        options = {"position_ids": positions, "attention_mask": torch.ones(1, 7)}
        one_text = model(packed, use_cache=False, **options).logits
        torch.testing.assert_close(one_text, model(packed, position_ids=positions).logits)
        assert (one_text[:, 3:] - logits[:, 3:]).abs().max() > 1e-3


def test_the_config_decides_whether_a_span_finder_sees_packed_texts():
    """It returns no cache, but has one, which says that it is one text."""
    model = tiny_model(pt.GPT2ForQuestionAnswering)
    ids, positions = random_ids(1, 7), torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    one_text = model(ids, position_ids=positions, attention_mask=torch.ones(1, 7)).start_logits
    torch.testing.assert_close(model(ids, position_ids=positions).start_logits, one_text)
    model.config.use_cache = False
    first = model(ids[:, :3]).start_logits
    torch.testing.assert_close(model(ids, position_ids=positions).start_logits[:, :3], first)
    assert (model(ids, position_ids=positions).start_logits - one_text).abs().max() > 1e-3


def test_attentions_under_sdpa_are_computed():
    model = tiny_model()
    ids = random_ids(3, 6)
    output = model(ids, attention_mask=PADDED, output_attentions=True)
    model.set_attn_implementation("eager")
    expected = model(ids, attention_mask=PADDED, output_attentions=True)
    assert len(output.attentions) == 2
    for ours, theirs in zip(output.attentions, expected.attentions, strict=True):
        assert ours.shape == (3, 3, 6, 6)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(ours.sum(-1), torch.ones(3, 3, 6))
        assert (ours.triu(1) == 0).all()
    assert model(ids).attentions is None


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_head_mask_silences_heads(implementation: str):
    model = tiny_model()
    model.set_attn_implementation(implementation)
    ids = random_ids(2, 5)
    mask = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    masked = model(ids, head_mask=mask).logits
    full = mask[:, None, :, None, None].expand(2, 2, 3, 5, 5)
    torch.testing.assert_close(model(ids, head_mask=full).logits, masked)
    with torch.no_grad():  # head 1 of layer 0 writes through these rows of the projection
        model.transformer.h[0].attn.c_proj.weight[8:16] = 0
    torch.testing.assert_close(model(ids).logits, masked, rtol=1e-5, atol=1e-5)
    ones = model(ids, head_mask=torch.ones(3)).logits
    torch.testing.assert_close(ones, model(ids).logits, rtol=1e-5, atol=1e-5)


def test_registered_implementations(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention._REGISTRY, "functions", dict(attention._REGISTRY.functions))
    calls = []

    def half(query, key, value, mask, **options):
        calls.append((query.shape, key.shape, mask is None, sorted(options)))
        return 0.5 * attention.sdpa_attention(query, key, value, mask, **options)

    pt.register_attention("half", half)
    model = pt.GPT2Model(tiny_config(attn_implementation="half")).eval()
    ids = random_ids(2, 4)
    output = model(ids).last_hidden_state
    options = ["dropout", "is_causal", "scaling"]
    assert calls == [((2, 3, 4, 8), (2, 3, 4, 8), True, options)] * 2
    model.set_attn_implementation("sdpa")
    assert (model(ids).last_hidden_state - output).abs().max() > 1e-3
    with pytest.raises(InvalidInputError, match="built-in"):
        pt.register_attention("eager", half)
    with pytest.raises(InvalidInputError, match="Did you mean 'half'"):
        model.set_attn_implementation("halff")


def test_unknown_implementation_is_refused_at_once():
    with pytest.raises(InvalidInputError, match=r"attn_implementation is 'flash_attention_2'"):
        pt.GPT2Model(tiny_config(attn_implementation="flash_attention_2"))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("rate", ["attn_pdrop", "resid_pdrop", "embd_pdrop"])
def test_dropout_acts_in_training_only(implementation: str, rate: str):
    off = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    model = tiny_model(**{**off, rate: 0.5})
    model.set_attn_implementation(implementation)
    ids = random_ids(2, 8)
    torch.testing.assert_close(model(ids).logits, model(ids).logits, rtol=0, atol=0)
    model.train()
    assert (model(ids).logits - model(ids).logits).abs().max() > 1e-3
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trained = model(ids).logits
    torch.testing.assert_close(trained, model.eval()(ids).logits)


class TestAttention(AttentionContract):
    backend = BACKEND
