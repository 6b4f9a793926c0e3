"""`gpt2x export`."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from gpt2x import cli

tf = pytest.importorskip("tensorflow")


def test_a_saved_model_continues_a_prompt(tmp_path):
    folder = tmp_path / "writer"
    result = CliRunner().invoke(
        cli.app, ["export", "tf", str(folder), "-n", "6", "--greedy", "--no-jit"]
    )
    assert result.exit_code == 0, result.output
    assert str(folder) in result.output.replace("\n", "")
    writer = tf.saved_model.load(folder)
    (text,) = writer.generate(tf.constant(["And God said"]))["texts"].numpy()
    assert text.startswith(b"And God said")
    assert len(text) > len(b"And God said")


def test_what_cannot_be_exported_is_one_line(tmp_path):
    missing = str(tmp_path / "missing")
    result = CliRunner().invoke(cli.app, ["export", "tf", str(tmp_path / "x"), "-m", missing])
    assert result.exit_code == 1
    assert not (tmp_path / "x").exists()
