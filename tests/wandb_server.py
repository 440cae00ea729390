"""As much of a W&B server as a run needs that is logged, stopped and resumed, and an agent of a search."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Run:
    """``told``: what the client said the run is; ``history``: the rows logged, in the order in which they came."""

    told: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: str = "{}"
    exit_codes: list[int] = field(default_factory=list)

    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.told["config"])
        return found

    def epochs(self) -> list[int | None]:
        return [row.get("epoch") for row in self.history]


class Server(ThreadingHTTPServer):
    """``runs`` by entity, project and id. ``gone``: hangs up on whoever calls.

    ``search``: the YAML of a search. ``tries``: the parameters of its runs that are left, which agents get.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[tuple[str, str, str], Run] = {}
        self.gone = False
        self.search = ""
        self.tries: list[dict[str, Any]] = []

    def only(self) -> Run:
        """The one run that there is; one that nothing is known of if there is none."""
        (run,) = self.runs.values() or [Run()]
        return run

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet: clients that hang up are none of a test's business."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = found[1] if found else ""
        entity = values.get("entity") or "someone"
        project = {"id": "p", "name": values.get("project"), "entity": {"id": "e", "name": entity}}
        key = (entity, str(values.get("project")), str(values.get("name")))
        if name == "UpsertBucket":
            is_new = key not in self.runs
            run = self.runs.setdefault(key, Run())
            run.told |= {key: value for key, value in values.items() if value is not None}
            bucket = {
                "id": "b",
                "name": values["name"],
                "displayName": values["name"],
                "config": "{}",
                "project": project,
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}
        if name == "RunResumeStatus":
            return {"model": {**project, "bucket": _bucket(self.runs[key]) if key in self.runs else None}}
        if name == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in values["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if name == "Heartbeat":
            return {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(self._commands(values))}}
        return {
            "SweepWithRuns": {"project": {"sweep": {"config": self.search, "runs": {"edges": []}}}},
            "CreateAgent": {"createAgent": {"agent": {"id": "a"}}},
            "ServerFeaturesQuery": {"serverInfo": {"features": []}},
            "Viewer": {"viewer": {"id": "v", "entity": "someone", "username": "someone", "teams": {"edges": []}}},
            "ArtifactType": {"project": {"artifact": None}},
            "CreateArtifact": {
                "createArtifact": {
                    "artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": None}}
                }
            },
        }.get(name, {})

    def _commands(self, values: dict[str, Any]) -> list[dict[str, Any]]:
        """One try at a time, as soon as no other runs."""
        if not self.tries or any(json.loads(values["runState"]).values()):
            return []
        parameters = {name: {"value": value} for name, value in self.tries.pop(0).items()}
        program = re.findall(r"^program: (.*)", self.search, re.MULTILINE)[0]
        return [{"type": "run", "run_id": f"left-{len(self.tries)}", "program": program, "args": parameters}]


def _bucket(run: Run) -> dict[str, Any]:
    return {
        "id": "b",
        "name": run.told["name"],
        "displayName": run.told["name"],
        "logLineCount": 0,
        "eventsLineCount": 0,
        "eventsTail": "[]",
        "historyLineCount": len(run.history),
        "historyTail": json.dumps([json.dumps(run.history[-1])] if run.history else []),
        "summaryMetrics": run.summary,
        "config": run.told["config"],
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
            entity, project, name = self.path.split("/")[-4:-1]
            run = self.server.runs[entity, project, name]
            sent = json.loads(body)
            files = sent.get("files") or {}
            run.history += [json.loads(row) for row in files.get("wandb-history.jsonl", {}).get("content", [])]
            run.summary = files.get("wandb-summary.json", {}).get("content", [run.summary])[-1]
            if sent.get("complete"):
                run.exit_codes.append(sent["exitcode"])
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
