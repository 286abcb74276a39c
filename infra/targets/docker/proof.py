"""Asking a server, from inside its container, whether it does its work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.targets.docker.engine.execution import execute
from infra.targets.docker.inside import prove
from infra.targets.docker.names import PYTHON

PROOF = Path(prove.__file__)


def ask(server: str, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """What `infra.targets.docker.inside.prove` found out of the container `server`.

    Raises LettaOpsError like `execute`.
    """
    answer = execute(server, [PYTHON, "-c", PROOF.read_text(), *arguments])
    try:
        outcome = json.loads(answer.output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        outcome = {"failed": "start", "reason": answer.output.strip()[-400:] or "no answer"}
    return dict(outcome)
