"""What a drill does on its way: the backup restored, its key and its release found, a server started."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backups.catalog import Backup
from backups.extensions import ensure_offered
from backups.humanize import size_in_words
from backups.loading import room_for
from backups.manifest import Manifest
from backups.opening import Key, escrowed_key
from backups.rights import make_roles, missing_roles
from backups.side_database import SideDatabase, restore_database
from backups.stores.store import Store
from healthchecks.drill.isolation import cut_off
from healthchecks.drill.verdict import Judge
from healthchecks.through_api import Served
from infra.database.administration import owner_access
from infra.embedded.release import InstalledRelease
from infra.embedded.throwaway_postgres import ThrowawayPostgres
from infra.embedded.throwaway_server import black_hole, start_server
from infra.errors import LettaOpsError
from infra.process import Report
from infra.sensitive import Sensitive
from infra.stack.deployment import DATABASE_NAME, Deployment
from infra.stack.fingerprint import key_fingerprint
from infra.stack.locations import StackFolder

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True)
class DrillRun:
    """One drill: of what, in which throw-away folder, and who judges it."""

    deployment: Deployment
    store: Store
    backup: Backup
    key: Key
    folder: StackFolder
    judge: Judge
    report: Report
    at: dt.datetime
    signed: bool  # by a key that is known here

    @property
    def manifest(self) -> Manifest:
        return self.backup.manifest


def ensure_room(drill: DrillRun) -> None:
    """Raise LettaOpsError (`disk-full`) when there is surely no room for the copy."""
    needed = room_for(drill.manifest)
    free = shutil.disk_usage(drill.folder.root).free
    if free < needed:
        raise LettaOpsError(
            "disk-full",
            f"the drill needs {size_in_words(needed)} in {drill.folder.state}, and"
            f" {size_in_words(free)} are free",
            "free some disk space, then run this again",
        )


def restore(drill: DrillRun, postgres: ThrowawayPostgres) -> None:
    """Restore the backup's database as it was; raises what `restore_database` raises."""
    from psycopg import sql

    side = SideDatabase(DATABASE_NAME, postgres.database.owner.name)
    database = drill.manifest.database
    with postgres.access.connect(postgres.access.maintenance) as link:
        ensure_offered(link, database)
        if database.rights is not None:
            make_roles(link, missing_roles(link, database.rights))
    with owner_access(postgres.database) as owner:
        restore_database(
            postgres.access, owner, side, drill.store, drill.backup, drill.key, drill.folder.data,
            drill.report, trusted=drill.signed,
        )  # fmt: skip
    # A dump does not hold the search path: it belongs to the database, not to what is in it.
    homes = dict.fromkeys([database.schema, database.pgvector_schema, "public"])
    path = sql.SQL(", ").join(sql.Identifier(home) for home in homes if home)
    name = sql.Identifier(DATABASE_NAME)
    with postgres.access.connect(postgres.access.maintenance) as link:
        link.execute(sql.SQL("ALTER DATABASE {} SET search_path TO {}").format(name, path))


def encryption_key(drill: DrillRun) -> tuple[Sensitive | None, str]:
    """The LETTA_ENCRYPTION_KEY that the backup needs, and whose it is.

    First the copy in the backup itself, since nothing else may be left of the machine. Raises
    LettaOpsError (`part-damaged`) when that is another key, and what `escrowed_key` raises.
    """
    wanted, own = drill.manifest.key_fingerprint, drill.deployment.server.encryption_key
    kept = escrowed_key(drill.store, drill.backup, drill.key)
    if kept is not None:
        if key_fingerprint(kept) != wanted:
            raise LettaOpsError(
                "part-damaged",
                "the encryption key that the backup keeps is not the one that it names",
                "keep the stack's own key safe, and make a new backup",
            )
        return kept, "the key that the backup keeps"
    if own is not None and wanted == key_fingerprint(own):
        return own, "the stack's key"
    return None, ""


@contextmanager
def owner_session(postgres: ThrowawayPostgres) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the copy as its owner: what it holds may run code, as a view does. All rows are
    seen, or it is an error."""
    with owner_access(postgres.database) as owner, owner.connect(DATABASE_NAME) as link:
        link.execute("SET row_security = off")
        yield link


@contextmanager
def served(
    drill: DrillRun,
    postgres: ThrowawayPostgres,
    release: InstalledRelease,
    key: Sensitive | None,
) -> Iterator[Served]:
    """Cut the copy off from everything, and yield it with a server on it.

    Raises psycopg.Error, and LettaOpsError (`throwaway-failed`) when the server does not start.
    """
    schema = str(drill.manifest.database.schema)
    with black_hole() as nowhere, owner_session(postgres) as link:
        cut_off(link, schema, nowhere)
        drill.report(f"starting Letta {release.release.version} on the copy")
        server = start_server(drill.folder, release, postgres.database, key, nowhere)
        yield Served(server, link, schema)
