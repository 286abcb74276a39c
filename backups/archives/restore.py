"""An agent archive -> the live database, in one transaction: ids kept where they are free, or all new.

What is everybody's (organizations, tools, identities) is matched or made, never overwritten; what other
agents use stays as it is. Nothing is lost: what would have to give way is archived first, and a block
that says something else than the archive's keeps its id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backups.archives.closure import ROOT, Model
from backups.archives.deciding import decide
from backups.archives.file import Header, open_archive
from backups.archives.from_backup import stage_from_backup
from backups.archives.links import relink
from backups.archives.live import brought_here, live
from backups.archives.migrated import Fill
from backups.archives.place import Place
from backups.archives.removing import deferred, remove
from backups.archives.staging import (
    FATE,
    MADE,
    Staging,
    equal,
    keep_only,
    quoted,
    roots,
    stage,
)
from backups.archives.write import with_git_memory
from backups.catalog import Backup
from backups.opening import Key, escrowed_key
from backups.sources.memory_files import MemoryPlace, reachable
from backups.stores.store import Store
from infra.errors import LettaOpsError
from infra.process import Report
from infra.sensitive import Sensitive
from infra.stack.ciphertext import decrypted, encrypted, looks_encrypted
from infra.stack.deployment import Deployment
from infra.stack.fingerprint import key_fingerprint

if TYPE_CHECKING:
    import psycopg

FAIL, SKIP, REPLACE = "fail", "skip", "replace"
CONFLICTS = (FAIL, SKIP, REPLACE)
SECRETS = "_enc"
PLAIN_SECRETS = (("mcp_server", "token"), ("mcp_server", "custom_headers"))  # of older releases


@dataclass(frozen=True)
class Choices:
    """`on_conflict`: what happens where an agent with this id is there (`CONFLICTS`); `secrets_key`: what
    the secrets are encrypted with, where that is another key than the server's."""

    on_conflict: str = FAIL
    new_ids: bool = False
    without_secrets: bool = False
    secrets_key: Sensitive | None = None
    dry_run: bool = False


@dataclass
class Outcome:
    """What was restored, or would be: agents with their ids in the archive, rows that were made by
    table, and what there is to say of it."""

    agents: list[dict[str, str]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    set_aside: Path | None = None


# Archives agents (ids), and says where to.
SetAside = Callable[[list[str]], Path]


def restore(
    deployment: Deployment,
    place: Place,
    key: Key,
    choices: Choices,
    set_aside: SetAside,
    report: Report,
) -> Outcome:
    """Restore the archive at `place`; either all of it is there afterwards, or nothing was changed.

    Raises LettaOpsError: `archive-damaged`, `archive-other-revision`, `agent-exists`, `id-taken`,
    `other-encryption-key`, `restore-refused`, and those of the database.
    """
    with open_archive(place, key) as archive:
        header = archive.header

        def fill(link: psycopg.Connection[Any], model: Model) -> tuple[Staging, Header]:
            report(f"restore: reading {len(header.agents)} agent(s)")
            return stage(link, model, archive), header

        made_by = (header.revision, header.release)
        return _restored(deployment, str(place), made_by, fill, choices, set_aside, report)


def restore_from_backup(
    deployment: Deployment,
    store: Store,
    backup: Backup,
    key: Key,
    wanted: Sequence[str],
    choices: Choices,
    set_aside: SetAside,
    report: Report,
) -> Outcome:
    """Restore only the agents `wanted` of a backup, into the live database: it goes on meanwhile.

    Raises like `restore`, and `agent-unknown`, `agent-ambiguous`.
    """
    manifest, source = backup.manifest, f"backup {backup.id}"
    if choices.secrets_key is None:
        choices = replace(choices, secrets_key=_kept_key(deployment, store, backup, key))

    def fill(link: psycopg.Connection[Any], model: Model) -> tuple[Staging, Header]:
        return stage_from_backup(link, model, store, backup, key, wanted, report)

    made_by = (manifest.database.revision, manifest.release)
    return _restored(deployment, source, made_by, fill, choices, set_aside, report)


def _restored(
    deployment: Deployment,
    source: str,
    made_by: tuple[str | None, str | None],
    fill: Fill,
    choices: Choices,
    set_aside: SetAside,
    report: Report,
) -> Outcome:
    """Restore what `fill` stages, of the revision and release `made_by`: migrated first, where the live
    database is of another."""
    with (
        brought_here(deployment, source, made_by, fill, report) as staged,
        live(deployment) as (link, model, _),
    ):
        staging, header = staged(link, model)
        with closing(staging.memories):
            return put(deployment, staging, header, choices, set_aside, report)


def _kept_key(deployment: Deployment, store: Store, backup: Backup, key: Key) -> Sensitive | None:
    """The key that the backup keeps of its secrets, where it is another than the server's."""
    here = deployment.server.encryption_key
    if here is not None and key_fingerprint(here) == backup.manifest.key_fingerprint:
        return None
    return escrowed_key(store, backup, key)


def delete(
    deployment: Deployment, agents: list[str], set_aside: SetAside
) -> tuple[Path, dict[str, int], list[str]]:
    """Archive agents (ids), then delete them with all that is theirs and nobody else's; return where the
    archive is, the deleted rows by table, and what there is to say.

    Raises LettaOpsError like `restore`: then nothing was deleted.
    """
    with live(deployment) as (link, model, _):
        # In this order: what changes after the snapshot of the first is a conflict, and not lost.
        notes = [
            f"{words}: a restore doesn't bring that back" for words in _ties(link, model, agents)
        ]
        having = with_git_memory(link, model, agents)
        counts = remove(link, model, agents)
        path = set_aside(agents)
        link.execute("COMMIT")
    if reachable(deployment):
        try:
            MemoryPlace.of(deployment).remove(agents)
        except LettaOpsError as error:
            notes.append(f"their git memory is still in the server's home: {error.message}")
    elif having:
        notes.append("their git memory can't be reached from here, and stays where it is")
    return path, counts, notes


def _ties(link: psycopg.Connection[Any], model: Model, agents: list[str]) -> Iterator[str]:
    """What others have of these agents, and an archive doesn't."""
    from psycopg import sql

    if {"groups", "groups_agents"} <= model.columns.keys():
        query = sql.SQL(
            "SELECT count(*) FROM {} m JOIN {} g ON g.id = m.group_id WHERE m.agent_id = ANY(%(agents)s)"
            " AND (g.manager_agent_id = ANY(%(agents)s)) IS NOT TRUE"
        ).format(model.table("groups_agents"), model.table("groups"))
        row = link.execute(query, {"agents": agents}).fetchone()
        if row and row[0]:
            yield f"{row[0]} membership(s) in groups that other agents manage"


# Rows that go with an agent and are not in its archive: where it is replaced they are kept.
TIED = {
    "groups_agents": "agent_id = ANY(%(agents)s)",
    "identities_blocks": "block_id IN (SELECT block_id FROM {2} WHERE agent_id = ANY(%(agents)s))",
}


def _keep_ties(staging: Staging, agents: list[str]) -> None:
    for table in TIED.keys() & staging.model.columns.keys():
        staging.run(
            f"CREATE TEMP TABLE {{0}} ON COMMIT DROP AS SELECT * FROM {{1}} WHERE {TIED[table]}",
            quoted(f"tied {table}"),
            staging.model.table(table),
            staging.model.table("blocks_agents"),
            values={"agents": agents},
        )


def _tie_again(staging: Staging) -> None:
    from psycopg import sql

    for table in TIED.keys() & staging.model.columns.keys():
        there = [
            sql.SQL("EXISTS (SELECT FROM {} p WHERE p.{} = t.{})").format(
                staging.model.table(link.parent), quoted(link.keys[0]), sql.SQL(link.columns[0])
            )
            for link in staging.model.of_child(table)
            if link.keyed
        ]
        staging.run(
            "INSERT INTO {} SELECT t.* FROM {} t WHERE {} ON CONFLICT DO NOTHING",
            staging.model.table(table), quoted(f"tied {table}"), sql.SQL(" AND ").join(there),
        )  # fmt: skip


def put(
    deployment: Deployment,
    staging: Staging,
    header: Header,
    choices: Choices,
    set_aside: SetAside,
    report: Report,
) -> Outcome:
    """Bring what was staged into the live tables, and commit; with `dry_run`, take it back."""
    outcome = Outcome(notes=staging.notes)
    _ensure_key(deployment, staging, header, choices)
    _conflicts(staging, choices, set_aside, outcome)
    names = dict(roots(staging))
    decide(staging, header, new_ids=choices.new_ids)
    new = dict(staging.run("SELECT old, new FROM pg_temp.letta_ops_ids").fetchall())
    outcome.agents = [
        {"id": new.get(identifier, identifier), "archived_id": identifier, "name": name}
        for identifier, name in names.items()
    ]
    outcome.rows = _insert(staging)
    if outcome.replaced:
        _tie_again(staging)
    relink(staging, new)
    report(f"restore: {sum(outcome.rows.values())} rows")
    staging.memories.rename(new)
    if choices.dry_run:
        staging.link.execute("ROLLBACK")
        return outcome
    organizations = _organizations(staging, [agent["id"] for agent in outcome.agents])
    _put_memories(
        deployment, staging, {k: v for k, v in organizations.items() if k not in outcome.replaced}
    )
    staging.link.execute("COMMIT")
    _replace_memories(deployment, staging, {each: organizations[each] for each in outcome.replaced})
    return outcome


def _organizations(staging: Staging, agents: list[str]) -> dict[str, str]:
    """Of each agent (id), as it is in the live tables now."""
    rows = staging.run(
        "SELECT id, organization_id FROM {} WHERE id = ANY(%s)",
        staging.model.table(ROOT),
        values=[agents],
    )
    return dict(rows.fetchall())


def _put_memories(deployment: Deployment, staging: Staging, organizations: dict[str, str]) -> None:
    """Before the rows are committed: memory without its agent harms nobody, an agent without it is not
    what was restored. `organizations` are those of the agents whose memory it is."""
    having = [agent for agent in staging.memories.of if agent in organizations]
    if not having:
        return
    if not reachable(deployment):
        staging.notes.append(f"git memory of {len(having)} agent(s) can't be put there from here")
        return
    aside = staging.memories.put(MemoryPlace.of(deployment), organizations)
    if aside:
        staging.notes.append(
            f"other git memory of {', '.join(aside)} lay there: it is in .letta/memfs.aside of the"
            " server's home"
        )


def _replace_memories(
    deployment: Deployment, staging: Staging, organizations: dict[str, str]
) -> None:
    """After the rows are: until then the agents that are replaced work with what they have."""
    try:
        _put_memories(deployment, staging, organizations)
        without = [agent for agent in organizations if agent not in staging.memories.of]
        if without and reachable(deployment):
            MemoryPlace.of(deployment).remove(without)  # it is in the archive of the replaced ones
    except LettaOpsError as error:
        raise LettaOpsError(
            "memory-not-restored",
            f"the agents are restored, but not their git memory: {error.message}",
            "run this again with --on-conflict replace; what was there is in the archive of those"
            " that were replaced, too",
        ) from None


def _ensure_key(deployment: Deployment, staging: Staging, header: Header, choices: Choices) -> None:
    """Secrets that no key here opens would be lost without a word: their server can't read them."""
    from psycopg import sql

    columns = [
        (table, column.name)
        for table in staging.tables
        for column in staging.model.columns[table]
        if column.name.endswith(SECRETS)
    ]
    held = {
        (table, column): count
        for table, column in columns
        if (
            count := staging.value(
                "SELECT count({}) FROM {}", sql.Identifier(column), staging.staged(table)
            )
        )
    }
    if choices.without_secrets:
        staging.run("DELETE FROM {}", staging.staged("agent_environment_variables"))
        for table, column in (*held, *PLAIN_SECRETS):
            if table in staging.tables and column in staging.model.names(table):
                staging.run(f'UPDATE {{}} SET "{column}" = NULL', staging.staged(table))
        if held:
            staging.notes.append(f"{sum(held.values())} secret(s) were left out, as you said")
        return
    key = deployment.server.encryption_key
    here = None if key is None else key_fingerprint(key)
    if not held or here == header.key_fingerprint:
        return
    if key is not None and _encrypt_anew(staging, list(held), choices.secrets_key, key):
        staging.notes.append(
            f"{sum(held.values())} secret(s) were encrypted with this server's key"
        )
        return
    raise LettaOpsError(
        "other-encryption-key",
        f"{sum(held.values())} secret(s) of the archive are encrypted with the key"
        f" {header.key_fingerprint or '(none)'}, this server has {here or 'none'}; nothing was changed",
        "give that key (--secrets-key file:PATH), or say --without-secrets, and set them anew",
    )


def _encrypt_anew(
    staging: Staging, columns: list[tuple[str, str]], old: Sensitive | None, key: Sensitive
) -> bool:
    """Encrypt what was staged with the server's key; False where there is something that no key opens."""
    from psycopg import sql

    for table, column in columns:
        name = sql.Identifier(column)
        rows = staging.run(
            "SELECT ctid::text, {0} FROM {1} WHERE {0} <> ''", name, staging.staged(table)
        ).fetchall()
        for place, value in rows:
            text = Sensitive(value)
            if looks_encrypted(value):
                if decrypted(key, value) is not None:
                    continue
                opened = None if old is None else decrypted(old, value)
                if opened is None:
                    return False
                text = opened
            staging.run(
                "UPDATE {} SET {} = %s WHERE ctid = %s::tid", staging.staged(table), name,
                values=[encrypted(key, text), place],
            )  # fmt: skip
    return True


def _conflicts(staging: Staging, choices: Choices, set_aside: SetAside, outcome: Outcome) -> None:
    """Agents that are there already under their ids."""
    if choices.new_ids:
        return
    table = staging.model.table(ROOT)
    found = staging.run(
        "SELECT l.id, l.name FROM {} l JOIN {} s USING (id) ORDER BY 1", table, staging.staged(ROOT)
    ).fetchall()
    if not found:
        return
    there = [identifier for identifier, _ in found]
    if choices.on_conflict == FAIL:
        listing = "\n".join(f"  - {identifier}  {name}" for identifier, name in found)
        raise LettaOpsError(
            "agent-exists",
            f"{len(found)} agent(s) of the archive are there already; nothing was changed\n{listing}",
            "choose: --on-conflict skip leaves them, --on-conflict replace archives them first and"
            " then replaces them, --new-ids restores beside them",
        )
    if choices.on_conflict == SKIP:
        outcome.skipped = there
        staging.notes.append(f"{len(there)} agent(s) are there already and stay as they are")
        keep_only(staging, [each for each, _ in roots(staging) if each not in there])
        return
    outcome.replaced = there
    if not choices.dry_run:
        outcome.set_aside = set_aside(there)
    _keep_ties(staging, there)
    remove(staging.link, staging.model, there)


def _insert(staging: Staging) -> dict[str, int]:
    """Make the rows whose fate that is, parents first; what points in a circle is set at the end."""
    from psycopg import sql

    made: dict[str, int] = {}
    later: list[tuple[str, str]] = []
    for table in staging.tables:
        columns = staging.model.names(table)
        circular = [column for column in deferred(staging.model, table) if column in columns]
        later += [(table, column) for column in circular]
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        values = sql.SQL(", ").join(
            sql.SQL("NULL") if column in circular else sql.Identifier(column) for column in columns
        )
        done = staging.run(
            f"INSERT INTO {{}} ({{}}) SELECT {{}} FROM {{}} WHERE {FATE} = {MADE}",
            staging.model.table(table), names, values, staging.staged(table),
        )  # fmt: skip
        if done.rowcount:
            made[table] = done.rowcount
    for table, column in later:
        staging.run(
            f"UPDATE {{0}} l SET {{1}} = s.{{1}} FROM {{2}} s WHERE {{3}} AND s.{FATE} = {MADE}"
            " AND s.{1} IS NOT NULL",
            staging.model.table(table), sql.Identifier(column), staging.staged(table),
            equal(staging.model.primary(table), "s", "l"),
        )  # fmt: skip
    return made
