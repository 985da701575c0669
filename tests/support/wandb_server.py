"""As much of a W&B server as wandb needs to upload runs, on loopback; it keeps what it is sent."""

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = 40 * "0"


class Server(ThreadingHTTPServer):
    """Keeps the history of every run by line number, as W&B does.

    Attributes:
        status: of every answer; 200 for a server that works.
        requests: how many it got.
        runs: id -> history line -> row; and what the run was last called.
        uploads: ids in the order in which uploads of them began.
        views: id -> every view (report or workspace) that was saved.
    """

    def __init__(self, status: int = 200):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = 0
        self.status, self.runs, self.meta, self.uploads, self.views = status, {}, {}, [], {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What points wandb here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"}

    def handle_error(self, request, address) -> None:
        """wandb hangs up as it likes."""

    def answer(self, query: str, variables: dict) -> dict:
        name = variables.get("name")
        if "upsertView" in query:
            return {"upsertView": {"view": self.keep(variables), "inserted": True}}
        if "allViews" in query:
            edges = [{"node": view, "cursor": None} for view in self.views.values() if view["type"] == "runs"]
            return {"project": {**PROJECT, "allViews": {"edges": edges, "pageInfo": PAGE}}}
        if "models(" in query:
            project = {"createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "isPublished": False, "user": None}
            edges = [{"node": {**PROJECT, **project}, "cursor": "1"}]
            return {"models": {"edges": edges, "pageInfo": PAGE}}
        if "upsertBucket" in query:
            self.uploads += [name] if variables.get("displayName") else []
            self.meta.setdefault(name, {}).update({key: value for key, value in variables.items() if value})
            return {"upsertBucket": {"bucket": bucket(name), "inserted": name not in self.runs}}
        if "RunResumeStatus" in query:
            lines = self.runs.get(name)
            return {"model": {**PROJECT, "bucket": resumed(name, lines) if lines else None}}
        if "createRunFiles" in query:
            files = [{"name": file, "uploadUrl": f"{self.url}/upload"} for file in variables["files"]]
            return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}
        if "viewer" in query:
            return {"viewer": VIEWER}
        if "upsertModel" in query:
            return {"upsertModel": {"project": PROJECT, "model": PROJECT, "inserted": True}}
        return {"entity": None, "project": PROJECT}

    def keep(self, variables: dict) -> dict:
        """A view is the one of the same id, or else of the same name."""
        names = {view["name"]: key for key, view in self.views.items()}
        key = variables.get("id") or names.get(variables["name"]) or f"view{len(self.views)}"
        self.views[key] = {**VIEW, **variables, "id": key, "project": PROJECT}
        return self.views[key]

    def stream(self, run: str, sent: dict) -> None:
        history = sent.get("files", {}).get("wandb-history.jsonl")
        if history:
            lines = self.runs.setdefault(run, {})
            if history["offset"] == 0:  # of a run that does not resume: it replaces what was there
                lines.clear()
            for line, row in enumerate(history["content"], start=history["offset"]):
                lines[line] = json.loads(row)

    def rows(self, run: str) -> list[dict]:
        """The history as W&B would show it."""
        return [row for _, row in sorted(self.runs.get(run, {}).items())]


PROJECT = {
    "id": "project",
    "internalId": "UHJvamVjdDox",
    "name": "sparse_train",
    "entityName": "me",
    "entity": {"id": "entity", "name": "me"},
}
VIEWER = {"id": "user", "entity": "me", "username": "me", "email": "", "admin": False, "flags": "{}"}
VIEWER |= {"teams": {"edges": []}, "apiKeys": {"edges": []}}
PAGE = {"endCursor": None, "hasNextPage": False}
VIEW = {"type": "runs", "user": VIEWER, "updatedAt": None, "createdAt": None, "spec": "{}"}


def bucket(name: str) -> dict:
    return {"id": "run", "name": name, "displayName": name, "config": "{}", "project": PROJECT}


def resumed(name: str, lines: dict) -> dict:
    tail = json.dumps([json.dumps(lines[max(lines)])])
    counts = {"historyLineCount": max(lines) + 1, "eventsLineCount": 0, "logLineCount": 0}
    texts = {"historyTail": tail, "eventsTail": "[]", "summaryMetrics": "{}"}
    return {**bucket(name), **counts, **texts, "notes": None, "tags": [], "wandbConfig": '{"t": 1}'}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.requests += 1
        answer = {}
        if self.path == "/graphql":
            asked = json.loads(body)
            answer = {"data": self.server.answer(asked["query"], asked.get("variables") or {})}
        elif self.path.endswith("/file_stream") and self.server.status == 200:
            self.server.stream(self.path.split("/")[-2], json.loads(body))
        text = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_POST  # noqa: N815

    def log_message(self, *arguments) -> None:
        pass


@contextlib.contextmanager
def serving(status: int = 200) -> Iterator[Server]:
    with Server(status) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def end_service() -> None:
    """As at the end of a program: files are whole, and the environment will be read anew."""
    if sys.modules.get("wandb"):
        sys.modules["wandb"].teardown()
