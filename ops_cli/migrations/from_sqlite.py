"""What a server of Letta 0.11 keeps in SQLite -> a throw-away Postgres with the schema of 0.11.7."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.embedded.alembic import upgrade
from infra.embedded.throwaway import throwaway_folder, throwaway_parent
from infra.embedded.throwaway_postgres import start_postgres
from infra.embedded.throwaway_server import install_release
from infra.errors import LettaOpsError
from infra.process import Report
from infra.stack.deployment import DATABASE_NAME, Database, Deployment
from infra.stack.releases import RELEASES
from ops_cli.migrations.sqlite.copying import opened_copy
from ops_cli.migrations.sqlite.loading import Loaded, load

LAST_ON_SQLITE = RELEASES["0.11.7"]
SCHEMA = "public"
AGENTS = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'agents'"


@contextmanager
def in_postgres(
    deployment: Deployment, file: Path, report: Report, *, mend: bool
) -> Iterator[tuple[Database, Loaded]]:
    """Yield a Postgres that holds what `file` does, row by row compared, and what was found on the way:
    with problems that are not mended nothing is in it. It is gone in the end.

    Raises LettaOpsError: those of `opened_copy`, `content-differs`, `not-loaded`, and those of a
    throw-away Postgres.
    """
    import psycopg

    release = RELEASES.get(deployment.release or "", LAST_ON_SQLITE)
    with throwaway_folder(throwaway_parent(deployment.folder), report) as folder:
        postgres = start_postgres(folder)
        with opened_copy(file, folder.data) as source:
            if not source.execute(AGENTS).fetchone():
                raise LettaOpsError(
                    "not-letta",
                    f"{file} has no table of agents",
                    "it is ~/.letta/sqlite.db, usually",
                )
            moment = dt.datetime.fromtimestamp(file.stat().st_mtime, dt.UTC)
            installed = install_release(folder, release, report)
            with postgres.access.connect(postgres.access.maintenance) as link:
                owner = postgres.database.owner.name
                link.execute(f"CREATE DATABASE {DATABASE_NAME} OWNER {owner}")
            with postgres.access.connect(DATABASE_NAME) as link:
                link.execute("CREATE EXTENSION vector")
            report(f"sqlite: making the tables of Letta {LAST_ON_SQLITE.version}")
            said: list[str] = []
            head = LAST_ON_SQLITE.alembic_head
            upgrade(folder, installed, postgres.database, head, said.append, "nothing was changed")
            with postgres.access.connect(DATABASE_NAME) as link:
                try:
                    loaded = load(source, link, SCHEMA, moment, report, mend=mend)
                except sqlite3.Error as error:
                    raise LettaOpsError(
                        "sqlite-unknown",
                        f"{file} has something that Letta doesn't make: {error}",
                        "take that out of a copy of the file, and give that one; nothing was changed",
                    ) from None
                except psycopg.Error as error:
                    reason = error.diag.message_primary or type(error).__name__  # details hold rows
                    raise LettaOpsError(
                        "not-loaded",
                        f"Postgres refuses something of {file}: {reason}",
                        "nothing was changed; that is an error of letta-ops: tell its authors",
                    ) from None
        yield postgres.database, loaded
