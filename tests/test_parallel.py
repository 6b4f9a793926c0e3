"""The three backends can be read side by side: the same files, classes, order and stages."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import gpt2x
from structure import body_lines, branches

PACKAGE = Path(gpt2x.__file__).parent
BACKENDS = ("pt", "tf", "flax")
FILES = (
    "model",
    "heads",
    "attention",
    "inputs",
    "activations",
    "cache",
    "ops",
    "engine",
    "generation",
    "outputs",
    "pretrained",
    "inference",
    "lora",
    "training",
    "distribution",
    "fused_loss",
)

# Classes that one or two backends have beside those that all have, with the reason.
BESIDES = {
    ("tf", "model", "MainLayer"): "Keras keeps the body in a layer of its own, as transformers did",
    ("pt", "activations", "Activation"): "hooks of PyTorch hang on modules",
    ("flax", "cache", "LayerCache"): "nothing changes in a call: a block returns its layer",
    ("pt", "outputs", "_Dict"): "what PyTorch's tools see in an output",
    ("tf", "outputs", "_Pytree"): "what TensorFlow sees in an output",
    ("flax", "outputs", "_Replaceable"): "what Flax's users call on an output",
    ("tf", "outputs", "GenerateDecoderOnlyOutput"): "transformers named it by framework",
    ("tf", "outputs", "GenerateBeamDecoderOnlyOutput"): "transformers named it by framework",
    ("flax", "outputs", "GenerateDecoderOnlyOutput"): "transformers named it by framework",
    ("flax", "outputs", "GenerateBeamDecoderOnlyOutput"): "transformers named it by framework",
    ("flax", "outputs", "GeneratedTokens"): "transformers' Flax models return an object",
    ("tf", "engine", "TracedFunctions"): "tf.function keeps its traces",
    ("tf", "engine", "TracedLoop"): "the loop is compiled",
    ("tf", "engine", "TracedEngine"): "steps are compiled one by one",
    ("flax", "lora", "Trained"): "NNX chooses what is trained by a filter",
    ("pt", "training", "_Loss"): "what DDP and FSDP2 wrap is a module",
    ("tf", "training", "_Loss"): "of a device, which needs what the others count",
    ("tf", "training", "_AdamW"): "its factors come from the host, where they have more digits",
    ("flax", "distribution", "Distribution"): "a mesh is kept, the others' libraries keep theirs",
    ("pt", "fused_loss", "_LinearCrossEntropy"): "PyTorch's own gradients are written as a class",
    ("tf", "fused_loss", "_Computed"): "what a forward pass gives is named",
    ("flax", "engine", "CompiledLoop"): "the loop is compiled",
    ("flax", "engine", "CompiledEngine"): "steps are compiled one by one",
}

STAGES = ("_prepare", "_run_blocks", "_finish")
#: Of the class that holds a body's forward, and of the function that calls the stages.
FORWARDS = {
    "pt": ("GPT2Model", "forward"),
    "tf": ("TFGPT2MainLayer", "call"),
    # What `__call__` compiles.
    "flax": ("FlaxGPT2Model", "forward"),
}


def tree(backend: str, file: str) -> ast.Module:
    return ast.parse((PACKAGE / backend / f"{file}.py").read_text("utf-8"))


def plain(name: str) -> str:
    """Return a class's name without the framework's part in it."""
    return re.sub(r"^(_?)(TFGPT2|FlaxGPT2|GPT2|TensorFlow|Torch|Jax|TF|Flax)", r"\1", name)


def classes(backend: str, file: str) -> list[str]:
    """Return the classes of a file in order, without those that stand in BESIDES."""
    found = [
        plain(node.name) for node in tree(backend, file).body if isinstance(node, ast.ClassDef)
    ]
    return [name for name in found if (backend, file, name) not in BESIDES]


def functions(backend: str, file: str) -> dict[str, ast.FunctionDef]:
    nodes = tree(backend, file).body
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}


def methods(backend: str, name: str) -> dict[str, ast.FunctionDef]:
    nodes = tree(backend, "model").body
    (found,) = (node for node in nodes if isinstance(node, ast.ClassDef) and node.name == name)
    return {node.name: node for node in found.body if isinstance(node, ast.FunctionDef)}


def arguments(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in function.args.args if argument.arg != "self"]


def calls(function: ast.FunctionDef) -> list[str]:
    """Return the methods that a function calls on `self`, in order."""
    found = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    own = [f for f in found if isinstance(f, ast.Attribute) and ast.unparse(f.value) == "self"]
    return [f.attr for f in sorted(own, key=lambda f: (f.lineno, f.col_offset))]


@pytest.mark.parametrize("file", FILES)
def test_the_same_classes_stand_in_the_same_order(file: str):
    pt, tf, flax = (classes(backend, file) for backend in BACKENDS)
    assert pt == tf == flax


def test_every_exception_is_needed():
    for backend, file, name in BESIDES:
        found = [n.name for n in tree(backend, file).body if isinstance(n, ast.ClassDef)]
        assert name in map(plain, found), f"{name} is not in {backend}/{file}.py any more"
        alike = [other for other in BACKENDS if (other, file, name) in BESIDES or other == backend]
        assert len(alike) < len(BACKENDS), f"all backends have {name} in {file}.py"


@pytest.mark.parametrize("file", ["attention", "inputs", "inference"])
def test_functions_stand_in_the_same_order(file: str):
    every = [list(functions(backend, file)) for backend in BACKENDS]
    shared = [name for name in every[0] if all(name in names for names in every)]
    assert len(shared) > 4
    for names in every:
        assert [name for name in names if name in shared] == shared


def test_attention_functions_take_the_same_arguments():
    for name in ("eager_attention", "sdpa_attention"):
        found = [functions(backend, "attention")[name].args for backend in BACKENDS]
        assert all([a.arg for a in f.args] == ["query", "key", "value", "mask"] for f in found)
        keywords = [[a.arg for a in f.kwonlyargs if a.arg != "is_causal"] for f in found]
        assert keywords[0] == keywords[1] == keywords[2]
    for name in ("padding_mask", "raise_hidden_rows", "packed_mask"):
        pt, tf, flax = (arguments(functions(backend, "attention")[name]) for backend in BACKENDS)
        assert pt == tf == flax


def test_forwards_have_the_same_stages():
    taken = []
    for backend, (name, forward) in FORWARDS.items():
        found = methods(backend, name)
        assert [call for call in calls(found[forward]) if call in STAGES] == list(STAGES)
        assert [stage for stage in found if stage in STAGES] == list(STAGES)
        taken.append({stage: arguments(found[stage]) for stage in STAGES})
    assert taken[0] == taken[1] == taken[2]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("file", ["model", "heads", "attention", "inputs"])
def test_functions_are_short_and_have_few_branches(backend: str, file: str):
    for node in ast.walk(tree(backend, file)):
        if isinstance(node, ast.FunctionDef):
            assert branches(node) < 15, node.name
            assert body_lines(node) < 60, node.name


def test_blocks_take_the_same_arguments_where_they_have_them():
    """In PyTorch they have transformers' names: scripts call blocks, and put others in."""
    names = {"past_key_values": "cache"}
    for part in ("Attention", "Block"):
        pt = [names.get(a, a) for a in arguments(methods("pt", f"GPT2{part}")["forward"])]
        tf = arguments(methods("tf", f"TFGPT2{part}")["call"])
        flax = arguments(methods("flax", f"FlaxGPT2{part}")["__call__"])
        for other in (tf, flax):
            shared = [a for a in other if a in pt]
            assert shared == [a for a in pt if a in shared]
            assert len(shared) > 4
