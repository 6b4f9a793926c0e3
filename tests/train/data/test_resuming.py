"""Preparations that are killed, or that run out of disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise

import pytest

from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast
from gpt2x.train.data import preparation, prepare
from gpt2x.train.data.workers import ordered_map

# Preparations in child processes that kill themselves at a drawn change of the file system, until
# one comes through. Prints after each the shards that are there, by when they were written.
KILLED = """
import json, os, random, signal, sys
from pathlib import Path
from gpt2x import EMBEDDED_MODEL, GPT2TokenizerFast
from gpt2x.train.data import prepare

file, folder, seed = sys.argv[1:]
EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
os.fsync = lambda file: None
tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)

def killed(point):
    seen = 0
    def count(event, arguments):
        nonlocal seen
        if event in EVENTS:
            seen += 1
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    prepare([file], tokenizer, folder, processes=1, shard_tokens=100)
    os._exit(0)

# What is imported on the way changes nothing, so it comes first.
prepare([file], tokenizer, folder + "-first", processes=1)
draw = random.Random(seed)
status = 1
while status:
    child = os.fork()
    if not child:
        try:
            killed(draw.randint(1, 40))
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    shards = {
        path.parent.name: path.stat().st_mtime_ns
        for path in Path(folder).glob("*/shard-*/tokens.bin")
    }
    print(json.dumps(shards))
"""


@pytest.fixture(scope="module")
def tokenizer():
    return GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)


@pytest.fixture
def file(tmp_path):
    lines = [json.dumps({"text": f"Text {n} has {'more ' * (n % 9)}words."}) for n in range(150)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("**/[!.]*.*")}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("seed", [0, 1])
def test_a_preparation_killed_anywhere_goes_on(tmp_path, file, tokenizer, seed):
    arguments = [str(file), str(tmp_path / "killed"), str(seed)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    states = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(states) > 3
    for before, after in pairwise(states):
        assert before.items() <= after.items()  # what was finished is not written again
    prepare([file], tokenizer, tmp_path / "whole", processes=1, shard_tokens=100)
    assert len(states[-1]) > 10
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_a_full_disk_leaves_whole_shards_and_no_others(tmp_path, file, tokenizer, monkeypatch):
    folder = tmp_path / "tokens"
    write, full = preparation.write_shard, OSError(errno.ENOSPC, "No space left on device")

    def filling(path, shard, documents):
        write(path, shard, documents)
        if documents[0, 0] > 200:
            raise full

    monkeypatch.setattr(preparation, "write_shard", filling)
    with pytest.raises(OSError, match=r"No space left on device: nothing was saved to .*shard-"):
        prepare([file], tokenizer, folder, processes=1, shard_tokens=100)
    monkeypatch.undo()
    left = {path.name for path in folder.glob("*/*")}
    assert left == {"shard-00000", "shard-00001"}
    prepare([file], tokenizer, folder, processes=1, shard_tokens=100)
    prepare([file], tokenizer, tmp_path / "whole", processes=1, shard_tokens=100)
    assert files_of(folder) == files_of(tmp_path / "whole")


def test_workers_end_with_their_parent():
    code = """
import os, signal
from gpt2x.train.data.workers import ordered_map
results = ordered_map(abs, iter(range(9)), 2)
print(next(results), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    # It returns when nobody can write to the outputs any more, workers neither.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=100)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"0\n")


def test_errors_of_workers_are_raised_here():
    results = ordered_map(int, ["1", "2", "three", "4"], 2)
    assert next(results) == 1
    assert next(results) == 2
    with pytest.raises(ValueError, match="'three'"):
        next(results)
    with pytest.raises(RuntimeError, match="ended by itself, with code 3"):
        list(ordered_map(os._exit, [3], 2))
