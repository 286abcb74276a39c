"""Agents -> an agent archive: all their rows out of one snapshot, straight into one file."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from backups.archives.agents import agents_in, find_agents
from backups.archives.closure import LEFT_OUT, ROOT, Closure, Model, with_members
from backups.archives.file import ArchivedTable, Header, packed, write_archive
from backups.archives.place import Place
from backups.catalog import deployment_id
from backups.contents import OF_PGVECTOR
from backups.encryption import Encryption, encryption_of
from backups.sources.memory_files import reachable, read_memory
from infra.database import model_endpoints
from infra.database.facts import database_facts
from infra.process import Report
from infra.stack.deployment import Deployment
from infra.stack.fingerprint import key_fingerprint

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

BINARY, TEXT = "binary", "text"
GIT_MEMORY_TAG = "git-memory-enabled"
# What can't be found from its keys, counted by its agent.
COUNTED_BY_AGENT = ("provider_traces", "provider_trace_metadata", "llm_batch_items")
WITH_VECTORS = f"""
SELECT DISTINCT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
WHERE n.nspname = %s AND c.relkind = 'r' AND NOT a.attisdropped AND {OF_PGVECTOR}
"""


# Gives the agent file of each of some agents (ids), in their order.
AgentFiles = Callable[[Sequence[str]], Iterable[bytes]]


@dataclass(frozen=True)
class Archived:
    """An archive that was written: its size in bytes, the agents, rows by table."""

    place: Place
    size: int
    encrypted: bool
    header: Header
    rows: dict[str, int]


def archive(
    deployment: Deployment,
    wanted: Sequence[str] | None,
    place: Place,
    report: Report,
    agent_files: AgentFiles | None = None,
) -> Archived:
    """Write the agents `wanted` (ids, or names that one has; None: all) to `place`, and what is theirs;
    with their `agent_files`, which are of a moment later than the snapshot.

    Raises LettaOpsError: `agent-unknown`, `agent-ambiguous`, `not-letta`, `backup-unencrypted`, and
    those of the place and of the database.
    """
    encryption = encryption_of(deployment.backups, place.url)
    with agents_in(deployment) as (link, model):
        found = find_agents(link, model, wanted)
        agents = with_members(link, model, found)
        report(f"archive: {len(agents)} agent(s), out of one snapshot")
        header = header_of(deployment, link, model, agents)
        memory = memory_tar(deployment, agents, report)
        return write_agents(link, model, agents, header, memory, place, encryption, agent_files)


def write_agents(
    link: psycopg.Connection[Any],
    model: Model,
    agents: Sequence[str],
    header: Header,
    memory: Iterable[bytes],
    place: Place,
    encryption: Encryption,
    agent_files: AgentFiles | None = None,
) -> Archived:
    """Write all that is theirs, as the transaction of `link` sees it, and what `memory` yields."""
    closure = Closure(link, model, agents)
    counts: dict[str, int] = {}

    def rows(table: str) -> tuple[Iterable[bytes | bytearray | memoryview], Any]:
        return _rows(link, closure, header.tables[table], table, counts), lambda: counts[table]

    files: Iterable[bytes] = ()
    if agent_files is not None:
        ids = tuple(agent["id"] for agent in header.agents)
        header, files = replace(header, agent_files=ids), agent_files(ids)
    size = write_archive(place, packed(header, rows, memory, files), encryption)
    return Archived(place, size, encryption.on, header, counts)


def header_of(
    deployment: Deployment, link: psycopg.Connection[Any], model: Model, agents: Sequence[str]
) -> Header:
    from psycopg import sql

    facts = database_facts(link)
    vectors = {row[0] for row in link.execute(WITH_VECTORS, [model.schema])}
    names = sql.SQL("SELECT id, name FROM {} WHERE id = ANY(%s) ORDER BY id").format(
        model.table(ROOT)
    )
    key = deployment.server.encryption_key
    providers = sql.SQL("SELECT id, name FROM {}").format(model.table("providers"))
    return Header(
        created_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        deployment=deployment_id(deployment),
        release=deployment.release,
        revision=facts.revision,
        postgres=facts.version,
        schema=model.schema,
        agents=tuple(
            {"id": identifier, "name": name or ""}
            for identifier, name in link.execute(names, [list(agents)])
        ),
        tables={
            table: ArchivedTable(
                tuple(model.names(table)), BINARY if table in vectors else TEXT, model.roles[table]
            )
            for table in model.in_order()
        },
        providers=dict(link.execute(providers).fetchall()) if "providers" in model.columns else {},
        left_out=dict(_left_out(deployment, link, model, agents)),
        key_fingerprint=None if key is None else key_fingerprint(key),
        urls=model_endpoints.of_configuration(link, model.schema),
    )


def _left_out(
    deployment: Deployment, link: psycopg.Connection[Any], model: Model, agents: Sequence[str]
) -> Iterator[tuple[str, int]]:
    """What the agents have that an archive does not carry, counted."""
    from psycopg import sql

    for table in COUNTED_BY_AGENT:
        if table in LEFT_OUT and table in model.columns and "agent_id" in model.names(table):
            query = sql.SQL("SELECT count(*) FROM {} WHERE agent_id = ANY(%s)")
            row = link.execute(query.format(model.table(table)), [list(agents)]).fetchone()
            if row and row[0]:
                yield table, int(row[0])
    if not reachable(deployment) and (count := len(with_git_memory(link, model, agents))):
        yield "git memory repositories", count


def with_git_memory(
    link: psycopg.Connection[Any], model: Model, agents: Sequence[str]
) -> list[str]:
    """Which of `agents` (ids) have git memory."""
    from psycopg import sql

    if "agents_tags" not in model.columns:
        return []
    query = sql.SQL("SELECT agent_id FROM {} WHERE agent_id = ANY(%s) AND tag = %s ORDER BY 1")
    tags = query.format(model.table("agents_tags"))
    return [row[0] for row in link.execute(tags, [list(agents), GIT_MEMORY_TAG])]


def memory_tar(deployment: Deployment, agents: Sequence[str], report: Report) -> Iterator[bytes]:
    """The tar of their git memory; nothing where it can't be reached.

    Letta keeps the repository of an agent that lost its tag: so all are looked for.
    """
    if agents and reachable(deployment):
        with read_memory(deployment, report, agents) as tar:
            yield from tar


def _rows(
    link: psycopg.Connection[Any],
    closure: Closure,
    archived: ArchivedTable,
    table: str,
    counts: dict[str, int],
) -> Iterator[bytes | bytearray | memoryview]:
    query = copy_of(closure, archived, table)
    with link.cursor() as cursor:
        with cursor.copy(query) as rows:
            yield from rows  # put together where they are written
        counts[table] = cursor.rowcount


def copy_of(closure: Closure, archived: ArchivedTable, table: str) -> sql.Composed:
    from psycopg import sql

    names = sql.SQL(", ").join(sql.Identifier(name) for name in archived.columns)
    return sql.SQL("COPY (SELECT {} {}) TO STDOUT (FORMAT {})").format(
        names, closure.rows(table), sql.SQL(archived.format)
    )
