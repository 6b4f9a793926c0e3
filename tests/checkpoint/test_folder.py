"""Folders appear whole or not at all, wherever the process that writes them is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2x.checkpoint.folder import atomic_folder

SOURCE = Path(__file__).parent / "files" / "source"

# Converts in child processes that kill themselves at their first, second, third ... access to the
# file system, until one comes through; prints what each has left.
KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
from gpt2x.checkpoint import convert, open_checkpoint, open_source
from gpt2x.errors import CheckpointError

source, work, to, size = sys.argv[1:]
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")

def attempt(target, point):
    seen = 0
    def count(event, arguments):
        nonlocal seen
        if event in EVENTS:
            seen += 1
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)
    with open_source(source) as opened:
        sys.addaudithook(count)
        convert(opened, target, to=to, max_shard_size=size, dtype="bfloat16", overwrite=True)

def state(target):
    try:
        with open_checkpoint(target) as checkpoint:
            dtypes = {tensor.read().dtype.name for tensor in checkpoint.values()}
            return [*sorted(dtypes), len(checkpoint), (checkpoint.config or {}).get("dtype")]
    except CheckpointError:
        return None

old = Path(work, "old")
convert(source, old, to=to)
for existing in (False, True):
    found, status, point = [], 1, 0
    while status:
        point += 1
        target = Path(work, f"{existing}{point}")
        if existing:
            shutil.copytree(old, target)
        child = os.fork()
        if not child:
            attempt(target, point)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), status
        found.append(state(target))
        shutil.rmtree(target, ignore_errors=True)
    print(json.dumps(found))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize(("to", "size"), [("safetensors", "20KB"), ("pytorch", "5GB")])
def test_a_conversion_killed_anywhere_leaves_the_old_model_the_new_or_none(tmp_path, to, size):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, SOURCE, tmp_path, to, size], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    fresh, replacing = (json.loads(line) for line in done.stdout.splitlines())
    old, new = ["float32", 28, "float32"], ["bfloat16", 28, "bfloat16"]
    tensors = 29 if to == "pytorch" else 28  # there the tied output layer is a second name
    old[1] = new[1] = tensors
    for found, before in ((fresh, None), (replacing, old)):
        assert len(found) > 10
        assert (found[0], found[-1]) == (before, new)
        assert {json.dumps(state) for state in found} <= {
            json.dumps(state) for state in (before, None, new)
        }


def test_what_cannot_be_moved_in_puts_everything_back(tmp_path, monkeypatch):
    target = tmp_path / "model"
    target.mkdir()
    before = {
        "model-1.bin": "old",
        "model.bin.index.json": "old",
        "config.json": "old",
        "x": "mine",
    }
    for name, text in before.items():
        (target / name).write_text(text)
    move = os.replace

    def replace(source, destination):
        if Path(destination) == target / "model.bin":
            raise OSError("the disk is full")
        move(source, destination)

    def save():
        with atomic_folder(target, replaces=("model*.bin*",)) as work:
            for name in ("config.json", "model.bin", "tokenizer.json"):
                (work / name).write_text("new")

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(OSError, match="disk is full"):
        save()
    assert {path.name: path.read_text() for path in target.iterdir()} == before


def test_folders_replace_folders(tmp_path):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "model", replaces=("params",)) as work:
            (work / "params").mkdir()
            (work / "params" / text).write_text(text)
    assert [path.name for path in (tmp_path / "model").rglob("*")] == ["params", "new"]
