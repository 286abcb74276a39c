"""`letta-ops backup drill`: would this backup restore? It is, and judged, away from all that lives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from infra.errors import LettaOpsError
from ops_cli.commands.backup.store import opened
from ops_cli.invocation import Invocation, current
from ops_cli.output import Part, Table, UnsuccessfulError, present
from ops_cli.progress import progress

FAILED, UNVERIFIED = 1, 3


def drill_backup(
    context: typer.Context,
    backup: Annotated[
        str, typer.Argument(metavar="[ID]", help="Which backup; the newest when none is named.")
    ] = "latest",
    identity: Annotated[
        str | None,
        typer.Option(
            "--identity",
            metavar="REFERENCE",
            help="What opens an encrypted backup: file:PATH, env:NAME or cmd:COMMAND.",
        ),
    ] = None,
) -> None:
    """Restore a backup into a throw-away Postgres, serve it, and judge it; nothing is left running.

    Exits 0 passed, 1 failed, 3 unverified.
    """
    invocation = current(context)
    try:
        answer = _drilled(invocation, backup, identity)
    except UnsuccessfulError:
        raise
    except LettaOpsError as error:
        if error.code == "no-backup" and backup != "latest":
            raise  # there is none of that name, as everywhere
        # No drill could be made, which says nothing of the backup.
        raise UnsuccessfulError(
            error.code, error.message, error.hint, exit_code=UNVERIFIED
        ) from None
    present(invocation, answer, render)


def _drilled(invocation: Invocation, word: str, identity: str | None) -> dict[str, Any]:
    from backups.catalog import deployment_id, read_catalog
    from backups.opening import Key
    from healthchecks.drill.drill import run
    from ops_cli.auditing import audited

    deployment, store = opened(invocation)
    backup = read_catalog(store, deployment_id(deployment)).find(word)
    key = Key.of(deployment.backups, identity)
    with audited(invocation, "backup drill", backup.id) as operation:
        operation.deployment = deployment
        with progress(invocation) as report:
            answer = run(deployment, store, backup, key, report).as_json()
        operation.detail |= {"verdict": answer["verdict"], "seconds": answer["seconds"]}
        if answer["verdict"] != "passed":
            raise _failure(invocation, answer)
    return answer


def _failure(invocation: Invocation, answer: dict[str, Any]) -> UnsuccessfulError:
    from healthchecks.drill.verdict import NOT_REACHED

    bad = [check for check in answer["checks"] if check["verdict"] != "passed"]
    reached = [check for check in bad if not check["summary"].startswith(NOT_REACHED)]
    lines = [f"  - {check['name']}: {check['verdict']}: {check['summary']}" for check in reached]
    failed = answer["verdict"] == "failed"
    what = "failed" if failed else "could not be made whole, the backup is unverified"
    worst = [check for check in bad if check["verdict"] == answer["verdict"]]
    hint = next((check["hint"] for check in worst if check["hint"]), None)
    return UnsuccessfulError(
        "drill-failed" if failed else "drill-unverified",
        "\n".join([f"the drill of backup {answer['backup']} {what}:", *lines]),
        hint or f"make a new backup with `{invocation.command('backup create')}`, and drill it",
        answer,
        exit_code=FAILED if failed else UNVERIFIED,
    )


def render(answer: dict[str, Any]) -> Iterator[Part]:
    rows = [(check["name"], check["verdict"], check["summary"]) for check in answer["checks"]]
    yield Table(("check", "verdict", "seen"), rows)
    yield f"the drill of backup {answer['backup']} {answer['verdict']}: {answer['seconds']:.1f} s"
