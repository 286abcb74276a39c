"""Are two sets of agents the same? Row by row, field by field; under other ids too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from backups.archives.agents import find_agents
from backups.archives.closure import COMMON, Closure, Model, Role, with_members
from backups.archives.file import Header, open_archive
from backups.archives.from_backup import stage_from_backup
from backups.archives.live import brought_here, live
from backups.archives.memory import split
from backups.archives.place import Place
from backups.archives.staging import IDS, Staging, empty, equal, names_of, quoted, stage
from backups.catalog import Backup
from backups.opening import Key
from backups.sources.memory_files import reachable, read_memory
from backups.stores.store import Store
from backups.streams import ChunkSource
from infra.process import Report
from infra.stack.deployment import Deployment

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

# Never shown, whatever they hold.
SECRET = ("value", "token", "custom_headers", "stdio_config")
ENCRYPTED = "_enc"
SHOWN = 60
LISTED = 100
# What says nothing of an agent that has other ids: numbers of a server's own.
OF_SERVER = ("sequence_id",)

# Gives what stages one side in the transaction of a connection.
Side = Callable[
    [Deployment], AbstractContextManager[Callable[["psycopg.Connection[Any]", Model], Staging]]
]


@dataclass(frozen=True)
class Difference:
    """A row that only one side has (`only`: "left" or "right"), or the fields in which they differ."""

    table: str
    key: str
    only: str | None
    fields: dict[str, list[str]]


@dataclass(frozen=True)
class Comparison:
    """`rows` are the left side's by table; `differences` at most `LISTED`, `count` says how many there
    are. `mapped`: the sides have other ids, and were compared under a map of them."""

    equal: bool
    mapped: bool
    rows: dict[str, int]
    count: int
    differences: tuple[Difference, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(deployment: Deployment, left: Side, right: Side) -> Comparison:
    """Stage both sides beside the deployment's database, compare them, and forget them.

    Raises LettaOpsError: what the sides raise, and those of the database.
    """
    with (
        left(deployment) as stage_left,
        right(deployment) as stage_right,
        live(deployment) as (link, model, _),
    ):
        first = stage_left(link, model)
        tables = first.tables
        for table in tables:
            first.run("ALTER TABLE {} RENAME TO {}", first.staged(table), quoted(_left(table)))
        link.execute(f"DROP TABLE pg_temp.{IDS}")
        second = stage_right(link, model)
        migrated = first.migrated or second.migrated
        if migrated:  # what is everybody's is of each server's own release
            own = (table for table in tables if model.roles[table] is not Role.SHARED)
            tables = tuple(table for table in own if table not in COMMON)
        mapped = _map_right(second)
        found = list(_other_memory(first, second))
        rows, count = {}, len(found)
        for table in tables:
            number = int(second.value("SELECT count(*) FROM {}", _of_left(table)))
            if number:
                rows[table] = number
            different = list(_differences(second, table, mapped=mapped, migrated=migrated))
            count += len(different)
            found += different
        return Comparison(count == 0, mapped, rows, count, tuple(found[:LISTED]))


def _other_memory(first: Staging, second: Staging) -> Iterator[Difference]:
    """Of which agents git memory differs: the right side has the left one's ids by now."""
    left, right = first.memories.digests(), second.memories.digests()
    for agent in sorted({*left, *right}):
        if agent not in left or agent not in right:
            yield Difference("git memory", agent, "left" if agent in left else "right", {})
        elif left[agent] != right[agent]:
            yield Difference("git memory", agent, None, {"digest": [left[agent], right[agent]]})


def of_live(wanted: Sequence[str]) -> Side:
    """Agents (ids, or names that one has) as they are in the database now."""

    return lambda deployment: nullcontext(partial(_staged_live, deployment, wanted))


def _staged_live(
    deployment: Deployment, wanted: Sequence[str], link: psycopg.Connection[Any], model: Model
) -> Staging:
    agents = with_members(link, model, find_agents(link, model, wanted))
    staging = empty(link, model, {table: model.names(table) for table in model.roles})
    closure = Closure(link, model, agents)
    for table in staging.tables:
        names = names_of(model.names(table))
        staging.run(
            "INSERT INTO {} ({}) SELECT {} {}",
            staging.staged(table), names, names, closure.rows(table),
        )  # fmt: skip
    if reachable(deployment):
        with read_memory(deployment, agents=agents) as tar:
            staging.memories = split(ChunkSource(tar).read, lambda _: True)
    return staging


def of_archive(place: Place, key: Key, report: Report) -> Side:
    """The agents of an archive; of another revision, as the live release's migrations bring them."""

    @contextmanager
    def side(deployment: Deployment) -> Iterator[Any]:
        with open_archive(place, key) as archive:
            header = archive.header

            def fill(link: psycopg.Connection[Any], model: Model) -> tuple[Staging, Header]:
                return stage(link, model, archive), header

            made_by = (header.revision, header.release)
            with brought_here(deployment, str(place), made_by, fill, report) as brought:
                yield lambda link, model: brought(link, model)[0]

    return side


def of_backup(
    store: Store, backup: Backup, key: Key, wanted: Sequence[str], report: Report
) -> Side:
    """Some agents of a backup; of another revision, as the live release's migrations bring them."""
    manifest = backup.manifest

    def fill(link: psycopg.Connection[Any], model: Model) -> tuple[Staging, Header]:
        return stage_from_backup(link, model, store, backup, key, wanted, report)

    @contextmanager
    def side(deployment: Deployment) -> Iterator[Any]:
        source, made_by = f"backup {backup.id}", (manifest.database.revision, manifest.release)
        with brought_here(deployment, source, made_by, fill, report) as brought:
            yield lambda link, model: brought(link, model)[0]

    return side


def _map_right(staging: Staging) -> bool:
    """Give the right side the ids of the left, where it has others: rows are paired in their order."""
    paired = 0
    for table in staging.tables:
        if staging.model.primary(table) != ("id",) or staging.model.roles[table] is Role.SHARED:
            continue
        alone = (
            "(SELECT s.id, row_number() OVER (ORDER BY {}) AS place FROM {} s"
            " WHERE NOT EXISTS (SELECT FROM {} o WHERE o.id = s.id))"
        )
        order = _order(staging.model, table)
        here, there = _of_left(table), staging.staged(table)
        paired += staging.map_ids(
            f"SELECT r.id, l.id FROM {alone} l JOIN {alone} r USING (place)",
            order, here, there, order, there, here,
        )  # fmt: skip
    if paired:
        staging.apply_ids()
        staging.memories.rename(dict(staging.run(f"SELECT old, new FROM pg_temp.{IDS}").fetchall()))
    return paired > 0


def _order(model: Model, table: str) -> sql.Composed:
    """By what two copies of a row have in common, whatever their ids are."""
    from psycopg import sql

    names = model.names(table)
    first = [name for name in ("sequence_id", "sequence_number", "created_at") if name in names]
    ids = [name for name in names if name == "id" or name.endswith("_id")]
    ignored = sql.Literal([*ids, *OF_SERVER])
    parts = [sql.SQL("s.{}").format(quoted(name)) for name in first]
    return sql.SQL(", ").join([*parts, sql.SQL("(to_jsonb(s) - {}::text[])::text").format(ignored)])


def _differences(
    staging: Staging, table: str, *, mapped: bool, migrated: bool
) -> Iterator[Difference]:
    columns = [
        name
        for name in staging.model.names(table)
        # A migration encrypts what was in the clear: each time to other bytes.
        if not (mapped and name in OF_SERVER) and not (migrated and name.endswith(ENCRYPTED))
    ]
    keys = staging.model.primary(table)
    label = _text_of(keys, "coalesce(l.{0}::text, r.{0}::text)")
    # A value that JSON can't tell apart is told apart by its text.
    fields = _text_of(
        columns, "CASE WHEN l.{0}::text IS DISTINCT FROM r.{0}::text THEN {1} END", each=True
    )
    rows = staging.run(
        "SELECT {0}, l.letta_ops_fate IS NULL, r.letta_ops_fate IS NULL, {1} FROM {2} l"
        " FULL JOIN {3} r ON {4} WHERE l.letta_ops_fate IS NULL OR r.letta_ops_fate IS NULL OR {5}"
        " ORDER BY 1",
        label, fields, _of_left(table), staging.staged(table), equal(keys, "l", "r"),
        _text_of(columns, "l.{0}::text IS DISTINCT FROM r.{0}::text", joined=" OR "),
    )  # fmt: skip
    for key, no_left, no_right, *values in rows:
        if no_left or no_right:
            yield Difference(table, str(key), "right" if no_left else "left", {})
            continue
        yield Difference(
            table,
            str(key),
            None,
            {
                name: [_shown(name, table, text) for text in value]
                for name, value in zip(columns, values, strict=True)
                if value is not None
            },
        )


def _text_of(
    names: Sequence[str], pattern: str, *, each: bool = False, joined: str = ""
) -> sql.Composed:
    from psycopg import sql

    both = "ARRAY[left(l.{0}::text, 200), left(r.{0}::text, 200)]" if each else ""
    parts = [sql.SQL(pattern.replace("{1}", both)).format(quoted(name)) for name in names]
    return sql.SQL(joined or (", " if each else " || ' ' || ")).join(parts)


def _shown(name: str, table: str, text: str | None) -> str:
    if name.endswith(ENCRYPTED) or (name in SECRET and "block" not in table):
        return "(not shown)"
    if text is None:
        return "(nothing)"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _left(table: str) -> str:
    return f"left {table}"


def _of_left(table: str) -> sql.Identifier:
    from psycopg import sql

    return sql.Identifier("pg_temp", _left(table))
