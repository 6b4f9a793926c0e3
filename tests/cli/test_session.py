"""`gpt2x generate --interactive`: a text written in turns."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from gpt2x import backends, cli
from gpt2x.cli import _session
from gpt2x.cli._writer import Continuation, Writer


class NumberedWriter(Writer):
    """Continues each prompt with its number, and remembers what it was asked to continue."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def prompt(self, text):
        self.prompts.append(text)
        return []

    def latest(self, prompt):
        return prompt

    def text(self, tokens):
        return "".join(f" <{token}>" for token in tokens)


@pytest.fixture
def session(monkeypatch) -> _session.Session:
    writer = NumberedWriter()
    writer.config = type("Config", (), {"num_beams": 1})
    monkeypatch.setattr(
        _session, "stream", lambda writer, prompt, number: Continuation(tokens=[number])
    )
    return _session.Session(writer, lambda writer, options: options)


def test_each_line_is_added_to_the_text_so_far(session):
    session.add("Once")
    session.add("Then")
    session.add("")  # goes on
    assert session.writer.prompts == ["Once", "Once <0>\nThen", "Once <0>\nThen <1>"]
    assert session.text == "Once <0>\nThen <1> <2>"


def test_retry_writes_the_last_continuation_from_another_stream(session):
    session.add("Once")
    session.add("Then")
    session.retry()
    assert session.writer.prompts[1] == session.writer.prompts[2]
    assert session.text == "Once <0>\nThen <2>"


def test_undo_takes_turns_back_one_by_one(session, capsys):
    session.add("Once")
    session.add("Then")
    session.undo()
    assert session.text == "Once <0>"
    assert capsys.readouterr().out == "Once <0>\n"
    session.undo()
    session.undo()
    assert session.text == ""
    assert "There is no turn yet." in capsys.readouterr().err


def test_redo_gives_back_what_undo_took(session, capsys):
    session.add("Once")
    session.add("Then")
    session.undo()
    session.redo()
    assert session.text == "Once <0>\nThen <1>"
    session.redo()
    assert "No turn was taken back." in capsys.readouterr().err
    session.undo()
    session.add("Or")
    session.redo()  # not what belonged to another text
    assert session.text == "Once <0>\nOr <2>"


def test_a_continuation_that_fails_leaves_the_text(session, monkeypatch):
    session.add("Once")

    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr(_session, "stream", fail)
    for command in (session.retry, lambda: session.add("Then")):
        with pytest.raises(RuntimeError):
            command()
        assert session.text == "Once <0>"


def test_the_text_is_saved_but_over_no_file(session, tmp_path):
    session.add("Once")
    session.save(str(tmp_path / "text.txt"))
    assert (tmp_path / "text.txt").read_text("utf-8") == "Once <0>\n"
    with pytest.raises(FileExistsError):
        session.save(str(tmp_path / "text.txt"))


def test_a_text_that_outgrows_the_model_loses_its_beginning():
    writer = NumberedWriter()
    writer.config = type("Config", (), {"max_new_tokens": 3})
    writer.model = type("Model", (), {"config": type("Config", (), {"n_positions": 8})})
    assert Writer.latest(writer, list(range(20))) == [15, 16, 17, 18, 19]
    assert Writer.latest(writer, [1, 2]) == [1, 2]


def run(*arguments: str, stdin: str):
    return CliRunner().invoke(cli.app, ["generate", "--interactive", *arguments], input=stdin)


@pytest.mark.skipif(not backends.installed(), reason="no framework is installed")
def test_a_conversation_of_the_embedded_model():
    lines = ":undo\nAnd God said\n:text\n:retry\n:text\n:undo\n:what\n:quit\nnever read\n"
    result = run("ROMEO.", "-n", "4", "--seed", "1", stdin=lines)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("ROMEO.")
    assert result.stdout.count("And God said") == 2  # the two times that the text was shown
    assert "never read" not in result.stdout
    assert ":retry" in result.stderr  # the help, for the unknown command
    assert run("-n", "1", stdin="").exit_code == 0  # the end of the input ends it


@pytest.mark.parametrize(
    "option",
    [
        ("--json",),
        ("--batch-size", "2"),
        ("--max-length", "9"),
        ("--num-return-sequences", "2"),
        ("--prompts-file", "any"),
    ],
)
@pytest.mark.skipif(not backends.installed(), reason="no framework is installed")
def test_what_does_not_go_with_turns_is_named(option):
    result = run(*option, stdin="")
    assert result.exit_code == 1
    assert f"leave out {option[0]}." in result.stderr


@pytest.mark.skipif(not backends.installed(), reason="no framework is installed")
def test_options_are_changed_as_the_command_reads_them():
    lines = [
        ":set temperature=0.5 -n 2",
        "And",
        ":set greedy",
        ":set seed 7",
        ":options",
        ":set warmth=1",
        ":set model=gpt2",
        ":set top-k=many",
        ":set seed='1",
        ":set top-p=2",
        "Or",  # cannot be written
        ":set top-p=1",
        ":text",
    ]
    result = run("ROMEO.", "-n", "4", "--seed", "5", stdin="\n".join(lines))
    assert result.exit_code == 0, result.output
    told = result.stderr
    assert told.startswith("seed=5\nmax-new-tokens=2\ndo-sample=True\ntemperature=0.5\n")
    greedy = told.index("seed=7\nmax-new-tokens=2\n")
    assert "do-sample" not in told[greedy : told.index("warmth")]
    for said in (
        "No such option: --warmth",
        "model cannot be changed during a session.",
        "'--top-k'",
        "No closing quotation",
        "top_p` must be",
    ):
        assert said in told
    text = result.stdout.rpartition("ROMEO.")[2]
    assert "\nAnd" in text
    assert "Or" not in text
