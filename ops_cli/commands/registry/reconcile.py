"""`letta-ops registry reconcile`: is what the registry says so?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from ops_cli.auditing import audited
from ops_cli.commands.registry.links import AnyApp
from ops_cli.invocation import current
from ops_cli.output import Part, Table, present


def reconcile(
    context: typer.Context,
    app: AnyApp = None,
    mend: Annotated[
        bool, typer.Option("--apply", help="Mend what can be mended; no agent is ever deleted.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say it, and don't note when."),
    ] = False,
) -> None:
    """Compare links and agents, say what differs and why, and what would mend it.

    With --app, agents that only their name tells to be of that application are found too.
    """
    from backups.registry import opened
    from letta_ops.registry import reconcile as job

    invocation = current(context)
    mend = mend and not dry_run
    deployment = invocation.deployment()
    with opened(deployment) as registry:
        findings = job.find(registry, app)
        if mend:
            with audited(invocation, "registry reconcile", app or "") as operation:
                operation.deployment = deployment
                done = job.apply(registry, findings)
                operation.detail = {"found": len(findings), "mended": len(done)}
                job.remember(registry, app, len(findings), len(done))
        else:
            done = []
            if not dry_run:
                job.remember(registry, app, len(findings), 0)
    answer = {
        "stack": invocation.stack,
        "applied": mend,
        "findings": [{**each.as_json(), "mended": each in done} for each in findings],
    }
    present(invocation, answer, _render)


def _render(answer: dict[str, Any]) -> Iterator[Part]:
    findings = answer["findings"]
    if not findings:
        yield "links and agents agree"
        return
    rows = [
        (each["app_agent_id"], each["app"], each["kind"], each["reason"], _what(each))
        for each in findings
    ]
    yield Table(("id", "app", "finding", "reason", "mend"), rows)
    if not answer["applied"] and any(each["mend"] for each in findings):
        yield "nothing was changed; --apply mends what has a mend"


def _what(finding: dict[str, Any]) -> str:
    if finding["mended"]:
        return f"done: {finding['mend']}"
    return finding["mend"] or "yours to choose"
