"""A Hugging Face hub on this machine: just enough of its interface for huggingface-hub."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


def commit_of(repo: str, revision: str) -> str:
    return hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()


@dataclass
class FakeHub:
    """Its models, each a folder, by (owner/name, branch); and what was asked of it."""

    folders: dict[tuple[str, str], Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    served: list[str] = field(default_factory=list)
    address: str = ""

    def find(self, repo: str, revision: str) -> tuple[Path, str] | None:
        """The folder and the commit that a branch or commit means."""
        for (name, branch), folder in self.folders.items():
            if name == repo and revision in (branch, commit_of(name, branch)):
                return folder, commit_of(name, branch)
        return None


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/").split("/")
        if path[:2] == ["api", "models"]:
            kind, revision = path[4:6] if len(path) > 4 else ("revision", "main")
            self._about("/".join(path[2:4]), kind, revision)
        else:
            self._file("/".join(path[:2]), path[3], "/".join(path[4:]))

    do_HEAD = do_GET

    def _about(self, repo: str, kind: str, revision: str) -> None:
        if (found := self._find(repo, revision)) is None:
            return
        folder, commit = found
        if kind == "revision":
            names = [{"rfilename": path.name} for path in folder.iterdir()]
            self._answer(json.dumps({"id": repo, "sha": commit, "siblings": names}).encode())
            return
        files = [
            {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": _sha256(p)}
            for p in sorted(folder.iterdir())
        ]
        self._answer(json.dumps(files).encode())

    def _file(self, repo: str, revision: str, name: str) -> None:
        if (found := self._find(repo, revision)) is None:
            return
        folder, commit = found
        if self.command == "GET":
            self.hub.served.append(name)
        tag = f'"{_sha256(folder / name)}"'
        self._answer((folder / name).read_bytes(), {"ETag": tag, "X-Repo-Commit": commit})

    def _find(self, repo: str, revision: str) -> tuple[Path, str] | None:
        found = self.hub.find(repo, revision)
        if repo in self.hub.gated:
            self._answer(b"", {"X-Error-Code": "GatedRepo"}, status=403)
            return None
        if found is None:
            exists = any(name == repo for name, _ in self.hub.folders)
            code = "RevisionNotFound" if exists else "RepoNotFound"
            self._answer(b"", {"X-Error-Code": code}, status=404)
        return found

    def _answer(
        self, body: bytes, headers: dict[str, str] | None = None, status: int = 200
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: the tests' output is not the place."""


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub answers at `hub.address` inside the ``with`` block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
