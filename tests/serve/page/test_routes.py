"""How the page's files are sent."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from gpt2x.serve import page

FILES = sorted(path for path in Path(page.__file__).parent.iterdir() if path.suffix != ".py")
FILES = [path for path in FILES if path.is_file()]


def get(url, **headers):
    """Return the status, headers and body of a response."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def test_every_file_is_sent_with_its_type_and_security_headers(server):
    _, _, listed = get(server.url + "page/files.json")
    assert json.loads(listed) == [path.name for path in FILES if path.name != "index.html"]
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for path in ["", *(f"page/{name}" for name in json.loads(listed))]:
        status, headers, body = get(server.url + path)
        assert status == 200
        assert headers.get_content_type() == types.get(Path(path).suffix, "text/html")
        assert headers["X-Content-Type-Options"] == "nosniff"
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy.pop("default-src") == "'none'"
        assert set(policy.values()) == {"'self'", "'none'"}
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        again, _, nothing = get(server.url + path, **{"If-None-Match": headers["ETag"]})
        assert (again, nothing) == (304, b"")
        assert body == (Path(page.__file__).parent / (Path(path).name or "index.html")).read_bytes()


@pytest.mark.parametrize("path", ["page/", "page/__init__.py", "page/..%2fapp.py", "page/none.js"])
def test_nothing_else_is_sent(server, path):
    assert get(server.url + path)[0] == 404


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_asks_for_anything_from_elsewhere(path):
    text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//\w+\.\w|@import|eval\(|innerHTML", text)
    assert not re.search(r"<script>|<style|\sstyle=|\son\w+=", text), "inline code"
