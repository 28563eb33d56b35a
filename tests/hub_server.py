"""In-memory Hub server on the loopback address for unmodified clients, with faults by path."""

import base64
import collections
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from .servers import QuietServer

KINDS = ("models", "datasets", "spaces")


@dataclass
class Repo:
    """Repository with its commits, newest last, and the commits of its branches and tags."""

    kind: str
    name: str
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    refs: dict[str, int] = field(default_factory=lambda: {"main": 0})

    def sha(self, number: int) -> str:
        return hashlib.sha1(f"{self.kind}/{self.name}@{number}".encode()).hexdigest()

    def resolve(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        for number in range(len(self.commits)):
            if revision == self.sha(number):
                return revision, self.commits[number]
        if revision not in self.refs:
            return None
        number = self.refs[revision]
        return self.sha(number), self.commits[number]


class HubServer(QuietServer):
    """Hub server.

    Attributes:
        repos: Repositories by "models/org/name".
        asked: Number of requests by method and path.
        tokens: Tokens that were sent.
        faults: Status codes to return instead of the response, by path, path suffix or method,
            each used once; 0 closes the connection.
        objects: Uploaded large files by SHA-256.
    """

    def __init__(self, token: str = "hf_S3CRET"):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.repos: dict[str, Repo] = {}
        self.asked: collections.Counter[str] = collections.Counter()
        self.tokens: set[str] = set()
        self.faults: dict[str, list[int]] = collections.defaultdict(list)
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, home: Any) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def connect(self, monkeypatch: Any, home: Any) -> None:
        """Direct `huggingface_hub` and `datasets` of this process to this server."""
        import datasets
        from huggingface_hub import constants

        template = f"{self.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", self.url)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", self.token)

    def files(self, key: str, revision: str = "main") -> dict[str, bytes]:
        found = self.repos[key].resolve(revision)
        assert found is not None
        return found[1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *_: Any) -> None:
        pass

    def send(self, status: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("length", str(len(content))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self, code: str, **headers: str) -> None:
        self.send(404, {"error": code}, X_Error_Code=code, **headers)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def handle_any(self) -> None:
        path = unquote(urlparse(self.path).path)
        query = {key: values[0] for key, values in parse_qs(urlparse(self.path).query).items()}
        body = self.body()
        with self.server.lock:
            self.server.asked[f"{self.command} {path}"] += 1
            if auth := self.headers.get("Authorization"):
                self.server.tokens.add(auth.removeprefix("Bearer "))
            faults = self.server.faults.items()
            planned = [
                codes
                for key, codes in faults
                if codes and (path.endswith(key) or key == self.command)
            ]
            fault = planned[0].pop(0) if planned else None
        if fault == 0:
            self.close_connection = True
            return
        if fault is not None:
            self.send(fault, {"error": "asked for"}, Retry_After="0")
            return
        with self.server.lock:
            self.answer(path.strip("/").split("/"), query, body)

    def answer(self, parts: list[str], query: dict[str, str], body: bytes) -> None:
        if parts[:2] == ["api", "whoami-v2"]:
            self.send(200, {"name": "org", "type": "user", "orgs": [], "auth": {}})
        elif parts[:2] == ["api", "validate-yaml"]:
            self.send(200, {"errors": [], "warnings": []})
        elif parts == ["api", "repos", "create"]:
            self.create(json.loads(body))
        elif parts[0] == "upload":
            self.server.objects[parts[1]] = body
            self.send(200)
        elif parts[-3:] == ["lfs", "objects", "batch"]:
            self.batch(json.loads(body))
        elif parts[0] == "api" and parts[1] in KINDS:
            self.api(parts[1], "/".join(parts[2:4]), parts[4:], query, body)
        else:
            kind, rest = (parts[0], parts[1:]) if parts[0] in KINDS else ("models", parts)
            self.resolve(kind, "/".join(rest[:2]), rest[2:])

    def create(self, fields: dict[str, Any]) -> None:
        kind = f"{fields.get('type') or 'model'}s"
        name = f"{fields.get('organization') or 'org'}/{fields['name']}"
        key, prefix = f"{kind}/{name}", "" if kind == "models" else f"{kind}/"
        if key in self.server.repos:
            self.send(409, {"error": "exists", "url": f"{self.server.url}/{prefix}{name}"})
            return
        self.server.repos[key] = Repo(kind, name)
        self.send(200, {"url": f"{self.server.url}/{prefix}{name}", "name": name})

    def batch(self, fields: dict[str, Any]) -> None:
        objects = []
        for one in fields["objects"]:
            objects.append({"oid": one["oid"], "size": one["size"]})
            if one["oid"] not in self.server.objects:
                upload = {"href": f"{self.server.url}/upload/{one['oid']}"}
                objects[-1]["actions"] = {"upload": upload}
        self.send(200, {"transfer": "basic", "objects": objects})

    def api(
        self, kind: str, name: str, rest: list[str], query: dict[str, str], body: bytes
    ) -> None:
        repo = self.server.repos.get(f"{kind}/{name}")
        action, revision, *path = [*rest, "revision", "main"][: max(2, len(rest))]
        if repo is None:
            self.missing("RepoNotFound")
        elif action == "preupload":
            self.preupload(json.loads(body))
        elif action == "commit":
            self.commit(repo, revision, body)
        elif action == "tag":
            repo.refs[json.loads(body)["tag"]] = repo.refs[revision]
            self.send(200, {})
        elif action == "branch":
            repo.refs[revision] = repo.refs["main"]
            self.send(200, {})
        elif action not in ("revision", "tree", "paths-info"):
            self.missing("EntryNotFound")
        elif (found := repo.resolve(revision)) is None:
            self.missing("RevisionNotFound")
        elif action == "revision":
            siblings = [{"rfilename": path} for path in sorted(found[1])]
            fields = {"id": repo.name, "sha": found[0], "private": False, "tags": []}
            self.send(200, {**fields, "siblings": siblings, "downloads": 0, "likes": 0})
        elif action == "tree":
            self.tree(found[1], "/".join(path), query)
        else:
            text = body.decode()
            wanted = (json.loads(text) if text.startswith("{") else parse_qs(text))["paths"]
            wanted = wanted if isinstance(wanted, list) else [wanted]
            self.send(200, [_file(path, found[1][path]) for path in wanted if path in found[1]])

    def preupload(self, fields: dict[str, Any]) -> None:
        answers = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["size"] > 100_000 else "regular",
                "shouldIgnore": False,
            }
            for one in fields["files"]
        ]
        self.send(200, {"files": answers})

    def commit(self, repo: Repo, revision: str, body: bytes) -> None:
        files = dict(repo.commits[repo.refs[revision]])
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        repo.commits.append(files)
        repo.refs[revision] = len(repo.commits) - 1
        sha = repo.sha(len(repo.commits) - 1)
        url = f"{self.server.url}/{repo.name}/commit/{sha}"
        self.send(
            200, {"commitUrl": url, "commitOid": sha, "pullRequestUrl": None, "success": True}
        )

    def tree(self, files: dict[str, bytes], folder: str, query: dict[str, str]) -> None:
        prefix = f"{folder}/" if folder else ""
        inside = {p: c for p, c in files.items() if p.startswith(prefix)}
        if folder and not inside:
            self.missing("EntryNotFound")
            return
        entries: dict[str, Any] = {}
        for path, content in inside.items():
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts)):
                name = prefix + "/".join(parts[:depth])
                entries[name] = {"type": "directory", "path": name, "size": 0, "oid": "0"}
            entries[path] = _file(path, content)
        if query.get("recursive", "").lower() not in ("true", "1"):
            entries = {p: e for p, e in entries.items() if "/" not in p[len(prefix) :]}
        self.send(200, list(entries.values()))

    def resolve(self, kind: str, name: str, rest: list[str]) -> None:
        repo = self.server.repos.get(f"{kind}/{name}")
        is_file = len(rest) >= 3 and rest[0] in ("resolve", "raw")
        found = repo.resolve(rest[1]) if repo is not None and is_file else None
        if found is None:
            code = "RevisionNotFound" if is_file else "EntryNotFound"
            self.missing("RepoNotFound" if repo is None else code)
            return
        content = found[1].get("/".join(rest[2:]))
        if content is None:
            self.missing("EntryNotFound", X_Repo_Commit=found[0])
            return
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X_Repo_Commit": found[0],
            "Accept_Ranges": "bytes",
        }
        if self.command == "HEAD":
            self.send(200, b"", length=str(len(content)), **headers)
            return
        span = self.headers.get("Range", "")
        if span.startswith("bytes="):
            first, _, last = span[6:].partition("-")
            start, stop = int(first or 0), min(int(last or len(content) - 1), len(content) - 1)
            headers["Content_Range"] = f"bytes {start}-{stop}/{len(content)}"
            self.send(206, content[start : stop + 1], **headers)
            return
        self.send(200, content, **headers)


def _file(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid}
    if len(content) > 100_000:
        entry["lfs"] = {
            "oid": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "pointerSize": 130,
        }
    return entry


for _method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler.handle_any)

__all__ = ["HubServer", "Repo"]
