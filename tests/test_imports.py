"""The dependency rule: a folder uses what stands below it, and a framework its own backend."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpt2x
from gpt2x import backends
from structure import cycles, imports, module_imports

PACKAGE = Path(gpt2x.__file__).parent

# The architecture: each folder, or module, uses only what stands on a lower line. Imports inside
# functions count; what is imported for type checks alone does not.
LINES = """
__main__
cli publishing integrations
serve
pipelines evaluation
pt tf flax
train batching
generation
models
checkpoint
tokenization
config
formats
weights
storage
corpus
backends unavailable data
errors
"""
PLACE = {name: number for number, line in enumerate(LINES.split("\n")) for name in line.split()}

FRAMEWORKS = {
    "pt": {"torch"},
    "tf": {"tensorflow", "keras"},
    "flax": {"jax", "jaxlib", "flax", "optax", "orbax"},
}
EVERY_FRAMEWORK = set().union(*FRAMEWORKS.values())
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
PUBLIC = {**gpt2x._CORE_NAMES, **{n: f"gpt2x.{b}" for n, b in gpt2x._BACKEND_NAMES.items()}}

# Stops the import of the modules named in sys.argv[1:].
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run(code: str, *blocked: str) -> str:
    """Return what `code` prints in a fresh interpreter that cannot import the modules `blocked`."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER + code, *blocked], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules that `code` loads in a fresh interpreter."""
    output = run(f"{code}\nprint('loaded', *{{name.partition('.')[0] for name in sys.modules}})")
    return set(output.splitlines()[-1].split()[1:])


def test_imports_are_found_where_they_hide():
    source = """
import os.path
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import torch
else:
    import json
def f():
    try:
        from ..errors import InvalidInputError
        import jax.numpy as jnp
    except ImportError:
        from . import tf
"""
    assert set(imports(ast.parse(source), ["gpt2x", "cli"])) == {
        "os.path",
        "typing.TYPE_CHECKING",
        "json",
        "gpt2x.errors.InvalidInputError",
        "jax.numpy",
        "gpt2x.cli.tf",
    }


def names_imported(path: Path) -> list[list[str]]:
    """The names that a module imports, in their parts; public ones by the module that has them."""
    names = imports(ast.parse((PACKAGE / path).read_text("utf-8")), ["gpt2x", *path.parent.parts])
    return [PUBLIC.get(n.removeprefix("gpt2x."), n).split(".") for n in names]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_imports_no_framework_but_that_of_its_backend(path):
    allowed = FRAMEWORKS.get(path.parts[0], set())
    if path == Path("backends.py"):
        allowed = EVERY_FRAMEWORK
    imported = names_imported(path)
    assert {names[0] for names in imported} & EVERY_FRAMEWORK <= allowed
    # Other backends are imported on demand, by `backends.load`.
    used = {names[1] for names in imported if names[0] == "gpt2x" and names[1:]}
    assert used & set(FRAMEWORKS) <= {path.parts[0]}


@pytest.mark.parametrize("path", [p for p in MODULES if p != Path("__init__.py")], ids=str)
def test_a_module_uses_what_stands_below_its_folder(path):
    folder = path.with_suffix("").parts[0]
    used = {names[1] for names in names_imported(path) if names[0] == "gpt2x" and names[1:]}
    used -= {folder, "__version__"}
    assert {name for name in used if PLACE[name] <= PLACE[folder]} == set()


def test_no_modules_import_each_other_in_a_circle():
    assert cycles(module_imports(PACKAGE)) == []


def test_circles_are_found_where_they_hide(tmp_path):
    sources = {
        "__init__": "",
        "a": "def f():\n    from gpt2x import b",
        "b": "from gpt2x.c import x",
        "c": "from .a import f\nimport gpt2x.d",
        "d": "if TYPE_CHECKING:\n    import gpt2x.a",
    }
    package = tmp_path / "gpt2x"
    package.mkdir()
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source)
    assert cycles(module_imports(package)) == [{"gpt2x.a", "gpt2x.b", "gpt2x.c"}]


def test_the_package_alone_loads_no_framework_and_no_library_but_numpy():
    loaded = loaded_by("import gpt2x")
    assert loaded.isdisjoint(EVERY_FRAMEWORK)
    before = loaded_by("")
    assert loaded - before - set(sys.stdlib_module_names) <= {"gpt2x", "numpy"}


def test_the_package_costs_little_more_than_numpy():
    def seconds(code: str) -> float:
        """Processor time, which a busy machine does not stretch as it does the clock's."""
        before = os.times()
        run(code)
        after = os.times()
        spent = zip(after[2:4], before[2:4], strict=True)  # of children, in user and system mode
        return sum(now - then for now, then in spent)

    numpy, package = (
        min(seconds(code) for _ in range(3)) for code in ("import numpy", "import gpt2x")
    )
    assert package < 1.5 * numpy + 0.1


def test_core_names_resolve_without_any_framework():
    code = """
import importlib, gpt2x
for name, module in gpt2x._CORE_NAMES.items():
    assert getattr(gpt2x, name) is getattr(importlib.import_module(module), name), name
    print(name)
"""
    assert run(code, *EVERY_FRAMEWORK).split() == list(gpt2x._CORE_NAMES)


def test_all_of_decoding_is_public():
    from gpt2x import generation

    names = {n for n, module in gpt2x._CORE_NAMES.items() if module == "gpt2x.generation"}
    assert names == set(generation.__all__)


@pytest.mark.parametrize("backend", backends.installed())
def test_a_backend_loads_its_own_framework_alone(backend):
    name = backends.get(backend).prefix + "LMHeadModel"
    requires = backends.get(backend).requires
    loaded = loaded_by(f"from gpt2x import {name}") & EVERY_FRAMEWORK
    # TensorFlow itself imports JAX where that is installed.
    by_the_framework = loaded_by(f"import {', '.join(requires)}") & EVERY_FRAMEWORK
    assert set(requires) <= loaded <= by_the_framework | FRAMEWORKS[backend]


@pytest.mark.parametrize(
    "name", [n for n, backend in gpt2x._BACKEND_NAMES.items() if backends.is_installed(backend)]
)
def test_a_public_name_of_an_installed_backend_resolves(name):
    assert getattr(gpt2x, name).__name__ == name


@pytest.mark.parametrize("backend", sorted(FRAMEWORKS))
def test_a_missing_framework_names_the_extra(backend):
    name = backends.get(backend).prefix + "LMHeadModel"
    code = f"""
import gpt2x
from gpt2x import backends
assert {backend!r} not in backends.installed()
try:
    from gpt2x import {name}
except ImportError as error:
    assert type(error) is gpt2x.MissingBackendError
    print(error)
"""
    message = run(code, *FRAMEWORKS[backend])
    assert message.startswith(f"{name} needs {backends.get(backend).title}")
    assert f'pip install "gpt2x[{backend}]"' in message


def test_without_any_framework_the_error_names_every_extra():
    code = """
from gpt2x import backends
try:
    backends.default()
except ImportError as error:
    print(error)
"""
    message = run(code, *EVERY_FRAMEWORK)
    for backend in FRAMEWORKS:
        assert f'pip install "gpt2x[{backend}]"' in message


@pytest.mark.parametrize(
    ("kind", "framework"), [("pt", "torch"), ("tf", "tensorflow"), ("jax", "jax")]
)
def test_return_tensors_without_the_framework_names_the_extra(kind, framework):
    code = f"""
from gpt2x.backends import to_tensor
try:
    to_tensor([[1, 2]], {kind!r})
except ImportError as error:
    print(error)
"""
    message = run(code, framework)
    assert message.startswith(f"return_tensors={kind!r} needs")
    assert "pip install" in message


@pytest.mark.parametrize("kind", ["np", "pt", "tf", "jax"])
def test_return_tensors_gives_the_framework_its_own_tensors(kind):
    module = {"np": "numpy", "pt": "torch", "tf": "tensorflow", "jax": "jax"}[kind]
    pytest.importorskip(module)
    tensor = backends.to_tensor([[1, 2], [3, 4]], kind)
    dtype = {"np": "int64", "pt": "torch.int64", "tf": "<dtype: 'int32'>", "jax": "int32"}[kind]
    origin = {"np": "numpy", "pt": "torch", "tf": "tensorflow", "jax": "jaxlib"}[kind]
    assert type(tensor).__module__.startswith(origin)
    assert str(tensor.dtype) == dtype
    np.testing.assert_array_equal(np.asarray(tensor), [[1, 2], [3, 4]])


def test_unknown_names_of_backends_and_tensors_are_refused():
    with pytest.raises(ValueError, match="backend is 'torch'; allowed are 'pt', 'tf', 'flax'"):
        backends.get("torch")
    with pytest.raises(
        ValueError, match="return_tensors is 'pd'; allowed are 'np', 'pt', 'tf', 'jax'"
    ):
        backends.to_tensor([1], "pd")


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'GPT3LMHeadModel'"):
        gpt2x.GPT3LMHeadModel  # noqa: B018
    assert not hasattr(gpt2x, "GPT3LMHeadModel")


def test_dir_lists_every_public_name():
    assert {*gpt2x._CORE_NAMES, *gpt2x._BACKEND_NAMES, "__version__"} <= set(dir(gpt2x))
