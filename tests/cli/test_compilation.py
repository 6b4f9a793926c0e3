"""What JAX compiles for the command line is kept for its next run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2x import backends
from gpt2x.cli._compilation import VARIABLE, keep_compiled

JAX = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
COUNTING = """
import collections, json
from gpt2x import backends
from gpt2x.cli import app
counts, load = collections.Counter(), backends.load
def load_and_listen(*arguments, **options):
    package = load(*arguments, **options)
    import jax
    jax.monitoring.register_event_listener(lambda name, **_: counts.update([name.split("/")[-1]]))
    return package
backends.load = load_and_listen
app(["generate", "In", "--backend", "flax", "-n", "2", "--greedy"], standalone_mode=False)
print(json.dumps(counts))
"""


@pytest.fixture
def environment(monkeypatch):
    """Return a function that sets the user's variables, and returns what JAX is told then."""

    def told(**variables: str) -> list[str | None]:
        for name in (VARIABLE, "XDG_CACHE_HOME", *JAX):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        keep_compiled()
        found = [os.environ.get(name) for name in JAX]
        for name in JAX:  # so that monkeypatch restores what was set above
            monkeypatch.delenv(name, raising=False)
        return found

    return told


def test_the_folder_is_that_of_the_users_caches(environment, tmp_path):
    home, own = tmp_path / "home", tmp_path / "own"
    assert environment(HOME=str(home)) == [str(home / ".cache" / "gpt2x" / "jax"), "0"]
    assert (home / ".cache" / "gpt2x" / "jax").stat().st_mode & 0o077 == 0
    caches = str(tmp_path / "caches")
    assert environment(XDG_CACHE_HOME=caches) == [str(Path(caches, "gpt2x", "jax")), "0"]
    assert environment(**{VARIABLE: str(own)}) == [str(own), "0"]
    assert own.is_dir()


def test_it_can_be_switched_off_and_jax_asked_otherwise(environment, tmp_path):
    assert environment(HOME=str(tmp_path), **{VARIABLE: "off"}) == [None, None]
    assert environment(JAX_COMPILATION_CACHE_DIR="elsewhere") == ["elsewhere", None]
    seconds = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "2"}
    assert environment(XDG_CACHE_HOME=str(tmp_path), **seconds)[1] == "2"


def test_a_folder_that_cannot_be_written_is_a_warning(environment, tmp_path):
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "folder")
    with pytest.warns(UserWarning, match="cannot be written; set GPT2X_COMPILATION_CACHE"):
        assert environment(**{VARIABLE: folder}) == [None, None]


@pytest.mark.skipif("flax" not in backends.installed(), reason="needs Flax")
def test_a_second_run_compiles_nothing(tmp_path):
    def run() -> dict[str, int]:
        done = subprocess.run(
            [sys.executable, "-c", COUNTING],
            capture_output=True,
            text=True,
            timeout=900,
            env={**os.environ, VARIABLE: str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    first, second = run(), run()
    assert first["cache_misses"] > 0
    assert "cache_misses" not in second
    assert second["cache_hits"] == first["cache_misses"] + first.get("cache_hits", 0)
