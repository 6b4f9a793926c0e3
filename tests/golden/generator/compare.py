"""Comparing two folders of golden files: equal, equal up to rounding, or different."""

import json
from pathlib import Path
from typing import Any

import h5py
import msgpack
import numpy as np
import torch
from safetensors import safe_open

TOLERANCE = 1e-5
SUFFIXES = {".json", ".npz", ".safetensors", ".bin", ".h5", ".msgpack", ".txt"}


def compare_folders(first: Path, second: Path) -> tuple[list[str], list[str]]:
    """Compare the generated files of two folders by content.

    Returns:
        The differences (missing files, other values), and the arrays that agree within
        ``TOLERANCE`` only, as another kind of processor may write them.
    """
    differences: list[str] = []
    rounded: list[str] = []
    for name in sorted(_generated(first) | _generated(second)):
        if not (first / name).exists() or not (second / name).exists():
            differences.append(f"{name}: in one folder only")
            continue
        if (first / name).read_bytes() == (second / name).read_bytes():
            continue
        left, right = _contents(first / name), _contents(second / name)
        for key in sorted(left.keys() | right.keys()):
            verdict = _compare(left.get(key), right.get(key))
            if verdict is not None:
                (rounded if verdict == "rounded" else differences).append(f"{name}: {key}")
    return differences, rounded


def _generated(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    return {path.relative_to(folder).as_posix() for path in files}


def _compare(left: Any, right: Any) -> str | None:
    """None if equal, ``rounded`` if floats agree within the tolerance, else ``different``."""
    if not isinstance(left, np.ndarray) or not isinstance(right, np.ndarray):
        return None if left == right else "different"
    if left.shape != right.shape or left.dtype != right.dtype:
        return "different"
    floats = left.dtype.kind == "f"
    if np.array_equal(left, right, equal_nan=floats):
        return None
    close = floats and np.allclose(left, right, TOLERANCE, TOLERANCE, equal_nan=True)
    return "rounded" if close else "different"


def _contents(path: Path) -> dict[str, Any]:
    """Arrays and values by name, without what a format adds of its own (times, checksums)."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {key: arrays[key] for key in arrays.files}
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key).double().numpy() for key in file.keys()}  # noqa: SIM118
            return {**tensors, "metadata": file.metadata()}
    if path.suffix == ".bin":
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {key: value.double().numpy() for key, value in state.items()}
    if path.suffix == ".h5":
        arrays = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: (
                    arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
                )
            )
        return arrays
    if path.suffix == ".msgpack":
        return {"tree": msgpack.unpackb(path.read_bytes(), strict_map_key=False)}
    text = path.read_text(encoding="utf-8")
    return {"value": json.loads(text) if path.suffix == ".json" else text}
