"""A stand-in of the Hugging Face hub's API on loopback: what `huggingface_hub` asks to create repositories,
to upload and commit files, and to read them again."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

import serving

OWNER, TOKEN, READ_ONLY = "ada", "hf_may_write", "hf_may_read"
LFS = (".safetensors", ".parquet")
_REPO = r"(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"


@dataclass
class Repo:
    """The files of every commit, oldest first; the first one is the hub's own."""

    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b"*.bin lfs\n"}])

    @property
    def sha(self) -> str:
        return self.name(len(self.commits) - 1)

    @staticmethod
    def name(number: int) -> str:
        return hashlib.sha1(str(number).encode()).hexdigest()

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision, and its files."""
        if revision == "main":
            return self.sha, self.commits[-1]
        names = [self.name(number) for number in range(len(self.commits))]
        return (revision, self.commits[names.index(revision)]) if revision in names else None


@dataclass
class Hub:
    """`repos` by "models/user/name"; `objects` are what LFS holds; `asked` are the requests so far."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    down: bool = False


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """Run it in a thread of this process, until the end of the block."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    with serving.served(Handler) as hub.url:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        hub, path = self.served, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.asked.append(f"{self.command} {path}")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if hub.down:
            return self._send(503, {"error": "down for maintenance"})
        if token and token not in (TOKEN, READ_ONLY):
            return self._send(401, {"error": "Invalid credentials in Authorization header"})
        for method, pattern, answer in _ROUTES:
            if self.command in method.split("|") and (match := re.fullmatch(pattern, path)):
                writes = self.command == "POST" and "validate-yaml" not in path
                if writes and token != TOKEN:
                    return self._send(403, {"error": "This token has no write access"})
                return answer(self, match, body)
        return self._send(404, {"error": f"no route {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _send(
        self, status: int, value: Any = None, data: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        content = data if value is None else json.dumps(value).encode()
        self.send_response(status)
        sent = {"Content-Length": str(len(content)), "Content-Type": "application/json"}
        if status == 404:
            sent["X-Error-Code"] = "RepoNotFound"
        for name, text in (sent | (headers or {})).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _repo(self, match: re.Match[str]) -> Repo | None:
        return self.served.repos.get(f"{match['kind'] or 'models'}/{match['repo']}")

    def _create(self, match: re.Match[str], body: bytes) -> None:
        asked = json.loads(body)
        kind, owner = f"{asked.get('type', 'model')}s", asked.get("organization") or OWNER
        if owner != OWNER:
            return self._send(
                403, {"error": f'You don\'t have the rights to create a {kind[:-1]} under "{owner}"'}
            )
        name = f"{kind}/{owner}/{asked['name']}"
        shown = f"{self.served.url}/{name.removeprefix('models/')}"
        if name in self.served.repos:
            return self._send(409, {"error": "You already created this repo", "url": shown})
        self.served.repos[name] = Repo(
            private=asked.get("visibility") == "private" or bool(asked.get("private"))
        )
        return self._send(200, {"url": shown})

    def _info(self, match: re.Match[str], body: bytes) -> None:
        if (repo := self._repo(match)) is None:
            return self._send(404, {"error": "Repository not found"})
        files = [{"rfilename": name} for name in repo.commits[-1]]
        return self._send(
            200,
            {"id": match["repo"], "sha": repo.sha, "private": repo.private, "siblings": files, "tags": []},
        )

    def _tree(self, match: re.Match[str], body: bytes) -> None:
        if (repo := self._repo(match)) is None:
            return self._send(404, {"error": "Repository not found"})
        files = repo.commits[-1].items()
        return self._send(
            200,
            [
                {"type": "file", "path": name, "size": len(data), "oid": _oid(name, data)}
                for name, data in files
            ],
        )

    def _preupload(self, match: re.Match[str], body: bytes) -> None:
        if (repo := self._repo(match)) is None:
            return self._send(404, {"error": "Repository not found"})
        there = repo.commits[-1]
        files = [
            {
                "path": (name := each["path"]),
                "uploadMode": "lfs" if name.endswith(LFS) else "regular",
                "shouldIgnore": False,
                "oid": _oid(name, there[name]) if name in there else None,
            }
            for each in json.loads(body)["files"]
        ]
        return self._send(200, {"files": files})

    def _batch(self, match: re.Match[str], body: bytes) -> None:
        objects = []
        for each in json.loads(body)["objects"]:
            there = each["oid"] in self.served.objects
            upload = {"upload": {"href": f"{self.served.url}/lfs/{each['oid']}", "header": {}}}
            objects.append({**each} if there else {**each, "actions": upload})
        return self._send(200, {"transfer": "basic", "objects": objects})

    def _store(self, match: re.Match[str], body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != match["oid"]:
            return self._send(400, {"error": "another digest"})
        self.served.objects[match["oid"]] = body
        return self._send(200, {})

    def _commit(self, match: re.Match[str], body: bytes) -> None:
        if (repo := self._repo(match)) is None:
            return self._send(404, {"error": "Repository not found"})
        files = dict(repo.commits[-1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            match line["key"]:
                case "header" if value.get("parentCommit") not in (None, repo.sha):
                    return self._send(
                        412, {"error": "A commit has happened since. Please refresh and try again."}
                    )
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.served.objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        repo.commits.append(files)
        kind, name = match["kind"], match["repo"]
        url = f"{self.served.url}/{'' if kind == 'models' else 'datasets/'}{name}/commit/{repo.sha}"
        return self._send(200, {"success": True, "commitOid": repo.sha, "commitUrl": url})

    def _resolve(self, match: re.Match[str], body: bytes) -> None:
        repo = self._repo(match)
        if repo is None:
            return self._send(404, {"error": "Repository not found"})
        if (found := repo.at(match["revision"])) is None:
            return self._send(404, {"error": "Revision"}, headers={"X-Error-Code": "RevisionNotFound"})
        commit, files = found
        name = match["path"]
        if name not in files:
            return self._send(
                404, {"error": "Entry"}, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            )
        data = files[name]
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{_oid(name, data)}"',
            "Content-Type": "application/octet-stream",
        }
        if name.endswith(LFS):
            headers |= {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(len(data))}
        return self._send(200, data=data, headers=headers)

    def _valid(self, match: re.Match[str], body: bytes) -> None:
        self._send(200, {"errors": [], "warnings": []})


def _oid(name: str, data: bytes) -> str:
    """The sha256 of a large file, git's sha1 of another."""
    if name.endswith(LFS):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


_ROUTES = (
    ("POST", r"(?P<kind>)(?P<repo>)/api/repos/create", _Handler._create),
    ("POST", r"/api/validate-yaml", _Handler._valid),
    ("POST", rf"/api/{_REPO}/preupload/main", _Handler._preupload),
    ("POST", rf"/api/{_REPO}/commit/main", _Handler._commit),
    ("GET", rf"/api/{_REPO}(/revision/[^/]+)?", _Handler._info),
    ("GET", rf"/api/{_REPO}/tree/[^/]+", _Handler._tree),
    ("POST", r"/(datasets/)?[^/]+/[^/]+\.git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler._store),
    (
        "GET|HEAD",
        r"/((?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
        _Handler._resolve,
    ),
)
