"""`letta-ops backup verify`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from ops_cli.commands.backup.store import opened
from ops_cli.invocation import current
from ops_cli.output import Part, Table, UnsuccessfulError, present
from ops_cli.progress import progress

VERDICT_CODES = {"passed": 0, "failed": 1, "unverified": 3}
IDENTITY_HINT = "give the identity: --identity file:PATH"
IDENTITY_HELP = "Where the age identity is: file:PATH, env:NAME or cmd:COMMAND."


def verify_backup(
    context: typer.Context,
    backup: Annotated[
        str, typer.Argument(metavar="ID", help="A backup's id, its beginning, or `latest`.")
    ] = "latest",
    identity: Annotated[
        str | None, typer.Option("--identity", metavar="REFERENCE", help=IDENTITY_HELP)
    ] = None,
) -> None:
    """Read every part of a backup back and compare it. Exits 0 passed, 1 failed, 3 unverified."""
    from backups.catalog import deployment_id, read_catalog
    from backups.opening import Key
    from backups.signing import Signers
    from backups.verdicts import overall
    from backups.verify import judge_signature, verify

    invocation = current(context)
    deployment, store = opened(invocation)
    found = read_catalog(store, deployment_id(deployment)).find(backup)
    key = Key.of(deployment.backups, identity)
    with progress(invocation) as report:
        signature = judge_signature(found, Signers.of(deployment, key.identities))
        checks = [signature, *verify(store, found, key, report)]
    verdict = overall([check.verdict for check in checks])
    answer = {
        "backup": found.id,
        "verdict": verdict,
        "checks": [
            {"name": check.name, "verdict": check.verdict, "summary": check.summary}
            for check in checks
        ],
    }
    if verdict == "passed":
        present(invocation, answer, _render_checks)
        return
    if not invocation.json:
        present(invocation, answer, _render_checks)
    raise UnsuccessfulError(
        f"backup-{verdict}",
        f"backup {found.id} is {verdict}",
        "use another backup, and find out what happened to this one"
        if verdict == "failed"
        else next((check.hint for check in checks if check.hint), IDENTITY_HINT),
        answer,
        VERDICT_CODES[verdict],
    )


def _render_checks(answer: dict[str, Any]) -> Iterator[Part]:
    rows = [(each["name"], each["verdict"], each["summary"]) for each in answer["checks"]]
    yield Table(("part", "verdict", "what was seen"), rows)
    yield f"backup {answer['backup']}: {answer['verdict']}"
