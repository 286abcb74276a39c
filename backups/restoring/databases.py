"""Generations that are databases of their own: they change names, in one transaction."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backups import side_database
from backups.catalog import Backup, deployment_id
from backups.contents import compare, compare_views
from backups.extensions import ensure_offered
from backups.layout import apply_settings, copy_settings, first_grants, reach_extension
from backups.manifest import DatabaseRecord
from backups.opening import Key
from backups.restoring.generations import Moves, Present, count
from backups.restoring.journal import names_of
from backups.rights import missing_roles
from backups.side_database import (
    SideDatabase,
    end_sessions,
    failed,
    restore_database,
    set_mark,
)
from backups.stores.store import Store
from infra.audit.trail import carry_over
from infra.database.administration import DatabaseAccess
from infra.database.claim import take_claim
from infra.database.connection import database_of
from infra.database.facts import database_facts, read_slots
from infra.errors import LettaOpsError
from infra.process import Report
from infra.stack.deployment import ADMIN_ROLE, Deployment
from infra.targets import host
from infra.targets.target import Standby
from letta_ops.registry.carrying import carry
from letta_ops.registry.postgres import prepare

if TYPE_CHECKING:
    import psycopg

BUSY_SECONDS = 20.0  # clients may connect again and again until the server is really gone
MOMENTS, POLL_SECONDS = 50, 0.02
BUSY = "SELECT count(*) FROM pg_stat_activity WHERE datname = ANY(%s) AND state <> 'idle'"
COPYING = """
SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
WHERE starts_with(query, %s) AND state = 'active' AND pid <> pg_backend_pid()
"""
FIRST_SCHEMA = "public"  # where a server looks whose database nobody has configured
OID = "SELECT oid FROM pg_database WHERE datname = %s"
NAME = "SELECT datname FROM pg_database WHERE oid = %s"


@dataclass(frozen=True)
class Databases:
    """See `backups.restoring.generations.Generations`."""

    deployment: Deployment
    access: DatabaseAccess

    noun = "database"

    @property
    def live(self) -> str:
        assert self.deployment.database is not None  # noqa: S101  # `access` leads to it
        return self.deployment.database.name

    @property
    def must_be_alone(self) -> bool:
        return self.access.maintenance == self.live

    def obstacles(self, backup: Backup) -> Iterator[Callable[[], object]]:
        with self.access.connect(self.access.maintenance) as link:
            yield partial(ensure_not_older, link, backup)
            yield partial(ensure_offered, link, backup.manifest.database)
            names = names_of(self.deployment)
            yield partial(side_database.ensure_unused, link, names.side, names.older)

    def missing_roles(self, record: DatabaseRecord) -> list[str]:
        if record.rights is None:
            return []
        with self.access.connect(self.access.maintenance) as link:
            return missing_roles(link, record.rights)

    def slots(self) -> list[str]:
        with self.access.connect(self.access.maintenance) as link:
            return read_slots(link, self.live)

    def sessions(self, name: str) -> Mapping[str, str]:
        return {"database": name}

    def exists(self, name: str) -> bool:
        # That which we connect to is there.
        return self.access.maintenance == name or self.number(name) != 0

    def number(self, name: str) -> int:
        return int(self._value(OID, name) or 0)

    def name_of(self, number: int) -> str | None:
        found = self._value(NAME, number)
        return None if found is None else str(found)

    def is_ours(self, name: str) -> bool:
        return side_database.is_ours(self.access, name)

    def ensure_ours(self, name: str) -> None:
        side_database.ensure_ours(self.access, name)

    def end_copies(self, name: str) -> None:
        # What a session began goes on without its client, and until it is done nobody sees the copy.
        with self.access.connect(self.access.maintenance) as link:
            link.execute(COPYING, [f'CREATE DATABASE "{name}"'])

    def adopt(self, name: str) -> None:
        with self.access.connect(self.access.maintenance) as link:
            set_mark(link, name, marked=True)

    def drop(self, name: str) -> None:
        side_database.drop_database(self.access, name)

    def exchange(
        self, moves: Moves, *, rehearse: bool = False, standby: Standby | None = None
    ) -> list[str]:
        import psycopg

        if rehearse:
            return []  # nothing is in its way but sessions, which are ended
        deadline = time.monotonic() + BUSY_SECONDS
        with self.access.connect(self._elsewhere) as link, _held(link, standby, moves):
            try:
                while True:
                    try:
                        with link.transaction():
                            for old, new in moves:
                                end_sessions(link, old)
                                _rename(link, old, new)
                                set_mark(link, new, marked=new != self.live)
                    except psycopg.errors.ObjectInUse:
                        if time.monotonic() > deadline:
                            raise
                    else:
                        return []
            except psycopg.Error as error:
                raise LettaOpsError(
                    "switch-failed",
                    f"the databases can't be renamed: {str(error).strip().splitlines()[0]}",
                    "end what is connected to them (pg_stat_activity), then run this again",
                ) from None

    def read(self, name: str, since: datetime | None) -> Present | None:
        import psycopg

        if not self.exists(name):
            return None
        with self.access.examine(name) as link:
            try:
                facts = database_facts(link)
                if facts.schema is None:
                    return None
                home = facts.pgvector and facts.pgvector.schema
                return count(link, facts.schema, home, facts.revision, since)
            except psycopg.Error as error:
                raise LettaOpsError(
                    "database-refused",
                    f"database {name} can't be read: {str(error).strip()}",
                    "see `letta-ops check`; a database that is damaged can be set aside by renaming it",
                ) from None

    @contextmanager
    def owned(self, name: str) -> Iterator[tuple[psycopg.Connection[Any], str]]:
        with host(self.deployment).owner() as owner, owner.connect(name) as link:
            yield link, database_facts(link).schema or FIRST_SCHEMA

    def differences(self, name: str, record: DatabaseRecord) -> list[str]:
        with self.access.examine(name) as link, self.access.examine(name) as more:
            schema = database_facts(link).schema
            renamed = {record.schema: schema} if record.schema and schema else {}
            found = compare(link, record, renamed, [more])
            return [*found, *(compare_views(link, record, renamed) if name == self.live else ())]

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
        trusted: bool,
    ) -> None:
        import psycopg

        database = self.deployment.database
        assert database is not None  # noqa: S101  # `access` leads to it
        there = self.exists(self.live)
        side = SideDatabase(
            name,
            database.owner.name,
            present.schema if present else FIRST_SCHEMA,
            present.extension_schema if present else FIRST_SCHEMA,
            self.live if there else None,
        )
        try:
            with host(self.deployment).owner() as owner:
                restore_database(
                    self.access, owner, side, store, backup, key, scratch, report, trusted=trusted
                )
            report("database: comparing its content with the backup's")
            record = backup.manifest.database
            ensure_equal(self.differences(name, record))
            self._finish(side, record, report, trusted=trusted)
            with host(self.deployment).owner() as owner, owner.connect(name) as link:
                reach_extension(link, side.owner)
        except psycopg.Error as error:
            raise failed(error) from None

    def _finish(
        self, side: SideDatabase, record: DatabaseRecord, report: Report, *, trusted: bool
    ) -> None:
        """Give it what doesn't come out of a backup: records, claim, settings and grants."""
        assert self.deployment.database is not None  # noqa: S101  # `access` leads to it
        with (
            self.access.examine(side.name) as link,
            host(self.deployment).owner() as owner,
            owner.examine(side.name) as loaded,
        ):
            if side.like is not None:
                with self.access.examine(side.like) as old:
                    carry_over(old, link, loaded)
            else:
                carry_over(None, link, loaded)
            take_claim(link, deployment_id(self.deployment))
            prepare(link, side.owner)
        self._carry_registry(side.like, side.name, fresh=True)
        with self.access.connect(self.access.maintenance) as link:
            if side.like is not None:
                copy_settings(link, side.like, side.name)
                set_mark(link, side.name, marked=True, comment_of=side.like)
            else:
                first_grants(link, side.name, self.deployment.database.reader.name)
                if trusted:
                    _set_as_it_was(link, record, side, report)

    def carry_records(self, source: str, target: str) -> None:
        try:
            with self.access.examine(source) as old, self.access.examine(target) as new:
                carry_over(old, new)
                # There may be links in `source` alone, and no place for them yet.
                prepare(new, database_of(self.deployment).owner.name)
        finally:
            self._carry_registry(source, target)

    def _carry_registry(self, source: str | None, target: str, *, fresh: bool = False) -> None:
        """With the owner's rights alone: the tables are his."""
        with ExitStack() as stack:
            owner = stack.enter_context(host(self.deployment).owner())
            new = stack.enter_context(owner.connect(target))
            old = stack.enter_context(owner.connect(source)) if source is not None else None
            if (schema := database_facts(new).schema) is not None:
                identifier = deployment_id(self.deployment)
                carry(old, new, (schema, "agents"), identifier, fresh=fresh)

    def freshen(self, name: str) -> None:
        with self.access.examine(name) as link:
            link.execute("ANALYZE")

    @property
    def _elsewhere(self) -> str:
        """A database to be connected to while the live one is renamed."""
        return ADMIN_ROLE if self.access.maintenance == self.live else self.access.maintenance

    def _value(self, query: str, value: object) -> Any:
        with self.access.connect(self.access.maintenance) as link:
            row = link.execute(query, [value]).fetchone()
        return None if row is None else row[0]


def ensure_equal(differences: list[str]) -> None:
    """Raise LettaOpsError (`restore-differs`) where there are any."""
    if differences:
        shown = "\n".join(f"  - {line}" for line in differences[:20])
        raise LettaOpsError(
            "restore-differs",
            f"what was restored is not what the backup holds:\n{shown}",
            "nothing was replaced; try `letta-ops backup verify`, and another backup",
        )


def ensure_not_older(link: psycopg.Connection[Any], backup: Backup) -> None:
    """A dump of a newer Postgres may hold what an older one doesn't know, or takes for something else."""
    made_with = backup.manifest.database.postgres
    here = link.info.server_version // 10_000
    if int(re.findall(r"\d+", made_with)[0]) > here:
        raise LettaOpsError(
            "backup-newer-postgres",
            f"backup {backup.id} is of PostgreSQL {made_with}, newer than the {here} of this deployment",
            "restore it into a stack whose Postgres is at least as new",
        )


def _set_as_it_was(
    link: psycopg.Connection[Any], record: DatabaseRecord, side: SideDatabase, report: Report
) -> None:
    """Where there is no live database to be like: what the backup's had, as far as its owner may set
    it, for everybody and himself."""
    import psycopg

    if record.properties is None:
        return
    free = {name for (name,) in link.execute("SELECT name FROM pg_settings WHERE context = 'user'")}
    free -= {"search_path"}  # it is that of the layout here
    for role, assignment in record.properties.settings:
        try:
            if assignment.partition("=")[0] in free and role in {None, side.owner}:
                apply_settings(link, [(role, assignment)], side.name)
        except psycopg.Error as error:
            report(f"database: leaving out {assignment}: {str(error).strip().splitlines()[0]}")


@contextmanager
def _held(link: psycopg.Connection[Any], standby: Standby | None, moves: Moves) -> Iterator[None]:
    """Let `standby` do nothing in the block: it would connect again at once. It is taken at a moment
    when it is not in the middle of a transaction, where such a moment comes."""
    if standby is None:
        yield
        return
    databases = [old for old, _ in moves]
    try:
        for _ in range(MOMENTS):
            standby.hold()
            if link.execute(BUSY, [databases]).fetchone() == (0,):
                break
            standby.go_on()
            time.sleep(POLL_SECONDS)
        else:
            standby.hold()
        yield
    finally:
        standby.go_on()


def _rename(link: psycopg.Connection[Any], old: str, new: str) -> None:
    from psycopg import sql

    link.execute(
        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))
    )
