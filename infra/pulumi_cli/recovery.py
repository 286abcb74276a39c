"""Before a run on containers: Pulumi's state, the profile and the engine are brought together again.

A run that was killed may have made a container that Pulumi's state doesn't know: its name is taken.
A profile may have lost a secret: the program begins with the secrets, names follow from them, and
with a new value in its place the server would get another than the database has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from infra.process import Report, attempt, command
from infra.pulumi_cli.cli_cache import PulumiCli
from infra.stack.locations import StackFolder
from infra.stack.profile import SECRET_PATHS, remember, remembered
from infra.targets.docker.names import Names
from infra.targets.docker.removal import remove_unfinished

GENERATED = "pulumi-python:dynamic/letta-ops:GeneratedValue"
KINDS = ("docker:index/container:Container", "docker:index/network:Network")
KEYS = (*SECRET_PATHS.values(), "id")
PLAIN = "plaintext"  # where `--show-secrets` puts a secret's value, as JSON
HINT = "look at Pulumi's state with `pulumi stack export`"


def recover(
    cli: PulumiCli,
    folder: StackFolder,
    environment: Mapping[str, str],
    names: Names,
    report: Report,
    remove: bool,
) -> None:
    """Bring back what the profile lacks; with `remove`, remove containers of a run that was killed.

    A state that can't be read is left to the run that comes now: it says what is wrong with it.
    """
    job = command(
        cli.executable, "--cwd", folder.project, "--non-interactive",
        "stack", "export", "--stack", folder.stack, "--show-secrets",
        environment=environment,
    )  # fmt: skip
    done = attempt(job, code="pulumi", hint=HINT, what="reading Pulumi's state")
    if done.returncode != 0:
        return
    state = json.loads(done.stdout)
    known = generated_values(state)
    for key in KEYS:
        if key in known and remembered(folder.profile, key) is None:
            remember(folder.profile, {key: known[key]})
            report(f"{key} was missing in {folder.profile}: brought back from Pulumi's state")
    deployment = remembered(folder.profile, "id")
    if remove and deployment is not None:
        for name in remove_unfinished(names, str(deployment), unfinished(state), engine_ids(state)):
            report(f"{name} was left by a run that was killed: removed")


def generated_values(state: Mapping[str, Any]) -> dict[str, str]:
    """The generated values in an exported state, by their key in the profile."""
    outputs = [
        each.get("outputs") or {} for each in _resources(state) if each.get("type") == GENERATED
    ]
    return {each["key"]: _plain(each["value"]) for each in outputs if each.get("value")}


def unfinished(state: Mapping[str, Any]) -> set[str]:
    """The names of the containers and networks that a killed run was about to make."""
    pending = (state.get("deployment") or {}).get("pending_operations") or []
    making = [each["resource"] for each in pending if each.get("type") == "creating"]
    inputs = [each.get("inputs") or {} for each in making if each.get("type") in KINDS]
    return {str(each["name"]) for each in inputs if each.get("name")}


def engine_ids(state: Mapping[str, Any]) -> set[str]:
    """The ids of all containers and networks in an exported state."""
    return {str(each["id"]) for each in _resources(state) if each.get("type") in KINDS}


def _resources(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list((state.get("deployment") or {}).get("resources") or [])


def _plain(value: Any) -> str:
    return str(json.loads(value[PLAIN])) if isinstance(value, dict) else str(value)
