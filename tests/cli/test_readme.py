"""What the README tells people to type works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpt2x import cli

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=["three_lines", "pipeline", "training"])
def test_the_lines_print_text(code, capsys, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "poems").mkdir()
    (tmp_path / "poems" / "a.txt").write_text("Shall I compare thee to a summer's day?\n" * 60)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("And the king said")
    assert len(printed.split()) > 20


def test_every_option_that_is_named_exists():
    commands = [
        shlex.split(line, comments=True)
        for line in re.findall(r"^ +gpt2x (.*)$", README, re.MULTILINE)
    ]
    assert commands
    groups = {"export", "tokenizer", "train"}
    for name, *arguments in commands:
        command = [name, arguments[0]] if name in groups else [name]
        shown = CliRunner().invoke(cli.app, [*command, "--help"], terminal_width=200).stdout
        for option in arguments:
            assert not option.startswith("-") or option in shown, f"gpt2x {name} has no {option}"


def test_every_make_target_that_is_named_exists():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text("utf-8")
    targets = re.findall(r"^ +make (\w+)", README, re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
