"""What tools/structure.py counts."""

from __future__ import annotations

import ast

from structure import body_lines, branches, cycles, folder_imports

SOURCE = '''
def f(
    x,
):
    """A docstring,
    of two lines."""
    if x and x > 1 or x < 0:  # an if, and two further operands
        pass
    for y in [z for z in x if z]:  # a loop, and a condition
        try:
            y = 1 if y else 2  # a conditional expression
        except ValueError:
            pass
    while x:
        x -= 1
'''


def function(source: str) -> ast.FunctionDef:
    return ast.parse(source).body[0]


def test_a_body_has_neither_signature_nor_docstring():
    assert body_lines(function(SOURCE)) == 9
    assert body_lines(function('def f():\n    """Only this."""')) == 0
    assert body_lines(function("def f(): return 1")) == 1


def test_branches_are_ways_to_go():
    assert branches(function(SOURCE)) == 8
    assert branches(function("def f(x): return x + 1")) == 0


def test_folders_are_those_at_the_top():
    modules = {
        "gpt2x": {"gpt2x.a"},
        "gpt2x.a": {"gpt2x.b.c.d"},
        "gpt2x.b.c.d": {"gpt2x", "gpt2x.b.e"},
        "gpt2x.b.e": {"gpt2x.a"},
    }
    assert folder_imports(modules) == {"a": {"b"}, "b": {"a"}}
    assert cycles(folder_imports(modules)) == [{"a", "b"}]
    assert cycles({"a": {"b"}, "b": set()}) == []
