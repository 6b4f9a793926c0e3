"""What the stages of the three forwards share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gpt2x import GPT2Config
from gpt2x.errors import InvalidInputError
from gpt2x.models import stages


def test_the_config_decides_what_is_not_said():
    config = GPT2Config(use_cache=False, output_attentions=True)
    options = {"use_cache": True, "output_attentions": None, "output_hidden_states": None}
    assert stages.asked(config, **options) == [True, True, False]
    assert stages.asked(config, use_cache=None, output_attentions=False) == [False, False]


@pytest.mark.parametrize("past", [(), [], {}])
def test_empty_pasts(past: object):
    assert stages.is_empty(past)


def test_a_cache_without_tokens_is_not_an_empty_past():
    assert not stages.is_empty(((1, 2),))
    assert not stages.is_empty(SimpleNamespace(length=0))


def test_caches_have_a_layer_for_each_of_the_models():
    stages.check_layers([1, 2], 2)
    with pytest.raises(InvalidInputError, match="has 1 layers; this model has 2"):
        stages.check_layers([1], 2)


def test_an_encoder_is_given_or_has_been_seen():
    seen, unseen = SimpleNamespace(cross=lambda _: (1, 2)), SimpleNamespace(cross=lambda _: None)
    assert stages.attends_to_encoder(object(), None)
    assert stages.attends_to_encoder(None, seen)
    assert not stages.attends_to_encoder(None, unseen)
    assert not stages.attends_to_encoder(None, None)
