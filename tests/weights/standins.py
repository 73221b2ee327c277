"""Stand-ins for the hub and for Civitai: real servers that speak as much of their APIs as is used, give files in ranges
from an address of their own, cut connections where a test wants it, and count what they sent.
"""

import hashlib
import json
import re
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef" * 2 + "01234567"
LARGE = (".safetensors", ".onnx", ".gguf", ".bin", ".model")  # what the hub keeps apart, by its checksum


@dataclass(frozen=True, slots=True)
class Heard:
    """A request as it came."""

    path: str
    headers: dict[str, str]

    @property
    def began_at(self) -> int | None:
        """Where in its file it wanted to begin."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(found[1]) if found else None


@dataclass
class Site:
    """What a stand-in has, and what came to pass.

    `files` are by path. `cuts` says after how many bytes a file's next answer breaks off, and `sends` what is sent in a
    file's place. `refused` are statuses by path, for who has no token.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    sends: dict[str, bytes] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    pages: dict[str, bytes] = field(default_factory=dict)
    commit: str = COMMIT
    takes_ranges: bool = True
    heard: list[Heard] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    url: str = ""
    files_url: str = ""

    def asked_for(self, path: str) -> list[Heard]:
        """Those that came for a file's bytes."""
        return [each for each in self.heard if each.path == f"/bytes/{path}"]

    def put(self, repository: str, **files: bytes) -> None:
        self.files |= {f"{repository}/{name}": data for name, data in files.items()}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def hub() -> Iterator[Site]:
    with _running(_HubHandler) as site:
        yield site


@contextmanager
def civitai() -> Iterator[Site]:
    with _running(_CivitaiHandler) as site:
        yield site


def version(
    site: Site,
    number: int,
    name: str,
    data: bytes,
    *,
    base: str = "Flux.1 D",
    published: str = "2024-09-01",
    **more: Any,
) -> dict[str, Any]:
    """A version with one file, as Civitai tells of it; the site has its bytes."""
    site.files[f"{number}"] = data
    is_pickle = not name.endswith(".safetensors")
    file = {
        "id": number,
        "name": name,
        "type": "Model",
        "primary": True,
        "sizeKB": len(data) / 1024,
        "metadata": {"format": "PickleTensor" if is_pickle else "SafeTensor", "fp": "fp16", "size": "full"},
        "hashes": {"AutoV2": "0123456789", "SHA256": sha256(data).upper()},
        "downloadUrl": f"{site.url}/api/download/models/{number}",
    }
    told = {"id": number, "name": f"v{number}", "baseModel": base, "publishedAt": f"{published}T00:00:00.000Z"}
    told |= {"files": [file], "downloadUrl": file["downloadUrl"], **more}
    site.answers[f"/api/v1/model-versions/{number}"] = told
    return told


@contextmanager
def _running(handler: "type[_Handler]") -> Iterator[Site]:
    """Files come from another address than the pages, as they do from both: a token must not go there."""
    site = Site()
    servers = [_Server(("127.0.0.1", 0), type("Handler", (handler,), {"site": site})) for _ in range(2)]
    site.url, site.files_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [Thread(target=server.serve_forever, args=(0.01,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield site
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Who hangs up on it is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:  # the library calls it so
        path = unquote(urlsplit(self.path).path)
        self.site.heard.append(Heard(path, {name.lower(): value for name, value in self.headers.items()}))
        if path.startswith("/bytes/"):
            self.give(path.removeprefix("/bytes/"))
        else:
            self.page(path)

    def page(self, path: str) -> None:
        raise NotImplementedError

    def give(self, path: str) -> None:
        """A file's bytes, or those of them that are asked for."""
        if "authorization" in self.site.heard[-1].headers:
            return self.say(400, {"error": "a signed address and a token are one too many"})
        data, began_at = self.site.sends.get(path, self.site.files[path]), self.site.heard[-1].began_at
        if began_at is None or not self.site.takes_ranges:
            return self.send(path, 200, data, {})
        if began_at >= len(data):
            return self.say(416, {})
        return self.send(path, 206, data[began_at:], {"Content-Range": f"bytes {began_at}-{len(data) - 1}/{len(data)}"})

    def send(self, path: str, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        cuts = self.site.cuts.get(path)
        part = data[: cuts.pop(0)] if cuts else data
        self.site.sent[path] += len(part)  # before whoever has it all may ask
        self.wfile.write(part)
        if len(part) < len(data):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def say(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def refuses(self, path: str) -> bool:
        return path in self.site.refused and "authorization" not in self.site.heard[-1].headers

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the library names it so
        pass


class _HubHandler(_Handler):
    def page(self, path: str) -> None:
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
            return self.tell(found[1])
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve(found[1], found[2], found[3])
        return self.say(404, {"error": "there is no such page"})

    def tell(self, repository: str) -> None:
        names = [path.removeprefix(f"{repository}/") for path in self.site.files if path.startswith(f"{repository}/")]
        if not names:
            return self.say(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        siblings = [self.sibling(name, self.site.files[f"{repository}/{name}"]) for name in names]
        return self.say(200, {"id": repository, "sha": self.site.commit, "siblings": siblings})

    def sibling(self, name: str, data: bytes) -> dict[str, Any]:
        told: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
        if name.endswith(LARGE):
            told["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 134}
        return told

    def resolve(self, repository: str, revision: str, name: str) -> None:
        path = f"{repository}/{name}"
        if self.refuses(repository):
            return self.say(self.site.refused[repository], {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        if path not in self.site.files or revision not in (self.site.commit, "main"):
            return self.say(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        data = self.site.files[path]
        tag = sha256(data) if name.endswith(LARGE) else hashlib.sha1(data).hexdigest()
        headers = {"X-Repo-Commit": self.site.commit, "ETag": f'"{tag}"'}
        if not name.endswith(LARGE):
            return self.send(path, 200, data, headers)
        headers |= {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(data))}
        return self.say(302, {}, {**headers, "Location": f"{self.site.files_url}/bytes/{path}"})


class _CivitaiHandler(_Handler):
    def page(self, path: str) -> None:
        if path in self.site.answers:
            return self.say(200, self.site.answers[path])
        if path in self.site.pages:
            return self.send(path, 200, self.site.pages[path], {"Content-Type": "text/html; charset=utf-8"})
        if found := re.fullmatch(r"/api/download/models/(\d+)", path):
            if self.refuses(found[1]):
                return self.say(self.site.refused[found[1]], {"error": "Unauthorized"})
            return self.say(307, {}, {"Location": f"{self.site.files_url}/bytes/{found[1]}"})
        return self.say(404, {"error": "No such model"})
