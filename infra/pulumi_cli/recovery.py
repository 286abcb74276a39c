"""Before a run: what Pulumi's state knows that the profile has lost, and what a killed run was making.

A run that was killed may have made a thing that Pulumi's state doesn't know: its name is taken.
A profile may have lost a secret: the program begins with the secrets, names follow from them, and
with a new value in its place the server would get another than the database has.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from infra.process import Report, attempt, command
from infra.pulumi_cli.cli_cache import PulumiCli
from infra.stack.locations import StackFolder
from infra.stack.profile import SECRET_PATHS, remember, remembered

GENERATED = "pulumi-python:dynamic/letta-ops:GeneratedValue"
KEYS = (*SECRET_PATHS.values(), "id")
PLAIN = "plaintext"  # where `--show-secrets` puts a secret's value, as JSON
WITHOUT_QUESTIONS = ("--non-interactive",)
HINT = "look at Pulumi's state with `pulumi stack export`"


def exported_state(
    cli: PulumiCli,
    folder: StackFolder,
    environment: Mapping[str, str],
    *flags: str,
) -> dict[str, Any] | None:
    """The stack's state, with `--show-secrets` its secrets in plain text; None where it can't be read.

    The run that comes then says what is wrong with it.
    """
    words = (*WITHOUT_QUESTIONS, "stack", "export", "--stack", folder.stack, *flags)
    job = command(cli.executable, "--cwd", folder.project, *words, environment=environment)
    done = attempt(job, code="pulumi", hint=HINT, what="reading Pulumi's state")
    return None if done.returncode != 0 else dict(json.loads(done.stdout))


def clear_pending(cli: PulumiCli, folder: StackFolder, environment: Mapping[str, str]) -> None:
    """Take out of the state what a killed run was making: the run that has just succeeded made it.

    Pulumi itself asks what became of it, at every run from then on.
    """
    state = exported_state(cli, folder, environment)
    if state is None or not state["deployment"].pop("pending_operations", None):
        return
    words = (*WITHOUT_QUESTIONS, "stack", "import", "--stack", folder.stack)
    job = command(
        cli.executable, "--cwd", folder.project, *words,
        environment=environment, stdin=json.dumps(state),
    )  # fmt: skip
    attempt(job, code="pulumi", hint=HINT, what="writing Pulumi's state")


def complete_profile(folder: StackFolder, state: Mapping[str, Any], report: Report) -> None:
    """Bring back what the profile lacks."""
    known = generated_values(state)
    for key in KEYS:
        if key in known and remembered(folder.profile, key) is None:
            remember(folder.profile, {key: known[key]})
            report(f"{key} was missing in {folder.profile}: brought back from Pulumi's state")


def generated_values(state: Mapping[str, Any]) -> dict[str, str]:
    """The generated values in an exported state, by their key in the profile."""
    outputs = [
        each.get("outputs") or {} for each in _resources(state) if each.get("type") == GENERATED
    ]
    return {each["key"]: _plain(each["value"]) for each in outputs if each.get("value")}


def unfinished(state: Mapping[str, Any], kinds: Collection[str]) -> set[str]:
    """The names of the resources of these types that a killed run was about to make."""
    pending = (state.get("deployment") or {}).get("pending_operations") or []
    making = [each["resource"] for each in pending if each.get("type") == "creating"]
    inputs = [each.get("inputs") or {} for each in making if each.get("type") in kinds]
    return {str(each["name"]) for each in inputs if each.get("name")}


def ids_of(state: Mapping[str, Any], kinds: Collection[str]) -> set[str]:
    """The ids of all resources of these types in an exported state."""
    return {str(each["id"]) for each in _resources(state) if each.get("type") in kinds}


def _resources(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list((state.get("deployment") or {}).get("resources") or [])


def _plain(value: Any) -> str:
    return str(json.loads(value[PLAIN])) if isinstance(value, dict) else str(value)
