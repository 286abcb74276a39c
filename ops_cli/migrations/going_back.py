"""Going back to the release before: what it would lose, and the agents that are archived first."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backups.archives.place import ENDING, InFile
from backups.archives.write import archive
from backups.restoring.generations import Generations
from backups.restoring.journal import names_of
from backups.restoring.undo import Undoing, plan_undoing
from backups.restoring.upgrades import Upgrade, upgrade_of
from infra.database.facts import database_facts
from infra.errors import LettaOpsError
from infra.files import make_folder
from infra.process import Report
from infra.stack.deployment import Deployment
from infra.stack.locations import stack_folder
from infra.targets import host
from ops_cli.migrations.course import LETTA

# Whoever was made or written to since: messages, passages, blocks.
WRITTEN = """
SELECT a.id, a.name,
  (SELECT count(*) FROM {messages} m WHERE m.agent_id = a.id AND m.created_at > %(since)s)
FROM {agents} a WHERE a.created_at > %(since)s OR a.updated_at > %(since)s
OR EXISTS (SELECT FROM {messages} m WHERE m.agent_id = a.id AND m.created_at > %(since)s)
OR EXISTS (SELECT FROM {archives_agents} x JOIN {archival_passages} p ON p.archive_id = x.archive_id
  WHERE x.agent_id = a.id AND greatest(p.created_at, p.updated_at) > %(since)s)
OR EXISTS (SELECT FROM {blocks_agents} x JOIN {block} b ON b.id = x.block_id
  WHERE x.agent_id = a.id AND greatest(b.created_at, b.updated_at) > %(since)s)
ORDER BY a.id
"""
TABLES = (
    "agents", "messages", "archives_agents", "archival_passages", "blocks_agents", "block",
)  # fmt: skip


@dataclass(frozen=True)
class WrittenSince:
    """An agent that is not as it was when the release was changed, and its messages since."""

    id: str
    name: str
    messages: int

    def as_json(self) -> dict[str, Any]:
        return {"agent": self.id, "name": self.name, "messages": self.messages}


@dataclass(frozen=True)
class Rollback:
    """What going back brings and loses."""

    upgrade: Upgrade
    undoing: Undoing
    agents: tuple[WrittenSince, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "of": LETTA,
            "from": self.upgrade.after,
            "to": self.upgrade.before,
            "applied_at": self.upgrade.at,
            "written_since": [each.as_json() for each in self.agents],
            **self.undoing.as_json(),
        }


def plan_rollback(
    deployment: Deployment, generations: Generations, agreed: tuple[int, int] | None = None
) -> Rollback:
    """Raise LettaOpsError (`nothing-to-roll-back`) where the last migration has left nothing, and those
    of `plan_undoing`."""
    name = names_of(deployment).previous
    held = generations.read(name, None)
    upgrade = upgrade_of(
        deployment, generations.number(name), None if held is None else held.revision
    )
    if upgrade is None:
        raise LettaOpsError(
            "nothing-to-roll-back",
            "what the last migration has replaced is not there any more, or there was none",
            "a backup of that time can be restored: `letta-ops backup list`",
        )
    undoing = plan_undoing(deployment, generations, agreed)
    return Rollback(upgrade, undoing, written_since(deployment, upgrade.at))


def archive_agents(
    deployment: Deployment, agents: Sequence[WrittenSince], report: Report
) -> Path | None:
    """Archive the agents that were written to since; None where there are none. Raises LettaOpsError."""
    if not agents:
        return None
    folder = stack_folder(deployment.stack).agent_archives
    make_folder(folder)
    name = f"before-rollback-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}{ENDING}"
    path = folder / name
    archive(deployment, [each.id for each in agents], InFile(path), report)
    return path


def written_since(deployment: Deployment, since: str) -> tuple[WrittenSince, ...]:
    """Agents that were made or written to since."""
    with _owner(deployment) as link:
        from psycopg import sql

        schema = database_facts(link).schema or "public"
        tables = {name: sql.Identifier(schema, name) for name in TABLES}
        query = sql.SQL(WRITTEN).format(**tables)
        found = link.execute(query, {"since": since}).fetchall()
    return tuple(WrittenSince(str(each), str(name), int(count)) for each, name, count in found)


@contextmanager
def _owner(deployment: Deployment) -> Iterator[Any]:
    owner = deployment.database.owner if deployment.database else None
    with host(deployment).session(owner) as link:
        yield link
