"""What the profile has lost of the stack's secrets, brought back from Pulumi's state before a run.

The program of a stack of containers begins with the secrets: names follow from them. With a new
value in the place of a lost one, the server would get another than the database has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from infra.engine.cli_cache import PulumiCli
from infra.locations import StackFolder
from infra.process import attempt, command
from infra.profiles import SECRET_PATHS, remember, remembered

GENERATED = "pulumi-python:dynamic/letta-ops:GeneratedValue"
KEYS = (*SECRET_PATHS.values(), "id")
PLAIN = "plaintext"  # where `--show-secrets` puts a secret's value, as JSON


def bring_back(cli: PulumiCli, folder: StackFolder, environment: Mapping[str, str]) -> list[str]:
    """Write those that the profile lacks and the state has to the profile; return their keys."""
    missing = [key for key in KEYS if remembered(folder.profile, key) is None]
    if not missing:
        return []
    job = command(
        cli.executable, "--cwd", folder.project, "--non-interactive",
        "stack", "export", "--stack", folder.stack, "--show-secrets",
        environment=environment,
    )  # fmt: skip
    done = attempt(job, code="pulumi", hint="look at Pulumi's state", what="reading the state")
    if done.returncode != 0:
        return []  # the run that comes now says what is wrong with the state
    known = generated_values(json.loads(done.stdout))
    found = {key: known[key] for key in missing if key in known}
    if found:
        remember(folder.profile, found)
    return list(found)


def generated_values(state: Mapping[str, Any]) -> dict[str, str]:
    """The generated values in an exported state, by their key in the profile."""
    resources = (state.get("deployment") or {}).get("resources") or []
    outputs = [each.get("outputs") or {} for each in resources if each.get("type") == GENERATED]
    return {each["key"]: _plain(each["value"]) for each in outputs if each.get("value")}


def _plain(value: Any) -> str:
    return str(json.loads(value[PLAIN])) if isinstance(value, dict) else str(value)
