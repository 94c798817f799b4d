"""A Hub on the loopback: the endpoints that publishing a model uses, over real HTTP, with what arrived kept.

Create repository and branch, validate-yaml, preupload, LFS batch with its PUT and verify, commit,
model info. Speaks what huggingface_hub sends; knows nothing of what is published.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "localtoken" * 3
BINARY = (".safetensors", ".png")


class LocalHub:
    """What has arrived. `refuse(method, path)`: an HTTP status to answer instead, or None."""

    def __init__(self) -> None:
        self.url = ""
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.commits: list[dict[str, Any]] = []
        self.calls: list[tuple[str, str]] = []
        self.put: list[str] = []
        self.large = BINARY  # endings of files that go by LFS
        self.refuse: Callable[[str, str], int | None] = lambda method, path: None

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        return self.repos[repo][branch]

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        for verb, pattern, act in self._routes():
            match = re.fullmatch(pattern, path)
            if verb == method and match:
                return act(body, *map(unquote, match.groups()))
        return 404, {"error": f"no route {method} {path}"}

    def _routes(self) -> Iterator[tuple[str, str, Callable[..., tuple[int, Any]]]]:
        repo = r"([^/]+/[^/]+)"
        yield "POST", "/api/repos/create", self._create
        yield "POST", "/api/validate-yaml", lambda body: (200, {"warnings": [], "errors": []})
        yield "POST", rf"/api/models/{repo}/branch/([^/]+)", self._branch
        yield "POST", rf"/api/models/{repo}/preupload/([^/]+)", self._preupload
        yield "POST", rf"/{repo}\.git/info/lfs/objects/batch", self._batch
        yield "PUT", r"/lfs/([0-9a-f]{64})", self._take
        yield "POST", r"/lfs/([0-9a-f]{64})/verify", self._verify
        yield "POST", rf"/api/models/{repo}/commit/([^/]+)", self._commit
        yield "GET", rf"/api/models/{repo}", self._info
        yield "GET", rf"/api/models/{repo}/revision/([^/]+)", self._info

    def _create(self, body: bytes) -> tuple[int, Any]:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repos:
            return 409, {
                "error": "You already created this model repo",
                "url": f"{self.url}/{name}",
            }
        self.repos[name] = {"main": {}}
        self.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        return 200, {"url": f"{self.url}/{name}"}

    def _branch(self, body: bytes, repo: str, branch: str) -> tuple[int, Any]:
        if branch in self.repos[repo]:
            return 409, {"error": "Reference already exists"}
        self.repos[repo][branch] = dict(self.repos[repo]["main"])
        return 200, {}

    def _preupload(self, body: bytes, repo: str, branch: str) -> tuple[int, Any]:
        if branch not in self.repos.get(repo, {}):
            return 404, {"error": "no such repository or revision"}
        there = self.files(repo, branch)
        return 200, {
            "files": [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(self.large) else "regular",
                    "shouldIgnore": False,
                    "oid": _oid(one["path"], there.get(one["path"])),
                }
                for one in json.loads(body)["files"]
            ]
        }

    def _batch(self, body: bytes, repo: str) -> tuple[int, Any]:
        told = []
        for one in json.loads(body)["objects"]:
            entry = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.objects:
                where = f"{self.url}/lfs/{one['oid']}"
                entry["actions"] = {
                    "upload": {"href": where},
                    "verify": {"href": f"{where}/verify"},
                }
            told.append(entry)
        return 200, {"transfer": "basic", "objects": told}

    def _take(self, body: bytes, oid: str) -> tuple[int, Any]:
        if hashlib.sha256(body).hexdigest() != oid:
            return 400, {"error": "the bytes are not those that were announced"}
        self.objects[oid] = body
        self.put.append(oid)
        return 200, {}

    def _verify(self, body: bytes, oid: str) -> tuple[int, Any]:
        return (
            (200, {}) if len(self.objects.get(oid, b"")) == json.loads(body)["size"] else (422, {})
        )

    def _commit(self, body: bytes, repo: str, branch: str) -> tuple[int, Any]:
        lines = [json.loads(line) for line in body.splitlines()]
        arrived: dict[str, bytes] = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                arrived[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    return 400, {"error": f"object {value['oid']} was never uploaded"}
                arrived[value["path"]] = self.objects[value["oid"]]
        self.files(repo, branch).update(arrived)
        self.commits.append({"header": lines[0]["value"], "files": sorted(arrived)})
        oid = f"{len(self.commits):040x}"
        return 200, {"commitUrl": f"{self.url}/{repo}/commit/{oid}", "commitOid": oid}

    def _info(self, body: bytes, repo: str, branch: str = "main") -> tuple[int, Any]:
        if repo not in self.repos:
            return 404, {"error": "Repository not found"}
        return 200, {"id": repo, "modelId": repo, "sha": f"{len(self.commits):040x}"}


def _oid(path: str, content: bytes | None) -> str | None:
    """As git names it: a blob, or the pointer's blob in place of a large file."""
    if content is None:
        return None
    if path.endswith(BINARY):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    """A Hub at `hub.url` that takes TOKEN alone; gone on leaving."""
    hub = LocalHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self._body()
            path = urlsplit(self.path).path
            hub.calls.append((self.command, path))
            status = hub.refuse(self.command, path)
            answer: Any = {"error": f"planted {status}"}
            signed = path.startswith("/lfs/") and self.command == "PUT"
            if (
                status is None
                and not signed
                and self.headers.get("Authorization") != f"Bearer {TOKEN}"
            ):
                status, answer = 401, {"error": "Invalid username or password."}
            if status is None:
                status, answer = hub.answer(self.command, path, body)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            if status >= 400:
                self.send_header("X-Error-Message", answer.get("error", ""))
            self.end_headers()
            self.wfile.write(text)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                parts = []
                while size := int(self.rfile.readline().strip() or b"0", 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        do_GET = do_POST = do_PUT = do_HEAD = _serve

        def log_message(self, *_: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
