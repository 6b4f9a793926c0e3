"""Speed of `gpt2x serve` under load, against its peers, in one run.

    python benchmarks/serve.py                                           # gpt2x alone
    python benchmarks/serve.py --transformers PYTHON --llama-cpp PYTHON  # and its peers
    python benchmarks/serve.py --model 124M --streams 8 64 --new 16 --rounds 3

PYTHON is the interpreter of an environment of its own, with

    pip install 'transformers[serving]>=5' torch
    pip install 'llama-cpp-python[server]'          # is built from source

The model is the embedded one, or GPT-2 124M of random weights, in float32, on the CPU. Clients ask
all at the same time, each for a text of its own, of the likeliest tokens; the server is idle
before. The servers run side by side and take turns, and a round's ratios are those of its turns, so
that a machine whose speed drifts gives fair numbers. llama-cpp-python's server writes one text at a
time, and so does `transformers serve` without --continuous-batching: here both ways of it run.

Printed are medians over the rounds: tokens a second by the clock, and a second of the server's
processor time; time to the first token of a text (median and 99th percentile), and between its
tokens; then the median ratio of tokens a second to each peer, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

#: Seconds that a server has to start.
START = 300.0


class Server(NamedTuple):
    """A server that answers.

    Attributes:
        name: of the subject.
        port: on this machine.
        process: its id.
        model: its name in requests.
    """

    name: str
    port: int
    process: int
    model: str

    def processor_seconds(self) -> float:
        """Return the processor time that it has used, all threads together."""
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Turn(NamedTuple):
    """What clients saw of a server.

    Attributes:
        speed: tokens a second by the clock.
        processor_speed: tokens a second of processor time.
        firsts: seconds to the first token of each text.
        betweens: seconds between successive tokens.
    """

    speed: float
    processor_speed: float
    firsts: list[float]
    betweens: list[float]


# --- the servers ---


def commands(options: argparse.Namespace, folder: Path) -> dict[str, tuple[list[str], str]]:
    """Return the command of each server without its port, and its model's name in requests."""
    limits = ["--max-batch", str(options.max_batch), "--max-queue", "1000", "--max-time", "3600"]
    ours = [sys.executable, "-m", "gpt2x", "serve", "--model", f"model={folder}", *limits]
    found = {"gpt2x": ([*ours, "--dtype", "float32"], "model")}
    if options.transformers:
        code = "from transformers.cli.transformers import main; main()"
        theirs = [options.transformers, "-c", code, "serve", str(folder)]
        theirs += ["--device", "cpu", "--dtype", "float32"]
        found["transformers"] = (theirs, str(folder))
        batching = [*theirs, "--continuous-batching"]
        found["transformers, batching"] = (batching, str(folder))
    if options.llama_cpp:
        gguf = folder / "model.gguf"
        if not gguf.exists():
            convert = [sys.executable, "-m", "gpt2x", "convert", str(folder), str(gguf)]
            subprocess.run(convert, check=True, stdout=subprocess.DEVNULL)
        llama = [options.llama_cpp, "-m", "llama_cpp.server", "--model", str(gguf)]
        llama += ["--n_ctx", "0", "--interrupt_requests", "false"]
        found["llama-cpp-python"] = (llama, "model")
    return found


@contextmanager
def running(name: str, command: Sequence[str], model: str, log: Path) -> Iterator[Server]:
    """Start a server and wait until it answers; end it afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [*command, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=output)
    try:
        end = time.monotonic() + START
        while not answers(port):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{name} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield Server(name, port, process.pid, model)
    finally:
        process.terminate()
        process.wait(30)


def answers(port: int) -> bool:
    """Return whether a server lists its models."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


# --- the clients ---


def times(server: Server, prompt: str, new: int) -> list[float]:
    """Let a text be written; return when it was asked for, and when each piece of it came."""
    body = {"model": server.model, "prompt": prompt, "max_tokens": new}
    body |= {"temperature": 0, "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=3600)
    found = [time.perf_counter()]
    connection.request(
        "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"{server.name}: {response.status} {response.read()!r}")
    for line in response:
        if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["text"]:
            found.append(time.perf_counter())
    connection.close()
    return found


def turn(server: Server, prompts: Sequence[str], new: int) -> Turn:
    """Let a server write texts at the same time."""
    found: list[list[float]] = []
    threads = [
        threading.Thread(target=lambda p=prompt: found.append(times(server, p, new)))
        for prompt in prompts
    ]
    processor, start = server.processor_seconds(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if len(found) < len(prompts):
        raise SystemExit(f"{server.name} failed.")
    tokens = len(prompts) * new  # nothing ends a text before
    return Turn(
        tokens / seconds,
        tokens / max(server.processor_seconds() - processor, 0.01),
        # A text of random weights may have no whole character, and so no piece.
        [each[1] - each[0] for each in found if len(each) > 1],
        [b - a for each in found for a, b in pairwise(each[1:])],
    )


# --- the model ---


def write_model(name: str, folder: Path) -> list[str]:
    """Write the model to a folder; return prompts of some 20 tokens, each of its own beginning."""
    import torch

    import gpt2x

    tokenizer = gpt2x.GPT2TokenizerFast.from_pretrained(gpt2x.EMBEDDED_MODEL)
    if name == "124M":
        torch.manual_seed(0)
        # The vocabulary beyond the tokenizer's is never written: other servers cannot name it.
        model = gpt2x.GPT2LMHeadModel(gpt2x.GPT2Config(vocab_size=len(tokenizer)))
    else:
        model = gpt2x.GPT2LMHeadModel.from_pretrained(gpt2x.EMBEDDED_MODEL)
    model = model.to(torch.float32)
    # A text ends at its length.
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rng = np.random.default_rng(0)
    words = ("king", "sword", "night", "crown", "love", "blood", "heart", "house", "lord", "day")
    return [f"{number}. The " + " the ".join(rng.choice(words, 9)) for number in range(64)]


# --- the run ---


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=("embedded", "124M"), default="embedded")
    parser.add_argument("--transformers", metavar="PYTHON", help="of transformers 5")
    parser.add_argument("--llama-cpp", metavar="PYTHON", help="of llama-cpp-python")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--max-batch", type=int, default=64, help="texts that gpt2x writes at once")
    parser.add_argument("--new", type=int, default=32, help="tokens of a text")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch) / "model"
        prompts = write_model(options.model, folder)
        servers = [
            stack.enter_context(running(name, command, model, Path(scratch) / f"{name}.log"))
            for name, (command, model) in commands(options, folder).items()
        ]
        for server in servers:
            turn(server, prompts[:2], 4)  # what is prepared at the first text
        for streams in options.streams:
            texts = [prompts[number % len(prompts)] for number in range(streams)]
            rounds = []
            for number in range(options.rounds):
                # No prompt has been run before.
                own = [f"{streams} {number} {text}" for text in texts]
                rounds.append([turn(server, own, options.new) for server in servers])
            show(streams, servers, rounds)


def show(streams: int, servers: Sequence[Server], rounds: Sequence[Sequence[Turn]]) -> None:
    """Print a table of the servers."""
    print(f"\n{streams} streams")
    for number, server in enumerate(servers):
        turns = [turns[number] for turns in rounds]
        firsts = [first for each in turns for first in each.firsts]
        betweens = [between for each in turns for between in each.betweens]
        print(
            f"  {server.name:24}"
            f"{statistics.median(each.speed for each in turns):8.1f} tokens/s"
            f"{statistics.median(each.processor_speed for each in turns):8.1f} by processor"
            f"{1e3 * np.median(firsts):9.0f} ms to the first"
            f" (99th {1e3 * np.quantile(firsts, 0.99):7.0f})"
            f"{1e3 * np.median(betweens):8.1f} ms between"
        )
    for number, server in enumerate(servers[1:], 1):
        for name in ("speed", "processor_speed"):
            ratios = [getattr(each[0], name) / getattr(each[number], name) for each in rounds]
            print(
                f"  gpt2x to {server.name}: {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f} to {max(ratios):.2f}) of {name.replace('_', ' ')}"
            )


if __name__ == "__main__":
    main()
