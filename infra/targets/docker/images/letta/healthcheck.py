"""Ask a service of this container whether it is well: what it is asked for, it answers with status 200.

Run by Docker every few seconds, in every container, for as long as it lives, with Letta's interpreter:
so it imports little, and speaks HTTP by itself (a third of the processor time of `urllib`).

    healthcheck.py             the Letta server: it answers, and its database does
    healthcheck.py PORT PATH   another one

The server's health endpoint alone answers 200 without looking at the database; a list of agents can't.
"""

from __future__ import annotations

import json
import os
import socket
import sys

LOOPBACK = "127.0.0.1"
PORT = 8283
PATHS = ("/v1/health/", "/v1/agents/?limit=1")
SECONDS = 4  # for each of two requests; Docker allows 10 for both


def main(*words: str) -> int:
    port, paths = (int(words[0]), words[1:]) if words else (PORT, PATHS)
    header = "" if words else f"Authorization: Bearer {password()}\r\n"
    for path in paths:
        if reason := failure(port, path, header):
            print(f"{path}: {reason}")
            return 1
    return 0


def password() -> str:
    with open(os.environ["LETTA_OPS_ENVIRONMENT_FILE"]) as source:  # noqa: PTH123  # pathlib is slow
        return str(json.load(source)["environment"]["LETTA_SERVER_PASSWORD"])


def failure(port: int, path: str, header: str) -> str | None:
    """Return why the request got no good answer; what the server answered is not repeated."""
    request = f"GET {path} HTTP/1.0\r\nHost: {LOOPBACK}:{port}\r\n{header}\r\n"
    try:
        with socket.create_connection((LOOPBACK, port), SECONDS) as link:
            link.sendall(request.encode())
            # To its end, or the server takes us for one who went away.
            answer = b"".join(iter(lambda: link.recv(65536), b""))
    except OSError as error:
        return error.strerror or str(error)
    status = answer.split(b" ", 2)[1:2]
    if status != [b"200"]:
        return f"HTTP status {status[0].decode('ascii', 'replace')}" if status else "no answer"
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
