"""`gpt2x serve` as a process: how it starts, answers and ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpt2x import EMBEDDED_MODEL, backends, cli

BACKENDS = backends.installed()
NEEDED = ("starlette", "uvicorn", "sse_starlette", "msgspec", "prometheus_client")
PROMPT = "And the king said"

pytestmark = pytest.mark.skipif(
    not (BACKENDS and all(map(find_spec, NEEDED))), reason="a framework and the extra are needed"
)
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@contextmanager
def serving(*arguments: str, **environment: str):
    """Serve on a free port; yield the process and its URL, and end it if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt2x", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    with process:
        try:
            line = process.stdout.readline()
            found = re.fullmatch(r"Serving .+ on (http://\S+:\d+)\n", line)
            assert found, line + process.stderr.read()
            yield process, found[1]
        finally:
            process.kill()


def ask(url: str, path: str, body: dict | None = None, key: str = ""):
    """Return the status and the body of a response."""
    with opened(url, path, body, key) as response:
        return response.status, json.load(response)


def opened(url: str, path: str, body: dict | None = None, key: str = ""):
    """Return a response that is to be read."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Authorization": f"Bearer {key}"})
    try:
        return urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        return error


def started(url: str, key: str = "", **body):
    """Return a stream of which the first chunk has come."""
    body = {"prompt": PROMPT, "max_tokens": 200, "seed": 1, "stream": True, **body}
    stream = opened(url, "/v1/completions", body, key)
    assert stream.readline().startswith(b"data: {")
    return stream


def until_it_stops(url: str) -> None:
    """Wait until a server takes no more requests."""
    while ask(url, "/health")[1]["status"] != "stopping":
        time.sleep(0.02)


def serve(*arguments: str):
    """Run a command that fails before it serves."""
    result = CliRunner().invoke(cli.app, ["serve", *arguments])
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    return " ".join(result.stderr.split())


@each_backend
def test_it_writes_what_generate_writes_and_ends_in_order(backend):
    drawn = ("--sample", "--temperature", "1", "--top-k", "0", "--top-p", "1", "--seed", "3")
    command = ["generate", PROMPT, "-b", backend, "-n", "8", "--json", *drawn]
    expected = json.loads(CliRunner().invoke(cli.app, command).stdout)["continuation"]
    options = ("-b", backend, "--grace", "600", "--max-batch", "1")  # less to compile
    with serving(*options, GPT2X_API_KEY="one two") as (process, url):
        body = {"prompt": PROMPT, "max_tokens": 8, "seed": 3}
        status, answer = ask(url, "/v1/completions", body, "two")
        assert (status, answer["choices"][0]["text"]) == (200, expected)
        assert ask(url, "/v1/completions", body, "three")[0] == 401

        with started(url, "one") as stream:
            process.send_signal(signal.SIGTERM)
            until_it_stops(url)
            status, answer = ask(url, "/v1/completions", body, "one")
            assert (status, answer["error"]["type"]) == (503, "service_unavailable_error")
            lines = stream.read().decode().split("\n\n")
        assert lines[-2].strip() == "data: [DONE]"
        assert json.loads(lines[-3].removeprefix("data: "))["choices"][0]["finish_reason"]
        assert process.wait() == 0
        assert process.stderr.read() == ""


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """The folder of a model that writes for minutes."""
    pytest.importorskip("torch")
    from gpt2x import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    folder = tmp_path_factory.mktemp("endless")
    config = GPT2Config(
        vocab_size=4096, n_layer=1, n_embd=8, n_head=1, n_positions=50_000, eos_token_id=None
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL).save_pretrained(folder)
    return folder


def test_after_the_grace_texts_end_where_they_are(endless):
    options = ("--grace", "0.2", "--dtype", "bfloat16", "--device", "cpu", "--max-models", "1")
    with serving("-m", f"long={endless}", "-m", str(EMBEDDED_MODEL), *options) as (process, url):
        names = [model["id"] for model in ask(url, "/v1/models")[1]["data"]]
        assert names == ["long", EMBEDDED_MODEL.name]
        assert ask(url, "/v1/completions", {"prompt": "a", "model": "bard"})[0] == 200
        with started(url, max_tokens=40_000, temperature=0.0) as stream:
            process.send_signal(signal.SIGINT)
            chunks = stream.read().decode().split("\n\n")
        last = json.loads(chunks[-2].removeprefix("data: "))
        assert last["error"]["type"] == "service_unavailable_error"
        assert len(chunks) < 40_000
        assert process.wait() == 0
        assert process.stderr.read() == ""


def test_a_second_signal_ends_it_at_once(endless):
    options = ("-m", str(endless), "--grace", "600")
    with serving(*options) as (process, url), started(url, max_tokens=40_000):
        process.send_signal(signal.SIGTERM)
        until_it_stops(url)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM


@pytest.mark.filterwarnings("default")
def test_a_port_that_is_taken_is_an_error_and_an_open_door_a_warning():
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = serve("--host", "0.0.0.0", "--port", port)
        assert said == (
            "warning: 0.0.0.0 can be reached from other machines, and no --api-key is asked for. "
            f"error: Cannot listen on http://0.0.0.0:{port}: the port is taken; choose another "
            "with --port, or 0 for a free one."
        )
        said = serve("--host", "0.0.0.0", "--port", port, "--api-key", "secret")
        assert said.startswith("error: Cannot listen")
        assert "secret" not in said


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ("--host", "no.invalid", "--api-key", "k"),
            "The host 'no.invalid' is not known",
        ),
        (("--host", "192.0.2.1", "--api-key", "k"), "the address is not this machine's"),
        (("--model", "a/x", "--model", "b/x"), "Two models are called 'x'; give NAME=MODEL."),
        (("--api-key", ""), "--api-key is empty"),
        (("--dtype", "int3"), "--dtype is 'int3'; allowed are"),
        (("--backend", "mxnet"), "backend is 'mxnet'; allowed are"),
        (("--backend", "tf", "--device", "cpu"), "--device is for the backend pt"),
        (("--model", "/nowhere/at/all", "--port", "0"), "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_served_is_one_error(arguments, error):
    said = serve(*arguments)
    assert error in said
    assert said.count("error:") == 1
    assert "Traceback" not in said


def test_workers_answer_together_and_one_that_dies_is_replaced():
    pytest.importorskip("torch")
    with serving("--workers", "2") as (process, url):
        body = {"prompt": PROMPT, "max_tokens": 2, "seed": 1}
        with ThreadPoolExecutor(8) as pool:
            texts = [pool.submit(ask, url, "/v1/completions", body) for _ in range(8)]
            answers = [text.result() for text in texts]
        assert {status for status, _ in answers} == {200}
        assert len({answer["choices"][0]["text"] for _, answer in answers}) == 1
        assert 'gpt2x_texts_total{model="bard",reason="length"} 8.0' in metrics(url)

        first = workers_of(process)
        for worker in first:  # the weights are there once
            assert "/model-0/weights" in Path(f"/proc/{worker}/maps").read_text()
        os.kill(first[0], signal.SIGKILL)
        assert "ended (exit code -9); another one takes its place" in process.stderr.readline()
        while len(workers_of(process)) < 2:
            assert ask(url, "/v1/completions", body)[0] == 200  # by the one that is left
        second = workers_of(process)
        assert first[1] in second
        assert first[0] not in second

        with started(url) as stream:
            process.send_signal(signal.SIGTERM)
            assert stream.read().rstrip().endswith(b"data: [DONE]")
        assert process.wait() == 0
        assert not any(map(is_running, {*first, *second}))


def test_workers_that_cannot_start_are_one_error(tmp_path):
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "gpt2x", "serve", "--workers", "2", "--port", "0"]
    run = subprocess.run([*command, "-m", str(tmp_path)], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1


def metrics(url: str) -> str:
    with opened(url, "/metrics") as response:
        return response.read().decode()


def workers_of(process) -> list[int]:
    """Return the ids of the workers, not that of what tracks their resources."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    commands = {child: Path(f"/proc/{child}/cmdline").read_text() for child in children}
    return [int(child) for child, command in commands.items() if "spawn_main" in command]


def is_running(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True
