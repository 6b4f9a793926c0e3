"""`set_seed` repeats what the framework draws."""

from __future__ import annotations

import pytest

from support.seeding import check_seeding


@pytest.mark.parametrize("is_imported", [False, True])
def test_a_seed_repeats_draws(is_imported: bool):
    check_seeding("tf", "tensorflow as tf", "tf.random.uniform([3]).numpy().tolist()", is_imported)
