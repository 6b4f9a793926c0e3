"""transformers' own tests for GPT-2, run on gpt2x's classes.

They run where transformers 4.57 is installed, with what its tests need (accelerate, datasets,
httpx, parameterized, pytest), and where TRANSFORMERS_SOURCE names a folder with its source, as its
repository has it at the tag v4.57.6 (its source distribution lacks most of the tests):

    TRANSFORMERS_SOURCE=../transformers python -m pytest tests/compat

What fails on purpose is listed in expected_failures.toml, by reason; docs/compatibility.md explains
the reasons.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import metadata
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
    pytest.mark.slow,
]


def run(suite: str, report: Path) -> dict[str, bool]:
    """Run one file of transformers' tests on gpt2x; return for each test whether it failed.

    Skipped tests are left out.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
        "HF_HUB_OFFLINE": "1",
        "USE_TF": "0",
        "USE_FLAX": "0",
    }
    options = ["-p", "gpt2x_as_transformers", "-p", "no:warnings", "-o", "addopts=", "-q"]
    options += ["-k", "not synthid"]  # minutes on a class of transformers that gpt2x has not
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
    failed = run(suite, tmp_path / "report.xml")
    listed = {name for names in EXPECTED.get(Path(suite).stem, {}).values() for name in names}
    print(f"{suite}: {len(failed)} ran, {sum(failed.values())} failed")
    assert sorted(name for name, bad in failed.items() if bad and name not in listed) == []
    assert sorted(name for name in listed if failed.get(name) is False) == [], "these pass now"
