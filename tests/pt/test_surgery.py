"""What scripts do to a model beyond calling it: hooks, blocks run alone, classes of their own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gpt2x import pt
from gpt2x.config import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.pt.model import Conv1D
from support.pt_models import random_ids, tiny_config, tiny_model

# --- blocks ---


@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_may_be_cut_off(checkpointing: bool):
    # As time-series models do: the config still names all layers.
    outputs = {"output_attentions": True, "output_hidden_states": True}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = tiny_model(pt.GPT2Model, n_layer=4, **outputs, **still)
    model.h = model.h[:2]
    if checkpointing:
        model.train().gradient_checkpointing_enable()
    embeds = torch.randn(2, 5, model.config.n_embd)
    out = model(inputs_embeds=embeds, head_mask=torch.ones(model.config.n_head))
    assert len(out.attentions) == 2
    assert len(out.hidden_states) == 3
    short = tiny_model(pt.GPT2Model, n_layer=2)
    short.load_state_dict(model.state_dict())
    torch.testing.assert_close(out.last_hidden_state, short(inputs_embeds=embeds).last_hidden_state)


@pytest.mark.parametrize("kept", [(0, 1), (0, 2)])
def test_a_model_of_fewer_blocks_generates(kept: tuple[int, ...]):
    model = tiny_model(n_layer=3)
    model.transformer.h = nn.ModuleList(model.transformer.h[i] for i in kept)
    for i, block in enumerate(model.transformer.h):
        block.attn.layer_idx = i
    ids = random_ids(1, 4)
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    cached = model.generate(ids, **options)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **options))
    assert len(model(ids).past_key_values) == 2


def test_scaling_by_layer_follows_layer_idx():
    model = tiny_model(pt.GPT2Model, n_layer=2, scale_attn_by_inverse_layer_idx=True)
    x = torch.randn(1, 3, model.config.n_embd)
    attention = model.h[1].attn
    second = attention(x)[0]
    attention.layer_idx = 0
    first = attention(x)[0]
    assert not torch.allclose(first, second)


def test_blocks_run_alone_with_transformers_arguments():
    model = tiny_model(add_cross_attention=True)
    ids = random_ids(2, 5)
    body = model.transformer
    hidden = body.wte(ids) + body.wpe(torch.arange(5))
    for block in body.h:
        outputs = block(
            hidden, attention_mask=None, head_mask=None, use_cache=False, output_attentions=True
        )
        assert len(outputs) == 2
        torch.testing.assert_close(block(hidden)[0], outputs[0])
        hidden = outputs[0]
    torch.testing.assert_close(model.lm_head(body.ln_f(hidden)), model(ids).logits)

    encoder = torch.randn(2, 3, model.config.n_embd)
    assert len(body.h[0](hidden, encoder_hidden_states=encoder)) == 1
    outputs = body.h[0](hidden, encoder_hidden_states=encoder, output_attentions=True)
    assert [w.shape[-1] for w in outputs[1:]] == [5, 3]


def test_hooks_and_wrappers_may_return_the_hidden_states_alone():
    class Wrapper(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor]:
            return (self.block(*args, **kwargs)[0] + 1,)

    ids = random_ids(2, 5)
    hooked, wrapped = tiny_model(), tiny_model()
    wrapped.load_state_dict(hooked.state_dict())
    hooked.transformer.h[0].register_forward_hook(lambda module, inputs, out: (out[0] + 1,))
    wrapped.transformer.h[0] = Wrapper(wrapped.transformer.h[0])
    torch.testing.assert_close(hooked(ids).logits, wrapped(ids).logits)


def test_attention_may_be_replaced_by_a_module_with_transformers_arguments():
    seen = []

    class Own(nn.Module):
        def forward(
            self,
            hidden_states: Tensor,
            past_key_values: Any = None,
            attention_mask: Tensor | None = None,
            **kwargs: Any,
        ) -> tuple[Tensor, None]:
            seen.append(attention_mask)
            return hidden_states, None

    model = tiny_model()
    model.transformer.h[0].attn = Own()
    mask = torch.tensor([[0, 1, 1, 1]])
    model(random_ids(1, 4), attention_mask=mask, use_cache=False)
    assert seen[0].shape == (1, 1, 4, 4)


def test_activations_take_hooks():
    model, shapes = tiny_model(), []
    act = model.transformer.h[0].mlp.act
    act.register_forward_hook(lambda module, inputs, out: shapes.append(out.shape))
    model(random_ids(2, 5))
    assert shapes == [(2, 5, 4 * model.config.n_embd)]


def test_sizes_have_transformers_names():
    config = tiny_config()
    block = pt.GPT2Model(config).h[1]
    assert (block.attn.embed_dim, block.attn.split_size, block.attn.layer_idx) == (24, 24, 1)
    assert (block.mlp.c_fc.nx, block.mlp.c_fc.nf) == (24, 96)
    assert Conv1D(3, 2).weight.shape == (2, 3)


# --- initialisation ---


class OwnInit(pt.GPT2PreTrainedModel):
    """Decides how its own layer starts; `raw` is not a layer of GPT-2's."""

    def __init__(self, config: GPT2Config, scale: float = 1.0, freeze: int = 0) -> None:
        super().__init__(config)
        self.transformer = pt.GPT2Model(config)
        self.value = nn.Linear(config.n_embd, 1)
        self.raw = nn.Parameter(torch.full((2,), scale))
        self.post_init()
        for block in self.transformer.h[:freeze]:
            block.requires_grad_(False)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is getattr(self, "value", None):
            module.weight.data.fill_(5.0)


def test_a_class_of_ones_own_decides_how_its_layers_start():
    model = OwnInit(tiny_config())
    assert (model.value.weight == 5).all()
    assert not model.value.bias.any()
    assert model.raw.tolist() == [1, 1]


def test_init_weights_of_one_layer_at_a_time():
    model = tiny_model(pt.GPT2Model, n_embd=48, n_layer=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    model.apply(model._init_weights)
    std = model.config.initializer_range
    block = model.h[0]
    assert block.mlp.c_fc.weight.std().item() == pytest.approx(std, rel=0.1)
    assert block.mlp.c_proj.weight.std().item() == pytest.approx(std / math.sqrt(4), rel=0.1)
    assert not block.attn.c_attn.bias.any()
    assert (model.ln_f.weight == 1).all()
    assert not model.ln_f.bias.any()


def test_init_weights_of_named_parameters_leaves_the_others():
    model = tiny_model()
    bias = model.transformer.ln_f.bias.detach().clone().fill_(3)
    model.transformer.ln_f.bias.data.copy_(bias)
    model.transformer.ln_f.weight.data.fill_(3)
    model.init_weights(["transformer.ln_f.weight"])
    assert (model.transformer.ln_f.weight == 1).all()
    assert torch.equal(model.transformer.ln_f.bias, bias)


# --- constructors and configs of one's own ---


class OwnConfig(GPT2Config):
    """A config with a field more."""

    def __init__(self, alpha: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = alpha


class Configured(pt.GPT2LMHeadModel):
    """A model with that config."""

    config_class = OwnConfig


def test_from_pretrained_passes_arguments_to_a_constructor_of_ones_own(tmp_path: Path):
    tiny_model().save_pretrained(tmp_path)
    assert OwnInit.from_pretrained(tmp_path, 2.0).raw.tolist() == [2, 2]
    model = OwnInit.from_pretrained(tmp_path, scale=3.0, freeze=1, use_cache=False)
    assert model.raw.tolist() == [3, 3]
    assert not model.config.use_cache
    frozen = {p.requires_grad for p in model.transformer.h[0].parameters()}
    assert frozen == {False}
    assert all(p.requires_grad for p in model.transformer.h[1].parameters())
    weights = model.transformer.state_dict()
    model = OwnInit.from_pretrained(None, config=model.config, state_dict=weights, scale=4.0)
    assert model.raw.tolist() == [4, 4]
    with pytest.raises(InvalidInputError, match="scal"):
        OwnInit.from_pretrained(tmp_path, scal=3.0)


def test_a_config_class_of_ones_own(tmp_path: Path):
    tiny_model().save_pretrained(tmp_path)
    model = Configured.from_pretrained(tmp_path, alpha=7)
    assert isinstance(model.config, OwnConfig)
    assert model.config.alpha == 7
    assert (
        Configured.from_pretrained(
            tmp_path, config=OwnConfig.from_pretrained(tmp_path)
        ).config.alpha
        == 3
    )
    model.save_pretrained(tmp_path)
    assert Configured.from_pretrained(tmp_path).config.alpha == 7
