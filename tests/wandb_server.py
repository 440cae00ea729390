"""As much of a W&B server as a run needs that is logged, stopped and resumed."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """``history``: the rows logged, in the order in which they came; ``run``: what the client said the run is.

    ``gone``: hangs up on whoever calls.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.history: list[dict[str, Any]] = []
        self.summary = "{}"
        self.run: dict[str, Any] = {}
        self.exit_codes: list[int] = []
        self.gone = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet: clients that hang up are none of a test's business."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = found[1] if found else ""
        project = {"id": "p", "name": values.get("project"), "entity": {"id": "e", "name": "someone"}}
        if name == "UpsertBucket":
            is_new = not self.run
            self.run |= {key: value for key, value in values.items() if value is not None}
            bucket = {
                "id": "b",
                "name": values["name"],
                "displayName": values["name"],
                "config": "{}",
                "project": project,
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}
        if name == "RunResumeStatus":
            return {"model": {**project, "bucket": self._bucket() if self.run else None}}
        if name == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in values["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {
            "ServerFeaturesQuery": {"serverInfo": {"features": []}},
            "Viewer": {"viewer": {"id": "v", "entity": "someone", "username": "someone", "teams": {"edges": []}}},
            "ArtifactType": {"project": {"artifact": None}},
            "CreateArtifact": {
                "createArtifact": {
                    "artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": None}}
                }
            },
        }.get(name, {})

    def _bucket(self) -> dict[str, Any]:
        return {
            "id": "b",
            "name": self.run["name"],
            "displayName": self.run["name"],
            "logLineCount": 0,
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "historyLineCount": len(self.history),
            "historyTail": json.dumps([json.dumps(self.history[-1])] if self.history else []),
            "summaryMetrics": self.summary,
            "config": self.run["config"],
            "wandbConfig": '{"t": {}}',
            "tags": [],
        }


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        if self.server.gone:
            self.close_connection = True
        else:
            super().handle_one_request()

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self.server.gone:  # a kept connection was waiting for this request when it went
            self.close_connection = True
            return
        if self.path.endswith("/graphql"):
            asked = json.loads(body)
            self._reply({"data": self.server.answer(asked["query"], asked.get("variables") or {})})
            return
        if self.path.endswith("/file_stream"):
            sent = json.loads(body)
            files = sent.get("files") or {}
            self.server.history += [json.loads(row) for row in files.get("wandb-history.jsonl", {}).get("content", [])]
            self.server.summary = files.get("wandb-summary.json", {}).get("content", [self.server.summary])[-1]
            if sent.get("complete"):
                self.server.exit_codes.append(sent["exitcode"])
        self._reply({})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _reply(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
