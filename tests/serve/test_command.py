"""`gpt2x serve --log-prompts`, as a process."""

from __future__ import annotations

import signal
import subprocess
import sys

import httpx

BODY = {"prompt": "a secret\nof two lines", "max_tokens": 1}


def test_prompts_are_logged_a_line_each_if_asked_for():
    command = [sys.executable, "-m", "gpt2x", "serve", "--port", "0", "--backend", "pt"]
    process = subprocess.Popen(
        [*command, "--log-prompts"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        url = process.stdout.readline().split()[-1]
        answers = [httpx.post(f"{url}/v1/completions", json=BODY) for _ in range(2)]
    finally:
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate()
    lines = stderr.splitlines()
    assert len(lines) == 2
    for line, answer in zip(lines, answers, strict=True):
        assert answer.headers["x-request-id"] in line
        assert "a secret" in line
