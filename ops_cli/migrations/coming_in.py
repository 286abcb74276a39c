"""A database from elsewhere -> the stack: as a backup in its store, rehearsed, and restored.

So what comes in is kept as it came, is proven before anything of the stack is touched, and takes the
place of what was there as any backup does: compared, switched, smoke-tested, and undone where that fails.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from backups.catalog import Backup, deployment_id, read_catalog
from backups.create import create
from backups.lock import Lock
from backups.opening import Key
from backups.restoring.generations import Generations
from backups.restoring.plan import Options, Plan, make_plan
from backups.restoring.restore import ConfirmServer, Record, Restored, restore
from backups.signing import key_to_sign
from backups.stores.store import Store
from infra.database import model_endpoints
from infra.database.connection import database_of
from infra.database.facts import database_facts
from infra.errors import LettaOpsError
from infra.process import Report
from infra.sensitive import Sensitive
from infra.stack.deployment import EXTERNAL, Database, Deployment
from infra.stack.releases import RELEASES
from infra.targets import host
from ops_cli.migrations.records import Rehearsal
from ops_cli.migrations.rehearse import rehearse

# What a server that starts makes none of.
MADE = {
    "agents": "agents", "messages": "messages", "block": "blocks", "sources": "sources",
    "files": "files", "identities": "identities", "groups": "groups", "archives": "archives",
}  # fmt: skip


@dataclass(frozen=True)
class CameIn:
    """What was done. `rehearsal` is None where the schema was today's already; `endpoints` are URLs at
    which agents asked their model, and where they ask it now."""

    backup: str
    rehearsal: Rehearsal | None
    restored: Restored
    endpoints: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        return {
            "backup": self.backup,
            "rehearsal": self.rehearsal and self.rehearsal.id,
            "compared_rows": self.rehearsal and self.rehearsal.rows,
            "previous": self.restored.previous,
            "proven": self.restored.proven,
            "seconds": self.restored.seconds,
            "endpoints": self.endpoints,
        }


def ensure_room_for(deployment: Deployment, *, replaces: bool) -> None:
    """Raise LettaOpsError (`stack-not-empty`) where anything that somebody has made would have to give
    way."""
    if deployment.folder is None:
        raise LettaOpsError(
            "not-here",
            "what comes in takes the place of what a stack of letta-ops holds, and this is none",
            "make one first (`letta-ops up`), then run this again",
        )
    held = {} if replaces else _held(deployment)
    if held:
        listing = ", ".join(f"{count} {name}" for name, count in held.items())
        raise LettaOpsError(
            "stack-not-empty",
            f"stack '{deployment.stack}' holds {listing}, which would have to give way; nothing was"
            " changed",
            "make another stack (`letta-ops --stack NAME up`), or say --replace: what is there is kept"
            " beside, until the next restore",
        )


def _held(deployment: Deployment) -> dict[str, int]:
    """How many rows there are of what only people and their applications make."""
    from psycopg import sql

    found = {}
    with host(deployment).session() as link:
        schema = database_facts(link).schema
        for table, name in MADE.items() if schema is not None else ():
            there = sql.Identifier(str(schema), table)
            query = sql.SQL("SELECT count(*) FROM {}").format(there)
            if link.execute("SELECT to_regclass(%s)", [there.as_string(link)]).fetchone() != (
                None,
            ):
                found[name] = int((link.execute(query).fetchone() or (0,))[0])
    return {name: count for name, count in found.items() if count}


def as_deployment(
    deployment: Deployment,
    name: str,
    database: Database,
    scope: str,
    release: str | None,
    key: Sensitive | None,
) -> Deployment:
    """The source as a deployment whose backups go into the store of the stack, under an id of its own:
    they are never the stack's newest ones, and no retention of its takes them."""
    return Deployment(
        stack=name,
        target=EXTERNAL,
        server=replace(deployment.server, encryption_key=key, other_keys=()),
        id=re.sub(r"[^A-Za-z0-9._-]", "-", f"{deployment_id(deployment)[:60]}.{name}"[:100]),
        release=release,
        database=database,
        backups=deployment.backups.model_copy(
            update={"backup": deployment.backups.backup.model_copy(update={"scope": scope})}
        ),
        signing_key=key_to_sign(deployment),
    )


def back_up(source: Deployment, store: Store, report: Report) -> Backup:
    """Make a backup of what comes in."""
    made = create(source, store, f"from {source.stack}", report)
    return read_catalog(store, deployment_id(source)).find(made.id)


def bring_in(
    deployment: Deployment,
    generations: Generations,
    store: Store,
    backup: Backup,
    key: Key,
    lock: Lock,
    confirm_server: ConfirmServer,
    report: Report,
    *,
    secret: Sensitive | None,
    record: Record,
    replaces: bool,
    accept_lost_secrets: bool = False,
) -> CameIn:
    """Rehearse what `backup` holds at the release of the stack, and restore it.

    `secret` is the encryption key of the source, where it is not the stack's.
    Raises LettaOpsError: `rehearsal-failed`, and those of a
    restore; the stack is as it was then.
    """
    if secret is not None and secret != deployment.server.encryption_key:
        others = (*deployment.server.other_keys, secret)
        deployment = replace(deployment, server=replace(deployment.server, other_keys=others))
    release = RELEASES.get(deployment.release or "")
    rehearsal = None
    if release is not None and backup.manifest.database.revision != release.alembic_head:
        own = replace(deployment.server, encryption_key=secret or deployment.server.encryption_key)
        rehearsal = rehearse(replace(deployment, server=own), store, backup, key, release, report)
        if not rehearsal.passed:
            bad = [each for each in rehearsal.checks if each["verdict"] == "failed"]
            lines = "\n".join(f"  - {each['name']}: {each['summary']}" for each in bad)
            raise LettaOpsError(
                "rehearsal-failed",
                f"coming to Letta {release.version} failed in a throw-away Postgres; the stack is as it"
                f" was:\n{lines}",
                f"what came in is kept as backup {backup.id}",
            )
    lock.ensure_held()
    options = Options(into_other=True, accept_lost_secrets=accept_lost_secrets)
    plan = make_plan(deployment, generations, store, backup, key, options)
    _ensure_kept(plan, replaces=replaces)
    done = restore(
        deployment, generations, store, plan, key, lock, confirm_server, report, record=record
    )
    # A source with providers has said where they are: agents that differ were pointed elsewhere.
    told = (backup.manifest.database.rows("providers") or 0) > 0
    return CameIn(backup.id, rehearsal, done, {} if told else _follow(deployment, report))


def _ensure_kept(plan: Plan, *, replaces: bool) -> None:
    """Raise LettaOpsError (`stack-not-empty`) where what an earlier restore has kept would be dropped."""
    held = [each for each in plan.drops if each.held is None or each.held.agents]
    if held and not replaces:
        names = ", ".join(f"{each.noun} {each.name}" for each in held)
        raise LettaOpsError(
            "stack-not-empty",
            f"an earlier restore or migration has kept {names}, with agents, which this would drop",
            "go back to it (`letta-ops backup restore --undo`), or say --replace",
        )


def _follow(deployment: Deployment, report: Report) -> dict[str, str]:
    """Providers are those of a server's configuration: agents that mean one ask it where it is here."""
    import psycopg

    database = database_of(deployment)
    try:
        with host(deployment).session(database.owner) as link, link.transaction():
            return model_endpoints.follow(link, database_facts(link).schema or "public")
    except (psycopg.Error, LettaOpsError) as error:  # what came in is there, and stays
        report(f"warning: agents ask their models where they did before: {str(error).strip()}")
        return {}
