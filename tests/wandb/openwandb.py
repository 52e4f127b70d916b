"""A W&B-compatible server for tests: openwandb on 127.0.0.1, behind a proxy that can be killed with it."""

import contextlib
import gzip
import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parents[2] / ".venv" / "openwandb" / "bin" / "openwandb"
KEY = "local" + "0" * 40
"""The key that openwandb gives its first user."""


class OpenWandb:
    """`sent`: the variables of each UpsertBucket, as openwandb keeps neither group nor job type."""

    def __init__(self, folder: Path) -> None:
        self.sent: list[dict[str, Any]] = []
        self._folder, self._target, self.port = folder, _free_port(), _free_port()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to take this server for W&B."""
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{self.port}", "WANDB_API_KEY": KEY, "HOME": str(self._folder)}

    def start(self) -> None:
        command = [str(PROGRAM), "serve", "--host", "127.0.0.1", "--port", str(self._target)]
        known = {"HOME": str(self._folder), "OPENWANDB_DATA_DIR": str(self._folder / "server"), "PATH": "/usr/bin:/bin"}
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(command, env=known, stdout=log, stderr=log)
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            time.sleep(0.1)
        self._proxy = _Proxy(self)
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._proxy.shutdown()
        self._proxy.server_close()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)):
            return True
        return False

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._target)
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers.get("Content-Type", "application/json"), answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> dict[str, Any]:
        return json.loads(self.forward("GET", f"/api/v2/runs/{path}", {}, b"")[2])

    def files(self, run_id: str) -> list[str]:
        """Return the names of the files of a run that are not empty."""
        answer = json.loads(self.forward("GET", f"/api/v1/runs/{run_id}/files", {}, b"")[2])
        return [file["name"] for file in answer["files"] if file["size"] > 0]

    def points(self, run_id: str) -> dict[str, set[tuple[int, float]]]:
        """Return step and value of each metric; a row that was sent twice counts once, if it is the same."""
        found = self.get(f"{run_id}/metrics").get("metrics_by_key", {})
        return {name: {(point["step"], point["value"]) for point in points} for name, points in found.items()}


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, server: OpenWandb) -> None:
        self.behind = server
        super().__init__(("127.0.0.1", server.port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that end with the server."""


class _Handler(BaseHTTPRequestHandler):
    server: _Proxy
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path.endswith("/graphql"):
            asked = json.loads(body)
            asked.pop("operationName", None)  # openwandb rejects an empty one
            if "mutation UpsertBucket" in asked["query"]:
                self.server.behind.sent.append(asked["variables"])
            body = json.dumps(asked).encode()
        # without a key openwandb takes its first user; it hashes a key slowly at each request
        left_out = ("authorization", "content-length", "content-encoding", "accept-encoding", "connection")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
        try:
            status, kind, answer = self.server.behind.forward(self.command, self.path, headers, body)
        except OSError:  # it was killed
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = _pass_on  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def openwandb(folder: Path) -> Iterator[OpenWandb]:
    server = OpenWandb(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
