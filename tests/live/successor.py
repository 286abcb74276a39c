"""The successor itself, letta-code 0.32.18, as the judge of a store; and a model that writes down what
it is asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from tests.live.machine import free_ports, wait_until

PACKAGE = "@letta-ai/letta-code@0.32.18"
NODE = "node@22"  # older ones get an older letta-code
MODEL = "openai-compatible/fake"
ANSWER = "The listening model heard you."


class ListeningModel(ThreadingHTTPServer):
    """OpenAI's API, as far as the successor asks for it: `heard` are the bodies of its requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heard: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ListeningModel

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        self._answer(json.dumps({"object": "list", "data": [{"id": "fake", "object": "model"}]}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.heard.append(asked)
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
        said = {"role": "assistant", "content": ANSWER}
        chunks = [
            {**head, "choices": [{"index": 0, "delta": said, "finish_reason": None}]},
            {
                **head,
                "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
                "usage": usage,
            },
        ]
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self._answer("".join([*lines, "data: [DONE]\n\n"]), "text/event-stream")

    def _answer(self, text: str, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


@dataclass(frozen=True)
class Successor:
    """letta-code on a store; `model` hears what its agents are asked."""

    folder: Path
    store: Path
    model: ListeningModel = field(default_factory=ListeningModel)

    def run(self, *words: str) -> str:
        done = subprocess.run(
            self._command(*words), cwd=self.folder, env=self._environment, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words))

    def say(self, agent: str, text: str) -> dict[str, Any]:
        """Let an agent answer in its main conversation; return what reached the model."""
        before = len(self.model.heard)
        answer = self.json(
            "-p", text, "--agent", agent, "--conversation", "default", "--backend", "local",
            "--output-format", "json",
        )  # fmt: skip
        assert (answer["is_error"], answer["result"]) == (False, ANSWER)
        return self.model.heard[before]

    @contextmanager
    def served(self) -> Iterator[str]:
        """The URL of its App Server."""
        (port,) = free_ports(1)
        words = (
            "server",
            "--backend",
            "local",
            "--listen",
            f"ws://127.0.0.1:{port}",
            "--openai-api",
        )
        with subprocess.Popen(
            self._command(*words), cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            url = f"http://127.0.0.1:{port}"
            try:
                wait_until("the App Server is ready", lambda: _ready(url))
                yield url
            finally:
                process.terminate()

    def _command(self, *words: str) -> list[str | Path]:
        return [self.folder / "node_modules/.bin/node", self.folder / "package/letta.js", *words]

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.folder / 'node_modules/.bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LETTA_LOCAL_BACKEND_DIR": str(self.store),
            "DISABLE_AUTOUPDATER": "1",
        }


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.HTTPError:
        return False


@contextmanager
def successor(folder: Path, store: Path) -> Iterator[Successor]:
    """The successor, installed from npm into `folder`, with its model connected."""
    npm = shutil.which("npm")
    assert npm is not None, "npm is needed: the judge is a program of its"
    install = [npm, "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder)]
    subprocess.run([*install, NODE, "ws"], check=True, timeout=600)
    packed = subprocess.run(
        [npm, "pack", "--silent", PACKAGE], cwd=folder, check=True, timeout=600, text=True,
        capture_output=True,
    )  # fmt: skip
    with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
        archive.extractall(folder, filter="data")
    made = Successor(folder, store)
    thread = threading.Thread(target=made.model.serve_forever, daemon=True)
    thread.start()
    try:
        made.run("backend", "local")
        made.run("connect", "openai-compatible", "--base-url", made.model.url, "--api-key", "x")
        yield made
    finally:
        made.model.shutdown()
        made.model.server_close()
