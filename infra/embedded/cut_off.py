"""Start a Letta server that reaches nothing but its own database: no address, and no name.

Run by the interpreter of a Letta release, which has none of our packages: standard library only.

    python cut_off.py PORT ENVIRONMENT.json MODULE:FUNCTION [ARGUMENT ...]

PORT is the one of loopback where the database listens; the rest is what `launch.py`, beside this
file, takes. Python tells an audit hook of every connection and every look-up, whichever library makes
it: what would lead elsewhere is refused, as by a network that is down.
"""

from __future__ import annotations

import runpy
import socket
import sys
from pathlib import Path
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CONNECTING = ("socket.connect", "socket.sendto", "socket.sendmsg")
LOOKING_UP = ("socket.getaddrinfo", "socket.gethostbyname")


def refusal(event: str, arguments: tuple[Any, ...], port: int) -> OSError | None:
    """What to raise for an audit event; None lets it pass."""
    if event in CONNECTING:
        address = arguments[1]
        if address is not None and address[:2] != (LOOPBACK[0], port):
            return ConnectionRefusedError(f"cut off: {address!r}")
    elif event in LOOKING_UP:
        host = arguments[0]
        name = host.decode() if isinstance(host, bytes) else host
        if name is not None and name not in LOOPBACK:
            return socket.gaierror(socket.EAI_NONAME, f"cut off: {name}")
    return None


def main() -> None:
    port = int(sys.argv.pop(1))

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        error = refusal(event, arguments, port) if event.startswith("socket.") else None
        if error is not None:
            raise error

    sys.addaudithook(guard)
    # Not imported: the folder can't be listed by the account that runs this.
    runpy.run_path(str(Path(__file__).with_name("launch.py")), run_name="__main__")


if __name__ == "__main__":
    main()
