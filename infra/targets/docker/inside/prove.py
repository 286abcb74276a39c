"""Does a new server work, before anyone is sent to it? Run inside its container.

Standard library only: it is handed to the container's Python as text. It prints one JSON line:
`{"agents": N, "steps": [...]}`, with `failed` (a step) and `reason` when one failed, and leaves nothing
behind. The last step, `message`, is the only one that needs a model.

    python -c TEXT [--model HANDLE --embedding HANDLE] [--through URL]
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

SERVER = "http://127.0.0.1:8283"
SECONDS = 120


class Failed(Exception):  # noqa: N818  # a step that failed, not an error of ours
    pass


def request(base: str, method: str, path: str, password: str | None, body: Any = None) -> Any:
    headers = {"Content-Type": "application/json"}
    if password is not None:
        headers["Authorization"] = f"Bearer {password}"
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(base + path, data, headers, method=method)  # noqa: S310
    # The proxy's certificate may be of its own authority; who it is was settled by its name.
    unverified = ssl._create_unverified_context()  # noqa: S323, SLF001
    handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unverified))
    with urllib.request.build_opener(*handlers).open(asked, timeout=SECONDS) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def prove(base: str, password: str, model: str | None, embedding: str | None) -> dict[str, Any]:
    seen: dict[str, Any] = {"steps": []}
    steps: dict[str, Callable[[], object]] = {
        "health": lambda: request(base, "GET", "/v1/health/", None),
        "password": lambda: expect_refusal(base),
        "database": lambda: seen.update(agents=count(base, password)),
        "data": lambda: read(base, password),
        "message": lambda: converse(base, password, model, embedding),
    }
    for step, act in steps.items():
        if step == "message" and not model:
            continue
        try:
            act()
        except urllib.error.HTTPError as error:
            body = error.read(400).decode(errors="replace")
            return {**seen, "failed": step, "reason": f"the server answered {error.code}: {body}"}
        except (OSError, ValueError, Failed) as error:
            return {**seen, "failed": step, "reason": str(error)}
        seen["steps"].append(step)
    return seen


def count(base: str, password: str) -> int:
    return int(request(base, "GET", "/v1/agents/count", password))


def read(base: str, password: str) -> None:
    """Of one agent: itself, its secrets, which the server decrypts, its messages and its passages."""
    for agent in request(base, "GET", "/v1/agents/?limit=1&include=agent.secrets", password):
        for part in ("messages", "archival-memory"):
            request(base, "GET", f"/v1/agents/{agent['id']}/{part}?limit=20", password)


def expect_refusal(base: str) -> None:
    try:
        request(base, "GET", "/v1/agents/?limit=1", None)
    except urllib.error.HTTPError as error:
        if error.code == 401:
            return
        raise
    raise Failed("a request without the password was answered")


def converse(base: str, password: str, model: str | None, embedding: str | None) -> None:
    wanted = {
        "name": f"letta-ops-proof-{secrets.token_hex(4)}",
        "model": model,
        "embedding": embedding or None,
        "include_base_tools": False,
        "memory_blocks": [],
        "tags": ["letta-ops:proof"],
    }
    agent = request(base, "POST", "/v1/agents/", password, wanted)["id"]
    try:
        message = {"messages": [{"role": "user", "content": "Are you there?"}]}
        answer = request(base, "POST", f"/v1/agents/{agent}/messages", password, message)
        kinds = [item.get("message_type") for item in answer["messages"]]
        if "assistant_message" not in kinds:
            raise Failed(f"the agent gave no answer, only {kinds}")
    finally:
        request(base, "DELETE", f"/v1/agents/{agent}", password)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="")
    parser.add_argument("--embedding", default="")
    parser.add_argument("--through", default=SERVER)
    given = parser.parse_args()
    document = json.loads(Path(os.environ["LETTA_OPS_ENVIRONMENT_FILE"]).read_text())
    password = document["environment"]["LETTA_SERVER_PASSWORD"]
    outcome = prove(given.through, password, given.model or None, given.embedding or None)
    print(json.dumps(outcome))
    sys.exit(1 if "failed" in outcome else 0)


if __name__ == "__main__":
    main()
