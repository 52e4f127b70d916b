"""A W&B server for tests: takes what runs and `wandb sync` send. On 127.0.0.1 alone."""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0" * 40


class WandbStub(ThreadingHTTPServer):
    """`asked`: operation and variables of each GraphQL request; `rows`: the history of each run id.

    With `falls_silent` it takes connections and answers nothing once it has got a row of a history.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.ended: dict[str, int] = {}
        self.uploads: list[str] = []
        self.artifacts: list[str] = []
        self.unknown: list[str] = []
        self.lock = threading.Lock()
        self.falls_silent = False
        self.silent, self.refuses = threading.Event(), threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that a client drops when it ends."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def refuse(self) -> None:
        """Drop all connections and take none from now on."""
        self.shutdown()
        self.server_close()
        self.refuses.set()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to take this server for W&B."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"}

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Return the data of a GraphQL operation."""
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = found.group(1) if found else query[:60]
        self.asked.append((name, variables))
        method = getattr(self, f"on_{name.lower()}", None)
        if method is None:
            self.unknown.append(name)
            return {}
        return method(variables)

    def on_viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        return {
            "viewer": {"id": "1", "entity": "someone", "username": "someone", "flags": "{}", "teams": {"edges": []}}
        }

    on_getdefaultentity = on_viewer

    def on_serverinfo(self, _: dict[str, Any]) -> dict[str, Any]:
        return {
            "serverInfo": {
                "features": [],
                "cliVersionInfo": {"max_cli_version": "9.0.0"},
                "latestLocalVersionInfo": None,
            }
        }

    def on_upsertbucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        run_id = variables["name"]
        known = self.runs.setdefault(run_id, {})
        inserted = not known
        known.update({k: v for k, v in variables.items() if v is not None})
        project = {"id": "1", "name": variables.get("project") or "crossover", "entity": {"id": "1", "name": "someone"}}
        rows = self.rows.get(run_id, [])
        bucket = {"id": run_id, "name": run_id, "displayName": run_id, "project": project, "sweepName": None}
        bucket |= {"config": variables.get("config") or "{}", "historyLineCount": len(rows), "summaryMetrics": "{}"}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def on_runresumestatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run_id = variables["name"]
        if run_id not in self.runs:
            return {"model": {"bucket": None}}
        rows = self.rows.get(run_id, [])
        known = {"id": run_id, "name": run_id, "displayName": run_id, "tags": [], "wandbConfig": '{"t": 1}'}
        known |= {"summaryMetrics": "{}", "config": "{}", "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]"}
        tail = json.dumps([json.dumps(row) for row in rows[-1:]])
        return {"model": {"bucket": known | {"historyLineCount": len(rows), "historyTail": tail}}}

    def on_serverfeaturesquery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def on_createartifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["input"]["artifactCollectionName"]
        self.artifacts.append(name)
        sequence = {"id": name, "latestArtifact": {"id": name, "versionIndex": 0}}
        # committed: as if the server had its files already
        return {"createArtifact": {"artifact": {"id": name, "state": "COMMITTED", "artifactSequence": sequence}}}

    def on_createrunfiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}


class _Handler(BaseHTTPRequestHandler):
    server: WandbStub
    protocol_version = "HTTP/1.1"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self._body()
        if self.server.silent.is_set():
            self.server.refuses.wait()
            self.close_connection = True
            return
        with self.server.lock:
            if self.path.endswith("/graphql"):
                asked = json.loads(body)
                self._send({"data": self.server.answer(asked["query"], asked.get("variables") or {})})
            elif self.path.endswith("/file_stream"):
                self._stream(json.loads(body))
            else:
                self.server.unknown.append(self.path)
                self._send({})

    def _stream(self, told: dict[str, Any]) -> None:
        run_id = self.path.split("/")[-2]
        history = (told.get("files") or {}).get("wandb-history.jsonl")
        if history is not None:  # as W&B does it: what was there from this line on is replaced
            lines = self.server.rows.setdefault(run_id, [])
            lines[history.get("offset", 0) :] = [json.loads(line) for line in history["content"]]
            if self.server.falls_silent:
                self.server.silent.set()
        if told.get("complete"):
            self.server.ended[run_id] = told.get("exitcode", 0)
        self._send({})

    def do_PUT(self) -> None:
        self._body()
        self.server.uploads.append(self.path)
        self._send({})

    def do_GET(self) -> None:
        self.server.unknown.append(self.path)
        self._send({})

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def wandb_stub() -> Iterator[WandbStub]:
    """Serve on a free port of 127.0.0.1."""
    server = WandbStub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
