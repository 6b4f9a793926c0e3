"""What is said where the packages of the extra `serve` are not installed."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from gpt2x import cli


@pytest.mark.parametrize("library", ["starlette", "sse_starlette", "msgspec"])
def test_a_missing_package_names_the_extra(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    ran = CliRunner().invoke(cli.app, ["serve", "--port", "0"])
    assert ran.exit_code == 1
    assert ran.stdout == ""
    said = " ".join(ran.stderr.split())
    assert said.startswith(f"error: gpt2x serve needs the library {library}")
    assert 'pip install "gpt2x[serve]"' in said
