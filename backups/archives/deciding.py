"""What becomes of each row of an archive: made, matched with one that is there, or given another id."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from backups.archives.closure import COMMON, OF_SERVER, Closure, Role
from backups.archives.file import Header
from backups.archives.removing import content_links, used_by_others
from backups.archives.staging import (
    FATE,
    LEFT_ALONE,
    MADE,
    THERE,
    Staging,
    equal,
    literal,
    quoted,
    roots,
)
from infra.database import model_endpoints
from infra.errors import LettaOpsError

if TYPE_CHECKING:
    from psycopg import sql

# What two rows may differ in that say the same.
UNIMPORTANT = ("updated_at", "_last_updated_by_id", "current_history_entry_id", "version", FATE)
DATES = ("created_at", "_created_by_id", "id", "organization_id", "project_id", *UNIMPORTANT)


def decide(staging: Staging, header: Header, *, new_ids: bool) -> None:
    """Set the fate of every staged row, and say of ids which they become.

    Raises LettaOpsError (`id-taken`), and psycopg.Error.
    """
    _match_organizations(staging)
    _match_providers(staging, header)
    _follow_endpoints(staging, header)
    for table in staging.tables:
        if staging.model.roles[table] is Role.ATTACHED:
            _match(staging, table, new_ids=new_ids)
    if not new_ids:
        for table in _private(staging):
            _meet(staging, table)
    _follow_parents(staging)
    if new_ids:
        for table in staging.tables:
            if table not in COMMON and _has_id(staging, table):
                staging.give_new_ids(table, f"s.{FATE} = {MADE}")
    else:
        _ensure_free(staging)
    staging.apply_ids()
    _mend_links(staging)
    _renumber(staging)


def _private(staging: Staging) -> list[str]:
    roles = staging.model.roles
    return [each for each in staging.tables if roles[each] is Role.ATTACHED and each not in COMMON]


def _has_id(staging: Staging, table: str) -> bool:
    return staging.model.primary(table) == ("id",) and staging.model.roles[table] is not Role.SHARED


def _match_organizations(staging: Staging) -> None:
    """By id, else by name; where there is neither it is made."""
    for table in staging.tables:
        if staging.model.roles[table] is not Role.SHARED:
            continue
        live, staged = staging.model.table(table), staging.staged(table)
        _set_fate(staging, table, LEFT_ALONE, "EXISTS (SELECT FROM {2} l WHERE l.id = s.id)", live)
        rows = staging.run(
            f"SELECT s.id, min(l.id) FROM {{0}} s JOIN {{1}} l USING (name) WHERE s.{FATE} = {MADE}"
            " GROUP BY 1",
            staged,
            live,
        ).fetchall()
        for old, new in rows:
            staging.map_ids("VALUES (%s, %s)", values=[old, new])
            _set_fate(staging, table, LEFT_ALONE, "s.id = {2}", literal(old))
            for each in staging.tables:
                for link in staging.model.of_child(each):
                    if link.parent == table:
                        staging.run(
                            f"UPDATE {{}} SET {link.columns[0]} = %s WHERE {link.columns[0]} = %s",
                            staging.staged(each),
                            values=[new, old],
                        )


def _match_providers(staging: Staging, header: Header) -> None:
    """A server's own providers are found again by their names."""
    for name in OF_SERVER[:1]:
        if name not in staging.model.columns:
            continue
        for identifier, called in header.providers.items():
            staging.map_ids(
                "SELECT %s, min(id) FROM {} WHERE name = %s"
                " AND NOT EXISTS (SELECT FROM {} WHERE id = %s) HAVING min(id) IS NOT NULL",
                staging.model.table(name),
                staging.model.table(name),
                values=[identifier, called, identifier],
            )


def _follow_endpoints(staging: Staging, header: Header) -> None:
    """An agent's model is asked where this server's provider of that name is, as a restored database's is
    (see `model_endpoints`); what a person pointed elsewhere stays."""
    here = model_endpoints.of_configuration(staging.link, staging.model.schema)
    moved = {old: here[name] for name, old in header.urls.items() if here.get(name, old) != old}
    for table in staging.tables if moved else ():
        for column, key in model_endpoints.CONFIGURATIONS.items():
            if column in staging.model.names(table):
                staging.link.execute(
                    model_endpoints.changing(staging.staged(table), column),
                    {"key": key, "moved": json.dumps(moved)},
                )
    for old, new in moved.items():
        staging.notes.append(
            f"models are asked at {new}, as this server does; the archive says {old}"
        )


def _match(staging: Staging, table: str, *, new_ids: bool) -> None:
    """What is everybody's, by its id or by what else tells it apart: that one is used. So is what can't
    be there twice, since a name is taken."""
    live = staging.model.table(table)
    if table in COMMON:
        _set_fate(staging, table, LEFT_ALONE, "EXISTS (SELECT FROM {2} l WHERE l.id = s.id)", live)
    for unique in staging.model.unique.get(table, ()):
        if "id" in unique.columns or unique.primary:
            continue
        same = equal(unique.columns, "s", "l", nulls=unique.nulls_equal)
        other = "true" if new_ids else "s.id <> l.id"
        staging.map_ids(
            f"SELECT s.id, l.id FROM {{0}} s JOIN {{1}} l ON {{2}}"
            f" WHERE s.{FATE} = {MADE} AND {other}",
            staging.staged(table), live, same,
        )  # fmt: skip
        _set_fate(
            staging, table, LEFT_ALONE,
            f"s.{FATE} = {MADE} AND s.id IN (SELECT old FROM pg_temp.letta_ops_ids)",
        )  # fmt: skip
    _tell_differences(staging, table)


def _tell_differences(staging: Staging, table: str) -> None:
    label = next(
        (name for name in ("name", "server_name") if name in staging.model.names(table)), None
    )
    if label is None:
        return
    names = [
        row[0]
        for row in staging.run(
            f"SELECT s.{label} FROM {{0}} s LEFT JOIN pg_temp.letta_ops_ids m ON m.old = s.id"
            " JOIN {1} l ON l.id = coalesce(m.new, s.id)"
            f" WHERE s.{FATE} = {LEFT_ALONE} AND {{2}} ORDER BY 1",
            staging.staged(table), staging.model.table(table), differ(DATES),
        )
    ]  # fmt: skip
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        staging.notes.append(
            f"{table}: {', '.join(map(str, names[:8]))}{more} are other ones here than in the archive;"
            " those that are here are used, and stay as they are"
        )


def _meet(staging: Staging, table: str) -> None:
    """What is attached to agents and there already: left alone where others use it, used where it says
    the same; else the archive's comes under another id."""
    from psycopg import sql

    model, live = staging.model, staging.model.table(table)
    closure = Closure(staging.link, model, [identifier for identifier, _ in roots(staging)])
    _set_fate(
        staging, table, LEFT_ALONE,
        f"s.{FATE} = {MADE} AND s.id IN (SELECT id FROM {{2}} WHERE {{3}})",
        live, used_by_others(model, closure, table),
    )  # fmt: skip
    shared = _count(staging, table, LEFT_ALONE)
    if shared:
        staging.notes.append(f"{table}: {shared} that other agents use, too, stay as they are here")
    there = sql.SQL("EXISTS (SELECT FROM {} l WHERE l.id = s.id AND NOT {})").format(
        live, differ(UNIMPORTANT)
    )
    _set_fate(staging, table, THERE, f"s.{FATE} = {MADE} AND {{2}}", there)
    changed = staging.give_new_ids(
        table, f"s.{FATE} = {MADE} AND EXISTS (SELECT FROM {{2}} l WHERE l.id = s.id)", live
    )
    if changed:
        staging.notes.append(
            f"{table}: {changed} say something else here than in the archive; those of the archive come"
            " under new ids, those that are here stay"
        )
        for child in staging.tables:
            for link in content_links(model, child):
                if link.parent == table and _has_id(staging, child):
                    staging.give_new_ids(
                        child,
                        f"s.{link.columns[0]} IN (SELECT old FROM pg_temp.letta_ops_ids)",
                    )


def _follow_parents(staging: Staging) -> None:
    """Content of what is left alone is left alone; of what is there, it is made where it is missing."""
    for table in staging.tables:
        links = list(content_links(staging.model, table))
        # Between a block and somebody's identity the block decides: the identity is always there.
        for link in [each for each in links if each.parent not in COMMON] or links:
            parents = f"SELECT {', '.join(link.keys)} FROM {{2}} WHERE {FATE} = {{3}}"
            columns = ", ".join(f"s.{column}" for column in link.columns)
            parent = staging.staged(link.parent)
            _set_fate(
                staging,
                table,
                LEFT_ALONE,
                f"({columns}) IN ({parents})",
                parent,
                literal(LEFT_ALONE),
            )
            _set_fate(
                staging, table, THERE,
                f"s.{FATE} = {MADE} AND ({columns}) IN ({parents}) AND EXISTS"
                " (SELECT FROM {4} l WHERE {5})",
                parent, literal(THERE), staging.model.table(table),
                equal(staging.model.primary(table), "s", "l"),
            )  # fmt: skip


def _ensure_free(staging: Staging) -> None:
    """An id of an agent's own that is somebody else's here can't be kept."""
    for table in staging.tables:
        if not _has_id(staging, table) or staging.model.roles[table] is Role.ATTACHED:
            continue
        taken = staging.value(
            f"SELECT count(*) FROM {{}} s JOIN {{}} l USING (id) WHERE s.{FATE} = {MADE}"
            " AND s.id NOT IN (SELECT old FROM pg_temp.letta_ops_ids)",
            staging.staged(table),
            staging.model.table(table),
        )
        if taken:
            raise LettaOpsError(
                "id-taken",
                f"{taken} id(s) of the archive's {table} are taken here by rows of others; nothing was"
                " changed",
                "--new-ids restores the agent under new ids",
            )


def _mend_links(staging: Staging) -> None:
    """What points at nothing here: empty where that is allowed, else left out; both are told."""
    for table in staging.tables:
        for link in staging.model.of_child(table):
            if not link.keyed:
                continue
            nowhere = staging.nowhere(link)
            if link.nullable:
                column = link.columns[-1]
                done = staging.run(
                    f"UPDATE {{}} s SET {column} = NULL WHERE s.{FATE} = {MADE} AND {{}}",
                    staging.staged(table), nowhere,
                )  # fmt: skip
                how = "no longer say which"
            else:
                done = staging.run(
                    f"DELETE FROM {{}} s WHERE s.{FATE} = {MADE} AND {{}}",
                    staging.staged(table), nowhere,
                )  # fmt: skip
                how = "are left out, without"
            if done.rowcount:
                staging.notes.append(
                    f"{table}: {done.rowcount} {how} of {link.parent}, which is not here"
                )


def _renumber(staging: Staging) -> None:
    """Numbers out of a sequence: kept where all are free, else new ones in the same order."""
    for table in staging.tables:
        for column in staging.model.columns[table]:
            if column.default is None or not column.default.startswith("nextval("):
                continue
            live, staged, name = (
                staging.model.table(table),
                staging.staged(table),
                quoted(column.name),
            )
            taken = staging.value(
                f"SELECT count(*) FROM {{0}} s JOIN {{1}} l USING ({{2}}) WHERE s.{FATE} = {MADE}",
                staged, live, name,
            )  # fmt: skip
            if taken:
                staging.run(
                    f"UPDATE {{0}} s SET {{1}} = n.number FROM (SELECT place, {column.default} AS number"
                    f" FROM (SELECT ctid AS place FROM {{0}} WHERE {FATE} = {MADE} ORDER BY {{1}}) o) n"
                    " WHERE s.ctid = n.place",
                    staged, name,
                )  # fmt: skip
            sequence = column.default[len("nextval(") : -1]
            staging.run(
                f"SELECT setval({sequence}, found) FROM (SELECT max({{1}}) AS found FROM {{0}}"
                f" WHERE {FATE} = {MADE}) m WHERE found > (SELECT coalesce(last_value, 0)"
                f" FROM pg_sequences"
                f" WHERE format('%I.%I', schemaname, sequencename)::regclass = {sequence})",
                staged, name,
            )  # fmt: skip


def differ(but_for: tuple[str, ...]) -> sql.Composed:
    """That the rows `s` and `l` say different things."""
    from psycopg import sql

    ignored = sql.Literal(list(but_for))
    return sql.SQL("(to_jsonb(s) - {0}::text[] <> to_jsonb(l) - {0}::text[])").format(ignored)


def _set_fate(
    staging: Staging, table: str, fate: int, condition: str, *parts: sql.Composable
) -> None:
    """`condition` is of the staged row `s`; parts are for its {2} on."""
    staging.run(
        f"UPDATE {{0}} s SET {FATE} = {{1}} WHERE {condition}",
        staging.staged(table),
        literal(fate),
        *parts,
    )


def _count(staging: Staging, table: str, fate: int) -> int:
    query = f"SELECT count(*) FROM {{}} WHERE {FATE} = {{}}"
    return int(staging.value(query, staging.staged(table), literal(fate)))
