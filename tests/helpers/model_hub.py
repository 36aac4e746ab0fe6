"""A stand-in for the HTTP interface of huggingface.co: repositories, commits, large files, and downloads."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from servers import serving

TOKEN = "hf_stand_in"


@dataclass
class Repository:
    """Files of each commit by its id, the newest last."""

    visibility: str = "public"
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, changes: dict[str, bytes]) -> str:
        """Adds a commit with changed files and returns its id."""
        files = {**(list(self.commits.values()) or [{}])[-1], **changes}
        number = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[number] = files
        return number


class ModelHub(BaseHTTPRequestHandler):
    """Handler of requests; `repositories`, `requests` and `forbidden` are shared by all of them."""

    protocol_version = "HTTP/1.1"
    repositories: dict[str, Repository]
    large: dict[str, bytes]
    requests: list[str]
    forbidden = False
    largest_header: dict[str, int]

    def do_POST(self) -> None:
        body = self._body()
        self.requests.append(f"POST {self.path}")
        if self.path == "/api/validate-yaml":
            bad = "license: nonsense" in json.loads(body)["content"].replace('"', "")
            errors = [{"message": '"license" must be one of the known licenses'}] if bad else []
            return self._send(400 if bad else 200, {"errors": errors, "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid username or password."})
        if self.forbidden:
            return self._send(403, {"error": "Forbidden"})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path.endswith(".git/info/lfs/objects/batch"):
            return self._send(
                200, {"transfer": "basic", "objects": [self._upload(o) for o in json.loads(body)["objects"]]}
            )
        name, action = "/".join(self.path.split("/")[3:5]), self.path.split("/")[5]
        if name not in self.repositories:
            return self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if action == "preupload":
            modes = [
                {"path": file["path"], "uploadMode": _mode(file["path"]), "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._send(200, {"files": modes})
        return self._commit(name, body)

    def do_PUT(self) -> None:
        self.large[self.path.rpartition("/")[2]] = self._body()
        self._send(200, {})

    def do_GET(self) -> None:
        self.requests.append(f"{self.command} {self.path}")
        name, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        repository = self.repositories.get(name)
        if repository is None or (repository.visibility == "private" and not self.headers.get("Authorization")):
            return self._send(401, {}, {"X-Error-Code": "RepoNotFound"})
        if repository.gated:
            return self._send(403, {}, {"X-Error-Code": "GatedRepo"})
        commit = list(repository.commits)[-1] if revision == "main" else revision
        if commit not in repository.commits:
            return self._send(404, {}, {"X-Error-Code": "RevisionNotFound"})
        content = repository.commits[commit].get(file)
        if content is None:
            return self._send(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        size = self.largest_header.get(file)
        return self._send(200, content, headers | ({"X-Linked-Size": str(size)} if size else {}))

    do_HEAD = do_GET

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        status = 409 if name in self.repositories else 200
        hidden = wanted.get("private") or wanted.get("visibility") == "private"
        self.repositories.setdefault(name, Repository("private" if hidden else "public"))
        self._send(status, {"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": name})

    def _upload(self, described: dict[str, Any]) -> dict[str, Any]:
        href = f"http://{self.headers['Host']}/large/{described['oid']}"
        return {**described, "actions": {"upload": {"href": href}}}

    def _commit(self, name: str, body: bytes) -> None:
        changes = {}
        for operation in map(json.loads, body.splitlines()):
            value = operation["value"]
            if operation["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                changes[value["path"]] = self.large[value["oid"]]
        number = self.repositories[name].commit(changes)
        url = f"http://{self.headers['Host']}/{name}/commit/{number}"
        self._send(200, {"success": True, "commitOid": number, "commitUrl": url, "hookOutput": ""})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


@contextmanager
def model_hub() -> Iterator[tuple[str, type[ModelHub]]]:
    """Yields the address of an empty hub, and its handler with what it stores."""

    class Handler(ModelHub):
        repositories, large, requests, largest_header = {}, {}, [], {}

    with serving(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}", Handler
