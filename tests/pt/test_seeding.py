"""`set_seed` repeats what the framework draws."""

from __future__ import annotations

import pytest

from support.seeding import check_seeding


@pytest.mark.parametrize("is_imported", [False, True])
def test_a_seed_repeats_draws(is_imported: bool):
    check_seeding("pt", "torch", "torch.rand(3).tolist()", is_imported)
