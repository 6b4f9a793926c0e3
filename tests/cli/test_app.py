"""The command line without a model: help, version, and how errors are worded."""

from __future__ import annotations

import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

import gpt2x
from gpt2x import cli
from gpt2x.errors import InvalidInputError


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "gpt2x", *arguments], capture_output=True, text=True, **options
    )


@pytest.fixture
def command(monkeypatch):
    """Let a test add a command of its own, and return what runs the command line."""

    def add_and_run(function, *arguments):
        app = typer.Typer()
        app.command()(function)
        listed = cli._Commands.list_commands
        monkeypatch.setattr(cli._Commands, "list_commands", lambda *a: [*listed(*a), "probe"])
        real = cli.import_module
        monkeypatch.setattr(
            cli,
            "import_module",
            lambda name: SimpleNamespace(app=app) if name == "gpt2x.cli.probe" else real(name),
        )
        return CliRunner().invoke(cli.app, [*arguments])

    return add_and_run


def test_version():
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"gpt2x {gpt2x.__version__}\n")


def test_help_lists_every_command_and_imports_no_framework():
    code = """
import sys
from typer.testing import CliRunner
from gpt2x import cli
print(CliRunner().invoke(cli.app, ["--help"]).stdout)
print(CliRunner().invoke(cli.app, ["generate", "--help"]).stdout)
heavy = {"torch", "tensorflow", "keras", "jax", "flax", "tokenizers", "huggingface_hub"}
assert heavy.isdisjoint(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in cli._Commands().list_commands(None):
        assert name in done.stdout
    assert "--max-new-tokens" in done.stdout


def test_an_unknown_command_is_a_usage_error():
    done = run("generat")
    assert done.returncode == 2
    assert "No such command" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_user_error_is_one_line_without_traceback():
    done = run("generate", "x", "--backend", "torch")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "error: backend is 'torch'; allowed are 'pt', 'tf', 'flax'.\n"


@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_the_traceback_wherever_it_stands(before):
    arguments = ["generate", "x", "--backend", "torch"]
    done = run(*(["--debug", *arguments] if before else [*arguments, "--debug"]))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "InvalidInputError: backend is 'torch'" in done.stderr


def test_debug_after_two_dashes_is_an_argument(command):
    def probe(text: str) -> None:
        print("got", text)

    assert command(probe, "probe", "--", "--debug").stdout == "got --debug\n"


def test_an_error_that_nobody_foresaw_names_its_type(command):
    def probe() -> None:
        raise KeyError("wte")

    result = command(probe, "probe")
    assert result.exit_code == 1
    assert result.stderr == "error: KeyError: 'wte' (--debug shows where)\n"


def test_a_message_of_several_lines_and_brackets_stays_as_it_is_on_one_line(command):
    def probe() -> None:
        raise InvalidInputError('missing:\n  pip install "gpt2x[pt]"')

    assert command(probe, "probe").stderr == 'error: missing: pip install "gpt2x[pt]"\n'


def test_an_interrupt_ends_with_130_and_keeps_what_was_written(command):
    def probe() -> None:
        print("so far")
        raise KeyboardInterrupt

    result = command(probe, "probe")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "so far\n", "")


def test_warnings_go_to_standard_error(command, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def probe() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            cli._gpt2x()  # catch_warnings has put the default printer back
            warnings.warn("beware")

    result = command(probe, "probe")
    assert (result.stdout, result.stderr) == ("", "warning: beware\n")


def test_what_the_hub_logs_is_printed_once():
    code = """
import logging
from typer.testing import CliRunner
from gpt2x import cli
CliRunner().invoke(cli.app, ["info", "/absent"])
import huggingface_hub.file_download
logging.getLogger("huggingface_hub.file_download").warning("Retrying")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("Retrying") == 1
