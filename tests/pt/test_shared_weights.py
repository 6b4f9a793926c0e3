"""Weights in a file whose pages processes share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from gpt2x.pt.shared_weights import share


def tensors() -> list[torch.Tensor]:
    """Return tensors of several dtypes and sizes, one of them a parameter."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(5, 7, generator=generator)
    return [torch.nn.Parameter(drawn), drawn[0].bfloat16(), torch.empty(0), torch.arange(3)]


def file_of(tensor: torch.Tensor) -> str:
    """Return what is mapped where a tensor's values are."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, _, end = line.split()[0].partition("-")
        if int(start, 16) <= tensor.data_ptr() < int(end, 16):
            return line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) > 5 else ""
    raise AssertionError("it is mapped somewhere")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is mapped")
def test_values_lie_in_the_file_and_stay_those_of_their_owner(tmp_path):
    path = tmp_path / "weights"
    expected, first, second = tensors(), tensors(), tensors()
    share(first, path)
    before = path.read_bytes()
    share(second, path)
    for shared in (first, second):
        for tensor, values in zip(shared, expected, strict=True):
            assert torch.equal(tensor, values)
            assert tensor.numel() == 0 or file_of(tensor) == str(path)
            assert tensor.data_ptr() % 64 == 0
    assert isinstance(first[0], torch.nn.Parameter)
    with torch.no_grad():
        first[0].fill_(1)
    assert torch.equal(second[0], expected[0])
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["weights"]


def test_nothing_is_written_for_no_values(tmp_path):
    share([torch.empty(0)], tmp_path / "weights")
    assert list(tmp_path.iterdir()) == []
