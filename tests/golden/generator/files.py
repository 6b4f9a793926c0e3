"""Writing golden cases: the one place that knows how a group's ``.npz`` file is laid out."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Case:
    """One golden case before it is written; ``tests/support/golden_data.py`` reads it back."""

    settings: dict[str, Any]
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    reference: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)


def write_group(path: Path, cases: dict[str, Case]) -> None:
    """Write a group of cases to ``path``: keys ``case/settings`` and ``case/kind/name``."""
    arrays: dict[str, np.ndarray] = {}
    for name, case in cases.items():
        arrays[f"{name}/settings"] = np.array(json.dumps(case.settings, sort_keys=True))
        for kind in ("inputs", "reference", "outputs"):
            for key, value in getattr(case, kind).items():
                arrays[f"{name}/{kind}/{key}"] = np.asarray(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write ``value`` as ASCII JSON, so that odd characters survive editors and git."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=True, indent=indent) + "\n", encoding="ascii")
