"""Counter-based dropout: known bits, the rate, and draws that do not depend on each other."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gpt2x.train import dropout
from support.dropout import mask

SEED = 2**40 + 7


# jax.random.fold_in and jax.random.bernoulli gave them, in JAX 0.10.2.
@pytest.mark.parametrize(
    ("site", "key", "kept"),
    [
        ((0, 0, 1), (0x7FC83870, 0xA22EE794), "101111011111100011111111010101"),
        ((2,), (0x3A740BA8, 0x87BA4B4F), "111010011100100111111001101111"),
        ((2**31,), (0xB6E276FB, 0x81E24B05), "110101101111011011111100101111"),
    ],
)
def test_keys_and_masks_are_known(site, key, kept):
    assert dropout.keys(SEED, [site]).tolist() == [list(key)]
    found = mask((3, 10), 0.3, SEED, site)
    assert "".join(map(str, found.astype(int).ravel())) == kept


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_that_asked_for_in_every_part(rate):
    dropped = ~mask((100, 1000), rate, SEED, (1, 2))
    counts, expected = dropped.sum(axis=1), 1000 * rate
    statistic = ((counts - expected) ** 2 / (expected * (1 - rate))).sum()
    # Chi-square with 100 degrees of freedom is outside of this in one of 1,000 cases.
    assert 57.1 < statistic < 153.2
    assert abs(dropped.mean() - rate) < 4 * (rate * (1 - rate) / dropped.size) ** 0.5


@pytest.mark.parametrize(("rate", "kept"), [(0.0, True), (1.0, False), (1e-9, True)])
def test_extreme_rates_keep_all_or_nothing(rate, kept):
    assert (mask((1000,), rate, SEED, (0,)) == kept).all()


def test_seeds_sites_and_rows_draw_on_their_own():
    draws = [
        mask((2, 4000), 0.5, seed, site).reshape(2, -1)
        for seed in (0, 1, 2**32, 2**63 - 1)
        for site in ((0,), (1,), (0, 0), (0, 1), (2, 0, 1))
    ]
    rows = np.concatenate(draws)
    agreement = np.abs((rows[:, None] == rows).mean(axis=-1) - 0.5)
    np.fill_diagonal(agreement, 0)
    assert agreement.max() < 0.05  # six standard deviations


def test_a_row_has_its_mask_wherever_its_part_begins():
    whole = mask((6, 5, 7), 0.3, SEED, (3, 0, 1))
    np.testing.assert_array_equal(mask((2, 5, 7), 0.3, SEED, (3, 0, 1), first_row=4), whole[4:])
    far = mask((3, 4), 0.3, SEED, (3,), first_row=2**31)
    assert (far != mask((3, 4), 0.3, SEED, (3,))).any()


def test_each_place_of_a_model_has_a_path_of_its_own():
    def adapted(name):
        return SimpleNamespace(lora=SimpleNamespace(dropout=name))

    attention = SimpleNamespace(
        attn_dropout="weights", resid_dropout="out", c_attn=adapted("a"), c_proj=adapted("p")
    )
    plain = SimpleNamespace(lora=None)
    mlp = SimpleNamespace(dropout="mlp", c_fc=plain, c_proj=adapted("m"))
    body = SimpleNamespace(h=[SimpleNamespace(attn=attention, mlp=mlp)] * 2, drop="drop")
    found = [*dropout.sites(SimpleNamespace(transformer=body, dropout="classifier"))]
    assert len({site for site, _ in found}) == len(found) == 2 * 6 + 2
    assert [name for _, name in found[:6]] == ["weights", "out", "a", "p", "mlp", "m"]
    assert found[-2:] == [((2,), "drop"), ((dropout.HEAD,), "classifier")]
    assert found[:-1] == [*dropout.sites(body)]
