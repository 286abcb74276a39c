"""The agents of a deployment's database: one snapshot of it, and agents by id or name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from backups.archives.closure import ROOT, Model, read_model
from backups.contents import settle
from backups.sources.postgres import refused
from infra.database.connection import database_of
from infra.database.facts import DatabaseFacts, database_facts
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from infra.targets import host

if TYPE_CHECKING:
    import psycopg

    from infra.database.administration import DatabaseAccess


@contextmanager
def agents_in(deployment: Deployment) -> Iterator[tuple[psycopg.Connection[Any], Model]]:
    """Yield the deployment's database in one snapshot, and the model of its Letta tables.

    Raises LettaOpsError like `letta_tables`.
    """
    with (
        host(deployment).owner() as access,  # whoever could plant code there is no more than this
        letta_tables(access, database_of(deployment).name, "READ ONLY") as (link, model, _),
    ):
        yield link, model


@contextmanager
def letta_tables(
    access: DatabaseAccess, name: str, mode: str
) -> Iterator[tuple[psycopg.Connection[Any], Model, DatabaseFacts]]:
    """Yield a transaction in database `name` that sees nothing of what others do meanwhile; what is not
    committed is undone in the end. `mode` is `READ ONLY` or `READ WRITE`.

    Raises LettaOpsError: `not-letta`, `database-refused`, and those of the way there.
    """
    import psycopg

    with access.examine(name) as link:
        try:
            settle(link)
            facts = database_facts(link)
            if facts.schema is None:
                raise LettaOpsError(
                    "not-letta",
                    f"the database {name} holds no Letta tables",
                    "see with `letta-ops check` whether this is the server's database",
                )
            link.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ {mode}")
            yield link, read_model(link, facts.schema), facts
        except psycopg.Error as error:
            if link.broken:
                raise  # `connect` tells it
            raise refused(error, name) from None
        finally:
            link.close()


def find_agents(
    link: psycopg.Connection[Any], model: Model, wanted: Sequence[str] | None
) -> list[str]:
    """The ids of the agents `wanted`, which may be names. Raises LettaOpsError."""
    from psycopg import sql

    table = model.table(ROOT)
    if wanted is None:
        return [
            row[0] for row in link.execute(sql.SQL("SELECT id FROM {} ORDER BY id").format(table))
        ]
    query = sql.SQL("SELECT id, name FROM {} WHERE id = ANY(%s) OR name = ANY(%s)").format(table)
    rows = link.execute(query, [list(wanted), list(wanted)]).fetchall()
    found: dict[str, None] = {}
    for each in wanted:
        matches = [row for row in rows if row[0] == each] or [row for row in rows if row[1] == each]
        if not matches:
            raise LettaOpsError(
                "agent-unknown",
                f"there is no agent '{each}' in this database",
                "`letta-ops agent list` shows the agents with their ids",
            )
        if len(matches) > 1:
            listing = ", ".join(sorted(row[0] for row in matches))
            raise LettaOpsError(
                "agent-ambiguous",
                f"{len(matches)} agents have the name '{each}': {listing}",
                "name one of them by its id",
            )
        found[matches[0][0]] = None
    return list(found)
