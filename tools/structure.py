"""Print how the package is built: its size, its longest functions, its branches, its cycles.

    python tools/structure.py

Lines are those of every Python file of src/gpt2x, comments and blank lines included.

The length of a function is that of its body, from the first statement after the docstring to the
last: a long list of documented arguments does not make a function hard to follow.

Branches are counted in the forward of each framework's body: each `if`, loop, `except` and
conditional expression, each operand of `and` and `or` after the first, each condition of a
comprehension. Beside it stands the method of the body that has most, since stages may have moved
out of the forward.

A cycle is a group of folders, or of modules, each of which imports all others, directly or through
them. Imports inside functions count; those for type checkers do not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src" / "gpt2x"
LONGEST_BODY = 60

# The class that is GPT-2's body in each framework; its forward has one of three names.
BODIES = {"pt": "GPT2Model", "tf": "TFGPT2MainLayer", "flax": "FlaxGPT2Model"}
FORWARDS = ("forward", "call", "__call__")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def imports(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """Yield the absolute name of all that is imported anywhere in `tree`, for type checks apart.

    Of `from a import b` that is `a.b`, be it a module or what module `a` defines.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports(ast.Module(node.orelse, []), package)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        else:
            yield from imports(node, package)


def module_imports(source: Path = SOURCE) -> dict[str, set[str]]:
    """Return each module of the package at `source`, with those of the package that it imports."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        package = [source.name, *path.relative_to(source).parent.parts]
        name = ".".join(package if path.stem == "__init__" else [*package, path.stem])
        found[name] = set(imports(ast.parse(path.read_text("utf-8")), package))
    return {
        module: {n if n in found else n.rpartition(".")[0] for n in names} & found.keys() - {module}
        for module, names in found.items()
    }


def folder_imports(modules: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return what the folders import, a module outside them counting as one."""
    found: dict[str, set[str]] = {}
    for name, used in modules.items():
        if name.count("."):
            folders = {other.split(".")[1] for other in used if other.count(".")}
            found.setdefault(name.split(".")[1], set()).update(folders)
    return {folder: used - {folder} for folder, used in found.items()}


def cycles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Return the groups of two nodes or more that all reach one another."""
    reached = {node: _reached(graph, node) for node in graph}
    groups = {
        frozenset(other for other in reached[node] if node in reached[other]) for node in graph
    }
    return [set(group) for group in groups if len(group) > 1]


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def body_lines(function: Function) -> int:
    """Lines from the first statement after the docstring to the last."""
    statements = function.body[ast.get_docstring(function) is not None :]
    return statements[-1].end_lineno - statements[0].lineno + 1 if statements else 0


def branches(function: Function) -> int:
    """The places where a function can take one of two ways."""
    count = 0
    for node in ast.walk(function):
        if isinstance(node, ast.If | ast.For | ast.While | ast.IfExp | ast.ExceptHandler):
            count += 1
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            count += len(node.ifs)
    return count


def body_branches(source: Path, framework: str) -> tuple[str, int, str, int]:
    """Return name and branches of a body's forward, and those of its method with most.

    Of the names in `FORWARDS`, the one with most counts.
    """
    tree = ast.parse((source / framework / "model.py").read_text("utf-8"))
    name = BODIES[framework]
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    methods = [node for node in body.body if isinstance(node, Function)]
    forward = max((method for method in methods if method.name in FORWARDS), key=branches)
    most = max(methods, key=branches)
    return f"{name}.{forward.name}", branches(forward), most.name, branches(most)


def main() -> None:
    """Print the report."""
    texts = {path: path.read_text("utf-8") for path in sorted(SOURCE.rglob("*.py"))}
    lengths = {
        f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}": body_lines(node)
        for path, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, Function)
    }
    print(
        f"lines: {sum(len(text.splitlines()) for text in texts.values()):,} in {len(texts)} files"
    )
    print(f"functions: {len(lengths):,}, of {sum(lengths.values()) / len(lengths):.1f} lines")
    long = {name: length for name, length in lengths.items() if length > LONGEST_BODY}
    print(f"functions over {LONGEST_BODY} lines: {len(long)}")
    for name, length in sorted(long.items(), key=lambda item: -item[1]):
        print(f"  {length:4} {name}")
    print("branches of the forwards:")
    for framework in BODIES:
        name, count, most, its_count = body_branches(SOURCE, framework)
        print(f"  {count:4} {name} (of any method, {most} has most: {its_count})")
    modules = module_imports()
    for what, graph in (("folders", folder_imports(modules)), ("modules", modules)):
        found = cycles(graph)
        print(f"cycles of {what}: {len(found)}")
        for group in found:
            print(f"       {', '.join(sorted(group))}")


if __name__ == "__main__":
    main()
