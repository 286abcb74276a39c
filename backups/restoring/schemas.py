"""Generations that are schemas of one database: Letta's tables move between them, in one transaction.

All of it is done by the owner of the tables. Whatever else is in the database stays as it is, and what
hangs on the tables goes along to those that come (`backups.restoring.hanging`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backups.catalog import Backup, deployment_id
from backups.contents import compare
from backups.extensions import extensions_of
from backups.layout import LETTA_OPS
from backups.manifest import LETTA, DatabaseRecord
from backups.opening import Key
from backups.restoring.databases import ensure_equal, ensure_not_older
from backups.restoring.generations import Moves, Present, count
from backups.restoring.hanging import hang, read_hanging, take_off
from backups.restoring.hung import others_on
from backups.restoring.in_schema import (
    all_in,
    lock,
    make_schema,
    mark,
    move,
    moved,
    references,
    revision_in,
    strangers_in,
)
from backups.rights import apply_rights, missing_roles
from backups.scope import Names, Own, ensure_name, find_own, only_lettas, rights_in
from backups.side_database import failed
from backups.side_schema import SideSchemas, restore_schemas
from backups.stores.store import Store
from infra.audit.trail import merge
from infra.database.administration import DatabaseAccess
from infra.database.claim import claim, ensure_claim
from infra.database.facts import (
    MARK,
    database_facts,
    find_pgvector,
    first_schema,
)
from infra.errors import LettaOpsError
from infra.process import Report
from infra.stack.deployment import Deployment
from infra.stack.releases import release_at
from infra.targets import host
from infra.targets.target import Standby
from letta_ops.registry.carrying import carry
from letta_ops.registry.postgres import prepare

if TYPE_CHECKING:
    import psycopg

BUSY_SECONDS = 20.0  # how long somebody else may hold Letta's tables
LOCK_SECONDS = 4
RECORDS = "_records"  # at the end of a schema's name: our own tables of a backup
NUMBER = """
SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = 'alembic_version' AND c.relkind = 'r'
"""
NAME = """
SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s
"""
COMMENT = """
SELECT coalesce(obj_description(oid, 'pg_namespace'), ''), pg_has_role(nspowner, 'USAGE')
FROM pg_namespace WHERE nspname = %s
"""
RIGHTS = """
SELECT has_database_privilege(current_database(), 'CREATE'), has_schema_privilege(%s, 'CREATE')
"""
NO_RIGHT = "docs/external-database.md has what the role needs; nothing was changed"


@dataclass(frozen=True)
class Schemas:
    """See `backups.restoring.generations.Generations`. `owner` leads to `database` as the role whose
    Letta's tables are."""

    deployment: Deployment
    owner: DatabaseAccess
    database: str
    live: str

    noun = "schema"
    must_be_alone = False

    @classmethod
    def of(cls, deployment: Deployment, owner: DatabaseAccess, live: str | None) -> Schemas:
        assert deployment.database is not None  # noqa: S101  # `owner` leads to it
        name = deployment.database.name
        if live is None:
            with owner.examine(name) as link:
                live = database_facts(link).schema or first_schema(link) or "public"
        return cls(deployment, owner, name, live)

    def obstacles(self, backup: Backup) -> Iterator[Callable[[], object]]:
        record = backup.manifest.database
        present = self.read(self.live, None)
        yield partial(ensure_name, self.live)
        yield partial(Names.of, record.revision, record)
        if present is not None:
            yield partial(Names.of, present.revision)
        with self._administrator() as ours:
            yield partial(ensure_claim, ours, deployment_id(self.deployment))
        with self._link() as link:
            yield partial(ensure_not_older, link, backup)
            yield partial(_ensure_extensions, link, record)
            yield partial(self._ensure_rights, link)
            yield partial(self._ensure_free, link)

    def missing_roles(self, record: DatabaseRecord) -> list[str]:
        if record.rights is None or self.exists(self.live):
            return []  # who may do what is taken over from the tables that are there
        with self._link() as link:
            return missing_roles(link, rights_in(record, self.live))

    def slots(self) -> list[str]:
        return []

    def sessions(self, name: str) -> Mapping[str, str]:
        from psycopg import sql

        with self._link() as link:
            extension = find_pgvector(link)
            homes = [name, self.live, *([extension.schema] if extension else [])]
            return {
                "search_path": ", ".join(sql.Identifier(each).as_string(link) for each in homes)
            }

    def exists(self, name: str) -> bool:
        if name == self.live:
            return self.number(name) != 0
        return self._ours(name) is not None

    def number(self, name: str) -> int:
        return int(self._value(NUMBER, name) or 0)

    def name_of(self, number: int) -> str | None:
        found = self._value(NAME, number)
        return None if found is None else str(found)

    def is_ours(self, name: str) -> bool:
        return bool(self._ours(name))

    def ensure_ours(self, name: str) -> None:
        ours = self._ours(name)
        if ours is None:
            return
        if not ours:
            raise LettaOpsError(
                "database-foreign",
                f"there is a schema {name} that letta-ops did not make: it needs that name, and drops"
                " no schema of others",
                "give yours another name (ALTER SCHEMA ... RENAME TO ...), then run this again",
            )
        with self._link() as link:
            others = strangers_in(link, name) or others_on(link, all_in(link, name))
            if others:
                raise LettaOpsError(
                    "database-foreign",
                    f"something that letta-ops did not make is in the schema {name}, or needs what is:"
                    f" {', '.join(others)}",
                    "drop or change it, then run this again",
                )

    def end_copies(self, name: str) -> None:
        """Nothing here is copied by a session of its own."""

    def adopt(self, name: str) -> None:
        with self._link() as link:
            mark(link, name)

    def drop(self, name: str) -> None:
        from psycopg import sql

        for each in (name, name + RECORDS):
            self.ensure_ours(each)
            with self._link() as link:
                link.execute(
                    sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(each))
                )

    def exchange(
        self,
        moves: Moves,
        *,
        rehearse: bool = False,
        standby: Standby | None = None,  # noqa: ARG002  # it waits for a lock, as everybody does
    ) -> list[str]:
        import psycopg

        deadline = time.monotonic() + BUSY_SECONDS
        try:
            while True:
                try:
                    with self._link() as link, link.transaction(force_rollback=rehearse):
                        return self._exchange(link, moves, rehearse=rehearse)
                # A server that stands in works on the tables that come.
                except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                    if rehearse:  # the server that runs is in the way: it will be stopped
                        return []
                    if time.monotonic() > deadline:
                        raise
        except psycopg.Error as error:
            raise LettaOpsError(
                "switch-failed",
                f"Letta's tables can't change places: {str(error).strip().splitlines()[0]}",
                "if something else uses them, see who (pg_stat_activity), and end that; then run this"
                " again",
            ) from None

    def _exchange(
        self, link: psycopg.Connection[Any], moves: Moves, *, rehearse: bool
    ) -> list[str]:
        from psycopg import sql

        link.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'; SET LOCAL statement_timeout = 0")
        going = self._live(link)
        lock(link, going)  # from here on nobody hangs anything on them
        hanging = read_hanging(link, self.live, going)
        if rehearse:
            _ensure_none(hanging.refusals)
        # Whatever schema they are in, their numbers stay.
        source = next((old for old, new in moves if new == self.live), None)
        arriving = Own([], []) if source is None else all_in(link, source)
        coming = {name for _, name in moved(link, arriving)}
        if coming:  # else all of it goes along with the tables, and comes back with them
            take_off(link, hanging, coming)
        for old, new in moves:
            if old == self.live:
                make_schema(link, new)
                move(link, going, old, new)
            elif new == self.live:
                move(link, arriving, old, new)
                link.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(old)))
            else:
                rename = sql.SQL("ALTER SCHEMA {} RENAME TO {}")
                link.execute(rename.format(sql.Identifier(old), sql.Identifier(new)))
        if not coming or not going.relations:
            return []
        return list(hang(link, hanging, coming, arriving))

    def read(self, name: str, since: datetime | None) -> Present | None:
        import psycopg

        if not self.number(name):
            return None
        with self._link() as link:
            try:
                extension = find_pgvector(link)
                home = extension and extension.schema
                return count(link, name, home, revision_in(link, name), since)
            except psycopg.Error as error:
                raise LettaOpsError(
                    "database-refused",
                    f"schema {name} can't be read: {str(error).strip()}",
                    "see `letta-ops check`",
                ) from None

    @contextmanager
    def owned(self, name: str) -> Iterator[tuple[psycopg.Connection[Any], str]]:
        with self._link() as link:
            yield link, name

    def differences(self, name: str, record: DatabaseRecord) -> list[str]:
        renamed = {str(record.schema): name, LETTA_OPS: name + RECORDS}
        with self._link() as link, self._link() as more:
            own = all_in(link, name) if name != self.live else self._live(link)
            records = all_in(link, name + RECORDS)
            expected = only_lettas(record, with_records=bool(records.relations))
            only = [*own.relations, *records.relations]
            return compare(link, expected, renamed, [more], only)

    def make(
        self,
        name: str,
        present: Present | None,
        store: Store,
        backup: Backup,
        key: Key,
        scratch: Path,
        report: Report,
        *,
        trusted: bool,  # noqa: ARG002  # the owner alone makes all of it
    ) -> None:
        import psycopg

        record = backup.manifest.database
        try:
            self.drop(name)
            with self._link() as link, link.transaction():
                make_schema(link, name)
                make_schema(link, name + RECORDS)
                extension = find_pgvector(link)
            home = extension and extension.schema
            side = SideSchemas(name, name + RECORDS, home, alone=present is None)
            restore_schemas(self.owner, self.database, side, store, backup, key, scratch, report)
            report("database: comparing its content with the backup's")
            ensure_equal(self.differences(name, record))
            self._finish(name, record, report, alone=present is None)
        except psycopg.Error as error:
            raise failed(error) from None

    def _finish(self, name: str, record: DatabaseRecord, report: Report, *, alone: bool) -> None:
        """See that nothing of it refers to what is live, and give it and the database our records."""
        from psycopg import sql

        with self._link() as link:
            made, live = all_in(link, name), self._live(link)
            stray = references(link, made, live)
            ensure_equal([f"{what} refers to a table that is live" for what in stray])
            with self._administrator() as ours:
                merge(link, name + RECORDS, ours)
                claim(ours, deployment_id(self.deployment))
                prepare(ours, self._role)
            # Those that are live stay: whether this restore does isn't known yet.
            carry(
                link, link, (name, "agents"), deployment_id(self.deployment),
                schema=name + RECORDS, resolve=False,
            )  # fmt: skip
            link.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name + RECORDS)))
            if alone and record.rights is not None:
                rights = rights_in(record, name)
                for line in apply_rights(link, rights, self._role, trusted=False):
                    report(f"database: leaving out {line}")

    def carry_records(self, source: str, target: str) -> None:
        """They stay where they are."""

    def freshen(self, name: str) -> None:
        from psycopg import sql

        with self._link() as link:
            for kind, table in moved(link, self._live(link)):
                if kind == "TABLE":
                    link.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(name, table)))

    @property
    def _role(self) -> str:
        return str(self.owner.settings["user"])

    @contextmanager
    def _link(self) -> Iterator[psycopg.Connection[Any]]:
        with self.owner.examine(self.database) as link:
            yield link

    @contextmanager
    def _administrator(self) -> Iterator[psycopg.Connection[Any]]:
        """To the same database, for our own records: they may be an administrator's."""
        with host(self.deployment).administrator() as access, access.examine(self.database) as link:
            yield link

    def _live(self, link: psycopg.Connection[Any]) -> Own:
        """Letta's tables that serve. Those of a release that we don't know are never all of them: a plan
        refuses it, and only a way back comes here."""
        revision = revision_in(link, self.live)
        names = Names.of(revision) if release_at(revision) else Names.known()
        return find_own(link, self.live, names)

    def _ensure_rights(self, link: psycopg.Connection[Any]) -> None:
        create, use = link.execute(RIGHTS, [self.live]).fetchone() or (False, False)
        if not create:
            raise LettaOpsError(
                "database-privileges",
                f"the role {self._role} may not make a schema beside the live one",
                f"let it: GRANT CREATE ON DATABASE ... TO {self._role}; {NO_RIGHT}",
            )
        if not use:
            raise LettaOpsError(
                "database-privileges",
                f"the role {self._role} may not make tables in the schema {self.live}",
                f"let it: GRANT CREATE ON SCHEMA ... TO {self._role}; {NO_RIGHT}",
            )

    def _ensure_free(self, link: psycopg.Connection[Any]) -> None:
        """Raise LettaOpsError (`database-dependants`) for what hangs on the live tables and can't be
        hung on others."""
        _ensure_none(read_hanging(link, self.live, self._live(link)).refusals)

    def _ours(self, name: str) -> bool | None:
        """Whether a restore has made the schema; None: there is none."""
        with self._link() as link:
            row = link.execute(COMMENT, [name]).fetchone()
        return None if row is None else str(row[0]).endswith(MARK) and bool(row[1])

    def _value(self, query: str, value: object) -> Any:
        with self._link() as link:
            row = link.execute(query, [value]).fetchone()
        return None if row is None else row[0]


def _ensure_none(refusals: list[str]) -> None:
    if refusals:
        listing = "".join(f"\n  - {each}" for each in refusals)
        raise LettaOpsError(
            "database-dependants",
            f"what hangs on Letta's tables can't all go along to restored ones:{listing}",
            "drop these for the time of the restore, and make them again after it; or let their"
            " owner make the role a member of his own (GRANT ... TO ...)",
        )


def _ensure_extensions(link: psycopg.Connection[Any], record: DatabaseRecord) -> None:
    wanted = extensions_of(record) if record.scope == LETTA else {"vector"}
    there = {name for (name,) in link.execute("SELECT extname FROM pg_extension")}
    if missing := sorted(set(wanted) - there):
        raise LettaOpsError(
            "extension-missing",
            f"Letta's tables need extensions that are not in this database: {', '.join(missing)}",
            "make them: CREATE EXTENSION ... (on a hosted service, in its dashboard)",
        )
