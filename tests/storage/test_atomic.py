"""Wherever a save is cut short, and whatever else is saved meanwhile, no mixture is loaded."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from gpt2x import EMBEDDED_MODEL, GenerationConfig, GPT2Config, GPT2TokenizerFast
from gpt2x.checkpoint import open_checkpoint
from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.models.saving import save_folder
from gpt2x.storage.atomic import atomic_file, atomic_folder
from gpt2x.storage.hub import ModelFiles
from gpt2x.storage.publishing import push_folder
from gpt2x.weights.table import Head, parameter_shapes
from support.golden_data import SOURCE

# Saves in child processes that kill themselves at their first, second, third ... change of the file
# system, until one comes through. Prints what is loaded after each, and after another save.
KILLED = """
import json, os, shutil, signal, sys, warnings
from pathlib import Path
import numpy as np
from gpt2x import EMBEDDED_MODEL, GPT2Config, GPT2TokenizerFast
from gpt2x.checkpoint import convert, open_checkpoint
from gpt2x.storage.hub import ModelFiles
from gpt2x.models.saving import save_folder
from gpt2x.weights.table import Head, parameter_shapes

old, new, folder, exists, source = json.loads(sys.argv[1])
EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
os.fsync = lambda file: None
warnings.simplefilter("ignore")
target = Path(folder, "target")
tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)

def config(n_head):
    return GPT2Config(n_layer=2, n_embd=32, n_head=n_head, vocab_size=64, n_positions=16)

def save(kind, value, option):
    if kind == "tokenizer":
        tokenizer.add_special_tokens({"pad_token": f"<{value}>"})
        tokenizer.padding_side = option
        tokenizer.save_pretrained(target)
    elif kind == "convert":
        convert(source, target, to=option, dtype=value, overwrite=True, max_shard_size="40KB")
    else:
        shapes = parameter_shapes(config(value), Head.LM)
        tensors = {name: np.full(shape, value, np.float32) for name, shape in shapes.items()}
        safe, size = option
        save_folder(target, config(value), tensors, Head.LM, max_shard_size=size,
                    safe_serialization=safe)

def killed(point):
    seen = 0
    def count(event, arguments):
        nonlocal seen
        if event in EVENTS:
            seen += 1
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    save(*new)
    os._exit(0)

def state():
    try:
        if new[0] == "tokenizer":
            loaded = GPT2TokenizerFast.from_pretrained(target)
            return [loaded.pad_token, loaded.padding_side]
        with open_checkpoint(target) as checkpoint:
            tensors = {tensor.read().dtype.name for tensor in checkpoint.values()}
            values = {float(x) for tensor in checkpoint.values() for x in tensor.read().ravel()[:1]}
            if new[0] == "convert":
                return [len(checkpoint), *sorted(tensors), (checkpoint.config or {}).get("dtype")]
            return [*sorted(values), checkpoint.config["n_head"]]
    except OSError:
        return None

def another():
    if new[0] == "tokenizer":
        config(2).save_pretrained(target)
    else:
        tokenizer.save_vocabulary(target)

status, point = 1, 0
while status:
    point += 1
    if exists:
        save(*old)
    child = os.fork()
    if not child:
        try:
            killed(point)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    first = state()
    target.parent.mkdir(exist_ok=True)
    another()
    left = [path.name for path in target.rglob(".gpt2x-*")]
    print(json.dumps([first, state(), left]))
    shutil.rmtree(folder)
"""

SHARDED, SINGLE, BIN = (True, "40KB"), (True, "5GB"), (False, "40KB")
SAVES = {
    "single over sharded": (("model", 1, SHARDED), ("model", 2, SINGLE)),
    "sharded over single": (("model", 1, SINGLE), ("model", 2, SHARDED)),
    "the same shards": (("model", 1, SHARDED), ("model", 2, SHARDED)),
    "fewer shards of another format": (("model", 1, BIN), ("model", 2, (True, "60KB"))),
    "tokenizer": (("tokenizer", 1, "left"), ("tokenizer", 2, "right")),
    "convert": (("convert", "float32", "pytorch"), ("convert", "bfloat16", "safetensors")),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize(
    ("name", "exists"),
    [*((name, True) for name in SAVES), ("the same shards", False), ("tokenizer", False)],
)
def test_a_save_killed_anywhere_leaves_the_old_files_the_new_ones_or_an_error(
    tmp_path, name, exists
):
    task = json.dumps([*SAVES[name], str(tmp_path / "folder"), exists, str(SOURCE)])
    done = subprocess.run([sys.executable, "-c", KILLED, task], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    states = [json.loads(line) for line in done.stdout.splitlines()]
    old, new = states[0][0], states[-1][0]
    assert len(states) > 10
    assert (old is None) != exists
    assert new not in (None, old)
    for first, then, left in states:
        assert first in (old, new, None)
        assert then in ((old, new) if exists or first else (None, new))  # the next save finishes
        assert left == []


def write(folder, text, names=("config.json", "model.bin"), replaces=("model*.bin*",)):
    with atomic_folder(folder, replaces=replaces) as work:
        for name in names:
            (work / name).write_text(text)


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def cut_short(folder, monkeypatch, text="new"):
    """Save as a process does that ends while it moves files."""

    class Ended(BaseException):
        pass

    def end(source, destination):
        if Path(destination) == folder / "model.bin":
            raise Ended
        move(source, destination)

    move = os.replace
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", end)
        patch.setattr("contextlib.ExitStack.callback", lambda *arguments, **options: None)
        patch.setattr("gpt2x.storage.atomic._remove", lambda work: None)
        with pytest.raises(Ended):
            write(folder, text)
    (folder / ".gpt2x-lock").unlink(missing_ok=True)  # its lock would have ended with it


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
            raise OSError("the disk has gone")
        move(source, destination)

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(OSError, match="disk has gone"):
        write(target, "new")
    assert content(target) == before


def test_a_full_disk_leaves_what_was_there(tmp_path):
    write(tmp_path, "old")

    def fill():
        with atomic_folder(tmp_path) as work:
            (work / "config.json").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left.*: nothing was saved to") as raised:
        fill()
    assert raised.value.errno == errno.ENOSPC
    assert content(tmp_path) == {"config.json": "old", "model.bin": "old"}


def test_a_file_is_no_folder_to_save_to(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(InvalidInputError, match="is a file; give a folder"):
        write(tmp_path / "x", "new")
    assert content(tmp_path) == {"x": "mine"}


@pytest.mark.parametrize(
    "save",
    [
        lambda path: write(path, "new"),
        lambda path: GPT2Config().save_pretrained(path),
        lambda path: GenerationConfig().save_pretrained(path),
    ],
)
def test_a_link_to_nothing_is_no_folder_to_save_to(tmp_path, save):
    (link := tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(InvalidInputError, match="link' is a link to nothing; give a folder"):
        save(link)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_what_is_not_allowed_is_told_of_the_folder_that_the_user_gave(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".gpt2x-x"))

    write(tmp_path, "old")
    for name in ("os.open", "tempfile.mkdtemp"):
        with monkeypatch.context() as patch:
            patch.setattr(name, refuse)
            with pytest.raises(PermissionError) as raised:
                write(tmp_path, "new")
        assert f"Permission denied: nothing was saved to {str(tmp_path)!r}" in str(raised.value)
        assert content(tmp_path) == {"config.json": "old", "model.bin": "old"}


def test_an_error_about_a_file_of_the_user_stays_as_it_is(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"No such file or directory: .*absent"),
        atomic_folder(tmp_path / "model"),
    ):
        (tmp_path / "absent").read_text()


def test_a_tilde_stands_for_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # Windows
    GPT2Config(n_layer=3).save_pretrained("~/model")
    assert GPT2Config.from_pretrained(tmp_path / "model").n_layer == 3


def test_folders_replace_folders(tmp_path):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "model", replaces=("params",)) as work:
            (work / "params").mkdir()
            (work / "params" / text).write_text(text)
    assert [path.name for path in (tmp_path / "model").rglob("*")] == ["params", "new"]


def test_old_weights_go_first_and_new_ones_come_last(tmp_path, monkeypatch):
    order = ("model-*.bin", "model.bin", "index")
    write(tmp_path, "old", ("index", "model-1.bin", "config"), order)
    seen = []
    move = os.replace

    def replace(source, destination):
        move(source, destination)
        seen.append(sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")))

    monkeypatch.setattr("os.replace", replace)
    write(tmp_path, "new", ("model.bin", "config"), order)
    everything = ["config", "index", "model-1.bin"]
    assert seen == [
        everything,
        ["config", "model-1.bin"],
        ["config"],
        [],
        ["config"],
        ["config", "model.bin"],
    ]


@pytest.mark.parametrize("beside", [False, True])
def test_the_next_save_removes_what_killed_ones_left_but_nothing_in_use(tmp_path, beside):
    target = tmp_path / "model"
    if not beside:
        target.mkdir()
    (left := (tmp_path if beside else target) / ".gpt2x-killed").mkdir()
    (left / "model.bin").write_text("half")
    with atomic_folder(target) as first:
        assert not left.exists()
        (first / "x").write_text("first")
        with atomic_folder(target) as second:
            (second / "x").write_text("second")
        assert first.is_dir()
        assert content(target) == {"x": "second"}
    assert content(target) == {"x": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_of_two_saves_at_once_the_second_waits(tmp_path, monkeypatch):
    write(tmp_path, "old")
    paused, resumed = threading.Event(), threading.Event()
    move = os.replace

    def replace(source, destination):
        if Path(destination) == tmp_path / "model.bin" and not paused.is_set():
            paused.set()
            assert resumed.wait(60)
        move(source, destination)

    monkeypatch.setattr("os.replace", replace)
    monkeypatch.setattr("gpt2x.storage.atomic._PATIENCE_SECONDS", 60)
    threads = [threading.Thread(target=write, args=(tmp_path, text)) for text in ("1", "2")]
    threads[0].start()
    assert paused.wait(60)
    threads[1].start()
    threads[1].join(0.2)
    assert threads[1].is_alive()
    resumed.set()
    for thread in threads:
        thread.join()
    assert content(tmp_path) == {"config.json": "2", "model.bin": "2"}


def test_a_save_that_does_not_end_is_named(tmp_path, monkeypatch):
    write(tmp_path, "old")
    monkeypatch.setattr("gpt2x.storage.atomic._PATIENCE_SECONDS", 0.1)
    code = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); input(1)"
    lock = str(tmp_path / ".gpt2x-lock")
    with subprocess.Popen(
        [sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.read(1)
        with pytest.raises(CheckpointError, match=r"has held .*\.gpt2x-lock.* for more than 0.1"):
            write(tmp_path, "new")
        other.kill()
    assert content(tmp_path) == {"config.json": "old", "model.bin": "old", ".gpt2x-lock": ""}
    write(tmp_path, "new")  # the lock has ended with its process
    assert content(tmp_path) == {"config.json": "new", "model.bin": "new"}


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch):
    def acquire(lock):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with pytest.warns(UserWarning, match="has no locks; let no two saves"):
        write(tmp_path, "new")
    assert content(tmp_path) == {"config.json": "new", "model.bin": "new"}


def test_what_was_cut_short_is_refused_and_finished_by_the_next_save(tmp_path, monkeypatch):
    write(tmp_path, "old")
    cut_short(tmp_path, monkeypatch)
    for read in (GPT2Config, GPT2TokenizerFast, GenerationConfig):
        with pytest.raises(CheckpointError, match=r"was cut short.*save into it again"):
            read.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="was cut short"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="was cut short"):
        push_folder(tmp_path, "user/model")
    with atomic_file(tmp_path / "notes.txt") as path:
        path.write_text("mine")
    assert content(tmp_path) == {"config.json": "new", "model.bin": "new", "notes.txt": "mine"}


@pytest.mark.parametrize(
    "note",
    [
        "",
        "[]",
        '{"work": 1, "old": [], "new": []}',
        '{"work": ".gpt2x-x", "old": ["../x"], "new": []}',
        '{"work": ".gpt2x-x/..", "old": [], "new": []}',
        '{"work": ".gpt2x-x", "old": [], "new": [".."]}',
    ],
)
def test_the_note_of_a_stranger_moves_nothing_outside(tmp_path, note):
    (target := tmp_path / "model").mkdir()
    (target / ".gpt2x-x" / "new").mkdir(parents=True)
    (tmp_path / "x").write_text("mine")
    (target / ".gpt2x-unfinished").write_text(note)
    with pytest.raises(CheckpointError, match=r"is damaged\. Save to another folder"):
        write(target, "new")
    assert (tmp_path / "x").read_text() == "mine"


def test_what_was_cut_short_and_has_lost_its_files_is_told_of(tmp_path):
    (tmp_path / ".gpt2x-unfinished").write_text('{"work": ".gpt2x-x", "old": [], "new": ["a"]}')
    with pytest.raises(CheckpointError, match="cannot be finished, since its files"):
        write(tmp_path, "new")


def test_what_is_saved_to_while_it_is_read_is_refused(tmp_path, monkeypatch):
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16, n_positions=8)

    def save(value):
        shapes = parameter_shapes(config, Head.LM)
        tensors = {name: np.full(shape, value, np.float32) for name, shape in shapes.items()}
        save_folder(tmp_path, config, tensors, Head.LM)

    def find_and_save(files, name):
        found = find(files, name)
        if name == "config.json":  # the weights are open
            save(2)
        return found

    save(1)
    find = ModelFiles.find
    with monkeypatch.context() as patch:
        patch.setattr(ModelFiles, "find", find_and_save)
        with pytest.raises(CheckpointError, match="was saved to while it was read; load it again"):
            open_checkpoint(tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        save(3)
        assert checkpoint["wte.weight"].read()[0, 0] == 2  # what is open stays


def test_a_model_and_a_tokenizer_share_a_folder(tmp_path):
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16, n_positions=8)
    tokenizer = GPT2TokenizerFast.from_pretrained(EMBEDDED_MODEL)
    names = set()
    for value in (1, 2):
        shapes = parameter_shapes(config, Head.LM)
        tensors = {name: np.full(shape, value, np.float32) for name, shape in shapes.items()}
        save_folder(tmp_path, config, tensors, Head.LM, generation_config=GenerationConfig())
        tokenizer.save_pretrained(tmp_path)
        names = names or set(os.listdir(tmp_path))
        assert set(os.listdir(tmp_path)) == names
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "vocab.json"}
    assert not any(name.startswith(".") for name in names)
    GPT2TokenizerFast.from_pretrained(tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint["wte.weight"].read()[0, 0] == 2
