"""An API server of Kubernetes, as far as it reviews tokens, over real HTTPS with an authority of its own."""

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.certificates import make_pair

TOKENREVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESSREVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class KubernetesApi:
    """Reviews tokens by what the test has set.

    Attributes:
        host, port: its address.
        folder: what the kubelet would mount into the agent's pod: `token` and `ca.crt`.
        own_token: the agent's token that it accepts.
        users: token -> the user of a TokenReview.
        rules: user name, verb and path of what is allowed.
        asked: the path and the body of each request, in their order.
        connections: how many were accepted.
        status: answer everything with this status; 0: as it should.
        body: answer everything with this body; None: as it should.
        go_on: while it is cleared, answers wait.
        drips: send each answer byte by byte, for many seconds.
    """

    host = "127.0.0.1"

    def __init__(self, folder: Path, names: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        authority = make_pair(folder.parent, "kubernetes-ca")
        pair = make_pair(folder.parent, "kubernetes", issuer=authority, names=names)
        (folder / "ca.crt").write_bytes(authority.cert.read_bytes())
        self.own_token = ""
        self.rotate("own-1")
        self.users: dict[str, dict[str, Any]] = {}
        self.rules: set[tuple[str, str, str]] = set()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.connections = 0
        self.status, self.body, self.drips = 0, None, False
        self.go_on = threading.Event()
        self.go_on.set()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
        self._server = _Server((self.host, 0), _Handler)
        self._server.api = self
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def rotate(self, own_token: str) -> None:
        """Accept another token of the agent from now on, and mount it as the kubelet does: by a rename."""
        new = self.folder / "..new"
        new.write_text(own_token)
        new.rename(self.folder / "token")
        self.own_token = own_token

    def close(self) -> None:
        """Stop; nothing listens any more."""
        self.go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, authorization: str | None, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The status and the body for a request."""
        self.asked.append((path, body))
        assert self.go_on.wait(20)
        if authorization != f"Bearer {self.own_token}":
            return 401, {"kind": "Status", "code": 401}
        if self.status:
            return self.status, {"kind": "Status", "code": self.status}
        spec = body["spec"]
        asked = path, body["apiVersion"], body["kind"]
        status: dict[str, Any] = {"user": {}, "error": "invalid bearer token"}
        if asked == (TOKENREVIEWS, "authentication.k8s.io/v1", "TokenReview"):
            if spec["token"] in self.users:
                status = {"authenticated": True, "user": self.users[spec["token"]]}
        elif asked == (ACCESSREVIEWS, "authorization.k8s.io/v1", "SubjectAccessReview"):
            wanted = spec["nonResourceAttributes"]
            status = {"allowed": (spec["user"], wanted["verb"], wanted["path"]) in self.rules}
        else:
            return 404, {"kind": "Status", "code": 404}
        return 201, {**body, "status": status}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: KubernetesApi

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that give up are a part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.api.connections += 1

    def do_POST(self) -> None:
        api = self.server.api
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = api.answer(self.path, self.headers["Authorization"], sent)
        body = json.dumps(answer).encode() if api.body is None else api.body
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with contextlib.suppress(OSError):
            if not api.drips:
                self.wfile.write(head + body)
            for byte in head if api.drips else b"":
                self.wfile.write(bytes([byte]))
                time.sleep(0.2)

    def log_message(self, *args: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def running(folder: Path, names: str = "IP:127.0.0.1") -> Iterator[KubernetesApi]:
    """One that runs meanwhile; `names` are those in its certificate."""
    api = KubernetesApi(folder, names)
    try:
        yield api
    finally:
        api.close()
