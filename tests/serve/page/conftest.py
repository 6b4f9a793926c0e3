"""One server and one browser for the tests of the page, and a window of its own for each test."""

from __future__ import annotations

import json
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

from support.page import Served, Writer

expect.set_options(timeout=60_000)  # milliseconds; a busy machine does not reach it

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="package")
def server():
    """A server of the embedded model."""
    served = Served()
    yield served
    served.stop()


# It ends with the module: Playwright's event loop would stand in the way of other tests' own.
@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no browser: apt-get install chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield found
        found.close()


@pytest.fixture
def contexts(browser):
    """Makes browser contexts, each another person's; they are closed at the end."""
    made = []

    def make(**options):
        # A service worker asks for all files again, which takes a while.
        options = {"service_workers": "block", "locale": "en-GB", **options}
        context = browser.new_context(**options)
        context.set_default_timeout(60_000)
        made.append(context)
        return context

    yield make
    for context in made:
        context.close()


@pytest.fixture
def start(contexts, server):
    """Makes people who write, in contexts with Playwright's options; they make no errors."""
    writers = []

    def make(settings=None, url=server.url, **options):
        context = contexts(**options)
        if settings is not None:
            stored = json.dumps(json.dumps(settings))
            context.add_init_script(
                f"localStorage['gpt2x.settings'] ??= {stored}"  # not over what the page remembers
            )
        writers.append(Writer(context.new_page(), url))
        return writers[-1]

    yield make
    assert [writer.errors for writer in writers] == [[] for _ in writers]


@pytest.fixture
def writer(start):
    """A person who writes with short continuations on a wide screen."""
    return start({"length": 8}, viewport={"width": 1200, "height": 800})
