"""Let many clients use a server, some of whom go away, and see that nothing is lost or left.

    python benchmarks/soak.py --requests 2000 --clients 64

A server process is started on a free port of the loopback. Clients ask for whole answers, for
streams, and for what is refused; some break off a stream or a request that waits. In the end each
request has been answered, or was broken off by its own client; the server's counts agree; and its
memory, threads and open files are those of before.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

#: Threads that Python's pool of the event loop may add, whatever is asked of it.
POOL = min(32, (os.cpu_count() or 1) + 4)

PROMPTS = ("And the king said", "In the beginning", "To be, or not", "The third part of")
_BROKEN = ({"temperature": -1}, {"max_tokens": 5000}, {"model": "none"}, {"prompt": []})
_CLOSED = re.compile(r'^gpt2x_texts_total\{model="[^"]*",reason="(length|stop)"\} (\S+)', re.M)
_NOW = re.compile(r"^gpt2x_texts_(running|waiting)\{[^}]*\} (\S+)", re.M)


@dataclass
class State:
    """What a server process holds: MiB of memory, counts of the others."""

    memory: float
    threads: int
    files: int
    running: int = 0
    waiting: int = 0


@dataclass
class Report:
    """How requests ended, and what they left.

    Attributes:
        ended: requests by how they ended.
        unlike: answers whose seed and prompt gave another text before.
        counted: texts that the server has written to their ends for clients that stayed.
        middle: the state when half of the requests have ended.
    """

    ended: Counter[str] = field(default_factory=Counter)
    unlike: int = 0
    counted: int = 0
    before: State | None = None
    middle: State | None = None
    after: State | None = None
    texts: dict[object, str] = field(default_factory=dict)

    def compare(self, key: object, text: str) -> None:
        """Note a text; the same key must give the same one."""
        self.unlike += self.texts.setdefault(key, text) != text


async def run(requests: int, clients: int, arguments: list[str]) -> Report:
    """Start a server, send it so many requests of so many clients, and report."""
    command = [sys.executable, "-m", "gpt2x", "serve", "--port", "0", "--max-queue", "1000"]
    process = await asyncio.create_subprocess_exec(
        *command, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        url = line.split()[-1]
        report = Report()
        limits = httpx.Limits(max_connections=clients, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:
            await _use(client, process.pid, report, requests, clients)
    finally:
        if process.returncode is None:
            process.terminate()
    assert await process.wait() == 0, "the server ends in order"
    return report


async def _use(
    client: httpx.AsyncClient, process: int, report: Report, requests: int, clients: int
) -> None:
    await asyncio.gather(*(_request(client, "answered", n, Report()) for n in range(clients)))
    report.before = await _idle_state(client, process)
    written = await _written(client)
    numbers = iter(range(requests))

    async def be_a_client() -> None:
        for number in numbers:
            draw = random.Random(number)
            kinds = ["answered", "streamed", "left", "broken off", "refused"]
            (kind,) = draw.choices(kinds, weights=[3, 3, 1, 1, 1])
            await _request(client, kind, number, report)
            if number == requests // 2:
                report.middle = _state(process)

    await asyncio.gather(*(be_a_client() for _ in range(clients)))
    report.after = await _idle_state(client, process)
    report.counted = await _written(client) - written


async def _request(client: httpx.AsyncClient, kind: str, number: int, report: Report) -> None:
    draw = random.Random(number)
    prompt, seed = draw.choice(PROMPTS), draw.randrange(3)
    body = {"prompt": prompt, "max_tokens": draw.choice([2, 8, 24]), "seed": seed}
    if kind == "answered":
        response = await client.post("/v1/completions", json=body)
        report.compare(tuple(body.values()), response.json()["choices"][0]["text"])
        report.ended["answered"] += response.status_code == 200
    elif kind == "refused":
        response = await client.post("/v1/completions", json=body | draw.choice(_BROKEN))
        report.ended["refused"] += response.status_code in (400, 404)
    elif kind == "broken off":  # while it waits, or is written
        asked = client.post("/v1/completions", json=body | {"max_tokens": 200})
        try:
            await asyncio.wait_for(asked, draw.uniform(0.0, 0.05))
        except TimeoutError:
            report.ended["cancelled"] += 1
    else:
        await _stream(client, kind, body, report, draw.randrange(3))


async def _stream(
    client: httpx.AsyncClient, kind: str, body: dict, report: Report, pieces: int
) -> None:
    if kind == "left":
        body = body | {"max_tokens": 200}
    lines = []
    async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as stream:
        async for line in stream.aiter_lines():
            lines += [line] if line.startswith("data: ") else []
            if kind == "left" and len(lines) > pieces:
                report.ended["cancelled"] += 1
                return
    report.ended["streamed"] += lines[-1] == "data: [DONE]"


async def _written(client: httpx.AsyncClient) -> int:
    found = _CLOSED.findall((await client.get("/metrics")).text)
    return sum(int(float(value)) for _, value in found)


async def _idle_state(client: httpx.AsyncClient, process: int) -> State:
    """Return the state once nothing is written any more."""
    while True:
        text = (await client.get("/metrics")).text
        counts = {name: int(float(value)) for name, value in _NOW.findall(text)}
        if not any(counts.values()):
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)  # the server closes the connections that have ended, the last too
    return _state(process)


def _state(process: int) -> State:
    folder = Path(f"/proc/{process}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    memory = int(status["VmRSS"].split()[0]) / 1024
    return State(memory, int(status["Threads"]), len(list((folder / "fd").iterdir())))


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=64)
    given, arguments = parser.parse_known_args()  # the others are for `gpt2x serve`
    report = asyncio.run(run(given.requests, given.clients, arguments))
    lost = given.requests - sum(report.ended.values())
    print(f"requests {given.requests}, lost {lost}:", dict(report.ended))
    print(f"texts that the server counted: {report.counted}; unlike before: {report.unlike}")
    for name in ("before", "middle", "after"):
        print(f"{name:7}", getattr(report, name))


if __name__ == "__main__":
    main()
