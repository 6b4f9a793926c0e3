"""A server of the page, and a person who writes in it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from typing import Any

from playwright.sync_api import Page, expect

#: A text that is shorter than what the embedded model reads.
BEGINNING = "KING.\nThe night is long, my lords, and yet the day"


class Served:
    """A process of `gpt2x serve`.

    Attributes:
        url: of the page.
    """

    def __init__(self, *arguments: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "gpt2x", "serve", "--port", str(port), *arguments]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert self._process.stdout is not None
        found = re.search(r"http://\S+", self._process.stdout.readline())
        if found is None:
            self._process.communicate()
            raise RuntimeError("the server has not started")
        self.url = found[0] + "/"

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rstrip("/").rpartition(":")[2])

    def completions(self, body: dict[str, Any]) -> list[str]:
        """Return the texts of a request to /v1/completions that is not a stream."""
        request = urllib.request.Request(
            f"{self.url}v1/completions",
            json.dumps({**body, "stream": False}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return [choice["text"] for choice in json.load(answer)["choices"]]

    def stop(self) -> None:
        """End it as an operator does."""
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=60)


class Writer:
    """A person who writes in the page; elements by what a person sees or hears of them.

    Attributes:
        page: Playwright's.
        requests: bodies of the requests for continuations, in order.
        errors: what the page did wrong: exceptions and errors of the console.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.requests: list[dict[str, Any]] = []
        self.errors: list[str] = []
        page.on("request", self._requested)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.text = page.get_by_role("textbox", name="Text", exact=True)
        self.title = page.get_by_role("textbox", name="Title")
        self.list = page.get_by_role("listbox", name="Continuations")
        self.options = self.list.get_by_role("option")
        self.counts = page.locator("#counts")
        self.notice = page.get_by_role("complementary", name="Notice")
        self.live = page.locator("#live")
        self.open(url)

    def _requested(self, request: Any) -> None:
        if request.url.endswith("/v1/completions"):
            self.requests.append(request.post_data_json)

    def open(self, url: str) -> None:
        """Open an address, and wait until the page works."""
        self.page.goto(url)
        expect(self.page.locator("body")).to_have_class("ready")

    def type(self, text: str) -> None:
        """Type into the text, as one input."""
        self.text.focus()
        self.page.keyboard.insert_text(text)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def button(self, name: str) -> Any:
        """Return a button by its whole name."""
        return self.page.get_by_role("button", name=name, exact=True)

    def click(self, name: str) -> None:
        """Click a button."""
        self.button(name).click()

    def ask(self) -> list[str]:
        """Press Tab, and return the continuations when they are ready."""
        self.press("Tab")
        return self.ready()

    def ready(self) -> list[str]:
        """Return the continuations when they are whole."""
        expect(self.list).to_have_attribute("aria-busy", "false")
        return self.shown()

    def shown(self) -> list[str]:
        """Return the continuations as they are now."""
        return self.list.locator(".text").evaluate_all("all => all.map(e => e.textContent)")

    def parts(self) -> list[tuple[str, str]]:
        """Return the text's parts as they are shown, each with who wrote it."""
        spans = self.page.locator("#mirror span").evaluate_all(
            "all => all.map(e => [e.classList.contains('by-model'), e.textContent])"
        )
        found: list[tuple[str, str]] = []
        for by_model, text in spans[:-1]:
            who = "model" if by_model else "person"
            if found and found[-1][0] == who:
                text = found.pop()[1] + text
            found.append((who, text))
        return found

    def has_text(self, text: str) -> None:
        """Assert what is written."""
        expect(self.text).to_have_value(text)

    def save(self) -> None:
        """Have the page save what is written, as it does when it is hidden."""
        self.page.evaluate("dispatchEvent(new Event('pagehide'))")

    def documents(self) -> list[dict[str, Any]]:
        """Return the documents that the browser keeps, those changed last first."""
        kept = self.page.evaluate(
            "Object.keys(localStorage).filter(key => key.startsWith('gpt2x.document.'))"
            ".map(key => JSON.parse(localStorage[key]))"
        )
        return sorted(kept, key=lambda doc: -doc["changed"])

    def link(self) -> str:
        """Return the link that shares the text, and close the dialog."""
        self.click("Share")
        expect(self.page.locator("#share")).to_be_visible()
        expect(self.page.locator("#link")).not_to_have_value("")
        found = self.page.locator("#link").input_value()
        self.press("Escape")
        return found
