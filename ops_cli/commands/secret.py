"""`letta-ops secret`: the secrets of a stack, one at a time and on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from infra.errors import LettaOpsError
from infra.stack.profile import SECRET_PATHS
from ops_cli.invocation import Invocation, current
from ops_cli.options import DryRun, NoSmoke, Yes, new_app
from ops_cli.output import Part, present
from ops_cli.progress import progress

NAMES = ", ".join(SECRET_PATHS)
ROTATED = ("server-password", "database-password", "encryption-key")

app = new_app("Show a secret of the stack, or rotate one.")


def _known(name: str) -> str:
    if name not in SECRET_PATHS:
        raise typer.BadParameter(f"there is no secret '{name}', only: {NAMES}")
    return name


@app.command("show")
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {NAMES}.", callback=_known)],
) -> None:
    """Print one secret to stdout, in the clear."""
    invocation = current(context)
    deployment = invocation.deployment()
    secret = deployment.named_secrets[name]
    if secret is None:
        raise LettaOpsError(
            "secret-missing",
            f"the profile of {deployment.called} has no {name}",
            f"add {SECRET_PATHS[name]} to {deployment.profile or 'a profile'}",
        )
    answer: dict[str, Any] = {"name": name, "value": secret.reveal()}
    present(invocation, answer, lambda shown: [shown["value"]])


def _rotated(name: str) -> str:
    if name not in ROTATED:
        raise typer.BadParameter(f"'{name}' can't be rotated, only: {', '.join(ROTATED)}")
    return name


@app.command("rotate")
def rotate(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help=f"One of {', '.join(ROTATED)}.", callback=_rotated),
    ],
    *,
    no_smoke: NoSmoke = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Give the stack a new secret, and prove that it works; else the old one is in force again.

    With a new encryption key, every stored secret is encrypted anew, after a backup; the old key is kept
    for older backups.
    """
    from ops_cli.asking import confirm
    from ops_cli.rotating import ensure_ours

    invocation = current(context)
    deployment = invocation.deployment()
    ensure_ours(deployment, name)
    if dry_run:
        answer = {"dry_run": True, "secret": name}
        present(invocation, answer, lambda _: [f"would rotate {name}, and restart what uses it"])
        return
    if not yes:
        confirm(f"Rotate {name}?", "who uses the old one is refused from then on")
    present(invocation, _rotate(invocation, name, with_models=not no_smoke), _render)


def _rotate(invocation: Invocation, name: str, *, with_models: bool) -> dict[str, Any]:
    from backups.create import create
    from backups.restoring.generations import generations_of
    from backups.restoring.restore import kept_clusters, kept_generations
    from backups.scope import scope_of
    from ops_cli.auditing import audited
    from ops_cli.commands.backup.store import changing, opened
    from ops_cli.proving import prover
    from ops_cli.rotating import ENCRYPTION, finish_rotation, rotate_key, rotate_password

    deployment, store = opened(invocation)
    with (
        progress(invocation) as report,
        audited(invocation, "secret rotate", name) as event,
        changing(deployment, store, "secret rotate", report),
    ):
        prove = prover(report, "the old one is in force again", with_models=with_models)
        if finish_rotation(invocation.deployment(), report):
            report("that is put right; the rotation that was asked for begins")
        deployment = invocation.deployment()
        if name != ENCRYPTION:
            rotate_password(deployment, name, prove, report)
            return {"secret": name}
        with generations_of(deployment, scope_of(deployment)) as generations:
            kept = [*kept_generations(deployment, generations), *kept_clusters(deployment)]
        if kept:
            raise LettaOpsError(
                "databases-kept",
                f"{', '.join(kept)}: kept of before, and encrypted with the key of today",
                f"drop them first: `{invocation.command('backup restore --drop-previous')}`",
            )
        backup = create(deployment, store, "before a new encryption key", report)
        done = {"secret": name, "backup": backup.id, **rotate_key(deployment, prove, report)}
        event.detail |= {each: done[each] for each in ("backup", "values", "fingerprint")}
    return done


def _render(answer: dict[str, Any]) -> Iterator[Part]:
    yield f"{answer['secret']} is rotated; the smoke test passed"
    if "values" in answer:
        yield f"  {answer['values']} values are encrypted anew, with key {answer['fingerprint']}"
        yield (
            f"  key {answer['previous_fingerprint']} stays in the profile, for backup {answer['backup']}"
            " and those before"
        )
        for each in answer["unopened"]:
            yield f"  {each}: values that no key at hand opens, as before"
