"""Pipelines of TensorFlow models return what transformers 4.57.6 returns, within 1e-4."""

from __future__ import annotations

import pytest

from support.pipelines import FEW, FEW_READING, check_case, check_sampling


@pytest.fixture(scope="module")
def pipelines() -> dict:
    """Pipelines by their tasks, made once."""
    return {}


@pytest.mark.parametrize("name", FEW)
def test_text_generation(name: str, pipelines: dict):
    check_case("text-generation", name, "tf", pipelines)


@pytest.mark.parametrize(("task", "name"), FEW_READING)
def test_reading(task: str, name: str, pipelines: dict):
    check_case(task, name, "tf", pipelines)


def test_sampling_repeats_whatever_the_batch(pipelines: dict):
    check_sampling("tf", pipelines)
