"""A small Hugging Face Hub on localhost: files of repositories by name and revision.

Speaks what huggingface-hub asks for: ``/USER/NAME/resolve/REVISION/PATH`` with the commit and ETag
headers, the hub's error codes, the listing of a repository, tokens, and uploads.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@dataclass
class Repository:
    """Revision name -> {path: contents}; with a token, only requests that carry it are answered."""

    revisions: dict[str, dict[str, bytes]]
    token: str | None = None
    gated: bool = False


@dataclass
class HubServer:
    """The server's address, its repositories, and the requests it has answered."""

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def add(self, name: str, files: dict[str, bytes], **options: object) -> Repository:
        """Add a repository with one revision, ``main``."""
        self.repositories[name] = Repository({"main": files}, **options)  # type: ignore[arg-type]
        return self.repositories[name]


def files_of(folder: Path) -> dict[str, bytes]:
    """The contents of a folder, as `HubServer.add` takes them."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def commit_of(files: dict[str, bytes]) -> str:
    """A commit hash, which changes with the files."""
    digest = hashlib.sha1()
    for path, contents in sorted(files.items()):
        digest.update(path.encode() + b"\0" + hashlib.sha1(contents).digest())
    return digest.hexdigest()


@contextmanager
def serve_hub() -> Iterator[HubServer]:
    """Run a server on a free port until the block ends."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.hub = HubServer(f"http://127.0.0.1:{http.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield http.hub  # type: ignore[attr-defined]
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        """Create a repository, or commit files to one; asks for the token ``hf_write``.

        With ``hf_read``, one may open pull requests, which become revisions ``refs/pr/1`` and on.
        """
        hub: HubServer = self.server.hub  # type: ignore[attr-defined]
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, _, query = self.path.partition("?")
        hub.requests.append(f"POST {path}")
        if path == "/api/validate-yaml":
            return self._json({"warnings": [], "errors": []})
        is_pull_request = query == "create_pr=1"
        allowed = ("hf_write", "hf_read") if is_pull_request else ("hf_write",)
        if self.headers.get("Authorization", "").removeprefix("Bearer ") not in allowed:
            return self._fail(403, "")
        if path == "/api/repos/create":
            asked = json.loads(sent)
            name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            hub.repositories.setdefault(name, Repository({"main": {}}))
            return self._json({"url": f"{hub.url}/{name}", "id": name})
        name, _, branch = path.removeprefix("/api/models/").partition("/branch/")
        if branch:
            revisions = hub.repositories[name].revisions
            revisions.setdefault(unquote(branch), dict(revisions["main"]))
            return self._json({})
        name, _, rest = path.removeprefix("/api/models/").partition("/preupload/")
        if rest:
            files = [{**f, "uploadMode": "regular"} for f in json.loads(sent)["files"]]
            for file in files:
                file["shouldIgnore"] = False
            return self._json({"files": files})
        name, _, revision = path.removeprefix("/api/models/").partition("/commit/")
        revisions = hub.repositories[name].revisions
        number = sum(key.startswith("refs/pr/") for key in revisions) + 1
        if is_pull_request:
            files = revisions[f"refs/pr/{number}"] = dict(revisions[revision])
        else:
            files = revisions.setdefault(revision, {})
        for line in map(json.loads, sent.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        commit = commit_of(files)
        answer = {"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit}
        if is_pull_request:
            answer["pullRequestUrl"] = f"{hub.url}/{name}/discussions/{number}"
        return self._json(answer)

    def _json(self, answer: object) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, True)

    def _answer(self, body: bool) -> None:
        hub: HubServer = self.server.hub  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        hub.requests.append(f"{self.command} {path}")
        if path.startswith("/api/models/"):
            kind = "/tree/" if "/tree/" in path else "/revision/"
            name, _, revision = path.removeprefix("/api/models/").partition(kind)
            revision = revision or "main"
        else:
            name, _, rest = path[1:].partition("/resolve/")
            revision, _, file = rest.partition("/")
        revision = unquote(revision)
        repository = hub.repositories.get(name)
        authorised = repository is not None and repository.token in (
            None,
            self.headers.get("Authorization", "").removeprefix("Bearer "),
        )
        if repository is None or (not authorised and not repository.gated):
            return self._fail(401, "RepoNotFound")
        if not authorised:
            return self._fail(403, "GatedRepo")
        by_commit = {commit_of(files): files for files in repository.revisions.values()}
        files = repository.revisions.get(revision, by_commit.get(revision))
        if files is None:
            return self._fail(404, "RevisionNotFound")
        if path == f"/api/models/{name}" or "/revision/" in path:
            about = {"id": name, "sha": commit_of(files)}
            about["siblings"] = [{"rfilename": file} for file in files]
            return self._send(200, json.dumps(about).encode(), {}, body)
        if path.startswith("/api/"):
            listing = [{"type": "file", "path": p, "size": len(c)} for p, c in files.items()]
            for entry in listing:
                entry["oid"] = "0" * 40
            return self._send(200, json.dumps(listing).encode(), {}, body)
        commit = {"X-Repo-Commit": commit_of(files)}
        if file not in files:
            return self._fail(404, "EntryNotFound", commit)
        etag = hashlib.sha1(files[file]).hexdigest()
        return self._send(200, files[file], {**commit, "ETag": f'"{etag}"'}, body)

    def _fail(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"", {"X-Error-Code": code, **(headers or {})}, body=False)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Keep the test run's output clean."""
