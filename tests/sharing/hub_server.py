"""A stand-in for the HTTP interface of the Hugging Face Hub: models in memory, one commit and one token."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stand_in"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves models on a port of this machine within a ``with`` block.

    Attributes:
        models: Model → its files by name.
        sizes: File → size that is announced instead of the true one.
        requested: Paths of all files that were downloaded.
        unknown: Requests that the stand-in does not know; it answers them with 404.
    """

    def __init__(self):
        self.models, self.sizes, self.requested, self.unknown = {}, {}, [], []
        self.blobs, self.created = {}, {}

    def __enter__(self):
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_hub = None
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _send(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _answer(self):
        hub, path = self.server_hub, unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        for method, pattern, action in _ROUTES:
            if method == self.command and (found := re.fullmatch(pattern, path)):
                if method in ("POST", "PUT") and self.headers.get("Authorization") not in (f"Bearer {TOKEN}", None):
                    self._send(401, {"error": "wrong token"})
                else:
                    action(self, hub, body, *found.groups())
                return
        hub.unknown.append(f"{self.command} {self.path}")
        self._send(404, {"error": "not known"})

    do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815  names of http.server

    def _create(self, hub, body):
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'user'}/{asked['name']}"
        hub.models.setdefault(name, {})
        hub.created[name] = asked
        self._send(200, {"url": f"{hub.url}/{name}", "name": name})

    def _who(self, hub, body):
        self._send(200, {"name": "user", "type": "user", "orgs": []})

    def _card(self, hub, body):
        self._send(200, {"errors": [], "warnings": []})

    def _preupload(self, hub, body, name):
        files = json.loads(body)["files"]
        modes = [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular", "oid": None}
            for f in files
        ]
        self._send(200, {"files": [{**mode, "shouldIgnore": False} for mode in modes]})

    def _batch(self, hub, body, name):
        objects = [
            {**one, "actions": {"upload": {"href": f"{hub.url}/upload/{one['oid']}", "header": {}}}}
            for one in json.loads(body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def _upload(self, hub, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        hub.blobs[oid] = body
        self._send(200)

    def _commit(self, hub, body, name):
        for line in body.decode().splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                hub.models[name][item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            elif item["key"] == "lfsFile":
                hub.models[name][item["value"]["path"]] = hub.blobs[item["value"]["oid"]]
        self._send(200, {"success": True, "commitOid": COMMIT, "commitUrl": f"{hub.url}/{name}/commit/{COMMIT}"})

    def _info(self, hub, body, name, revision="main"):
        if name not in hub.models or revision not in ("main", COMMIT):
            code = "RepoNotFound" if name not in hub.models else "RevisionNotFound"
            self._send(404, {"error": code}, X_Error_Code=code)
            return
        files = [
            {"rfilename": path, "size": hub.sizes.get(path, len(content)), "blobId": COMMIT}
            for path, content in hub.models[name].items()
        ]
        self._send(200, {"id": name, "modelId": name, "sha": COMMIT, "siblings": files, "tags": [], "private": False})

    def _tree(self, hub, body, name, revision):
        files = hub.models[name].items()
        self._send(
            200,
            [{"type": "file", "path": path, "size": len(content), "oid": _etag(content)} for path, content in files],
        )

    def _resolve(self, hub, body, name, revision, path):
        content = hub.models.get(name, {}).get(path)
        if content is None:
            self._send(404, {"error": "EntryNotFound"}, X_Error_Code="EntryNotFound")
            return
        if self.command == "GET":
            hub.requested.append(path)
        self._send(200, content, ETag=f'"{_etag(content)}"', X_Repo_Commit=COMMIT)


def _etag(content):
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()  # as git


_MODEL = r"/api/models/([^/]+/[^/]+)"
_ROUTES = [
    ("POST", "/api/repos/create", _Handler._create),
    ("GET", "/api/whoami-v2", _Handler._who),
    ("POST", "/api/validate-yaml", _Handler._card),
    ("POST", rf"{_MODEL}/preupload/main", _Handler._preupload),
    ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", "/upload/([0-9a-f]{64})", _Handler._upload),
    ("POST", rf"{_MODEL}/commit/main", _Handler._commit),
    ("GET", _MODEL, _Handler._info),
    ("GET", rf"{_MODEL}/revision/(.+)", _Handler._info),
    ("GET", rf"{_MODEL}/tree/([^/]+)", _Handler._tree),
    ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _Handler._resolve),
    ("HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _Handler._resolve),
]
