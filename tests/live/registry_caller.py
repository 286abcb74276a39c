"""A caller of a registry in a process of its own: ids come in by lines, agents go out by lines.

`python -m tests.live.registry_caller` takes its settings from the environment. With DIES_AT=created it is
killed after it has made an agent, before it could link it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from letta_ops.registry import Registry
from letta_ops.registry.server import LettaServer


def main() -> None:
    registry = Registry.open(
        os.environ["REGISTRY"], server=os.environ["LETTA"], password=os.environ["PASSWORD"],
        app="race", connections=1,
    )  # fmt: skip
    if os.environ.get("DIES_AT") == "created":
        make = LettaServer.create

        def made_and_killed(server: LettaServer, body: Mapping[str, Any]) -> str:
            make(server, body)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

        LettaServer.create = made_and_killed  # type: ignore[assignment,method-assign]
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            print(registry.ensure(line.rstrip("\n")).letta_agent_id, flush=True)
        except Exception as error:  # noqa: BLE001  # the test says what it expected
            print(f"failed: {type(error).__name__}: {error}".replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
