"""A small server that speaks Letta's HTTP API where agent commands use it, with Letta's flaws."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

PASSWORD = "swordfish-swordfish"
OWN = "http://127.0.0.1:8284/v1"
Content = dict[str, Any]
Query = dict[str, list[str]]


@dataclass
class FakeLetta:
    """What the server holds. After `fails_after` agents an import fails, and leaves them."""

    url: str = ""
    agents: dict[str, Content] = field(default_factory=dict)
    blocks: dict[str, Content] = field(default_factory=dict)
    tools: list[Content] = field(default_factory=list)
    mcp_servers: list[Content] = field(default_factory=list)
    export: bytes = b""
    fails_after: int | None = None
    forms: list[dict[str, str]] = field(default_factory=list)  # of the imports, as they came
    pages: list[int] = field(default_factory=list)  # the limits of lists, as they came

    def make(self, name: str, *tags: str, metadata: Content | None = None) -> str:
        identifier = f"agent-{uuid.uuid4()}"
        self.agents[identifier] = {
            "id": identifier, "name": name, "tags": list(tags), "model": "own/model",
            "metadata": metadata,
            "created_at": f"2026-01-01T00:00:{len(self.agents) % 60:02d}Z", "message_ids": ["m"],
        }  # fmt: skip
        return identifier

    def loose(self, label: str, value: str) -> str:
        identifier = f"block-{uuid.uuid4()}"
        self.blocks[identifier] = {"id": identifier, "label": label, "value": value}
        return identifier

    def answer(
        self, method: str, path: str, query: Query, body: bytes, kind: str
    ) -> tuple[int, Any]:
        parts = path.strip("/").split("/")[1:]
        match (method, parts):
            case ("GET", ["agents"]):
                return self._page(query)
            case ("POST", ["agents", *below]):
                return self.take_in(body, kind) if below else self._create(json.loads(body))
            case ("GET", ["agents", _, "export"]):
                return 200, self.export
            case (_, ["agents", identifier, *below]):
                return self._one(method, identifier, body, below)
            case ("DELETE", ["blocks", identifier]):
                return 200, self.blocks.pop(identifier)
        lists: dict[str, list[Content]] = {
            "blocks": list(self.blocks.values()),
            "tools": self.tools,
            "mcp-servers": self.mcp_servers,
            "folders": [],
            "models": [{"handle": "own/model", "model_endpoint": OWN}],
            "models/embedding": [{"handle": "own/embedding", "embedding_endpoint": OWN}],
        }
        return 200, [] if "after" in query else lists["/".join(parts)]

    def take_in(self, body: bytes, kind: str) -> tuple[int, Any]:
        """Import: no transaction, as in Letta."""
        message = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        form = {
            str(part.get_param("name", header="content-disposition")): cast(
                bytes, part.get_payload(decode=True)
            ).decode()
            for part in message.walk()
            if not part.is_multipart()
        }
        self.forms.append(form)
        sent = json.loads(form["file"])
        for block in sent["blocks"]:
            self.loose(block["label"], block["value"])
        made: list[str] = []
        for agent in sent["agents"]:
            if len(made) == self.fails_after:
                return 400, {"detail": "Import failed: 'message-7'"}
            name = form.get("name", agent["name"])
            tags = agent.get("tags") or ()
            made.append(self.make(name, *tags, metadata=agent.get("metadata")))
        return 200, {"agent_ids": made}

    def _create(self, body: Content) -> tuple[int, Any]:
        if not body.get("model"):
            return 400, {"detail": "INVALID_ARGUMENT: Must specify either model or llm_config"}
        if body["model"] != "own/model":
            return 404, {"detail": f"NOT_FOUND: Handle {body['model']} not found"}
        made = self.make(body["name"], *body.get("tags", ()), metadata=body.get("metadata"))
        self.agents[made] |= {"system": body.get("system"), "tools": body.get("tools", [])}
        self.agents[made]["memory"] = {"blocks": body.get("memory_blocks", [])}
        return 200, self.agents[made]

    def _page(self, query: Query) -> tuple[int, Any]:
        limit = int(query.get("limit", ["50"])[0])
        if limit > 200:
            return 422, {"detail": "limit"}
        self.pages.append(limit)
        found = list(self.agents.values())
        if "after" in query:
            found = found[[agent["id"] for agent in found].index(query["after"][0]) + 1 :]
        if "name" in query:
            found = [agent for agent in found if agent["name"] == query["name"][0]]
        if "tags" in query:
            found = [agent for agent in found if query["tags"][0] in agent["tags"]]
        return 200, found[:limit]

    def _one(self, method: str, identifier: str, body: bytes, below: list[str]) -> tuple[int, Any]:
        if identifier not in self.agents:
            return 404, {"detail": f"Agent with ID {identifier} not found"}
        if below:
            return 200, {"files": [], "has_more": False} if below == ["files"] else []
        if method == "DELETE":
            return 200, self.agents.pop(identifier)
        if method == "PATCH":
            self.agents[identifier] |= json.loads(body)
        return 200, self.agents[identifier]


@contextmanager
def serving() -> Iterator[FakeLetta]:
    """Serve a fresh one on loopback for the block."""
    state = FakeLetta()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            url = urlsplit(self.path)
            code: int = 401
            answer: Any = {"detail": "Unauthorized"}
            if self.headers.get("Authorization") == f"Bearer {PASSWORD}":
                kind = self.headers.get("Content-Type", "")
                query = parse_qs(url.query)
                code, answer = state.answer(self.command, url.path, query, body, kind)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815  http.server's names

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a test breaks off
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield state
        server.shutdown()
        thread.join()
