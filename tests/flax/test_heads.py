"""The task heads in Flax, held to what every backend does."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from gpt2x.errors import InvalidInputError
from gpt2x.flax import FlaxGPT2DoubleHeadsModel, FlaxGPT2ForTokenClassification
from support.contract.heads import HeadsContract
from support.flax_models import BACKEND, random_ids, tiny_model

WITHOUT_DROPOUT = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)


class TestHeads(HeadsContract):
    backend = BACKEND


@pytest.mark.parametrize(
    ("kind", "field", "shape", "output"),
    [
        (FlaxGPT2ForTokenClassification, "classifier_dropout", (2, 5), "logits"),
        (FlaxGPT2DoubleHeadsModel, "summary_first_dropout", (2, 3, 5), "mc_logits"),
    ],
)
def test_the_dropout_of_a_head_alone_needs_a_key(kind, field, shape, output):
    ids = random_ids(*shape)
    model = tiny_model(kind, **WITHOUT_DROPOUT, **{field: 0.5})
    with pytest.raises(InvalidInputError, match=f"dropout_rng=.* set the config's {field} to 0"):
        model(ids, train=True)
    dropped = model(ids, dropout_rng=jax.random.PRNGKey(0), train=True)
    assert np.abs(dropped[output] - model(ids)[output]).max() > 1e-3
    silent = tiny_model(kind, **WITHOUT_DROPOUT, **{field: 0.0})
    np.testing.assert_array_equal(silent(ids, train=True)[output], silent(ids)[output])
