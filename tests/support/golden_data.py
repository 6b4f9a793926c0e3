"""Read the golden cases of ``tests/golden``: inputs, settings and the outputs to expect.

A case is named ``folder/group/case``. ``folder`` holds a model (``config.json`` and
``model.safetensors``), ``group`` is a ``.npz`` file in it, and ``case`` one entry of that file::

    >>> case = load_case("plain/forward/left_padded")
    >>> sorted(case.inputs)
    ['attention_mask', 'input_ids']
    >>> case.outputs["logits"].shape
    (3, 8, 97)

``tests/golden/README.md`` lists the groups and the names of their arrays.
"""

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"
# Checkpoints of other projects, made by the script beside them, all of the model in `SOURCE`.
FILES = Path(__file__).parents[1] / "formats" / "files"
SOURCE = FILES / "source"


@dataclass(frozen=True)
class GoldenCase:
    """One call of a reference model, or of a reference logits processor.

    Attributes:
        name: ``folder/group/case``.
        folder: where the config and the weights lie.
        config: the folder's ``config.json`` with the case's own changes applied. Make the model
            from this: cases that differ by a flag share one file of weights.
        settings: arguments that are not arrays. ``class`` is the name of transformers' PyTorch
            class, ``config`` the changes to the config, ``call`` or ``generate`` keyword
            arguments of the call.
        inputs: arrays to call the model with.
        reference: arrays that transformers was given and gpt2x works out for itself.
        outputs: arrays to expect.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    settings: dict[str, Any]
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    reference: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)


def load_case(name: str) -> GoldenCase:
    """Load one case by its full name; KeyError names the cases there are."""
    folder, group, case = name.split("/")
    cases = _load_group(folder, group)
    if case not in cases:
        raise KeyError(f"no golden case {name!r}; {folder}/{group} has {', '.join(cases)}")
    return cases[case]


def case_names(folder_and_group: str) -> list[str]:
    """Full names of the cases of one group, such as ``plain/forward``, in the order written."""
    folder, group = folder_and_group.split("/")
    return [case.name for case in _load_group(folder, group).values()]


def load_json(path: str) -> Any:
    """Parse one JSON file of the golden folder, such as ``tokenizer/encode.json``."""
    return json.loads((GOLDEN / path).read_text(encoding="utf-8"))


@functools.cache
def _load_group(folder: str, group: str) -> dict[str, GoldenCase]:
    path = GOLDEN / folder
    config_file = path / "config.json"
    base = json.loads(config_file.read_text(encoding="utf-8")) if config_file.exists() else {}
    cases: dict[str, GoldenCase] = {}
    with np.load(path / f"{group}.npz", allow_pickle=False) as arrays:
        for key in arrays.files:
            case_name, kind, *rest = key.split("/")
            if kind == "settings":
                settings = json.loads(arrays[key].item())
                cases[case_name] = GoldenCase(
                    name=f"{folder}/{group}/{case_name}",
                    folder=path,
                    config={**base, **settings.get("config", {})},
                    settings=settings,
                )
                continue
            array = arrays[key]
            array.flags.writeable = False  # shared by every test that loads the case
            getattr(cases[case_name], kind)["/".join(rest)] = array
    return cases
